"""What a corpus layout finds: many recordings, of which only the last few thousand are Python objects."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from speechssl.manifest.jsonl import STRING

_PIECE_ROWS = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A file that a corpus layout found, before its header is read; `path` is relative to the corpus root.

    `offset` and `duration` (seconds) choose a span of it, of which there may be many; by default the whole file. A span
    needs an `id` of its own.
    """

    path: str
    id: str | None = None
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    offset: float = 0.0
    duration: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


_TYPES: dict[str, pa.DataType] = {
    **dict.fromkeys(("path", "id", "text", "speaker", "language"), STRING),
    **dict.fromkeys(("offset", "duration"), pa.float64()),
}


class Recordings:
    """A list that is added to and gone through; its rows become Arrow columns as they come."""

    def __init__(self, recordings: Iterable[Recording] = ()) -> None:
        self._pieces: list[pa.Table] = []
        self._rows: list[Recording] = []
        self._num_rows = 0
        self.extend(recordings)

    def append(self, recording: Recording) -> None:
        """Add one."""
        self._rows.append(recording)
        self._num_rows += 1
        if len(self._rows) >= _PIECE_ROWS:
            self._close_piece()

    def extend(self, recordings: Iterable[Recording]) -> None:
        """Add several."""
        for recording in recordings:
            self.append(recording)

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[Recording]:
        for piece in self._pieces:
            for row in piece.to_pylist():
                core = {name: row.pop(name) for name in _TYPES}
                yield Recording(**core, extra=row)
        yield from self._rows

    def table(self) -> pa.Table:
        """Columns path, id, text, speaker, language, offset and duration, then those of all `extra`, null where absent.

        Takes the rows out, so that they are not in memory twice.
        """
        if self._rows or not self._pieces:
            self._close_piece()
        pieces, self._pieces, self._num_rows = self._pieces, [], 0
        return pa.concat_tables(pieces, promote_options="permissive")

    def _close_piece(self) -> None:
        rows, self._rows = self._rows, []
        columns = {name: pa.array([getattr(row, name) for row in rows], kind) for name, kind in _TYPES.items()}
        for name in dict.fromkeys(name for row in rows for name in row.extra):
            columns.setdefault(name, pa.array([row.extra.get(name) for row in rows]))
        self._pieces.append(pa.table(columns))
