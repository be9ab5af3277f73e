"""What a recording is to the rest of the package: its facts, its waveform, its damage.

Shapes: S samples.
"""

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from speechssl.errors import AudioError
from speechssl.lengths import seconds_to_samples

SPAN_TOLERANCE_SECONDS = 0.05
"""How far a span may reach past the end of its recording: rounded durations and codec padding, no more."""

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1000, 1_536_000
"""Rates in Hz that recordings have; a header that says something else is damaged."""
MAX_SAMPLES_PER_BYTE = 8192
"""Not even silence is packed as tightly; a header that promises more is damaged."""

Waveform = npt.NDArray[np.float32]
StoredSamples = npt.NDArray[np.int16]
Damage = Literal["missing", "unreadable", "truncated", "empty", "non_finite", "span"]


class RecordingError(AudioError):
    """An `AudioError` that also says in one word what is wrong: `kind`."""

    def __init__(self, message: str, kind: Damage) -> None:
        super().__init__(message)
        self.kind: Damage = kind

    def __reduce__(self) -> tuple[type, tuple[str, Damage]]:
        return type(self), (str(self), self.kind)


class UnreachableError(RecordingError):
    """A network or server fault that outlasted all retries: nothing is known against the recording itself."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file holds: `sample_rate` in Hz, `num_samples` per channel, `format` as the library names it."""

    sample_rate: int
    num_samples: int
    num_channels: int
    format: str

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


def check_rate(path: str, sample_rate: int) -> None:
    """Refuse a rate that cannot be: resampling from it would take memory without end."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise RecordingError(
            f"{path}: its header says {sample_rate} Hz, but recordings have {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz;"
            " copy the file again, or remove it",
            "unreadable",
        )


def locate_span(
    path: str, offset: float, duration: float | None, *, num_samples: int, sample_rate: int
) -> tuple[int, int]:
    """First sample and number of samples of a span within a recording of `num_samples`."""
    if num_samples <= 0:
        raise RecordingError(f"{path}: holds no samples (empty or cut off); replace or remove it", "empty")
    start = seconds_to_samples(offset, sample_rate)
    if start >= num_samples:
        raise RecordingError(
            f"{path}: the span starts at {offset:.3f} s but the recording is {num_samples / sample_rate:.3f} s long;"
            " correct the manifest's offset",
            "span",
        )
    if duration is None:
        return start, num_samples - start
    count = max(1, seconds_to_samples(duration, sample_rate))
    missing = start + count - num_samples
    if missing > SPAN_TOLERANCE_SECONDS * sample_rate:
        raise RecordingError(
            f"{path}: the span ends at {offset + duration:.3f} s but the recording is"
            f" {num_samples / sample_rate:.3f} s long; it is truncated, or the manifest's duration is wrong",
            "span",
        )
    return start, min(count, num_samples - start)


def mix(samples: Waveform) -> Waveform:
    """The mean of the channels of f32 `[S, channels]`, f32 `[S]`."""
    if samples.shape[1] == 1:
        return samples[:, 0]
    if samples.shape[1] == 2:  # the same values as `mean`, which takes ten times as long along so short an axis
        waveform = samples[:, 0] + samples[:, 1]
        waveform *= np.float32(0.5)
        return waveform
    return np.asarray(samples.mean(axis=1, dtype=np.float32))


def to_float(values: StoredSamples | Waveform, out: Waveform | None = None) -> Waveform:
    """16-bit integers as f32 with full scale 1; exact, for 1/32768 is a power of two. What is f32 already stays so.

    `out`, of the same shape, takes the result.
    """
    if values.dtype == np.int16:
        return np.multiply(values, np.float32(1 / 32768), out=out, dtype=np.float32)
    if out is None:
        return cast(Waveform, values)
    out[...] = values
    return out
