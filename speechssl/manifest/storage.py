"""Where the rows of a manifest lie: in memory, in a file, or chosen from, joined or moved out of other rows.

A `Storage` is read in batches, so that ten million rows pass through little memory. Here are those that need no file;
`files` has the others.
"""

import itertools
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechssl.errors import ManifestError
from speechssl.manifest import paths
from speechssl.manifest.jsonl import CORE_TYPES

FEW_ROWS = 1 << 18
"""So few rows chosen from a file are read into memory where single ones are wanted."""

BATCH_ROWS = 1 << 16
"""Rows of a batch, and of a row group of the Parquet files that are written."""

Rows = npt.NDArray[np.integer[Any]]
"""Numbers of rows."""


class Storage(ABC):
    """Rows and columns. Immutable, and cheap to pickle unless the rows are in memory."""

    schema: pa.Schema
    num_rows: int

    @abstractmethod
    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """The named columns of all rows, or of `rows` (ascending, repeats allowed), in order, in bounded batches."""

    @abstractmethod
    def row(self, index: int) -> dict[str, Any]:
        """One row as Python values; microseconds where `quick` has been called."""

    def gather(self, names: Sequence[str], rows: Rows) -> pa.Table:
        """The named columns of any rows in any order, as one table in memory."""
        order = np.argsort(rows, kind="stable")
        found = self.read(names, np.asarray(rows)[order]).combine_chunks()
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return found.take(pa.array(back))

    def quick(self) -> "Storage":
        """The same rows where single ones are found in microseconds."""
        return self

    def read(self, names: Sequence[str] | None = None, rows: Rows | None = None) -> pa.Table:
        """The named columns (all by default) of all rows or of ascending ones, as one table in memory."""
        names = self.schema.names if names is None else list(names)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches(self.scan(names, rows), schema)


class SingleRows:
    """Single rows of an Arrow table, in half of the time that its chunked columns take."""

    def __init__(self, table: pa.Table) -> None:
        self._batches = table.to_batches()
        self._starts = list(itertools.accumulate((batch.num_rows for batch in self._batches), initial=0))
        self._columns: dict[int, list[tuple[str, pa.Array]]] = {}

    def row(self, index: int) -> dict[str, Any]:
        """One row as Python values."""
        number = bisect_right(self._starts, index) - 1
        columns = self._columns.get(number)
        if columns is None:
            batch = self._batches[number]
            columns = self._columns[number] = list(zip(batch.schema.names, batch.columns, strict=True))
        place = index - self._starts[number]
        return {name: column[place].as_py() for name, column in columns}


class InMemory(Storage):
    """An Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.schema = table.schema
        self.num_rows = table.num_rows

    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of the table, without copies where all rows are wanted."""
        yield from pick(self.table.select(list(names)).to_batches(max_chunksize=BATCH_ROWS), rows)

    def row(self, index: int) -> dict[str, Any]:
        """One row."""
        return self._single.row(index)

    @cached_property
    def _single(self) -> SingleRows:
        return SingleRows(self.table)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_single"}

    def read(self, names: Sequence[str] | None = None, rows: Rows | None = None) -> pa.Table:
        """The table, or a part of it."""
        found = self.table if names is None else self.table.select(list(names))
        return found if rows is None else found.take(pa.array(rows))

    def gather(self, names: Sequence[str], rows: Rows) -> pa.Table:
        """Rows of the table."""
        return self.table.select(list(names)).take(pa.array(rows))


