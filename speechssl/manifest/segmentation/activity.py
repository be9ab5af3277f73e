"""Where in a recording something is said, heard block by block with the state carried over the seams.

Shapes: S samples, N frames, K intervals.
"""

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from speechssl.audio import Waveform
from speechssl.errors import ConfigError
from speechssl.manifest.segmentation.settings import SegmentConfig

HOP_SECONDS = 0.01
FRAME_HOPS = 4
LOUD_QUANTILE = 0.995
SILENT_LEVEL = 1e-5
"""A recording whose loud level is below (-100 dB of full scale) holds silence only."""

VAD_RATE = 16_000
VAD_WINDOW = 512
VAD_HYSTERESIS = 0.15
VAD_MIN_SPEECH = VAD_RATE // 4
VAD_MIN_PAUSE = VAD_RATE // 10

Intervals = npt.NDArray[np.int64]
Levels = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What was heard in `num_samples` samples.

    `levels` f32 `[N]` is the root mean square around every `hop_samples`-th sample; `intervals` i64 `[K, 2]` are the
    samples from and up to which something is said, in order and apart from each other.
    """

    num_samples: int
    hop_samples: int
    levels: Levels
    intervals: Intervals


def find_activity(
    blocks: Iterator[Waveform], *, sample_rate: int, config: SegmentConfig, models: "ModelPool | None" = None
) -> Activity:
    """Hear a recording in blocks f32 `[S]` of any sizes; the sizes change nothing.

    Raises:
        ConfigError: silero-vad is asked for but not installed.
    """
    meter = _LevelMeter(sample_rate)
    detector = None
    if config.method == "speech":
        detector = _SpeechDetector(sample_rate, models if models is not None else ModelPool())
    num_samples = 0
    try:
        for block in blocks:
            num_samples += len(block)
            meter.feed(block)
            if detector is not None:
                detector.feed(block)
        levels = meter.finish()
        if detector is None:
            active = _loud_frames(levels, config.top_db)
            intervals = runs(active) * meter.hop_samples
        else:
            spoken = spoken_windows(detector.finish(), config.threshold) * VAD_WINDOW
            intervals = (spoken * (sample_rate / VAD_RATE)).round().astype(np.int64)
    finally:
        if detector is not None:
            detector.close()
    intervals = np.minimum(intervals, num_samples)
    return Activity(
        num_samples=num_samples,
        hop_samples=meter.hop_samples,
        levels=levels,
        intervals=intervals[intervals[:, 0] < intervals[:, 1]],
    )


def runs(active: npt.NDArray[np.bool_]) -> Intervals:
    """Where a mask `[N]` is true: `[K, 2]` first and one past the last."""
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).astype(np.int64)


def loud_level(levels: Levels) -> float:
    """The level that one frame in two hundred exceeds."""
    return float(np.quantile(levels, LOUD_QUANTILE)) if len(levels) else 0.0


def spoken_windows(probabilities: Sequence[float], threshold: float) -> Intervals:
    """First and one past the last window of each stretch of speech `[K, 2]`, by the rules of silero-vad.

    Speech begins at a window of at least `threshold` and ends at one that is 0.15 below, if 0.1 s later or more another
    one is and none in between was speech. What is shorter than 0.25 s is no speech.
    """
    stretches: list[tuple[int, int]] = []
    begin = end = -1
    for number, probability in enumerate(probabilities):
        if probability >= threshold:
            begin, end = number if begin < 0 else begin, -1
        elif probability < threshold - VAD_HYSTERESIS and begin >= 0:
            end = number if end < 0 else end
            if (number - end) * VAD_WINDOW >= VAD_MIN_PAUSE:
                stretches.append((begin, end))
                begin = end = -1
    if begin >= 0:
        stretches.append((begin, len(probabilities)))
    found = np.array(stretches, dtype=np.int64).reshape(-1, 2)
    return found[(found[:, 1] - found[:, 0]) * VAD_WINDOW > VAD_MIN_SPEECH]


def _loud_frames(levels: Levels, top_db: float) -> npt.NDArray[np.bool_]:
    loud = loud_level(levels)
    if loud < SILENT_LEVEL:
        return np.zeros(len(levels), dtype=bool)
    return levels > loud * 10 ** (-top_db / 20)


class _LevelMeter:
    """librosa's root mean square over centred frames, the end of a block kept for the frames that go on in the next."""

    def __init__(self, sample_rate: int) -> None:
        self.hop_samples = max(1, round(HOP_SECONDS * sample_rate))
        self._frame_samples = FRAME_HOPS * self.hop_samples
        self._rest = np.zeros(self._frame_samples // 2, dtype=np.float32)
        self._levels: list[Levels] = []

    def feed(self, block: Waveform) -> None:
        import librosa

        samples = np.concatenate([self._rest, block])
        count = max(0, (len(samples) - self._frame_samples) // self.hop_samples + 1)
        if count:
            used = samples[: (count - 1) * self.hop_samples + self._frame_samples]
            framed = librosa.feature.rms(
                y=used, frame_length=self._frame_samples, hop_length=self.hop_samples, center=False
            )
            self._levels.append(framed[0])
        self._rest = samples[count * self.hop_samples :]

    def finish(self) -> Levels:
        self.feed(np.zeros(self._frame_samples // 2, dtype=np.float32))
        return np.concatenate(self._levels) if self._levels else np.zeros(0, dtype=np.float32)


class VadModel(Protocol):
    """silero-vad's network, which keeps a state from window to window."""

    def reset_states(self) -> None:
        """Begin a recording."""

    def __call__(self, window: Any, sample_rate: int) -> Any:
        """Probability of speech in a window of 512 samples at 16 kHz."""


class ModelPool:
    """Networks that are not in use, so that threads neither share one nor load one for each recording."""

    def __init__(self, load: Callable[[], VadModel] | None = None) -> None:
        self._free: queue.SimpleQueue[VadModel] = queue.SimpleQueue()
        self._load = load if load is not None else load_vad_model

    def take(self) -> VadModel:
        """One for sole use, at the beginning of a recording."""
        try:
            model = self._free.get_nowait()
        except queue.Empty:
            model = self._load()
        model.reset_states()
        return model

    def give_back(self, model: VadModel) -> None:
        """It may be taken again."""
        self._free.put(model)


def load_vad_model() -> VadModel:
    """silero-vad's network, from its package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import silero_vad
    except ImportError:
        raise ConfigError(
            "method speech needs silero-vad; install it with `pip install speechssl[vad]`, or use method silence"
        ) from None
    model: VadModel = silero_vad.load_silero_vad()
    return model


class _SpeechDetector:
    """silero-vad over a stream that is resampled to 16 kHz; resampler, windows and network go on over seams."""

    def __init__(self, sample_rate: int, models: ModelPool) -> None:
        self._models = models
        self._model = models.take()
        self._resampler: Any = None
        if sample_rate != VAD_RATE:
            import soxr

            self._resampler = soxr.ResampleStream(sample_rate, VAD_RATE, 1, dtype="float32")
        self._rest = np.zeros(0, dtype=np.float32)
        self._probabilities: list[float] = []

    def feed(self, block: Waveform, *, last: bool = False) -> None:
        import torch

        if self._resampler is not None:
            block = self._resampler.resample_chunk(block, last=last)
        samples = np.concatenate([self._rest, block])
        if last and len(samples) % VAD_WINDOW:
            samples = np.pad(samples, (0, VAD_WINDOW - len(samples) % VAD_WINDOW))
        whole = len(samples) // VAD_WINDOW * VAD_WINDOW
        with torch.inference_mode():
            for window in torch.from_numpy(samples[:whole].reshape(-1, VAD_WINDOW)):
                self._probabilities.append(float(self._model(window, VAD_RATE)))
        self._rest = samples[whole:]

    def finish(self) -> list[float]:
        self.feed(np.zeros(0, dtype=np.float32), last=True)
        return self._probabilities

    def close(self) -> None:
        self._models.give_back(self._model)
