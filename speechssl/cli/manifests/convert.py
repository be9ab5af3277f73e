"""`speechssl manifest convert`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import clock, progress_bar, say
from speechssl.errors import ConfigError
from speechssl.manifest.formats import FORMATS, ExportResult, ImportResult, read_format, write_format


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of `speechssl manifest convert`.

    Attributes:
        source: the manifest to read, a file or folder.
        target: the manifest to write, a file or folder.
        source_format: auto, jsonl, parquet, nemo, fairseq, fairseq2, kaldi, lhotse, audiofolder, csv or tsv.
        target_format: the same; auto goes by the name (.jsonl, .parquet, .csv, .tsv, .jsonl.gz, metadata.csv).
        clips: folder for rows that the target cannot name, such as parts of recordings in fairseq's lists: each is
            written there as a recording of its own. Such rows are refused when null.
        place: how recordings come into an audiofolder: keep (they are there), link or copy.
        open_recordings: open the recordings' headers to see which rows are whole recordings; false trusts the
            manifest, for very large ones.
        sample_rate: rate in Hz of recordings whose rate the source does not tell; their headers are read when null.
        audio_root: what relative paths in the source are relative to, where that is not its own rule.
        json: print the result as JSON.
    """

    source: Path
    target: Path
    source_format: str = "auto"
    target_format: str = "auto"
    clips: Path | None = None
    place: Literal["keep", "link", "copy"] = "keep"
    open_recordings: bool = True
    sample_rate: int | None = None
    audio_root: Path | None = None
    json: bool = False

    def __post_init__(self) -> None:
        for name in ("source_format", "target_format"):
            if getattr(self, name) not in ("auto", *FORMATS):
                raise ConfigError(f"{name}: there is no {getattr(self, name)!r}; there are auto, {', '.join(FORMATS)}")


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: ConvertOptions | None = parse("convert", ConvertOptions, words, ("source", "target"))
    if options is None:
        return 0
    with progress_bar("reading") as progress:
        imported = read_format(
            options.source,
            options.source_format,
            sample_rate=options.sample_rate,
            audio_root=options.audio_root,
            progress=progress,
        )
    with progress_bar("writing") as progress:
        exported = write_format(
            imported.manifest,
            options.target,
            options.target_format,
            clips=options.clips,
            place=options.place,
            open_recordings=options.open_recordings,
            progress=progress,
        )
    if options.json:
        both = {"source": imported.to_dict(), "target": exported.to_dict()}
        say(json.dumps(both, indent=2, ensure_ascii=False))
    else:
        _report(imported, exported, options)
    return 0


def _report(imported: ImportResult, exported: ExportResult, options: ConvertOptions) -> None:
    """What came from where, what was carried, and what was changed or left out, counted."""
    route = f"{options.source} ({imported.format}) -> {options.target} ({exported.format})"
    say(f"{exported.num_utterances} utterances, {clock(exported.seconds)}: {route}")
    say(f"carried: {', '.join(exported.carried)}")
    for what, result in (("in reading", imported), ("in writing", exported)):
        for reason, count in result.left_out.items():
            say(f"changed or left out {what}: {reason} ({count})")
    for note in (*imported.notes, *exported.notes):
        say(note)