class Chosen(Storage):
    """Some rows of another storage, by number, in the order of the numbers."""

    def __init__(self, base: Storage, rows: Rows) -> None:
        if isinstance(base, Chosen):
            rows = base.rows[rows]
            base = base.base
        self.base: Storage = base
        self.rows: Rows = rows.astype(np.int32, copy=False) if base.num_rows < 2**31 else rows
        self.schema = base.schema
        self.num_rows = len(rows)
        self._ascending = bool((self.rows[1:] >= self.rows[:-1]).all())

    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """In one pass over the base where the rows ascend; else they are looked up, batch by batch."""
        chosen = self.rows if rows is None else self.rows[rows]
        if self._ascending:
            yield from self.base.scan(names, chosen)
        elif len(chosen) <= BATCH_ROWS:
            yield from self.base.gather(names, chosen).to_batches(max_chunksize=BATCH_ROWS)
        else:
            base = self.base.quick()
            for start in range(0, len(chosen), BATCH_ROWS):
                piece = base.gather(names, chosen[start : start + BATCH_ROWS]).combine_chunks()
                yield from piece.to_batches(max_chunksize=BATCH_ROWS)

    def row(self, index: int) -> dict[str, Any]:
        """One row of the base."""
        return self.base.row(int(self.rows[index]))

    def gather(self, names: Sequence[str], rows: Rows) -> pa.Table:
        """Rows of the base."""
        return self.base.gather(names, self.rows[rows])

    def quick(self) -> Storage:
        """Few rows in memory; many of the quick base."""
        if self.num_rows <= FEW_ROWS:
            return InMemory(self.read().combine_chunks())
        base = self.base.quick()
        return self if base is self.base else Chosen(base, self.rows)


class Selected(Storage):
    """Some columns of another storage."""

    def __init__(self, base: Storage, names: Sequence[str]) -> None:
        self.base = base
        self.schema = pa.schema([base.schema.field(name) for name in names])
        self.num_rows = base.num_rows

    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """The base's batches."""
        return self.base.scan(names, rows)

    def row(self, index: int) -> dict[str, Any]:
        """The base's row without the other columns."""
        row = self.base.row(index)
        return {name: row[name] for name in self.schema.names}

    def quick(self) -> Storage:
        """The same columns of the quick base."""
        base = self.base.quick()
        return self if base is self.base else Selected(base, self.schema.names)


class Widened(Storage):
    """Another storage with a column in memory that is added to its own or replaces one."""

    def __init__(self, base: Storage, name: str, values: pa.Array | pa.ChunkedArray) -> None:
        values = cast_column(values, name, CORE_TYPES.get(name, values.type))
        self.base = base
        self.name = name
        self.values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        fields = {field.name: field for field in base.schema} | {name: pa.field(name, self.values.type)}
        self.schema = pa.schema([fields[name] for name in in_order(fields)])
        self.num_rows = base.num_rows

    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """The base's batches with the values of the same rows beside them."""
        if self.name not in names:
            yield from self.base.scan(names, rows)
            return
        others = [name for name in names if name != self.name]
        if not others:
            yield from InMemory(pa.table({self.name: self.values})).scan(names, rows)
            return
        done = 0
        for batch in self.base.scan(others, rows):
            stop = done + batch.num_rows
            beside = self.values[done:stop] if rows is None else self.values.take(pa.array(rows[done:stop]))
            columns = [beside if name == self.name else batch[name] for name in names]
            yield pa.record_batch(columns, names=list(names))
            done = stop

    def row(self, index: int) -> dict[str, Any]:
        """One row of the base, with the added value."""
        row = self.base.row(index) | {self.name: self.values[index].as_py()}
        return {name: row[name] for name in self.schema.names}

    def quick(self) -> Storage:
        """The same column beside the quick base."""
        base = self.base.quick()
        return self if base is self.base else Widened(base, self.name, self.values)


class Moved(Storage):
    """Another storage whose relative paths are rewritten for another folder."""

    def __init__(self, base: Storage, old_folder: Path | None, new_folder: Path) -> None:
        self.base = base
        self.old_folder = old_folder if old_folder is not None else Path.cwd()
        self.new_folder = new_folder
        self.schema = base.schema
        self.num_rows = base.num_rows

    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """The base's batches, moved."""
        if "audio_filepath" not in names:
            yield from self.base.scan(names, rows)
            return
        place = list(names).index("audio_filepath")
        for batch in self.base.scan(names, rows):
            moved = paths.rebase(pa.chunked_array([batch.column(place)]), self.old_folder, self.new_folder)
            yield batch.set_column(place, "audio_filepath", moved.combine_chunks())

    def row(self, index: int) -> dict[str, Any]:
        """The base's row, moved."""
        row = self.base.row(index)
        return row | {"audio_filepath": paths.rebase_one(row["audio_filepath"], self.old_folder, self.new_folder)}

    def quick(self) -> Storage:
        """The quick base, moved."""
        base = self.base.quick()
        return self if base is self.base else Moved(base, self.old_folder, self.new_folder)


