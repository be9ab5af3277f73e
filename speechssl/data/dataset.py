"""Reading manifest rows, with an optional cache in memory and a record of what could not be read."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechssl.audio import read, read_utterance
from speechssl.errors import AudioError
from speechssl.lengths import samples_to_seconds, seconds_to_samples
from speechssl.types import Utterance

if TYPE_CHECKING:
    from speechssl.manifest import Manifest

logger = logging.getLogger(__name__)

SPAN_READ_FACTOR = 4
"""Recordings longer than this many crops are read by the span instead of whole."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A decoded utterance: `waveform` f32 `[S]`."""

    utterance: Utterance
    waveform: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A row whose audio could not be used, and why."""

    utterance_id: str
    reason: str


class UtteranceReader:
    """Reads rows of a manifest at one sampling rate; a row that cannot be read is reported, not raised."""

    def __init__(
        self, manifest: "Manifest", *, sample_rate: int, min_num_samples: int = 1, cache_megabytes: float = 0.0
    ) -> None:
        """Read `manifest` at `sample_rate` Hz.

        Args:
            manifest: the rows.
            sample_rate: of the waveforms, Hz.
            min_num_samples: shorter clips are unusable (the encoder's receptive field).
            cache_megabytes: decoded audio kept in memory, in each worker process.
        """
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.min_num_samples = min_num_samples
        self._cache: dict[int, NDArray[np.float32]] = {}
        self._cache_bytes_left = int(cache_megabytes * 1e6)

    def read(self, index: int) -> Clip | Unreadable:
        """The whole utterance in row `index`."""
        return self._guarded(index, lambda utterance: self._whole(index, utterance))

    def read_crop(self, index: int, *, max_seconds: float, random: np.random.Generator) -> Clip | Unreadable:
        """At most `max_seconds` of the utterance in row `index`, from a random place."""

        def crop(utterance: Utterance) -> NDArray[np.float32]:
            if utterance.duration > SPAN_READ_FACTOR * max_seconds:
                offset = utterance.offset + random.uniform(0, utterance.duration - max_seconds)
                return read(utterance.audio_filepath, sample_rate=self.sample_rate, offset=offset, duration=max_seconds)
            waveform = self._whole(index, utterance)
            return random_crop(waveform, seconds_to_samples(max_seconds, self.sample_rate), random)

        return self._guarded(index, crop)

    def _guarded(self, index: int, load: Callable[[Utterance], NDArray[np.float32]]) -> Clip | Unreadable:
        utterance = self.manifest[index]
        try:
            waveform = load(utterance)
        except AudioError as error:
            return Unreadable(utterance_id=utterance.id, reason=str(error))
        if len(waveform) < self.min_num_samples:
            seconds = samples_to_seconds(len(waveform), self.sample_rate)
            return Unreadable(
                utterance_id=utterance.id,
                reason=f"{utterance.audio_filepath}: {seconds:.4f} s is shorter than one frame of the encoder"
                f" ({samples_to_seconds(self.min_num_samples, self.sample_rate):.4f} s)",
            )
        return Clip(utterance=utterance, waveform=waveform)

    def _whole(self, index: int, utterance: Utterance) -> NDArray[np.float32]:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        waveform = read_utterance(utterance, self.sample_rate)
        if waveform.nbytes <= self._cache_bytes_left:
            self._cache[index] = waveform
            self._cache_bytes_left -= waveform.nbytes
        return waveform


def random_crop(waveform: NDArray[np.float32], num_samples: int, random: np.random.Generator) -> NDArray[np.float32]:
    """`num_samples` from a random place of `[S]`; the whole where it is not longer."""
    excess = len(waveform) - num_samples
    if excess <= 0:
        return waveform
    start = int(random.integers(0, excess + 1))
    return waveform[start : start + num_samples]


class ProblemLog:
    """Warns once for each unreadable utterance and keeps them for the run's summary."""

    def __init__(self) -> None:
        """Start empty."""
        self.problems: dict[str, str] = {}

    def add(self, problems: Sequence[Unreadable]) -> None:
        """Note the problems of a batch."""
        for problem in problems:
            if problem.utterance_id not in self.problems:
                self.problems[problem.utterance_id] = problem.reason
                logger.warning("left out %s: %s", problem.utterance_id, problem.reason)
