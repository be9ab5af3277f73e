"""Change of sampling rate, with soxr.

Shapes: S samples.
"""

from collections.abc import Iterable, Iterator
from math import gcd
from typing import Any

import numpy as np

from speechssl.audio.recording import Waveform


def resampled_length(num_samples: int, *, from_rate: int, to_rate: int) -> int:
    """Number of samples that `resample` returns: rounded to the nearest, and at least one."""
    if from_rate == to_rate:
        return num_samples
    return max(1, (2 * num_samples * to_rate + from_rate) // (2 * from_rate))


def resample(waveform: Waveform, *, from_rate: int, to_rate: int) -> Waveform:
    """Change the rate of a mono waveform f32 `[S]` with soxr (HQ), to exactly `resampled_length` samples."""
    if from_rate == to_rate:
        return waveform
    import soxr

    divisor = gcd(from_rate, to_rate)
    result = soxr.resample(waveform, from_rate // divisor, to_rate // divisor, quality="HQ")
    length = resampled_length(len(waveform), from_rate=from_rate, to_rate=to_rate)
    if len(result) < length:  # a clip shorter than the filter loses its last sample
        result = np.pad(result, (0, length - len(result)))
    return np.asarray(result[:length], dtype=np.float32)


def resample_blocks(blocks: Iterable[Waveform], *, from_rate: int, to_rate: int) -> Iterator[Waveform]:
    """Mono blocks f32 `[S]` at another rate; joined they are `resample` of the joined blocks, up to rounding.

    The filter (soxr, HQ) goes on over the seams. It holds some milliseconds back until the end.
    """
    if from_rate == to_rate:
        yield from blocks
        return
    import soxr

    divisor = gcd(from_rate, to_rate)
    resampler: Any = soxr.ResampleStream(from_rate // divisor, to_rate // divisor, 1, dtype="float32", quality="HQ")
    num_read = num_given = 0
    for block in blocks:
        num_read += len(block)
        made = resampler.resample_chunk(block)
        num_given += len(made)
        if len(made):
            yield made
    if num_read == 0:
        return
    rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    missing = resampled_length(num_read, from_rate=from_rate, to_rate=to_rate) - num_given
    rest = np.pad(rest[: max(missing, 0)], (0, max(missing - len(rest), 0)))
    if len(rest):
        yield np.asarray(rest, dtype=np.float32)
