"""What all formats share: options, results, and the recordings behind a manifest's rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.audio import AudioInfo
from speechssl.errors import ManifestError
from speechssl.manifest import paths
from speechssl.manifest.jsonl import CORE_TYPES
from speechssl.manifest.scan import map_in_threads, try_probe
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress

Placement = Literal["keep", "link", "copy"]

ARCHIVE_RANGE = r":\d+:\d+\z"
"""How the path of a member of an archive ends."""

MAX_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to import.

    `sample_rate` (Hz) stands for every row whose rate the format does not tell; headers are then not opened.
    `audio_root` is what relative paths are relative to, where that is not the format's own folder.
    """

    sample_rate: int | None = None
    audio_root: Path | None = None
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How to export.

    `clips` is a folder for rows that the format cannot name: each becomes a recording of its own there.
    `open_recordings` looks into every header to learn which rows are whole recordings. `place` says how recordings
    come into a folder that must hold them.
    """

    clips: Path | None = None
    open_recordings: bool = True
    place: Placement = "keep"
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """A manifest made from another format. `left_out` counts, by reason, what is not in it."""

    manifest: Manifest
    format: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Counts for JSON."""
        return {
            "format": self.format,
            "num_utterances": len(self.manifest),
            "hours": self.manifest.total_seconds / 3600,
            "fields": self.manifest.column_names,
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written. `carried` are the fields that the format holds; `left_out` counts rows by reason."""

    format: str
    files: tuple[Path, ...]
    num_utterances: int
    seconds: float
    carried: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Counts for JSON."""
        return {
            "format": self.format,
            "files": [str(path) for path in self.files],
            "num_utterances": self.num_utterances,
            "hours": self.seconds / 3600,
            "carried": list(self.carried),
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Headers:
    """Facts of recordings, one entry each: samples per channel, Hz, channels; -1 where a header was not opened."""

    num_samples: npt.NDArray[np.int64]
    sample_rate: npt.NDArray[np.int64]
    num_channels: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """The distinct recordings of a manifest: `paths` as it names them, and for every row which of them it is of."""

    paths: pa.Array
    rows: npt.NDArray[np.int64]
    folder: Path | None

    @property
    def num_rows_of(self) -> npt.NDArray[np.int64]:
        """How many rows each recording has."""
        return np.bincount(self.rows, minlength=len(self.paths)).astype(np.int64)

    def files(self) -> list[str]:
        """Every recording's path, ready to open."""
        return [paths.resolve(path, self.folder) for path in self.paths.to_pylist()]

    def names(self, ids: pa.ChunkedArray) -> pa.Array:
        """A name for every recording: its row's id where it has one row, else its path without the extension."""
        stems = pc.replace_substring_regex(self.paths, r"\.[^./]*(:\d+:\d+)?\z", r"\1")
        order = np.full(len(self.paths), 0, dtype=np.int64)
        order[self.rows] = np.arange(len(self.rows))
        single = pa.array(self.num_rows_of == 1)
        names = pc.if_else(single, ids.take(pa.array(order)).combine_chunks(), stems)
        if pc.count_distinct(names).as_py() == len(names):
            return names
        return self.paths


def recordings_of(manifest: Manifest) -> Recordings:
    """The recordings of a manifest."""
    encoded = combined(manifest.column("audio_filepath")).dictionary_encode()
    rows = np.asarray(encoded.indices.to_numpy(zero_copy_only=False), dtype=np.int64)
    return Recordings(paths=encoded.dictionary, rows=rows, folder=manifest.folder)


def open_headers(recordings: Recordings, wanted: npt.NDArray[np.bool_], progress: Progress | None = None) -> Headers:
    """Open the headers of the wanted recordings.

    Raises:
        ManifestError: some cannot be opened; names the first.
    """
    files = [file for file, want in zip(recordings.files(), wanted.tolist(), strict=True) if want]
    facts = np.full((3, len(recordings.paths)), -1, dtype=np.int64)
    bad = []
    places = np.flatnonzero(wanted).tolist()
    infos = map_in_threads(try_probe, files, num_items=len(files), progress=progress)
    for place, info in zip(places, infos, strict=True):
        if isinstance(info, AudioInfo):
            facts[:, place] = info.num_samples, info.sample_rate, info.num_channels
        else:
            bad.append(str(info))
    if bad:
        raise ManifestError(
            f"{len(bad)} of {len(files)} recordings cannot be opened: {shown(bad)}\n`speechssl manifest validate"
            " --audio --quarantine` sets them aside; --open_recordings false trusts the manifest instead"
        )
    return Headers(num_samples=facts[0], sample_rate=facts[1], num_channels=facts[2])


def is_span(
    manifest: Manifest, recordings: Recordings, headers: Headers | None, *, tolerance_seconds: float = 0.0
) -> npt.NDArray[np.bool_]:
    """Which rows are a part of their recording.

    Where its header was opened, rows that are shorter than it by more than the tolerance; elsewhere rows that start
    within it or share it with others.
    """
    starts = floats(manifest, "offset") > 0
    shared = recordings.num_rows_of[recordings.rows] > 1
    if headers is None:
        return np.asarray(starts | shared, dtype=bool)
    whole = headers.num_samples[recordings.rows]
    allowed = tolerance_seconds * headers.sample_rate[recordings.rows]
    shorter = np.abs(whole - integers(manifest, "num_samples")) > allowed
    return np.asarray(starts | np.where(whole >= 0, shorter, shared), dtype=bool)


def is_archive_range(manifest: Manifest) -> npt.NDArray[np.bool_]:
    """Which rows name a range of bytes of an archive."""
    return _matches(manifest, ARCHIVE_RANGE)


def is_url(manifest: Manifest) -> npt.NDArray[np.bool_]:
    """Which rows name a URL."""
    return _matches(manifest, r"\A[A-Za-z][A-Za-z0-9+.-]*://")


def optional(manifest: Manifest, name: str) -> pa.ChunkedArray | None:
    """A column, or None where there is none or it holds nothing."""
    if name not in manifest.column_names:
        return None
    column = manifest.column(name)
    return None if column.null_count == len(column) else column


def floats(manifest: Manifest, name: str) -> npt.NDArray[np.float64]:
    """A core column of numbers."""
    return manifest.numbers(name)


def integers(manifest: Manifest, name: str) -> npt.NDArray[np.int64]:
    """A core column of whole numbers."""
    return np.asarray(manifest.column(name).to_numpy(), dtype=np.int64)


def combined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One contiguous array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def extra_names(manifest: Manifest, *, besides: tuple[str, ...] = ()) -> list[str]:
    """Columns that are no core columns, nor among `besides`."""
    return [name for name in manifest.column_names if name not in CORE_TYPES and name not in besides]


def num_known(manifest: Manifest, name: str) -> int:
    """How many rows have a value in a column."""
    if name not in manifest.column_names:
        return 0
    return sum(batch.num_rows - batch.column(0).null_count for batch in manifest.batches([name]))


def count_uncarried(manifest: Manifest, names: list[str]) -> dict[str, int]:
    """`column -> rows that have a value`, for columns that a format has no place for."""
    counts = {name: num_known(manifest, name) for name in names}
    return {f"field {name}": count for name, count in counts.items() if count}


def check_unique_ids(table: pa.Table, where: str) -> None:
    """Refuse repeated ids.

    Raises:
        ManifestError: names the first ones.
    """
    ids = table["id"]
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    raise ManifestError(
        f"{where}: ids must be unique, but {len(repeated)} occur more than once:"
        f" {shown([repr(id) for id in repeated])}; give each row an id of its own"
    )


def shown(items: list[str], separator: str = "; ") -> str:
    """The first items, and how many more there are."""
    more = f"{separator}and {len(items) - MAX_SHOWN} more" if len(items) > MAX_SHOWN else ""
    return separator.join(items[:MAX_SHOWN]) + more


def _matches(manifest: Manifest, pattern: str) -> npt.NDArray[np.bool_]:
    found = pc.match_substring_regex(manifest.column("audio_filepath"), pattern)
    return np.asarray(found.to_numpy(), dtype=bool)
