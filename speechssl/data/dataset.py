"""Reading manifest rows, with an optional cache in memory and a record of what could not be read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from speechssl.audio import StoredSamples, Waveform, read_compact, read_utterance_compact, to_float
from speechssl.audio.files import prefetch
from speechssl.audio.location import is_url
from speechssl.audio.recording import RecordingError, UnreachableError
from speechssl.data.augmentation import Augmenter
from speechssl.errors import AudioError
from speechssl.lengths import samples_to_seconds, seconds_to_samples
from speechssl.types import Utterance

if TYPE_CHECKING:
    from speechssl.manifest import Manifest

SPAN_READ_FACTOR = 4
"""Recordings longer than this many crops are read by the span instead of whole."""
TOO_SHORT = "too_short"
"""The kind of `Unreadable` that decodes well but is shorter than the encoder's receptive field."""
Samples = TypeVar("Samples", Waveform, StoredSamples, Waveform | StoredSamples)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A decoded utterance: `waveform` f32 `[S]`; `source_seconds` is what it would last without a crop.

    From a compact reader `waveform` may be i16 `[S]` of full scale 32768 instead, which `collate_audio` makes f32.
    """

    utterance: Utterance
    waveform: Waveform | StoredSamples
    source_seconds: float


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A row whose audio could not be used: why in a sentence, and what `kind` of damage in a word."""

    utterance_id: str
    reason: str
    kind: str


class UtteranceReader:
    """Reads rows of a manifest at one sampling rate; a row that cannot be read is reported, not raised."""

    def __init__(
        self,
        manifest: "Manifest",
        *,
        sample_rate: int,
        min_num_samples: int = 1,
        cache_megabytes: float = 0.0,
        augmenter: Augmenter | None = None,
        compact: bool = False,
    ) -> None:
        """Read `manifest` at `sample_rate` Hz.

        Args:
            manifest: the rows.
            sample_rate: of the waveforms, Hz.
            min_num_samples: shorter clips are unusable (the encoder's receptive field).
            cache_megabytes: decoded audio kept in memory, in each worker process.
            augmenter: changes what is read with an epoch, before it is cropped.
            compact: samples stored as 16 bits stay so where nothing changes them; they take half of the cache.
        """
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.min_num_samples = min_num_samples
        self._augmenter = augmenter
        self._compact = compact
        self._cache: dict[int, Waveform | StoredSamples] = {}
        self._cache_bytes_left = int(cache_megabytes * 1e6)
        manifest.prepare()  # once, before worker processes are forked

    @contextmanager
    def fetched(self, indices: Sequence[int]) -> Iterator[Sequence[Utterance]]:
        """The rows' utterances; within the block those that lie behind URLs are on their way, many at once."""
        utterances = [self.manifest[index] for index in indices]
        if any(is_url(utterance.audio_filepath) for utterance in utterances):
            missing = [u.audio_filepath for i, u in zip(indices, utterances, strict=True) if i not in self._cache]
            with prefetch(missing):
                yield utterances
        else:
            yield utterances

    def read(self, index: int, utterance: Utterance | None = None, *, epoch: int | None = None) -> Clip | Unreadable:
        """The whole utterance in row `index` (`utterance`, where it is at hand), augmented as in `epoch`.

        Raises:
            UnreachableError: the storage cannot be reached; nothing is known of the recording.
        """

        def whole(utterance: Utterance) -> tuple[Waveform | StoredSamples, float]:
            waveform = self._augmented(self._whole(index, utterance), utterance, epoch)
            return waveform, samples_to_seconds(len(waveform), self.sample_rate)

        return self._guarded(utterance or self.manifest[index], whole)

    def read_crop(
        self,
        index: int,
        utterance: Utterance | None = None,
        *,
        max_seconds: float,
        random: np.random.Generator,
        epoch: int | None = None,
    ) -> Clip | Unreadable:
        """At most `max_seconds` of the utterance in row `index`, from a random place; else like `read`.

        What is augmented is longer by as much as the augmentation can shorten it.
        """
        margin = 1.0 if self._augmenter is None or epoch is None else 1 / self._augmenter.config.min_length_factor
        num_samples = seconds_to_samples(max_seconds, self.sample_rate)

        def crop(utterance: Utterance) -> tuple[Waveform | StoredSamples, float]:
            seconds = max_seconds * margin
            if utterance.duration > SPAN_READ_FACTOR * seconds:
                offset = utterance.offset + random.uniform(0, utterance.duration - seconds)
                path = utterance.audio_filepath
                part = read_compact(path, sample_rate=self.sample_rate, offset=offset, duration=seconds)
                total = utterance.duration
            else:
                whole = self._whole(index, utterance)
                part = random_crop(whole, seconds_to_samples(seconds, self.sample_rate), random)
                total = samples_to_seconds(len(whole), self.sample_rate)
            waveform = self._augmented(part, utterance, epoch)
            return random_crop(waveform, num_samples, random), total * len(waveform) / max(1, len(part))

        return self._guarded(utterance or self.manifest[index], crop)

    def _augmented(
        self, waveform: Waveform | StoredSamples, utterance: Utterance, epoch: int | None
    ) -> Waveform | StoredSamples:
        if self._augmenter is None or epoch is None:
            return waveform if self._compact else to_float(waveform)
        return self._augmenter(to_float(waveform), utterance_id=utterance.id, epoch=epoch)

    def _guarded(
        self, utterance: Utterance, load: Callable[[Utterance], tuple[Waveform | StoredSamples, float]]
    ) -> Clip | Unreadable:
        try:
            waveform, source_seconds = load(utterance)
        except UnreachableError:
            raise
        except AudioError as error:
            kind = error.kind if isinstance(error, RecordingError) else "unreadable"
            return Unreadable(utterance_id=utterance.id, reason=str(error), kind=kind)
        if len(waveform) < self.min_num_samples:
            seconds = samples_to_seconds(len(waveform), self.sample_rate)
            return too_short(utterance, seconds, min_num_samples=self.min_num_samples, sample_rate=self.sample_rate)
        return Clip(utterance=utterance, waveform=waveform, source_seconds=source_seconds)

    def _whole(self, index: int, utterance: Utterance) -> Waveform | StoredSamples:
        cached = self._cache.get(index)
        if cached is not None:
            return cached
        waveform = read_utterance_compact(utterance, self.sample_rate)
        if waveform.nbytes <= self._cache_bytes_left:
            # what is stored may be a view of a whole file
            self._cache[index] = waveform.copy() if waveform.dtype == np.int16 else waveform
            self._cache_bytes_left -= waveform.nbytes
        return waveform


def too_short(utterance: Utterance, seconds: float, *, min_num_samples: int, sample_rate: int) -> Unreadable:
    """The report of an utterance of which not even one frame can be made."""
    return Unreadable(
        utterance_id=utterance.id,
        reason=f"{utterance.audio_filepath}: {seconds:.4f} s is shorter than the encoder needs"
        f" ({samples_to_seconds(min_num_samples, sample_rate):.4f} s)",
        kind=TOO_SHORT,
    )


def random_crop(waveform: Samples, num_samples: int, random: np.random.Generator) -> Samples:
    """`num_samples` from a random place of `[S]`; the whole where it is not longer."""
    excess = len(waveform) - num_samples
    if excess <= 0:
        return waveform
    start = int(random.integers(0, excess + 1))
    return waveform[start : start + num_samples]
