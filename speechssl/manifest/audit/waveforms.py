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

REQUIRED = ((0.4, 0.75), (0.8, 0.5), (1.5, 0.4))
"""(Seconds of overlap, least score of one recording); between them it is interpolated. `benchmarks/audit.py` measures
what different and what equal recordings score."""

FOLLOWS = 0.4
"""Blocks that correlate less are no longer shared; those of different speech correlate to 0.1."""

_FRACTION = 8


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
    seconds, scores = np.array(REQUIRED).T
    return float(np.interp(overlap_seconds, seconds, scores))


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
    num_pieces = max(1, round((end - start) / (PIECE_SECONDS * SAMPLE_RATE)))
    edges = np.linspace(start, end, num_pieces + 1).astype(int)
    pieces = [
        _correlate(first[left:right], second[max(0, left - offset) : max(0, right - offset)])
        for left, right in zip(edges[:-1], edges[1:], strict=True)
    ]
    blocks = np.concatenate([piece.correlations for piece in pieces])
    exact = offset + float(np.median([piece.lag for piece in pieces]))
    if len(blocks):
        loudest = float(np.square(first[start:end]).max(initial=0.0))
        before = _shifted(second[: max(0, round(start - exact))], start - exact)
        after = _shifted(second[max(0, round(end - exact)) :], end - exact)
        start -= _extension(first[:start][::-1], before[::-1], loudest)
        end += _extension(first[end:], after, loudest)
    return Agreement(
        score=float(abs(blocks.mean())) if len(blocks) else 0.0,
        offset_seconds=exact / SAMPLE_RATE,
        start_seconds=start / SAMPLE_RATE,
        overlap_seconds=max(0, end - start) / SAMPLE_RATE,
    )


def locate(candidate: Candidate, first_length: int, second_length: int) -> tuple[int, int, int]:
    """Start and end, in samples of the first span, of what the frames surely share, and how much later it is there."""
    offset = candidate.offset * (start_of_frame(1) - start_of_frame(0))
    low, high = max(0, offset), max(max(0, offset), min(first_length, second_length + offset))
    inset = (end_of_frame(0) - start_of_frame(0)) // 4
    start = min(max(start_of_frame(candidate.start) + inset, low), high)
    end = max(min(end_of_frame(candidate.end - 1) - inset, high), start)
    return start, end, offset


def _shifted(waveform: Waveform, place: float) -> Waveform:
    """A waveform that was cut at the whole sample next to `place`, moved as if it had been cut there."""
    if len(waveform) == 0:
        return waveform
    size = len(waveform) + 64
    turn = np.exp(2j * np.pi * np.fft.rfftfreq(size) * (place - round(place)))
    return np.fft.irfft(np.fft.rfft(waveform, size) * turn, size)[: len(waveform)].astype(np.float32)


def _extension(first: Waveform, second: Waveform, loudest: float) -> int:
    """How many samples further, from their beginnings on, two aligned waveforms still follow each other.

    Blocks that are quiet in both speak neither for nor against.
    """
    length = min(len(first), len(second))
    count = length // BLOCK_SAMPLES
    if count == 0:
        return length
    blocks = first[: count * BLOCK_SAMPLES].reshape(count, -1).astype(np.float64)
    others = second[: count * BLOCK_SAMPLES].reshape(count, -1).astype(np.float64)
    energy, other = np.square(blocks).sum(axis=1), np.square(others).sum(axis=1)
    correlation = np.abs((blocks * others).sum(axis=1)) / np.sqrt(np.maximum(energy * other, 1e-30))
    loud = np.maximum(energy, other) > QUIET * BLOCK_SAMPLES * loudest
    gain = np.cumsum(np.concatenate([[0.0], np.where(loud, correlation - FOLLOWS, 0.0)]))
    best = count - int(np.argmax(gain[::-1]))  # the furthest of equals
    return length if best == count else best * BLOCK_SAMPLES


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
