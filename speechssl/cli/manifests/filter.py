"""`speechssl manifest filter`."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import say
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest, filter_manifest


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Options of `speechssl manifest filter`.

    Attributes:
        manifest: the manifest to choose from.
        output: the manifest to write, .jsonl or .parquet.
        min_seconds: leave out what is shorter.
        max_seconds: leave out what is longer.
        language: keep these languages only.
        speaker: keep these speakers only.
        split: keep these splits only.
        has_text: keep only what has a text; with false only what has none.
        where: values to keep by column, `--where.COLUMN VALUE,VALUE`; for any column, several are possible.
        where_not: values to leave out by column, `--where_not.COLUMN VALUE,VALUE`.
        json: print the result as JSON.
    """

    manifest: Path
    output: Path
    min_seconds: float | None = None
    max_seconds: float | None = None
    language: tuple[str, ...] = ()
    speaker: tuple[str, ...] = ()
    split: tuple[str, ...] = ()
    has_text: bool | None = None
    where: dict[str, str] = field(default_factory=dict)
    where_not: dict[str, str] = field(default_factory=dict)
    json: bool = False

    def __post_init__(self) -> None:
        named = {name: getattr(self, name) for name in ("language", "speaker", "split") if getattr(self, name)}
        for name in named.keys() & self.where.keys():
            raise ConfigError(f"--{name} and --where.{name} say the same; give one of them")
        if not (named or self.where or self.where_not) and (
            self.min_seconds is None and self.max_seconds is None and self.has_text is None
        ):
            raise ConfigError("give at least one condition, such as --max_seconds 30 or --language en")


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: FilterOptions | None = parse("filter", FilterOptions, words, ("manifest",))
    if options is None:
        return 0
    where = {name: getattr(options, name) for name in ("language", "speaker", "split") if getattr(options, name)}
    result = filter_manifest(
        Manifest.load(options.manifest),
        min_seconds=options.min_seconds,
        max_seconds=options.max_seconds,
        has_text=options.has_text,
        where=where | {column: _values(text) for column, text in options.where.items()},
        where_not={column: _values(text) for column, text in options.where_not.items()},
    )
    result.manifest.save(options.output)
    if options.json:
        counts = {"num_utterances": len(result.manifest), "hours": result.manifest.total_seconds / 3600}
        say(json.dumps(counts | {"left_out": dict(result.left_out)}, indent=2, ensure_ascii=False))
    else:
        say(f"{result.summary()}\n-> {options.output}")
    return 0


def _values(text: str) -> tuple[str, ...]:
    return tuple(value.strip() for value in text.split(","))
