"""`speechssl manifest stats`."""

import json
from dataclasses import dataclass
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import say
from speechssl.manifest import Manifest, manifest_stats


@dataclass(frozen=True, kw_only=True)
class StatsOptions:
    """Options of `speechssl manifest stats`.

    Attributes:
        manifest: the manifest to describe.
        json: print the result as JSON.
    """

    manifest: Path
    json: bool = False


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: StatsOptions | None = parse("stats", StatsOptions, words, ("manifest",))
    if options is None:
        return 0
    stats = manifest_stats(Manifest.load(options.manifest))
    say(json.dumps(stats.to_dict(), indent=2, ensure_ascii=False) if options.json else stats.summary())
    return 0
