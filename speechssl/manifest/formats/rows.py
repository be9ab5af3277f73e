"""Rows that come one by one, gathered into Arrow columns piece by piece."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from speechssl.errors import ManifestError
from speechssl.manifest.jsonl import CORE_TYPES, STRING

_ROWS_PER_PIECE = 1 << 16


class RowGatherer:
    """Takes dictionaries, gives a table; no more than one piece of the rows are Python objects at a time."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._pieces: list[pa.Table] = []

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; names that other rows have and this has not are null."""
        self._rows.append(row)
        if len(self._rows) == _ROWS_PER_PIECE:
            self._close_piece()

    def table(self) -> pa.Table:
        """All rows. A column whose values are of several kinds is text."""
        if self._rows or not self._pieces:
            self._close_piece()
        try:
            return pa.concat_tables(self._pieces, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            kinds: dict[str, set[pa.DataType]] = {}
            for piece in self._pieces:
                for field in piece.schema:
                    kinds.setdefault(field.name, set()).add(field.type)
            mixed = [name for name, types in kinds.items() if len(types) > 1 and name not in CORE_TYPES]
            return pa.concat_tables([_as_text(piece, mixed) for piece in self._pieces], promote_options="permissive")

    def _close_piece(self) -> None:
        names = dict.fromkeys(name for row in self._rows for name in row)
        self._pieces.append(pa.table({name: _array(name, [row.get(name) for row in self._rows]) for name in names}))
        self._rows = []


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line number, object)` for every line of a JSON Lines file, plain or gzipped, that is not empty.

    Raises:
        ManifestError: missing, damaged, not UTF-8 or not JSON; names file and line.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such file; check the path")
    opened = gzip.open if path.name.endswith(".gz") else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    row = json.loads(line.decode("utf-8-sig"))
                    if not isinstance(row, dict):
                        raise ManifestError(f"{path}:{number}: must be a JSON object")
                    yield number, row
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: damaged after line {number} ({error}); copy it again") from None


def _array(name: str, values: list[Any]) -> pa.Array:
    kind = CORE_TYPES.get(name)
    if kind == STRING:
        return _texts(values)
    try:
        array = pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return _texts(values)
    return array.cast(STRING) if pa.types.is_string(array.type) else array


def _as_text(table: pa.Table, names: list[str]) -> pa.Table:
    for name in names:
        if name in table.column_names and table.schema.field(name).type != STRING:
            place = table.column_names.index(name)
            table = table.set_column(place, name, _texts(table[name].to_pylist()))
    return table


def _texts(values: list[Any]) -> pa.Array:
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return pa.array(texts, STRING)
