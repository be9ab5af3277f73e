"""`speechssl manifest ...`: build, validate, stats, split, subset, convert, list."""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechssl.cli.options import stage_config
from speechssl.cli.output import Cell, clock, percent, progress_bar, say, table
from speechssl.errors import ConfigError
from speechssl.manifest import (
    Manifest,
    build_manifest,
    list_cards,
    load_card,
    manifest_stats,
    split_manifest,
    subset_manifest,
    validate_manifest,
)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of `speechssl manifest build`.

    Attributes:
        source: a folder of recordings, or the name of a corpus card (see `speechssl manifest list`).
        output: the manifest to write, .jsonl or .parquet.
        root: where the corpus lies; with a card's name only.
        transcripts: TSV or CSV of texts (path, text, and optionally speaker, language); by default a
            transcripts.tsv in the folder, else a .txt beside each recording.
        language: language code that is written into every row that has none.
        num_workers: threads that read the recordings' headers; as many as there are cores when null.
        json: print the result as JSON.
    """

    source: str
    output: Path
    root: Path | None = None
    transcripts: Path | None = None
    language: str | None = None
    num_workers: int | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """Options of `speechssl manifest validate`.

    Attributes:
        manifest: the manifest to check.
        audio: decode every recording too, not only its header.
        quarantine: write the rows that have problems here, each with its reasons.
        output: write the rows that have none here.
        json: print the result as JSON.
        limit: problems to print; the quarantine and JSON hold all of them.
    """

    manifest: Path
    audio: bool = False
    quarantine: Path | None = None
    output: Path | None = None
    json: bool = False
    limit: int = 50

    def __post_init__(self) -> None:
        if (self.quarantine is None) != (self.output is None):
            raise ConfigError("--quarantine and --output go together: the bad rows and the clean ones")


@dataclass(frozen=True, kw_only=True)
class StatsOptions:
    """Options of `speechssl manifest stats`.

    Attributes:
        manifest: the manifest to describe.
        json: print the result as JSON.
    """

    manifest: Path
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options of `speechssl manifest split`.

    Attributes:
        manifest: the manifest to divide.
        output: folder that gets one manifest a part, train.jsonl and so on.
        parts: share of each part, `--parts.train 0.8 --parts.test 0.2`; the shares add up to 1.
        by: what no two parts may share: speaker, recording, text, or any other column; several are possible.
        seed: another seed gives another split.
    """

    manifest: Path
    output: Path
    parts: dict[str, float] = field(default_factory=lambda: {"train": 0.8, "dev": 0.1, "test": 0.1})
    by: tuple[str, ...] = ("speaker",)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SubsetOptions:
    """Options of `speechssl manifest subset`.

    Attributes:
        manifest: the manifest to choose from.
        output: folder that gets one manifest a size, 10min.jsonl, 1h.jsonl and so on.
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


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of `speechssl manifest convert`.

    Attributes:
        source: the manifest to read, .jsonl, .json (NeMo's too) or .parquet.
        target: the manifest to write; its ending says which kind.
    """

    source: Path
    target: Path


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Options of `speechssl manifest list`.

    Attributes:
        name: a corpus card to show in full; all of them in a line each when null.
        json: print the result as JSON.
    """

    name: str | None = None
    json: bool = False


def manifest(words: list[str]) -> int:
    """`speechssl manifest SUBCOMMAND ...`."""
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  {name:<9} {summary}" for name, summary in SUMMARIES.items()]
        say("usage: speechssl manifest SUBCOMMAND [...]    speechssl manifest SUBCOMMAND --help\n")
        say("\n".join(["subcommands:", *lines, "", "example:", f"  {EXAMPLES['build'].splitlines()[0]}"]))
        return 0
    if words[0] not in SUBCOMMANDS:
        near = difflib.get_close_matches(words[0], SUBCOMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SUBCOMMANDS)}"
        raise ConfigError(f"speechssl manifest: there is no subcommand '{words[0]}'; {hint}")
    return SUBCOMMANDS[words[0]](words[1:])


EXAMPLES = {
    "build": "speechssl manifest build recordings/ --output recordings.jsonl\n"
    "speechssl manifest build librispeech --root LibriSpeech/ --output librispeech.parquet",
    "validate": "speechssl manifest validate recordings.jsonl --audio\n"
    "speechssl manifest validate recordings.jsonl --audio --quarantine bad.jsonl --output clean.jsonl",
    "stats": "speechssl manifest stats recordings.jsonl",
    "split": "speechssl manifest split recordings.jsonl --output parts/ --parts.train 0.9 --parts.test 0.1"
    " --by speaker text",
    "subset": "speechssl manifest subset train.jsonl --output subsets/ --minutes 10 60",
    "convert": "speechssl manifest convert recordings.jsonl recordings.parquet",
    "list": "speechssl manifest list\nspeechssl manifest list librispeech",
}


SUMMARIES = {
    "build": "make a manifest of a folder of audio or of a known corpus",
    "validate": "find everything that is wrong with a manifest and its recordings; exit code 1 if anything is",
    "stats": "hours, speakers, languages and lengths",
    "split": "divide without leaks: no speaker, recording or text on two sides",
    "subset": "nested subsets of given minutes or hours",
    "convert": "JSON Lines to Parquet, or back",
    "list": "the corpora that `build` knows by name",
}


def _options(name: str, options: type[Any], words: Sequence[str], positionals: Sequence[str]) -> Any:
    return stage_config(
        f"manifest {name}",
        options,
        words,
        example=EXAMPLES[name],
        summary=SUMMARIES[name][0].upper() + SUMMARIES[name][1:] + ".",
        positionals=positionals,
    )


def _build(words: list[str]) -> int:
    options: BuildOptions | None = _options("build", BuildOptions, words, ("source",))
    if options is None:
        return 0
    with progress_bar("reading headers") as progress:
        result = build_manifest(
            options.source,
            output=options.output,
            root=options.root,
            transcripts=options.transcripts,
            language=options.language,
            num_workers=options.num_workers,
            progress=progress,
        )
    say(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if options.json else result.summary())
    return 0


def _validate(words: list[str]) -> int:
    options: ValidateOptions | None = _options("validate", ValidateOptions, words, ("manifest",))
    if options is None:
        return 0
    with progress_bar("checking") as progress:
        report = validate_manifest(options.manifest, audio=options.audio, progress=progress)
    if options.quarantine is not None and options.output is not None:
        report.write_quarantine(options.output, options.quarantine)
    if options.json:
        say(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
        return 1 if report.problems else 0
    for problem in report.problems[: options.limit]:
        where = f"{options.manifest}:{problem.line}: " if problem.line else f"{options.manifest}: "
        say(f"{where}{problem.id + ': ' if problem.id else ''}{problem.message} [{problem.kind}]")
    if len(report.problems) > options.limit:
        say(f"... and {len(report.problems) - options.limit} more; --json or --quarantine give all of them")
    say(f"{report.num_rows} rows, {report.num_bad} with problems, {len(report.problems)} problems")
    if options.quarantine is not None:
        say(f"clean rows: {options.output}, the others with their reasons: {options.quarantine}")
    return 1 if report.problems else 0


def _stats(words: list[str]) -> int:
    options: StatsOptions | None = _options("stats", StatsOptions, words, ("manifest",))
    if options is None:
        return 0
    stats = manifest_stats(Manifest.load(options.manifest))
    say(json.dumps(stats.to_dict(), indent=2, ensure_ascii=False) if options.json else stats.summary())
    return 0


def _split(words: list[str]) -> int:
    options: SplitOptions | None = _options("split", SplitOptions, words, ("manifest",))
    if options is None:
        return 0
    parts = split_manifest(Manifest.load(options.manifest), options.parts, by=options.by, seed=options.seed)
    _save_all(parts, options.output)
    return 0


def _subset(words: list[str]) -> int:
    options: SubsetOptions | None = _options("subset", SubsetOptions, words, ("manifest",))
    if options is None:
        return 0
    sizes = {60.0 * minutes: f"{minutes:g}min" for minutes in options.minutes}
    sizes |= {3600.0 * hours: f"{hours:g}h" for hours in options.hours}
    ordered = sorted(sizes)
    subsets = subset_manifest(Manifest.load(options.manifest), ordered, seed=options.seed)
    _save_all({sizes[size]: subset for size, subset in zip(ordered, subsets, strict=True)}, options.output)
    return 0


def _convert(words: list[str]) -> int:
    options: ConvertOptions | None = _options("convert", ConvertOptions, words, ("source", "target"))
    if options is None:
        return 0
    loaded = Manifest.load(options.source)
    loaded.save(options.target)
    say(f"{len(loaded)} utterances, {clock(loaded.total_seconds)} -> {options.target}")
    return 0


def _list(words: list[str]) -> int:
    options: ListOptions | None = _options("list", ListOptions, words, ("name",))
    if options is None:
        return 0
    cards = [load_card(options.name)] if options.name is not None else [load_card(name) for name in list_cards()]
    if options.json:
        say(json.dumps([card.to_dict() for card in cards], indent=2, ensure_ascii=False))
    elif options.name is not None:
        table(options.name, ("", "value"), [(name, value) for name, value in _flat(cards[0].to_dict())], right=False)
    else:
        table(
            "corpora",
            ("name", "title", "licence"),
            [(card.name, card.title, card.licence) for card in cards],
            right=False,
        )
    return 0


SUBCOMMANDS: dict[str, Callable[[list[str]], int]] = {
    "build": _build,
    "validate": _validate,
    "stats": _stats,
    "split": _split,
    "subset": _subset,
    "convert": _convert,
    "list": _list,
}


def _save_all(parts: Mapping[str, Manifest], folder: Path) -> None:
    total = sum(part.total_seconds for part in parts.values())
    rows: list[tuple[Cell, ...]] = []
    for name, part in parts.items():
        path = folder / f"{name}.jsonl"
        part.save(path)
        rows.append((str(path), len(part), clock(part.total_seconds), percent(part.total_seconds / max(total, 1e-9))))
    table("written", ("manifest", "utterances", "audio", "share"), rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str | int | float | None]]:
    rows: list[tuple[str, str | int | float | None]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{name}", ", ".join(map(str, value[:12])) + (" ..." if len(value) > 12 else "")))
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
