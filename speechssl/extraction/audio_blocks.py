"""Recordings of any length at the encoder's rate, block by block; their identity; what is cut out of a stream.

Shapes: S samples.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator

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
    from speechssl.audio import read_blocks, read_sample_rate, resample_blocks

    blocks = read_blocks(path, block_seconds=BLOCK_SECONDS, offset=offset, duration=duration)
    yield from resample_blocks(blocks, from_rate=read_sample_rate(path), to_rate=sample_rate)


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
