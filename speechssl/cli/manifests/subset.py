"""`speechssl manifest subset`."""

from dataclasses import dataclass
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.manifests.written import save_all
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest, subset_manifest


@dataclass(frozen=True, kw_only=True)
class SubsetOptions:
    """Options of `speechssl manifest subset`.

    Attributes:
        manifest: the manifest to choose from.
        output: folder that gets one manifest a size, 10min.jsonl, 1h.jsonl and so on (Parquet where the manifest is).
        minutes: sizes in minutes; each subset holds all smaller ones.
        hours: sizes in hours.
        seed: another seed chooses other utterances.
    """

    manifest: Path
    output: Path
    minutes: tuple[float, ...] = ()
    hours: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.minutes and not self.hours:
            raise ConfigError("give at least one size: --minutes 10 60, or --hours 1 10")


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: SubsetOptions | None = parse("subset", SubsetOptions, words, ("manifest",))
    if options is None:
        return 0
    sizes = {60.0 * minutes: f"{minutes:g}min" for minutes in options.minutes}
    sizes |= {3600.0 * hours: f"{hours:g}h" for hours in options.hours}
    ordered = sorted(sizes)
    manifest = Manifest.load(options.manifest)
    subsets = subset_manifest(manifest, ordered, seed=options.seed)
    save_all(
        {sizes[size]: subset for size, subset in zip(ordered, subsets, strict=True)},
        options.output,
        like=options.manifest,
        whole_seconds=manifest.total_seconds,
    )
    return 0
