"""The rows of several manifests as one numbering, their spans of audio, and which spans overlap by their columns.

Shapes: R rows of all manifests, N different spans.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechssl.manifest import paths
from speechssl.manifest.hashing import codes_of, hash_values
from speechssl.manifest.table import Manifest
from speechssl.types import Utterance

Integers = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Rows:
    """All rows, numbered through; the first row of manifest m is `starts[m]`.

    `manifest_of` i64 `[R]` is the manifest of a row. Two rows are of one span when file, offset and duration are equal:
    `span_of` `[R]`; `first_row` `[N]` is the first row of each span, `file_of` `[N]` a number for its file.
    """

    def __init__(self, manifests: Mapping[str, Manifest]) -> None:
        self.names = tuple(manifests)
        self.manifests = tuple(manifests.values())
        self.starts = np.cumsum([0, *(len(manifest) for manifest in self.manifests)]).astype(np.int64)
        self.manifest_of = np.repeat(np.arange(len(self.manifests)), np.diff(self.starts))
        self.offset = self._numbers("offset")
        self.duration = self._numbers("duration")
        self.file_hash = np.concatenate([_file_hashes(manifest) for manifest in self.manifests])
        keys = _mix(_mix(self.file_hash, self.offset.view(np.uint64)), self.duration.view(np.uint64))
        self.span_of = codes_of(keys).astype(np.int64)
        self.first_row = _first_of(self.span_of)
        self.file_of = codes_of(self.file_hash)[self.first_row].astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def num_spans(self) -> int:
        """How many different spans of audio there are."""
        return len(self.first_row)

    def utterance(self, row: int) -> Utterance:
        """One row, with its path ready to open."""
        number = int(self.manifest_of[row])
        return self.manifests[number][row - int(self.starts[number])]

    def name(self, row: int) -> str:
        """Name of the manifest of a row."""
        return self.names[int(self.manifest_of[row])]

    def ids(self, rows: Integers) -> list[str]:
        """Ids of the given rows."""
        return [str(value) for value in self.values("id", rows)]

    def values(self, column: str, rows: Integers) -> list[object]:
        """A column's values in the given rows; None where a manifest has no such column."""
        found: list[object] = [None] * len(rows)
        for number, manifest in enumerate(self.manifests):
            here = np.flatnonzero(self.manifest_of[rows] == number)
            if len(here) and column in manifest.column_names:
                taken = manifest.column(column).take(pa.array(rows[here] - self.starts[number])).to_pylist()
                for place, value in zip(here.tolist(), taken, strict=True):
                    found[place] = value
        return found

    def columns(self, name: str) -> list[pa.ChunkedArray | None]:
        """A column of every manifest, None where one has none."""
        return [m.column(name) if name in m.column_names else None for m in self.manifests]

    def counts(self, rows: Integers) -> dict[str, int]:
        """How many of the given rows are of each manifest."""
        counts = np.bincount(self.manifest_of[rows], minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}

    def _numbers(self, name: str) -> npt.NDArray[np.float64]:
        parts = [np.asarray(m.column(name).to_numpy(), dtype=np.float64) for m in self.manifests]
        return np.concatenate(parts) + 0.0  # -0 becomes 0


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """Spans of one file that overlap: `first` and `second` i64 `[P]` are spans, `offset` is how much later the second
    begins and `seconds` how much they share.
    """

    first: Integers
    second: Integers
    offset: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]


def column_overlaps(rows: Rows, min_seconds: float) -> Overlaps:
    """Overlaps that offsets and durations tell, of at least `min_seconds` or four fifths of the shorter span."""
    start = rows.offset[rows.first_row]
    length = rows.duration[rows.first_row]
    order = np.lexsort((start, rows.file_of))
    file, start, end = rows.file_of[order], start[order], (start + length)[order]
    firsts, seconds = [], []
    here = np.arange(len(order))
    step = 0
    while True:  # the starts are in order, so that a span's overlaps come directly after it
        step += 1
        here = here[here + step < len(order)]
        here = here[(file[here + step] == file[here]) & (start[here + step] < end[here])]
        if not len(here):
            break
        firsts.append(here)
        seconds.append(here + step)
    first = np.concatenate(firsts) if firsts else np.zeros(0, dtype=np.int64)
    second = np.concatenate(seconds) if seconds else np.zeros(0, dtype=np.int64)
    shared = np.minimum(end[first], end[second]) - start[second]
    shorter = np.minimum(end[first] - start[first], end[second] - start[second])
    enough = shared >= np.minimum(min_seconds, 0.8 * shorter) - 1e-6
    return Overlaps(
        first=order[first[enough]],
        second=order[second[enough]],
        offset=(start[second] - start[first])[enough],
        seconds=shared[enough],
    )


def _file_hashes(manifest: Manifest) -> Hashes:
    """A number for every row's file: of its real path, so that two ways to a file give one number."""
    folder = os.path.abspath(manifest.folder if manifest.folder is not None else Path.cwd())

    def real(directory: str) -> str:
        return directory if "://" in directory else os.path.realpath(os.path.join(folder, directory))

    return hash_values(paths.map_directories(manifest.column("audio_filepath"), real))


def _mix(hashes: Hashes, others: Hashes) -> Hashes:
    mixed = (hashes ^ (others * _MIX + (hashes << np.uint64(7)))) * np.uint64(0xFF51AFD7ED558CCD)
    return np.asarray(mixed ^ (mixed >> np.uint64(32)), dtype=np.uint64)


def _first_of(codes: Integers) -> Integers:
    """The first row of every code 0, 1, ...; codes are numbered in order of appearance."""
    first = np.empty(int(codes.max(initial=-1)) + 1, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return first
