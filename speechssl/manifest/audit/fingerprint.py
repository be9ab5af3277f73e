"""A fingerprint of a recording that survives other codecs, rates and levels: sub-band energy differences.

Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002), section 4.2: bit m of a frame is the
sign of the change over time of the energy difference of two neighbouring bands. We differ from it where clips of speech
are shorter than songs: windows of 0.256 s instead of 0.37 s, frames every 15.6 ms, a change over 16 frames instead of
one (fewer wrong bits when the frames of two copies do not lie on each other), and bands over the telephone's 250 to
3400 Hz instead of 300 to 2000 Hz, which makes equal hashes of different speech twenty times rarer.

Shapes: S samples, T frames.
"""

import numpy as np
import numpy.typing as npt

from speechssl.audio import Waveform

SAMPLE_RATE = 8000
"""Rate in Hz of the waveform that is fingerprinted, the lowest that speech is recorded at."""

HOP_SAMPLES = 125
"""Samples from one frame to the next; 64 frames a second."""

WINDOW_SAMPLES = 2048
LAG_FRAMES = 16
PAD_SAMPLES = 2000
"""Silence that is thought around a clip, so that its ends have frames and clips below a second have enough."""

NUM_BANDS = 33
LOW_HZ, HIGH_HZ = 250.0, 3400.0

QUIET_DB = 30.0
"""Frames this far below the loud ones (95th percentile) are left out: their bits are those of the noise."""

Frames = npt.NDArray[np.uint32]

_EDGES = np.floor(np.geomspace(LOW_HZ, HIGH_HZ, NUM_BANDS + 1) / SAMPLE_RATE * WINDOW_SAMPLES + 0.5).astype(np.int64)
_WINDOW = np.hanning(WINDOW_SAMPLES + 2)[1:-1].astype(np.float32)
_FRAMES_AT_ONCE = 512


def fingerprint(waveform: Waveform) -> Frames:
    """Hashes u32 `[T]` of a waveform f32 `[S]` at 8 kHz; 0 stands for a frame that is too quiet to tell anything.

    Frame t is about the half second that begins at sample `HOP_SAMPLES * t - PAD_SAMPLES / 2 - WINDOW_SAMPLES / 2`.
    """
    energies = _band_energies(waveform)
    differences = energies[:, :-1] - energies[:, 1:]
    bits = differences[LAG_FRAMES:] > differences[:-LAG_FRAMES]
    hashes = np.packbits(bits, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)
    total = energies.sum(axis=1)
    level = np.maximum(total[LAG_FRAMES:], total[:-LAG_FRAMES])
    loud = np.percentile(level, 95) if len(level) else 0.0
    hashes[(level <= 10 ** (-QUIET_DB / 10) * loud) | (level <= 0)] = 0
    return hashes


def start_of_frame(frame: int) -> int:
    """First sample that a frame's hash is about, at 8 kHz; below 0 where it is padding."""
    return HOP_SAMPLES * frame - PAD_SAMPLES // 2 - WINDOW_SAMPLES // 2


def end_of_frame(frame: int) -> int:
    """The sample after the last one that a frame's hash is about."""
    return start_of_frame(frame) + LAG_FRAMES * HOP_SAMPLES + WINDOW_SAMPLES


def _band_energies(waveform: Waveform) -> npt.NDArray[np.float32]:
    """Energy f32 `[T + LAG_FRAMES, NUM_BANDS]` of every window in every band."""
    import scipy.fft

    pad = np.zeros(PAD_SAMPLES // 2 + WINDOW_SAMPLES // 2, dtype=np.float32)
    padded = np.concatenate([pad, waveform, pad])
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    energies = np.empty((len(windows), NUM_BANDS), dtype=np.float32)
    for start in range(0, len(windows), _FRAMES_AT_ONCE):
        spectrum = scipy.fft.rfft(windows[start : start + _FRAMES_AT_ONCE] * _WINDOW, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        energies[start : start + _FRAMES_AT_ONCE] = np.add.reduceat(power[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
    return energies
