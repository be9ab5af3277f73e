"""Effects on a mono waveform f32 `[S]`; each returns a new one and leaves its input alone.

Shapes: S samples.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speechssl.audio import Waveform, resample

_SPEED_STEPS = 10_000
_LOWEST_EDGE_HZ = 20.0
_HIGHEST_EDGE = 0.98  # of half of the sampling rate
_LIMIT_ORDER = 8
_STOP_ORDER = 4


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play `factor` times as fast, tempo and pitch together: `[S]` -> `[S / factor]`, rounded down, at least one.

    The factor is rounded to four digits.
    """
    faster = resample(waveform, from_rate=round(factor * _SPEED_STEPS), to_rate=_SPEED_STEPS)
    return faster[: max(1, int(len(waveform) * (1 / factor)))]


def change_gain(waveform: Waveform, gain_db: float) -> tuple[Waveform, float]:
    """Change the level; the second result is the gain in decibels that was possible.

    A gain above 0 dB is reduced so that the peak stays within full scale, to 0 dB if it is beyond already; nothing is
    clipped.
    """
    factor = 10 ** (gain_db / 20)
    if factor > 1:
        peak = float(np.abs(waveform).max(initial=0))
        factor = max(1.0, min(factor, 1 / peak)) if peak > 0 else factor
    return waveform * np.float32(factor), float(20 * np.log10(factor))


def reverberate(waveform: Waveform, rir: Waveform) -> Waveform:
    """Convolve with a room impulse response `[R]`, whose largest sample is the direct sound.

    The direct sound stays where the waveform had it, so labels keep their times; what rings on after the end is cut.
    The result has the waveform's mean square.
    """
    from scipy.signal import oaconvolve

    direct = int(np.abs(rir).argmax())
    wet = oaconvolve(waveform, rir)[direct : direct + len(waveform)]
    before, after = float(np.dot(waveform, waveform)), float(np.dot(wet, wet))
    return np.asarray(wet * np.float32(np.sqrt(before / after))) if after > 0 else waveform.copy()


def limit_band(waveform: Waveform, *, low_hz: float, high_hz: float, sample_rate: int) -> Waveform:
    """Keep what lies between two frequencies (-3 dB), by Butterworth filters of order 8.

    An edge below 20 Hz or above 98 % of half the sampling rate is none.
    """
    from scipy.signal import butter

    filters = []
    if low_hz >= _LOWEST_EDGE_HZ:
        filters.append(butter(_LIMIT_ORDER, low_hz, "highpass", fs=sample_rate, output="sos"))
    if high_hz <= _HIGHEST_EDGE * sample_rate / 2:
        filters.append(butter(_LIMIT_ORDER, high_hz, "lowpass", fs=sample_rate, output="sos"))
    return _filtered(waveform, filters)


def stop_bands(waveform: Waveform, bands_hz: Sequence[tuple[float, float]], *, sample_rate: int) -> Waveform:
    """Remove each of the bands `(from, to)`, -3 dB at its edges, by Butterworth filters of order 4."""
    from scipy.signal import butter

    highest = _HIGHEST_EDGE * sample_rate / 2
    filters = []
    for low, high in bands_hz:
        edges = (max(low, _LOWEST_EDGE_HZ), min(high, highest))
        if edges[0] < edges[1]:
            filters.append(butter(_STOP_ORDER, edges, "bandstop", fs=sample_rate, output="sos"))
    return _filtered(waveform, filters)


def silence_spans(waveform: Waveform, spans: Sequence[tuple[int, int]]) -> Waveform:
    """Set the samples from `start` to `end` of each span to zero."""
    result = waveform.copy()
    for start, end in spans:
        result[start:end] = 0
    return result


def _filtered(waveform: Waveform, filters: Sequence[npt.NDArray[np.float64]]) -> Waveform:
    from scipy.signal import sosfilt

    if not filters:
        return waveform.copy()
    return np.asarray(sosfilt(np.concatenate(filters), waveform), dtype=np.float32)