class Joined(Storage):
    """The rows of several storages after each other; a column that one of them lacks is null there."""

    def __init__(self, parts: Sequence[Storage]) -> None:
        self.parts = tuple(parts)
        self.schema = pa.unify_schemas([part.schema for part in parts], promote_options="permissive")
        self._starts = np.cumsum([0, *(part.num_rows for part in parts)])
        self.num_rows = int(self._starts[-1])

    def scan(self, names: Sequence[str], rows: Rows | None = None) -> Iterator[pa.RecordBatch]:
        """Part after part."""
        for number, part in enumerate(self.parts):
            start, stop = self._starts[number : number + 2]
            own = None
            if rows is not None:
                low, high = np.searchsorted(rows, [start, stop])
                own = rows[low:high] - start
            if own is None or len(own):
                present = [name for name in names if name in part.schema.names]
                yield from (self._conform(batch, names) for batch in part.scan(present or part.schema.names[:1], own))

    def row(self, index: int) -> dict[str, Any]:
        """A row of the part that it is in."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self.parts[number].row(index - int(self._starts[number]))
        return {name: row.get(name) for name in self.schema.names}

    def quick(self) -> Storage:
        """The quick parts."""
        parts = [part.quick() for part in self.parts]
        same = all(new is old for new, old in zip(parts, self.parts, strict=True))
        return self if same else Joined(parts)

    def _conform(self, batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
        fields = [self.schema.field(name) for name in names]
        columns = [
            batch[field.name].cast(field.type)
            if field.name in batch.schema.names
            else pa.nulls(batch.num_rows, field.type)
            for field in fields
        ]
        return pa.record_batch(columns, schema=pa.schema(fields))


def pick(batches: Iterable[pa.RecordBatch], rows: Rows | None, start: int = 0) -> Iterator[pa.RecordBatch]:
    """The given ascending rows out of batches, the first of which begins at row `start`; None takes all."""
    for batch in batches:
        stop = start + batch.num_rows
        if rows is None:
            yield batch
        else:
            low, high = np.searchsorted(rows, [start, stop])
            for begin in range(low, high, BATCH_ROWS):  # more than one round where rows are repeated
                wanted = rows[begin : min(begin + BATCH_ROWS, high)] - start
                whole = len(wanted) == batch.num_rows and (np.diff(wanted) == 1).all()
                yield batch if whole else batch.take(pa.array(wanted))
        start = stop


def in_order(names: Iterable[str]) -> list[str]:
    """Column names as a manifest orders them: those that every manifest may have, then the others."""
    names = list(names)
    return [name for name in CORE_TYPES if name in names] + [name for name in names if name not in CORE_TYPES]


def target_schema(schema: pa.Schema) -> pa.Schema:
    """The types that a manifest gives to columns of the given ones, in its order.

    Raises:
        ManifestError: a column cannot be of the type that it must have.
    """
    fields = []
    for name in in_order(schema.names):
        kind = CORE_TYPES.get(name, schema.field(name).type)
        cast_column(pa.array([], schema.field(name).type), name, kind)
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def cast_table(table: pa.Table) -> pa.Table:
    """A table with the columns in a manifest's order and types, each in one piece."""
    schema = target_schema(table.schema)
    columns = [cast_column(table[field.name], field.name, field.type) for field in schema]
    return pa.table(columns, schema=schema).combine_chunks()


def cast_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch whose columns have the types that `schema` gives them."""
    columns: Mapping[str, pa.Array] = {
        name: cast_column(batch[name], name, schema.field(name).type) for name in batch.schema.names
    }
    return pa.record_batch(list(columns.values()), names=list(columns))


def cast_column(column: Any, name: str, kind: pa.DataType) -> Any:
    """A column in a type.

    Raises:
        ManifestError: it holds something else.
    """
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ManifestError(f"column {name} must be {kind}, is {column.type}; convert it") from None
