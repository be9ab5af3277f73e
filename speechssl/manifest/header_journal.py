"""What recordings' headers say, kept beside a manifest: an interrupted build goes on, a later one reads what is new."""

import io
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.files import replacing
from speechssl.manifest.hashing import Hashes, count_distinct, hash_values
from speechssl.manifest.locked import open_locked

logger = logging.getLogger(__name__)

_SCHEMA = pa.schema(
    [
        ("path", pa.large_string()),
        ("num_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("sample_rate", pa.int32()),
        ("num_samples", pa.int64()),
    ],
    metadata={"speechssl": "headers 1"},
)
_BATCH_ROWS = 1 << 16
_WAITING_ROWS = 256
_WAITING_SECONDS = 1.0

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Files:
    """Recordings as they lie on disk: absolute paths, sizes in bytes and times of change in nanoseconds.

    A size of -1 stands for a file that is not there; nothing is kept of it.
    """

    path: pa.LargeStringArray
    num_bytes: Numbers
    mtime_ns: Numbers

    def take(self, rows: npt.NDArray[np.integer]) -> "Files":
        """Some of them."""
        return Files(path=self.path.take(pa.array(rows)), num_bytes=self.num_bytes[rows], mtime_ns=self.mtime_ns[rows])


class HeaderJournal:
    """An Arrow stream with a row for each header that was read; what was written last may be torn.

    Rows are found again by path, size and time of change. One process at a time has it open.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """Use the journal at `path`, or begin one there; `fresh` forgets what it holds. Nothing is opened yet."""
        self.path = path
        self.fresh = fresh
        self.num_removed = 0
        self._num_rows = 0
        self._num_batches = 0
        self._end = 0
        self._opened: BinaryIO | None = None
        self._waiting: list[tuple[Files, Numbers, Numbers]] = []
        self._num_waiting = 0
        self._written = time.monotonic()

    def find(self, files: Files) -> tuple[Numbers, Numbers]:
        """Sample rates and numbers of samples of the files that have not changed, 0 where nothing is known.

        Also cuts off a torn end, so that rows can be added, and counts recordings that are no longer among the files.

        Raises:
            ManifestError: another process has the journal open.
        """
        self._open()
        rates = np.zeros(len(files.path), dtype=np.int64)
        num_samples = np.zeros(len(files.path), dtype=np.int64)
        hashes = hash_values(files.path)
        order = np.argsort(hashes)
        hashes = hashes[order]
        gone: list[Hashes] = []
        for batch in self._read():
            self._num_rows += batch.num_rows
            self._num_batches += 1
            if not len(order):
                continue
            wanted = hash_values(batch["path"])
            places = np.minimum(np.searchsorted(hashes, wanted), len(order) - 1)
            rows = order[places]
            known = pc.equal(files.path.take(pa.array(rows)), batch["path"]).to_numpy(zero_copy_only=False)
            gone.append(wanted[~known])
            same = known & (files.num_bytes[rows] == batch["num_bytes"].to_numpy())
            same &= files.mtime_ns[rows] == batch["mtime_ns"].to_numpy()
            rates[rows[same]] = batch["sample_rate"].to_numpy()[same]
            num_samples[rows[same]] = batch["num_samples"].to_numpy()[same]
        self.num_removed = count_distinct(gone)
        self._file.truncate(self._end)
        return rates, num_samples

    def add(self, files: Files, rates: Numbers, num_samples: Numbers) -> None:
        """Note the headers of some files; they are written with others, at latest by the first call after a second."""
        self._waiting.append((files, rates, num_samples))
        self._num_waiting += len(rates)
        if self._num_waiting >= _WAITING_ROWS or time.monotonic() - self._written > _WAITING_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits; once this returns, only a failure of the whole machine can lose it."""
        if self._num_waiting:
            parts, rates, num_samples = zip(*self._waiting, strict=True)
            files = Files(
                path=pa.concat_arrays([part.path for part in parts]),
                num_bytes=np.concatenate([part.num_bytes for part in parts]),
                mtime_ns=np.concatenate([part.mtime_ns for part in parts]),
            )
            self._write(self._file, files, np.concatenate(rates), np.concatenate(num_samples), start=self._end)
            self._end = self._file.seek(0, os.SEEK_END)
            self._num_rows += self._num_waiting
            self._num_batches += 1
        self._waiting, self._num_waiting, self._written = [], 0, time.monotonic()

    def finish(self, files: Files, rates: Numbers, num_samples: Numbers) -> None:
        """The build is done: keep exactly these rows, and close."""
        self.flush()
        if self._num_rows != len(files.path) or self._num_batches > 2 + 2 * len(files.path) // _BATCH_ROWS:
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                for start in range(0, max(1, len(files.path)), _BATCH_ROWS):
                    rows = np.arange(start, min(start + _BATCH_ROWS, len(files.path)))
                    self._write(file, files.take(rows), rates[rows], num_samples[rows], start=start)
        self.close()

    def close(self) -> None:
        """Let others have it."""
        if self._opened is not None and not self._opened.closed:
            self.flush()
            self._opened.close()

    @property
    def _file(self) -> BinaryIO:
        assert self._opened is not None, "`find` comes first"
        return self._opened

    def _open(self) -> None:
        self._opened = open_locked(self.path, fresh=self.fresh)

    def _read(self) -> Iterator[pa.RecordBatch]:
        """All whole batches; `_end` is where the last one ends."""
        self._end = 0
        size = os.fstat(self._file.fileno()).st_size
        try:
            with pa.OSFile(os.fspath(self.path)) as file, pa.ipc.open_stream(file) as reader:
                if not reader.schema.equals(_SCHEMA, check_metadata=True):
                    logger.warning("%s: was written by another version; all headers are read again", self.path)
                    return
                self._end = file.tell()
                for batch in reader:
                    batch.validate(full=True)
                    yield batch
                    self._end = file.tell()
        except (pa.ArrowInvalid, OSError, EOFError, MemoryError) as error:  # what was being written
            if size:
                logger.info("%s: the last entry was cut off (%s)", self.path, error)

    def _write(self, file: BinaryIO, files: Files, rates: Numbers, num_samples: Numbers, *, start: int) -> None:
        """Append a batch in one call; the schema goes before the first."""
        columns = [files.path, files.num_bytes, files.mtime_ns, rates.astype(np.int32), num_samples]
        batch = pa.record_batch([pa.array(column) for column in columns], schema=_SCHEMA)
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(batch)
            end = sink.tell()  # without the mark that ends a stream
        file.seek(0, os.SEEK_END)
        file.write(sink.getbuffer()[0 if start == 0 else len(_SCHEMA.serialize()) : end])
