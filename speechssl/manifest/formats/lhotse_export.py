"""Write lhotse's manifests; see `lhotse` for what they hold."""

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from speechssl.errors import ManifestError
from speechssl.manifest.formats.base import (
    ExportResult,
    Headers,
    Recordings,
    WriteOptions,
    column_names,
    extra_names,
    floats,
    integers,
    open_headers,
    optional,
    recordings_of,
)
from speechssl.manifest.formats.lhotse import KINDS
from speechssl.manifest.formats.lines import Staged, staged
from speechssl.manifest.table import Manifest

_ROWS_PER_PIECE = 1 << 14
_COMPRESSION = 6


def write(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export the cuts as a file `...jsonl` or `...jsonl.gz`, or recordings, supervisions and cuts into a folder.

    Paths are absolute, since lhotse takes relative ones from the working folder. Of a recording with several channels
    a cut takes all. Free fields go to the supervisions' `custom`.
    """
    recordings = recordings_of(manifest)
    headers = None
    if options.open_recordings:
        wanted = np.array(["://" not in name for name in recordings.paths.to_pylist()], dtype=bool)
        headers = open_headers(recordings, wanted, options.progress)
    is_file = path.name.endswith((".jsonl", ".jsonl.gz"))
    targets = {"cuts": path} if is_file else {kind: path / f"{kind}.jsonl.gz" for kind in KINDS}
    described = _describe(manifest, recordings, headers)
    with staged() as files, ExitStack() as stack:
        opened = {kind: stack.enter_context(_open(target, files)) for kind, target in targets.items()}
        if "recordings" in opened:
            for recording in described:
                _put(opened["recordings"], recording)
        for supervision, cut in _rows(manifest, recordings, described):
            if "supervisions" in opened:
                _put(opened["supervisions"], supervision)
            _put(opened["cuts"], cut)
        stack.close()
    notes = [] if headers is not None else ["recordings count as mono, and as long as their last utterance's end"]
    return ExportResult(
        format="lhotse",
        files=files.files,
        num_utterances=len(manifest),
        seconds=manifest.total_seconds,
        carried=tuple(name for name in column_names(manifest) if optional(manifest, name) is not None),
        notes=tuple(notes),
    )


def _describe(manifest: Manifest, recordings: Recordings, headers: Headers | None) -> list[dict[str, Any]]:
    """lhotse's object for every recording."""
    size = len(recordings.paths)
    rate = np.zeros(size, dtype=np.int64)
    rate[recordings.rows] = integers(manifest, "sample_rate")
    ends = np.zeros(size)
    np.maximum.at(ends, recordings.rows, floats(manifest, "offset") + manifest.durations)
    num_samples = np.floor(ends * rate + 0.5).astype(np.int64)
    num_channels = np.ones(size, dtype=np.int64)
    if headers is not None:
        known = headers.num_samples >= 0
        rate = np.where(known, headers.sample_rate, rate)
        num_samples = np.where(known, headers.num_samples, num_samples)
        num_channels = np.where(known, headers.num_channels, 1)
    names = recordings.names(manifest.column("id")).to_pylist()
    described = []
    for name, file, hz, samples, count in zip(
        names, recordings.files(), rate.tolist(), num_samples.tolist(), num_channels.tolist(), strict=True
    ):
        is_url = "://" in file
        channels = list(range(count))
        source = {"type": "url" if is_url else "file", "channels": channels}
        source["source"] = file if is_url else os.path.abspath(file)
        described.append(
            {
                "id": name,
                "sources": [source],
                "sampling_rate": hz,
                "num_samples": samples,
                "duration": samples / hz,
                "channel_ids": channels,
            }
        )
    return described


def _rows(
    manifest: Manifest, recordings: Recordings, described: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The supervision and the cut of every row."""
    extra = extra_names(manifest, besides=("gender",))
    core = [name for name in ("text", "language", "speaker", "gender") if name in column_names(manifest)]
    names = ["id", "offset", "duration", *core, *extra]
    columns = {name: manifest.column(name) for name in names}
    for start in range(0, len(manifest), _ROWS_PER_PIECE):
        piece = {name: column.slice(start, _ROWS_PER_PIECE).to_pylist() for name, column in columns.items()}
        places = recordings.rows[start : start + _ROWS_PER_PIECE].tolist()
        for number, place in enumerate(places):
            recording = described[place]
            channels = recording["channel_ids"]
            channel = channels[0] if len(channels) == 1 else channels
            supervision: dict[str, Any] = {
                "id": piece["id"][number],
                "recording_id": recording["id"],
                "start": piece["offset"][number],
                "duration": piece["duration"][number],
                "channel": channel,
            }
            supervision |= {name: piece[name][number] for name in core if piece[name][number] is not None}
            custom = {name: piece[name][number] for name in extra if piece[name][number] is not None}
            if custom:
                supervision["custom"] = custom
            cut = {
                "id": supervision["id"],
                "start": supervision["start"],
                "duration": supervision["duration"],
                "channel": channel,
                "supervisions": [supervision | {"start": 0.0}],
                "recording": recording,
                "type": "MonoCut" if len(channels) == 1 else "MultiCut",
            }
            yield supervision, cut


def _open(path: Path, files: Staged) -> TextIO:
    temporary = files(path)
    if path.name.endswith(".gz"):
        return gzip.open(temporary, "wt", encoding="utf-8", compresslevel=_COMPRESSION)  # type: ignore[return-value]
    return open(temporary, "w", encoding="utf-8")


def _put(file: TextIO, row: dict[str, Any]) -> None:
    try:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    except TypeError as error:
        raise ManifestError(f"{row['id']!r} cannot be written as JSON ({error}); drop or convert that column") from None
