"""Decide on the waveforms whether two stretches are one recording.

Two copies of a recording, whatever codec or level they went through, follow each other sample by sample; two readings
of one sentence by one speaker do not, however alike they sound. So the stretches are aligned to a fraction of a sample
and correlated in short blocks.

Shapes: S samples at 8 kHz.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.audio import Waveform
from speechssl.manifest.audit.fingerprint import HIGH_HZ, LOW_HZ, SAMPLE_RATE, end_of_frame, start_of_frame
from speechssl.manifest.audit.matching import Candidate

PIECE_SECONDS = 2.0
"""Each piece is aligned alone, so that clocks that drift apart do no harm."""

BLOCK_SAMPLES = 250
MAX_LAG_SAMPLES = 400
"""How far the frames' alignment may be off: half a hop of each, and a codec's delay within a stretch."""

QUIET = 1e-3
"""Blocks with less than this share of the loudest block's energy are left out."""

SHORT_SECONDS, LONG_SECONDS = 0.4, 0.8
SHORT_SCORE, LONG_SCORE = 0.75, 0.5
"""What a pair must score, by the length of its overlap. Of a thousand pairs of different speech that the fingerprints
proposed (digits and sentences said again by the same speaker), the highest score was 0.28 from 0.8 s on, 0.47 above
0.5 s and 0.68 below; copies through MP3 at 32 kbit/s and Opus at 16 kbit/s score 0.85 and more."""

_FRACTION = 8
_EDGE = SAMPLE_RATE // 4


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """`score` is the mean correlation of the blocks, 1 for equal waveforms; `offset_seconds` is how much later the
    shared audio begins in the first span than in the second, `start_seconds` where it does in the first.
    """

    score: float
    offset_seconds: float
    start_seconds: float
    overlap_seconds: float

    @property
    def is_same(self) -> bool:
        """Whether the score is high enough for so short an overlap."""
        return self.score >= required_score(self.overlap_seconds)


def required_score(overlap_seconds: float) -> float:
    """The least score of one recording."""
    return float(np.interp(overlap_seconds, [SHORT_SECONDS, LONG_SECONDS], [SHORT_SCORE, LONG_SCORE]))


def speech_band(waveform: Waveform) -> Waveform:
    """The fingerprint's band of a waveform f32 `[S]` at 8 kHz, with a weight of 6 dB an octave towards high tones.

    The weight keeps vowels, of which one looks like another, from deciding alone.
    """
    padded = len(waveform) + SAMPLE_RATE // 4
    spectrum = np.fft.rfft(waveform, padded)
    frequency = np.fft.rfftfreq(padded, 1 / SAMPLE_RATE)
    spectrum *= np.where((frequency >= LOW_HZ) & (frequency <= HIGH_HZ), frequency / 1000, 0)
    return np.fft.irfft(spectrum, padded)[: len(waveform)].astype(np.float32)


def compare(first: Waveform, second: Waveform, candidate: Candidate) -> Agreement:
    """Align and correlate what a candidate says of two spans, given as `speech_band` of their waveforms."""
    start, end, offset = locate(candidate, len(first), len(second))
    size = round(PIECE_SECONDS * SAMPLE_RATE)
    num_pieces = max(1, round((end - start) / size))
    edges = np.linspace(start, end, num_pieces + 1).astype(int)
    correlations, lags = [], []
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        piece = _correlate(first[left:right], second[max(0, left - offset) : max(0, right - offset)])
        correlations.append(piece.correlations)
        lags.append(piece.lag)
    blocks = np.concatenate(correlations)
    score = float(abs(blocks.mean())) if len(blocks) else 0.0
    return Agreement(
        score=score,
        offset_seconds=(offset + float(np.median(lags))) / SAMPLE_RATE,
        start_seconds=start / SAMPLE_RATE,
        overlap_seconds=max(0, end - start) / SAMPLE_RATE,
    )


def locate(candidate: Candidate, first_length: int, second_length: int) -> tuple[int, int, int]:
    """Start and end of the shared stretch in samples of the first span, and how much later it is there.

    A stretch that comes within a quarter of a second of where one of the spans ends is taken to reach it: the outermost
    frames see too little of the stretch to fit.
    """
    offset = candidate.offset * (start_of_frame(1) - start_of_frame(0))
    low, high = max(0, offset), min(first_length, second_length + offset)
    inset = (end_of_frame(0) - start_of_frame(0)) // 4
    start = start_of_frame(candidate.start) + inset
    end = end_of_frame(candidate.end - 1) - inset
    start = low if start < low + _EDGE else start
    end = high if end > high - _EDGE else end
    return min(start, high), max(min(end, high), min(start, high)), offset


@dataclass(frozen=True, kw_only=True)
class _Piece:
    correlations: npt.NDArray[np.float64]
    lag: float


def _correlate(first: Waveform, second: Waveform) -> _Piece:
    """Correlation of each loud block of two stretches after alignment, and how much later the first one is."""
    if min(len(first), len(second)) < 2 * BLOCK_SAMPLES:
        return _Piece(correlations=np.zeros(0), lag=0.0)
    lag = _coarse_lag(first, second)
    first, second = (first[lag:], second) if lag > 0 else (first, second[-lag:])
    length = min(len(first), len(second)) // BLOCK_SAMPLES * BLOCK_SAMPLES
    if length < 2 * BLOCK_SAMPLES:
        return _Piece(correlations=np.zeros(0), lag=0.0)
    left = first[:length].astype(np.float64)
    right, fraction = _fine_shift(left, second[:length].astype(np.float64))
    blocks, others = left.reshape(-1, BLOCK_SAMPLES), right.reshape(-1, BLOCK_SAMPLES)
    energy, other = np.square(blocks).sum(axis=1), np.square(others).sum(axis=1)
    loud = (energy > QUIET * energy.max()) & (other > QUIET * other.max())
    dot = (blocks * others).sum(axis=1)[loud]
    return _Piece(correlations=dot / np.sqrt(energy[loud] * other[loud]), lag=lag + fraction)


def _coarse_lag(first: Waveform, second: Waveform) -> int:
    """How many samples later the first one is, from their cross-correlation with flattened spectra."""
    size = 1 << int(np.ceil(np.log2(len(first) + len(second))))
    product = np.fft.rfft(first, size) * np.conj(np.fft.rfft(second, size))
    product /= np.sqrt(np.abs(product)) + 1e-9
    correlation = np.abs(np.fft.irfft(product, size))
    lags = np.concatenate([np.arange(MAX_LAG_SAMPLES + 1), np.arange(-MAX_LAG_SAMPLES, 0)])
    return int(lags[np.argmax(correlation[lags])])


def _fine_shift(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], float]:
    """The second one moved by the fraction of a sample that fits best, and that fraction."""
    size = 1 << int(np.ceil(np.log2(len(first) + 64)))
    spectrum = np.fft.rfft(second, size)
    product = np.zeros(_FRACTION * size // 2 + 1, dtype=complex)
    product[: size // 2 + 1] = np.fft.rfft(first, size) * np.conj(spectrum)
    correlation = np.abs(np.fft.irfft(product, _FRACTION * size))
    lags = np.arange(-2 * _FRACTION, 2 * _FRACTION + 1)
    fraction = float(lags[np.argmax(correlation[lags])]) / _FRACTION
    turn = np.exp(-2j * np.pi * np.arange(size // 2 + 1) * fraction / size)
    return np.fft.irfft(spectrum * turn, size)[: len(second)], fraction
