"""What decoding found, kept in files: the memory stays bounded, and a scan that was stopped goes on.

A store is a folder of Arrow files. A recording's key says where it lies, how long it is and when it was changed, so a
store serves any later audit of the same recordings.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.audio import is_url, locate
from speechssl.errors import ManifestError
from speechssl.files import replacing
from speechssl.manifest.audit.fingerprint import Frames
from speechssl.manifest.audit.measures import MEASURES
from speechssl.types import Utterance

Hashes = npt.NDArray[np.uint64]

VERSION = 3
"""Counts up when fingerprints or measures change, so that old files are not taken for new ones."""

_ROWS_PER_FILE = 2048
_FRAMES_PER_FILE = 8 << 20
_SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("digest", pa.uint64()),
        ("measures", pa.list_(pa.float32(), len(MEASURES))),
        ("frames", pa.large_list(pa.uint32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One decoded span.

    `digest` is 64 bits of a hash of its samples, `measures` are in the order of `MEASURES`, `frames` are u32 `[T]`.
    """

    key: int
    digest: int
    measures: npt.NDArray[np.float32]
    frames: Frames


@dataclass(frozen=True, kw_only=True)
class Scanned:
    """All spans in order: `digest` u64 `[N]`, `measures` f32 `[N, len(MEASURES)]`, and the frames of span n in
    `frames[starts[n]:starts[n + 1]]`. A span that could not be decoded has digest 0, NaN and no frames.
    """

    digest: Hashes
    measures: npt.NDArray[np.float32]
    frames: Frames
    starts: npt.NDArray[np.int64]

    def measure(self, name: str) -> npt.NDArray[np.float32]:
        """One measure of every span."""
        return self.measures[:, list(MEASURES).index(name)]

    def without_frames(self) -> "Scanned":
        """The same without fingerprints, which lie in a scratch file."""
        return Scanned(
            digest=self.digest,
            measures=self.measures,
            frames=np.zeros(0, dtype=np.uint32),
            starts=np.zeros(len(self.starts), dtype=np.int64),
        )


class Store:
    """Records on disk; see the module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ManifestError(f"{folder}: is a file, but records are kept in a folder; name another") from None
        self._buffer: list[Record] = []
        self._num_frames = 0
        self._tables: list[pa.Table] = []
        self._keys: list[Hashes] = []
        for path in sorted(folder.glob(f"audit-v{VERSION}-*.arrow")):
            self._open(path)

    def missing(self, keys: Hashes) -> npt.NDArray[np.int64]:
        """Which of the keys have no record, by their places."""
        return np.flatnonzero(~np.isin(keys, np.concatenate(self._keys))) if self._keys else np.arange(len(keys))

    def add(self, record: Record) -> None:
        """Keep a record; it is written with many others, at the latest by `flush`."""
        self._buffer.append(record)
        self._num_frames += len(record.frames)
        if len(self._buffer) >= _ROWS_PER_FILE or self._num_frames >= _FRAMES_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        if not self._buffer:
            return
        counts = [len(record.frames) for record in self._buffer]
        offsets = pa.array(np.cumsum([0, *counts]), pa.int64())
        frames = pa.array(np.concatenate([record.frames for record in self._buffer]), pa.uint32())
        measures = pa.array(np.concatenate([record.measures for record in self._buffer]), pa.float32())
        columns = [
            pa.array([record.key for record in self._buffer], pa.uint64()),
            pa.array([record.digest for record in self._buffer], pa.uint64()),
            pa.FixedSizeListArray.from_arrays(measures, len(MEASURES)),
            pa.LargeListArray.from_arrays(offsets, frames),
        ]
        path = self.folder / f"audit-v{VERSION}-{self._buffer[0].key:016x}-{len(self._buffer)}.arrow"
        with (
            replacing(path) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_file(sink, _SCHEMA) as writer,
        ):
            writer.write_table(pa.table(columns, schema=_SCHEMA))
        self._buffer, self._num_frames = [], 0
        self._open(path)

    def collect(self, keys: Hashes, scratch: Path) -> Scanned:
        """The records of the given keys, in their order; the frames go to a file in `scratch` that is mapped."""
        self.flush()
        digest = np.zeros(len(keys), dtype=np.uint64)
        measures = np.full((len(keys), len(MEASURES)), np.nan, dtype=np.float32)
        counts = np.zeros(len(keys), dtype=np.int64)
        for table, known in zip(self._tables, self._keys, strict=True):
            spans, rows = _matches(keys, known)
            part = table.take(pa.array(rows))
            digest[spans] = part["digest"].to_numpy()
            measures[spans] = part["measures"].combine_chunks().flatten().to_numpy().reshape(-1, len(MEASURES))
            counts[spans] = pc.list_value_length(part["frames"]).to_numpy()
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Scanned(digest=digest, measures=measures, frames=self._frames(keys, starts, scratch), starts=starts)

    def _frames(self, keys: Hashes, starts: npt.NDArray[np.int64], scratch: Path) -> Frames:
        if starts[-1] == 0:
            return np.zeros(0, dtype=np.uint32)
        frames = np.memmap(scratch / "frames.u32", dtype=np.uint32, mode="w+", shape=(int(starts[-1]),))
        for table, known in zip(self._tables, self._keys, strict=True):
            column = table["frames"].combine_chunks()
            offsets, values = column.offsets.to_numpy(), column.values.to_numpy()
            for span, row in zip(*(places.tolist() for places in _matches(keys, known)), strict=True):
                frames[starts[span] : starts[span + 1]] = values[offsets[row] : offsets[row + 1]]
        return frames

    def _open(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all().combine_chunks()
        except (pa.ArrowInvalid, OSError):
            raise ManifestError(f"{path}: is damaged; delete it, and its recordings are measured again") from None
        self._tables.append(table)
        self._keys.append(table["key"].to_numpy())


def key_of(utterance: Utterance) -> int:
    """Where a span lies and, of a local file, its size and the time of its last change."""
    location = locate(utterance.audio_filepath)
    changed = ""
    if not is_url(location.file):
        try:
            status = os.stat(location.file)
            changed = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            changed = "absent"
    text = f"{os.path.abspath(location.file) if changed else location.file}\n{location.start}\n{location.num_bytes}\n"
    text += f"{utterance.offset!r}\n{utterance.duration!r}\n{changed}"
    digest = hashlib.blake2b(text.encode("utf-8", errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _matches(keys: Hashes, known: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places in `keys` and in `known` of the keys that are in both; a key may be several times in `keys`."""
    order = np.argsort(known, kind="stable")
    found = np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)
    rows = order[found]
    spans = np.flatnonzero(known[rows] == keys)
    return spans, rows[spans]
