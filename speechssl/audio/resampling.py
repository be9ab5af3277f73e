"""Change of sampling rate, with soxr.

Shapes: S samples.
"""

from math import gcd

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
