"""`speechssl manifest convert`."""

from dataclasses import dataclass
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import clock, say
from speechssl.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of `speechssl manifest convert`.

    Attributes:
        source: the manifest to read, .jsonl, .json (NeMo's too) or .parquet.
        target: the manifest to write; its ending says which kind.
    """

    source: Path
    target: Path


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: ConvertOptions | None = parse("convert", ConvertOptions, words, ("source", "target"))
    if options is None:
        return 0
    loaded = Manifest.load(options.source)
    loaded.save(options.target)
    say(f"{len(loaded)} utterances, {clock(loaded.total_seconds)} -> {options.target}")
    return 0
