"""`speechssl manifest sample`."""

from dataclasses import dataclass
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import clock, say
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest, sample_manifest


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Options of `speechssl manifest sample`.

    Attributes:
        manifest: the manifest to draw from.
        output: the manifest to write, .jsonl or .parquet.
        count: how many utterances to draw.
        hours: how much audio to draw.
        balance_by: column whose values give equal shares, such as speaker or language.
        seed: another seed draws other utterances.
    """

    manifest: Path
    output: Path
    count: int | None = None
    hours: float | None = None
    balance_by: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.count is None) == (self.hours is None):
            raise ConfigError("give either --count UTTERANCES or --hours HOURS")


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: SampleOptions | None = parse("sample", SampleOptions, words, ("manifest",))
    if options is None:
        return 0
    sample = sample_manifest(
        Manifest.load(options.manifest),
        count=options.count,
        seconds=None if options.hours is None else 3600 * options.hours,
        balance_by=options.balance_by,
        seed=options.seed,
    )
    sample.save(options.output)
    say(f"{len(sample)} utterances, {clock(sample.total_seconds)} -> {options.output}")
    return 0
