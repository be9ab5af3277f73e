"""Recordings of any length at the encoder's rate, block by block; their identity; what is cut out of a stream.

Shapes: S samples.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from math import gcd

import numpy as np
from numpy.typing import NDArray

from speechssl.lengths import seconds_to_samples

Blocks = Iterator[NDArray[np.float32]]

BLOCK_SECONDS = 30.0


def file_blocks(
    path: str | os.PathLike[str], sample_rate: int, *, offset: float = 0.0, duration: float | None = None
) -> Blocks:
    """A span of a file at `sample_rate` in blocks f32 `[S]`; joined they are what `audio.read` gives.

    Raises:
        AudioError: like `audio.read`, also in the middle.
    """
    from speechssl.audio import read_blocks, read_sample_rate

    native = read_sample_rate(path)
    blocks = read_blocks(path, block_seconds=BLOCK_SECONDS, offset=offset, duration=duration)
    yield from blocks if native == sample_rate else _resampled(blocks, native, sample_rate)


def array_blocks(waveform: NDArray[np.float32], sample_rate: int) -> Blocks:
    """A waveform in memory as blocks."""
    size = seconds_to_samples(BLOCK_SECONDS, sample_rate)
    for start in range(0, len(waveform), size):
        yield waveform[start : start + size]


def content_hash(blocks: Iterable[NDArray[np.float32]]) -> str:
    """Hex SHA-256 of the samples that an encoder is handed, as little-endian float32."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(np.ascontiguousarray(block, dtype="<f4").tobytes())
    return digest.hexdigest()


def cut(blocks: Blocks, spans: Iterable[tuple[int, int]]) -> Blocks:
    """The samples of each (first, one past the last) of a stream; neither may go back from span to span.

    Only what a later span may need is kept.
    """
    kept = np.zeros(0, dtype=np.float32)
    start = 0  # where in the stream `kept` begins
    for first, last in spans:
        pieces = [kept]
        end = start + len(kept)
        while end < last:
            block = next(blocks, None)
            if block is None:
                break
            pieces.append(block)
            end += len(block)
        kept = np.concatenate(pieces)[max(0, first - start) :]
        start = max(start, first)
        yield kept[: last - start]


def _resampled(blocks: Blocks, native: int, sample_rate: int) -> Blocks:
    """Like `audio.resample` of the whole, to its length; the last block waits for the end."""
    import soxr

    from speechssl.audio import resampled_length

    divisor = gcd(native, sample_rate)
    stream = soxr.ResampleStream(native // divisor, sample_rate // divisor, 1, dtype="float32", quality="HQ")
    taken = given = 0
    for block in blocks:
        taken += len(block)
        made = stream.resample_chunk(block)
        given += len(made)
        if len(made):
            yield made
    total = resampled_length(taken, from_rate=native, to_rate=sample_rate)
    rest = stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)[: max(0, total - given)]
    yield np.pad(rest, (0, max(0, total - given - len(rest))))
