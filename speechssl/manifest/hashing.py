"""Numbers for the values of a column: 64-bit hashes by NumPy, and codes for grouping.

A dictionary of ten million strings takes gigabytes; their hashes take 80 MB. Two different strings share a hash with a
chance of about 1 in 10^19, so among ten million the chance of any such pair is below 1 in 100,000. Who cannot afford
that compares the strings of equal hashes (`repeated_values`).
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Hashes = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.int32]

_PIECE_BYTES = 1 << 16
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_NULL = np.uint64(0x243F6A8885A308D3)
_BUCKET_BITS = 5


def hash_values(values: pa.Array | pa.ChunkedArray) -> Hashes:
    """A 64-bit hash of every value; equal values of one type have equal hashes. Other types than text go by their text.

    Of the bytes d_0 ... d_n of a string it is the polynomial of d_k B^k modulo 2^64, mixed with the length: a
    difference of two running sums over all strings' bytes, so that no loop over strings is needed.
    """
    if isinstance(values, pa.ChunkedArray):
        parts = [hash_values(chunk) for chunk in values.chunks]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if not (pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)):
        values = values.cast(pa.large_string())
    hashes = _hash_bytes(*offsets_and_bytes(values))
    if values.null_count:
        hashes[values.is_null().to_numpy(zero_copy_only=False)] = _NULL
    return hashes


def offsets_and_bytes(values: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Where each of some large strings starts, the first at 0, and the bytes of all; those of nulls too, if any."""
    if len(values) == 0:
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    _, offsets, content = values.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64)[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(content, dtype=np.uint8) if content is not None else np.zeros(0, dtype=np.uint8)
    return starts - starts[0], data[starts[0] : starts[-1]]


def repeated_hashes(hashes: Hashes) -> Hashes:
    """The hashes that occur more than once."""
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def repeated_rows(parts: list[Hashes]) -> npt.NDArray[np.int64]:
    """Numbers of the rows whose hash occurs more than once in all parts; the list is emptied."""
    hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *parts])
    parts.clear()
    repeated = repeated_hashes(hashes)
    return np.flatnonzero(np.isin(hashes, repeated)) if len(repeated) else np.zeros(0, dtype=np.int64)


def repeated_values(candidates: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The values that do occur more than once, compared as they are, each one once."""
    counts = pc.value_counts(candidates)
    return counts.filter(pc.greater(counts.field("counts"), 1)).field("values")


def count_distinct(parts: list[Hashes]) -> int:
    """Number of different hashes in all parts; the list is emptied, so that the parts do not stay in memory."""
    hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *parts])
    parts.clear()
    hashes.sort()
    return int(np.count_nonzero(hashes[1:] != hashes[:-1])) + (len(hashes) > 0)


def codes_of(hashes: Hashes) -> Codes:
    """Numbers 0, 1, ... for the different hashes, in the order in which they first occur."""
    codes = np.empty(len(hashes), dtype=np.int32)
    bucket = (hashes >> np.uint64(64 - _BUCKET_BITS)).astype(np.uint8)  # by parts, to sort in little memory
    num_codes = 0
    for number in range(1 << _BUCKET_BITS):
        rows = np.flatnonzero(bucket == number)
        values, inverse = np.unique(hashes[rows], return_inverse=True)
        codes[rows] = inverse + num_codes
        num_codes += len(values)
    return in_order_of_appearance(codes, num_codes)


def first_rows(codes: Codes) -> npt.NDArray[np.int64]:
    """The first row of each of `codes_of`'s codes: it is where a greater code occurs than in all rows before."""
    return np.flatnonzero(np.diff(np.maximum.accumulate(codes), prepend=-1))


def in_order_of_appearance(codes: Codes, num_codes: int) -> Codes:
    """The codes renamed so that a smaller one occurs first in an earlier row; all of 0 ... num_codes - 1 must occur.

    Works on `codes` itself and in pieces: NumPy copies whole index arrays to 64 bits.
    """
    first = np.empty(num_codes, dtype=np.int32)
    for piece in reversed(pieces(len(codes))):  # the assignment made last stays, and so the first row
        rows = np.arange(piece.start, piece.stop, dtype=np.int32)
        first[codes[piece][::-1]] = rows[::-1]
    is_first = np.zeros(len(codes), dtype=bool)
    is_first[first] = True
    rank = (np.cumsum(is_first, dtype=np.int32) - np.int32(1))[first]
    for piece in pieces(len(codes)):
        codes[piece] = rank[codes[piece]]
    return codes


def pieces(length: int, size: int = 1 << 20) -> list[slice]:
    """Slices of an array that together are all of it."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _hash_bytes(starts: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> Hashes:
    num_rows = len(starts) - 1
    hashes = np.empty(num_rows, dtype=np.uint64)
    longest = int(np.diff(starts).max(initial=0))
    powers, inverses = _power_tables(1 << max(_PIECE_BYTES, longest).bit_length())
    row = 0
    while row < num_rows:
        first = int(starts[row])
        end = max(row + 1, int(np.searchsorted(starts, first + _PIECE_BYTES, side="right")) - 1)
        piece = data[first : int(starts[end])]
        sums = np.zeros(len(piece) + 1, dtype=np.uint64)
        np.add(piece, np.uint64(1), out=sums[1:])
        sums[1:] *= powers[: len(piece)]
        np.cumsum(sums, out=sums)
        begins, ends = starts[row:end] - first, starts[row + 1 : end + 1] - first
        lengths = (ends - begins).astype(np.uint64)
        hashes[row:end] = (sums[ends] - sums[begins]) * inverses[begins] + lengths * np.uint64(_INVERSE)
        row = end
    return _mix(hashes)


@lru_cache(maxsize=1)
def _power_tables(length: int) -> tuple[Hashes, Hashes]:
    """B^k and B^-k modulo 2^64 for k = 0 ... length."""
    tables = []
    for base in (_BASE, _INVERSE):
        table = np.full(length + 1, np.uint64(base))
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def _mix(hashes: Hashes) -> Hashes:
    """Spread what differs over all bits (the finaliser of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        hashes ^= hashes >> np.uint64(33)
        hashes *= np.uint64(factor)
    hashes ^= hashes >> np.uint64(33)
    return hashes
