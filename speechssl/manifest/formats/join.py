"""Columns of one file put beside the rows of another by their keys, when neither should be in memory.

Of the rows to be widened, the hash of every key is held, and the piece that it is in. The other files are read once, in
any order: each of their rows is put away for the pieces that have its key. Then every piece is joined with what was
put away for it, by the keys themselves. Rows in the same order in all files are so read in the order in which they lie.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.manifest.formats.base import combined
from speechssl.manifest.formats.pieces import Piece
from speechssl.manifest.formats.spool import Pieces, Spool
from speechssl.manifest.hashing import Hashes, hash_values


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What was put away of a file: its columns without the key, and the numbers in the spool by piece."""

    schema: pa.Schema
    numbers: dict[int, list[int]] = field(default_factory=dict)


class JoinedPieces:
    """Pieces with more columns; `__call__` gives them as often as wanted."""

    def __init__(self, pieces: Pieces, key: str) -> None:
        """`key` is the column of text that other files' keys are compared with."""
        self._pieces = pieces
        self._key = key
        self._hashes, self._homes = _index(pieces(), key)
        self._spool = Spool()
        self._sources: list[_Source] = []

    def add(self, tables: Iterable[pa.Table]) -> int:
        """Read a file, of which each table has the keys in the first column; its other columns are put beside the rows.

        A row gets the values of the first key that is its own, or null.

        Returns:
            How many of the file's rows have a key that no row has.
        """
        num_unused = 0
        source: _Source | None = None
        for table in tables:
            source = source or _Source(schema=table.schema.remove(0))
            rows, homes, count = self._find(combined(table.column(0)))
            num_unused += count
            for home in np.unique(homes).tolist():
                number = self._spool.add(table.take(pa.array(rows[homes == home])))
                source.numbers.setdefault(home, []).append(number)
        self._sources += [] if source is None else [source]
        return num_unused

    def __call__(self) -> Iterator[Piece]:
        """All pieces with the columns of all files that were added."""
        for home, piece in enumerate(self._pieces()):
            table = piece.table
            keys = combined(table[self._key])
            for source in self._sources:
                kept = [self._spool.get(number) for number in source.numbers.get(home, ())]
                found = pa.concat_tables(kept) if kept else None
                places = None if found is None else pc.index_in(keys, value_set=combined(found.column(0)))
                for column in source.schema:
                    missing = pa.nulls(len(table), column.type)
                    values = missing if found is None else combined(found[column.name]).take(places)
                    table = table.append_column(column.name, values)
            yield Piece(table=table, lines=piece.lines)

    def _find(self, keys: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], int]:
        """Pairs of a key's row and a piece that may have it, by rows; and how many keys no piece has."""
        hashes = hash_values(keys)
        first = np.searchsorted(self._hashes, hashes, side="left")
        counts = np.searchsorted(self._hashes, hashes, side="right") - first
        rows = np.repeat(np.arange(len(hashes)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self._homes[first[rows] + within], int(np.count_nonzero(counts == 0))


def _index(pieces: Iterable[Piece], key: str) -> tuple[Hashes, npt.NDArray[np.int32]]:
    """The different hashes of the keys of every piece, ascending, with the piece's number beside each."""
    found: list[Hashes] = []
    homes: list[npt.NDArray[np.int32]] = []
    for home, piece in enumerate(pieces):
        found.append(np.unique(hash_values(combined(piece.table[key]))))
        homes.append(np.full(len(found[-1]), home, dtype=np.int32))
    hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *found])
    found.clear()
    order = np.argsort(hashes, kind="stable")
    return hashes[order], np.concatenate([np.zeros(0, dtype=np.int32), *homes])[order]
