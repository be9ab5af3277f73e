"""Rows of JSON that come one by one, gathered into Arrow columns piece by piece."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from speechssl.errors import ManifestError
from speechssl.manifest.formats.pieces import Piece
from speechssl.manifest.jsonl import CORE_TYPES, MAX_DEPTH, STRING, is_too_deep

_ROWS_PER_PIECE = 1 << 16


def gather(rows: Iterable[tuple[int, dict[str, Any]]]) -> Iterator[Piece]:
    """Lines and their rows, none of them empty, as pieces, at least one.

    No more than a piece of the rows are Python objects at a time. Names that other rows have and one has not
    are null; a column whose values are of several kinds is text.
    """
    lines: list[int] = []
    waiting: list[dict[str, Any]] = []
    num_pieces = 0
    for line, row in rows:
        lines.append(line)
        waiting.append(row)
        if len(waiting) == _ROWS_PER_PIECE:
            yield _piece(lines, waiting)
            lines, waiting = [], []
            num_pieces += 1
    if waiting or not num_pieces:
        yield _piece(lines, waiting)


def _piece(lines: list[int], rows: list[dict[str, Any]]) -> Piece:
    names = dict.fromkeys(name for row in rows for name in row)
    table = pa.table({name: _array(name, [row.get(name) for row in rows]) for name in names})
    return Piece(table=table, lines=np.array(lines, dtype=np.int64))


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
                    text = line.decode("utf-8-sig")
                    row = json.loads(text)
                    if not isinstance(row, dict):
                        raise ManifestError(f"{path}:{number}: must be a JSON object")
                    if is_too_deep(text, row):
                        raise RecursionError
                    if b"\\ud" in line.lower():
                        json.dumps(row, ensure_ascii=False).encode()  # raises where one half of a pair stands alone
                    yield number, row
    except UnicodeEncodeError:
        raise ManifestError(
            f"{path}:{number}: holds one of \\ud800 ... \\udfff outside of a pair, which is no character; correct it"
        ) from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x})") from None
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}:{number}: not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ManifestError(
            f"{path}:{number}: lists or objects lie more than {MAX_DEPTH} deep within each other; flatten them"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: damaged after line {number} ({error}); copy it again") from None


def _array(name: str, values: list[Any]) -> pa.Array:
    kind = CORE_TYPES.get(name)
    if kind == STRING:
        return _texts(values)
    try:
        array = pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return _texts(values)
    return array.cast(STRING) if pa.types.is_string(array.type) else array


def _texts(values: list[Any]) -> pa.Array:
    texts = [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    return pa.array(texts, STRING)
