"""How loud a waveform is, and mixing at a signal-to-noise ratio.

Shapes: S samples.
"""

import numpy as np

from speechssl.audio import Waveform
from speechssl.lengths import seconds_to_samples

FRAME_SECONDS = 0.025
ACTIVE_RANGE_DB = 30.0
SILENT_POWER = 1e-12
"""Mean square below which (-120 dB of full scale) a waveform counts as silent."""


def mean_power(waveform: Waveform) -> float:
    """Mean square of all samples."""
    return float(np.dot(waveform, waveform)) / max(1, len(waveform))


def active_power(waveform: Waveform, sample_rate: int) -> float:
    """Mean square of the frames of 25 ms whose power is within 30 dB of the loudest frame's.

    What is left after the last whole frame is not looked at; a clip shorter than a frame is one frame.
    """
    size = min(max(1, seconds_to_samples(FRAME_SECONDS, sample_rate)), max(1, len(waveform)))
    frames = waveform[: len(waveform) // size * size].reshape(-1, size)
    powers = np.einsum("ns,ns->n", frames, frames) / size
    if not len(powers):
        return 0.0
    return float(powers[powers >= powers.max() * 10 ** (-ACTIVE_RANGE_DB / 10)].mean(dtype=np.float64))


def scale_to_snr(noise: Waveform, *, speech_power: float, snr_db: float) -> Waveform:
    """The noise `[S]` made so loud that `speech_power` over its mean square is `snr_db` decibels."""
    wanted = speech_power / 10 ** (snr_db / 10)
    return noise * np.float32(np.sqrt(wanted / mean_power(noise)))


def repeat(segment: Waveform, num_samples: int, *, start: int, fade_samples: int) -> Waveform:
    """`num_samples` of the segment going round and round, from its sample `start` on, without clicks.

    Where the end meets the beginning they are cross-faded at constant power over `fade_samples`, or over half of a
    shorter segment.
    """
    fade = min(fade_samples, len(segment) // 2)
    period = len(segment) - fade
    rounded = segment[:period].copy()
    if fade:
        angle = (np.arange(fade, dtype=np.float32) + 0.5) * np.float32(np.pi / 2 / fade)
        rounded[:fade] = segment[:fade] * np.sin(angle) + segment[period:] * np.cos(angle)
    start %= period
    return np.tile(rounded, -(-(start + num_samples) // period))[start : start + num_samples]
