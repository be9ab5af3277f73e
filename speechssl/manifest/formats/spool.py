"""Tables that are wanted again later: the first few megabytes in memory, all of them in a file beyond that."""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from speechssl.errors import ManifestError
from speechssl.manifest.cache import default_folder
from speechssl.manifest.formats.pieces import Piece

_MEMORY_BYTES = 16 << 20


class Spool:
    """Tables by number. The file has no name: it is gone when the spool is."""

    def __init__(self) -> None:
        self._file: BinaryIO = io.BytesIO()
        self._places: list[tuple[int, int]] = []
        self._num_bytes = 0
        self._may_move = True

    def add(self, table: pa.Table) -> int:
        """Put a table away; returns its number.

        Raises:
            ManifestError: the disk is full.
        """
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        content = sink.getvalue()
        if self._may_move and self._num_bytes + content.size > _MEMORY_BYTES:
            self._move()
        try:
            self._file.seek(self._num_bytes)
            self._file.write(content)
            self._file.flush()
        except OSError as error:
            raise ManifestError(
                f"{default_folder()}: rows of an import cannot be kept here ({error.strerror or error}); make room, or"
                " name another folder by XDG_CACHE_HOME"
            ) from None
        self._places.append((self._num_bytes, content.size))
        self._num_bytes += content.size
        return len(self._places) - 1

    def get(self, number: int) -> pa.Table:
        """A table that was put away."""
        start, size = self._places[number]
        self._file.seek(start)
        return pa.ipc.open_stream(self._file.read(size)).read_all()

    def __len__(self) -> int:
        return len(self._places)

    def _move(self) -> None:
        """To a file in the cache folder; where there can be none, all stays in memory."""
        self._may_move = False
        try:
            default_folder().mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=default_folder())
            self._file.seek(0)
            shutil.copyfileobj(self._file, file)
        except OSError:
            return
        self._file = file


class KeptPieces:
    """Pieces that cost much to make: gone through once, and read from a spool after that.

    `filled` are the columns that have a value in some row.
    """

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._spool = Spool()
        self.schemas: dict[pa.Schema, None] = {}
        self.filled: set[str] = set()
        for piece in pieces:
            table = piece.table
            self.schemas[table.schema] = None
            self.filled |= {name for name in table.column_names if table[name].null_count < len(table)}
            self._spool.add(table)
            self._spool.add(pa.table({"line": piece.lines}))

    def __call__(self) -> Iterator[Piece]:
        """All pieces, in order."""
        for number in range(0, len(self._spool), 2):
            lines = np.asarray(self._spool.get(number + 1)["line"].to_numpy())
            yield Piece(table=self._spool.get(number), lines=lines)


Pieces = Callable[[], Iterable[Piece]]
"""Gives the same pieces each time."""
