"""Which characters a column of texts is written in, counted without a Python object per text."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]

_ROWS_AT_ONCE = 1 << 16
_MIN_ROWS = 1000
_NUM_CODES = 0x110000


def code_points(texts: pa.Array) -> Iterator[tuple[int, npt.NDArray[np.uint32], Integers]]:
    """Pieces of a large_string column without nulls: the first row, its texts' code points, where each text's begin."""
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        piece = texts.slice(start, _ROWS_AT_ONCE)
        _, offsets, content = piece.buffers()
        bounds = np.frombuffer(offsets, dtype=np.int64)[[piece.offset, piece.offset + len(piece)]]
        joined = b"" if content is None else memoryview(content)[bounds[0] : bounds[1]].tobytes()
        codes = np.frombuffer(joined.decode("utf-8").encode("utf-32-le"), dtype=np.uint32)
        begins = np.concatenate([[0], np.cumsum(pc.utf8_length(piece).to_numpy())]).astype(np.int64)
        yield start, codes, begins


def rare_characters(texts: pa.Array, max_rows: int) -> tuple[Integers, list[str]]:
    """Rows with a character that at most `max_rows` rows have, and those characters; of a thousand rows or more.

    Upper and lower case are one.
    """
    if len(texts) < _MIN_ROWS:
        return np.zeros(0, dtype=np.int64), []
    texts = pc.utf8_lower(texts)
    num_rows = np.zeros(_NUM_CODES, dtype=np.int64)
    for _, codes, begins in code_points(texts):
        pairs = np.unique(_rows_of(begins).astype(np.uint64) << np.uint64(21) | codes)
        num_rows += np.bincount((pairs & np.uint64((1 << 21) - 1)).astype(np.int64), minlength=_NUM_CODES)
    rare = (num_rows > 0) & (num_rows <= max_rows)
    found: dict[int, str] = {}
    for start, codes, begins in code_points(texts):
        rows = _rows_of(begins)
        for place in np.flatnonzero(rare[codes]).tolist():
            row, letter = start + int(rows[place]), chr(codes[place])
            found[row] = found.get(row, "") + ("" if letter in found.get(row, "") else letter)
    order = sorted(found)
    return np.array(order, dtype=np.int64), [found[row] for row in order]


def _rows_of(begins: Integers) -> Integers:
    return np.repeat(np.arange(len(begins) - 1), np.diff(begins))
