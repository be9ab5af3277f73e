"""Recordings as the recognizer takes them: blocks at the model's sampling rate, of a file or of an array.

Shapes: S samples.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import AudioError
from speechssl.lengths import seconds_to_samples

Source = str | Path | NDArray[np.floating]
Blocks = Iterator[NDArray[np.float32]]


def array_span(
    array: NDArray[np.floating], *, sample_rate: int | None, to_rate: int, offset: float, duration: float | None
) -> NDArray[np.float32]:
    """A span of an array `[S]` at `sample_rate`, as f32 `[S]` at `to_rate` (both Hz); times in seconds.

    Raises:
        AudioError: it has no sampling rate or several channels.
    """
    from speechssl.audio import resample

    if sample_rate is None:
        raise AudioError("an array needs its sampling rate: transcribe(array, sample_rate=16000)")
    if array.ndim != 1:
        raise AudioError(f"the array must be one channel of shape [S], but has shape {list(array.shape)}")
    start = seconds_to_samples(offset, sample_rate)
    stop = None if duration is None else start + seconds_to_samples(duration, sample_rate)
    return resample(np.asarray(array[start:stop], dtype=np.float32), from_rate=sample_rate, to_rate=to_rate)


def file_blocks(
    path: str | Path, *, to_rate: int, offset: float, duration: float | None, whole_seconds: float
) -> Blocks:
    """A span of a file as mono blocks f32 `[S]` at `to_rate`; one block where it is at most `whole_seconds` long.

    Raises:
        AudioError: it cannot be read.
    """
    from speechssl.audio import probe, read, read_blocks, read_sample_rate, resample_blocks

    left = duration if duration is not None else probe(path).duration - offset
    if left <= whole_seconds:
        yield read(path, sample_rate=to_rate, offset=offset, duration=duration)
        return
    blocks = read_blocks(path, offset=offset, duration=duration)
    yield from resample_blocks(blocks, from_rate=read_sample_rate(path), to_rate=to_rate)


def array_blocks(waveform: NDArray[np.float32], num_samples: int) -> Blocks:
    """A waveform `[S]` in blocks of `num_samples`; an empty one is one empty block."""
    for start in range(0, max(len(waveform), 1), num_samples):
        yield waveform[start : start + num_samples]
