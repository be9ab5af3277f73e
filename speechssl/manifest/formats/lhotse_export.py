"""Write lhotse's manifests; see `lhotse` for what they hold."""

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechssl.errors import ManifestError
from speechssl.manifest.formats.base import (
    ExportResult,
    Headers,
    Recordings,
    WriteOptions,
    extra_names,
    floats,
    integers,
    num_known,
    open_headers,
    recordings_of,
)
from speechssl.manifest.formats.lhotse import KINDS
from speechssl.manifest.formats.lines import Staged, staged
from speechssl.manifest.paths import resolve
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
            everything = np.arange(len(recordings.paths))
            for start in range(0, len(everything), _ROWS_PER_PIECE):
                for recording in described.take(everything[start : start + _ROWS_PER_PIECE]):
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
        carried=tuple(name for name in manifest.column_names if num_known(manifest, name)),
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class Described:
    """What lhotse wants to know of every recording."""

    names: pa.Array
    paths: pa.Array
    folder: Path | None
    sample_rate: npt.NDArray[np.int64]
    num_samples: npt.NDArray[np.int64]
    num_channels: npt.NDArray[np.int64]

    def take(self, places: npt.NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        """lhotse's objects for some of the recordings."""
        chosen = pa.array(places)
        for name, path, rate, count, channels in zip(
            self.names.take(chosen).to_pylist(),
            self.paths.take(chosen).to_pylist(),
            self.sample_rate[places].tolist(),
            self.num_samples[places].tolist(),
            self.num_channels[places].tolist(),
            strict=True,
        ):
            file = resolve(path, self.folder)
            is_url = "://" in file
            numbers = list(range(channels))
            source = {"type": "url" if is_url else "file", "channels": numbers}
            source["source"] = file if is_url else os.path.abspath(file)
            yield {
                "id": name,
                "sources": [source],
                "sampling_rate": rate,
                "num_samples": count,
                "duration": count / rate,
                "channel_ids": numbers,
            }


def _describe(manifest: Manifest, recordings: Recordings, headers: Headers | None) -> Described:
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
    return Described(
        names=recordings.names(manifest.column("id")),
        paths=recordings.paths,
        folder=recordings.folder,
        sample_rate=rate,
        num_samples=num_samples,
        num_channels=num_channels,
    )


def _rows(
    manifest: Manifest, recordings: Recordings, described: Described
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The supervision and the cut of every row."""
    extra = extra_names(manifest, besides=("gender",))
    core = [name for name in ("text", "language", "speaker", "gender") if name in manifest.column_names]
    names = ["id", "offset", "duration", *core, *extra]
    done = 0
    for batch in manifest.batches(names):
        piece = batch.to_pydict()
        places = recordings.rows[done : done + batch.num_rows]
        done += batch.num_rows
        for number, recording in enumerate(described.take(places)):
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
