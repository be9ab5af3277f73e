"""`speechssl manifest split`."""

from dataclasses import dataclass, field
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.manifests.written import save_all
from speechssl.manifest import Manifest, split_manifest


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options of `speechssl manifest split`.

    Attributes:
        manifest: the manifest to divide.
        output: folder that gets one manifest a part, train.jsonl and so on (Parquet where the manifest is).
        parts: share of each part, `--parts.train 0.8 --parts.test 0.2`; the shares add up to 1.
        by: what no two parts may share: speaker, recording, text, or any other column; several are possible.
        seed: another seed gives another split.
    """

    manifest: Path
    output: Path
    parts: dict[str, float] = field(default_factory=lambda: {"train": 0.8, "dev": 0.1, "test": 0.1})
    by: tuple[str, ...] = ("speaker",)
    seed: int = 0


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: SplitOptions | None = parse("split", SplitOptions, words, ("manifest",))
    if options is None:
        return 0
    manifest = Manifest.load(options.manifest)
    parts = split_manifest(manifest, options.parts, by=options.by, seed=options.seed)
    save_all(parts, options.output, like=options.manifest, whole_seconds=manifest.total_seconds)
    return 0
