"""Manifest files that are read where they lie: Parquet for passes over columns, Arrow for single rows."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from speechssl.errors import ManifestError
from speechssl.manifest.cache import Cache, Stamp
from speechssl.manifest.storage import BATCH_ROWS, InMemory, Rows, SingleRows, Storage, cast_batch, pick, target_schema

logger = logging.getLogger(__name__)


class ParquetFile(Storage):
    """A Parquet file, read column by column; what it needs for single rows is made in the cache when first asked for.

    Pickles as its path: whoever unpickles it opens the file again.
    """

    def __init__(self, path: Path, cache: Cache) -> None:
        self.stamp = Stamp.of(path)
        self.cache = cache
        self.schema = target_schema(self._file.schema_arrow)
        self.num_rows = self._file.metadata.num_rows

    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """Only the named columns are read, and only row groups that hold wanted rows."""
        metadata = self._file.metadata
        start = 0
        for group in range(metadata.num_row_groups):
            stop = start + metadata.row_group(group).num_rows
            own = rows
            if rows is not None:
                low, high = np.searchsorted(rows, [start, stop])
                own = rows[low:high]
            if own is None or len(own):
                yield from pick(self._batches(group, list(names)), own, start)
            start = stop

    def _batches(self, group: int, names: list[str]) -> Iterator[pa.RecordBatch]:
        """A row group in batches."""
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=names, use_threads=False):
                batch.validate(full=True)  # texts of a damaged file may not be UTF-8
                yield cast_batch(batch.select(names), self.schema)
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(f"{self.stamp.path}: cannot be read as parquet ({error}); write it again") from None

    def row(self, index: int) -> dict[str, Any]:
        """One row, from the rows in the cache."""
        return self._quick.row(index)

    def quick(self) -> Storage:
        """The rows in the cache."""
        return self._quick

    @cached_property
    def _file(self) -> pq.ParquetFile:
        if not self.stamp.is_current:
            raise ManifestError(f"{self.stamp.path}: has changed since it was opened; load the manifest again")
        return pq.ParquetFile(self.stamp.path, pre_buffer=False)

    @cached_property
    def _quick(self) -> Storage:
        return keep_rows(self, self.stamp, self.cache)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_file", "_quick")}


class ArrowFile(Storage):
    """A file of Arrow batches, memory-mapped for single rows; passes read it without mapping, to stay small.

    Pickles as its path.
    """

    def __init__(self, path: Path, stamp: Stamp, cache: Cache) -> None:
        self.path = path
        self.stamp = stamp
        self.cache = cache
        self.schema = self._mapped.schema
        self.num_rows = self._mapped.num_rows

    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """Only the named columns are read."""
        if rows is not None and len(rows) < self.num_rows // 16:
            yield from pick(self._mapped.select(list(names)).to_batches(), rows)
            return
        fields = [self.schema.get_field_index(name) for name in names]
        options = pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False)
        with pa.OSFile(os.fspath(self.path)) as file:
            reader = pa.ipc.open_file(file, options=options)
            batches = (reader.get_batch(number).select(list(names)) for number in range(reader.num_record_batches))
            yield from pick(batches, rows)

    def row(self, index: int) -> dict[str, Any]:
        """One row: some ten microseconds."""
        return self._single.row(index)

    @cached_property
    def _mapped(self) -> pa.Table:
        try:
            file = pa.memory_map(os.fspath(self.path))
        except FileNotFoundError:
            raise ManifestError(
                f"{self.path}: the kept rows of {self.stamp.path} are no longer there; load the manifest again"
            ) from None
        return pa.ipc.open_file(file).read_all()

    @cached_property
    def _single(self) -> SingleRows:
        return SingleRows(self._mapped)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_mapped", "_single")}


def keep_rows(rows: Storage, stamp: Stamp, cache: Cache) -> Storage:
    """Rows as a file in the cache; in memory where that cannot be written to."""
    try:
        path = cache.rows(stamp, lambda path: write_arrow(rows.scan(rows.schema.names), rows.schema, path))
        return ArrowFile(path, stamp, cache)
    except OSError as error:
        warn_of_memory(stamp, cache, error)
        return InMemory(rows.read())


def warn_of_memory(stamp: Stamp, cache: Cache, error: OSError) -> None:
    """Say that a large manifest will be in memory, and how to avoid it."""
    logger.warning(
        "%s: its rows cannot be kept in %s (%s), so all of them are read into memory; name another folder by"
        " XDG_CACHE_HOME or `Manifest.load(..., cache_folder=...)`",
        stamp.path, cache.folder, error.strerror or error,
    )  # fmt: skip


def write_arrow(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    """Write batches as an Arrow file."""
    with pa.OSFile(os.fspath(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def write_parquet(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    """Write batches as Parquet with row groups of `BATCH_ROWS`, compressed with zstd."""
    waiting: list[pa.RecordBatch] = []
    num_waiting = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            waiting.append(batch)
            num_waiting += batch.num_rows
            if num_waiting >= BATCH_ROWS:
                table = pa.Table.from_batches(waiting, schema)
                whole = num_waiting - num_waiting % BATCH_ROWS
                writer.write_table(table.slice(0, whole), row_group_size=BATCH_ROWS)
                waiting = table.slice(whole).to_batches()
                num_waiting -= whole
        if num_waiting or not waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema), row_group_size=BATCH_ROWS)
