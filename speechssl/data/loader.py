"""Endless streams of training batches that can start at any batch, and one ordered pass for inference.

Batch number n is a function of the manifest, the settings and the seed alone: not of the worker count, of what was
read before, nor of where the run was resumed.
"""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from speechssl.data.batching import BatchPlan
from speechssl.data.collate import collate_audio, collate_labeled
from speechssl.data.dataset import Clip, ProblemLog, Unreadable, UtteranceReader
from speechssl.errors import AudioError, ConfigError, TrainingError
from speechssl.types import AudioBatch, LabeledBatch, Utterance

if TYPE_CHECKING:
    from speechssl.manifest import Manifest

logger = logging.getLogger(__name__)
Batch = TypeVar("Batch", AudioBatch, LabeledBatch)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How utterances become batches.

    Attributes:
        batch_seconds: audio in a batch, padding included.
        max_batch_size: at most so many utterances in a batch.
        max_crop_seconds: longer utterances are cropped at random; pre-training only.
        num_workers: processes that read ahead; 0 reads in the training process. Changes no result.
        cache_megabytes: decoded audio kept in memory, in each worker process.
    """

    batch_seconds: float = 87.5
    max_batch_size: int | None = None
    max_crop_seconds: float = 15.625
    num_workers: int = 1
    cache_megabytes: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("batch_seconds", "max_crop_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, but is {getattr(self, name)}")
        if self.num_workers < 0 or self.cache_megabytes < 0:
            raise ConfigError(
                f"num_workers and cache_megabytes must be at least 0, but are {self.num_workers} and"
                f" {self.cache_megabytes}"
            )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the training process alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Sequel(Sampler[int]):
    """start, start + 1, ... without end."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        number = self._start
        while True:
            yield number
            number += 1


class _BatchStream(Dataset[tuple[Batch, list[Unreadable]]], Generic[Batch]):
    """Batch number -> batch; the map-style dataset behind both public streams."""

    def __init__(self, manifest: "Manifest", reader: UtteranceReader, plan: BatchPlan, *, num_workers: int) -> None:
        self.manifest = manifest
        self.plan = plan
        self.log = ProblemLog()
        self._reader = reader
        self._num_workers = num_workers

    @property
    def problems(self) -> dict[str, str]:
        """Utterances left out so far: id -> reason."""
        return self.log.problems

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Batches from number `start` on, without end; unreadable utterances are left out and counted."""
        # each item is a whole batch already, so the loader neither batches nor reorders
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=_Sequel(start),
            num_workers=self._num_workers,
            prefetch_factor=4 if self._num_workers else None,
            worker_init_fn=_ignore_interrupts,
            generator=torch.Generator(),  # else the loader draws from the global random state
        )
        for batch, problems in loader:
            self.log.add(problems)
            yield batch

    def __getitem__(self, number: int) -> tuple[Batch, list[Unreadable]]:
        problems: list[Unreadable] = []
        # a batch of which nothing can be read gives way to the next, so that numbering stays fixed
        for candidate in range(number, number + self.plan.num_batches + 1):
            clips = []
            random = np.random.default_rng([self._seed, candidate])
            for index in self.plan.batch(candidate):
                clip = self._load(int(index), random)
                if isinstance(clip, Clip):
                    clips.append((int(index), clip))
                else:
                    problems.append(clip)
            if clips:
                return self._collate(clips, random), problems
        raise TrainingError(
            f"none of the {len(self.manifest)} utterances can be read; the first problem: {problems[0].reason};"
            " run `speechssl manifest validate --audio` on the manifest"
        )

    _seed: int

    def _load(self, index: int, random: np.random.Generator) -> Clip | Unreadable:
        return self._reader.read(index)

    def _collate(self, clips: Sequence[tuple[int, Clip]], random: np.random.Generator) -> Batch:
        raise AssertionError("each stream collates in its own way")


class AudioBatches(_BatchStream[AudioBatch]):
    """Unlabelled batches of equal crops: each utterance is cropped to at most `max_crop_seconds`, then to the
    shortest of its batch, at random places; batches are of similar lengths, so little is cut off.
    """

    def __init__(
        self,
        manifest: "Manifest",
        config: DataConfig,
        *,
        sample_rate: int,
        min_num_samples: int,
        seed: int,
    ) -> None:
        """Batches of `manifest` at `sample_rate` Hz; clips below `min_num_samples` are left out and counted."""
        if len(manifest) == 0:
            raise ConfigError("the training manifest has no rows; build it from a folder that holds recordings")
        self._seed = seed
        self._max_crop_seconds = config.max_crop_seconds
        lengths = np.minimum(np.maximum(manifest.durations, 1e-3), config.max_crop_seconds)
        super().__init__(
            manifest,
            UtteranceReader(
                manifest,
                sample_rate=sample_rate,
                min_num_samples=min_num_samples,
                cache_megabytes=config.cache_megabytes,
            ),
            BatchPlan(lengths, max_batch_length=config.batch_seconds, max_batch_size=config.max_batch_size, seed=seed),
            num_workers=config.num_workers,
        )

    def _load(self, index: int, random: np.random.Generator) -> Clip | Unreadable:
        return self._reader.read_crop(index, max_seconds=self._max_crop_seconds, random=random)

    def _collate(self, clips: Sequence[tuple[int, Clip]], random: np.random.Generator) -> AudioBatch:
        return collate_audio(
            [clip for _, clip in clips], sample_rate=self._reader.sample_rate, lengths="crop", random=random
        )


class LabeledBatches(_BatchStream[LabeledBatch]):
    """Whole utterances, padded, with their label sequences."""

    def __init__(
        self,
        manifest: "Manifest",
        labels: Sequence[Sequence[int]],
        config: DataConfig,
        *,
        sample_rate: int,
        min_num_samples: int,
        seed: int,
    ) -> None:
        """Batches of `manifest` at `sample_rate` Hz; `labels[i]` belongs to row i."""
        if len(manifest) == 0:
            raise ConfigError("the training manifest has no rows; build it with transcripts, or lift the filters")
        assert len(labels) == len(manifest), "one label sequence for each row"
        self._seed = seed
        self._labels = labels
        super().__init__(
            manifest,
            UtteranceReader(
                manifest,
                sample_rate=sample_rate,
                min_num_samples=min_num_samples,
                cache_megabytes=config.cache_megabytes,
            ),
            BatchPlan(
                np.maximum(manifest.durations, 1e-3),
                max_batch_length=config.batch_seconds,
                max_batch_size=config.max_batch_size,
                seed=seed,
            ),
            num_workers=config.num_workers,
        )

    def _collate(self, clips: Sequence[tuple[int, Clip]], random: np.random.Generator) -> LabeledBatch:
        return collate_labeled(
            [clip for _, clip in clips],
            [self._labels[index] for index, _ in clips],
            sample_rate=self._reader.sample_rate,
        )


def iterate_once(
    manifest: "Manifest",
    *,
    batch_seconds: float,
    sample_rate: int,
    min_num_samples: int = 1,
    on_error: Callable[[Utterance, AudioError], None] | None = None,
) -> Iterator[AudioBatch]:
    """Every readable utterance exactly once, whole, longest first, padded within a batch.

    Longest first so that a batch that does not fit in memory fails at once. What cannot be read is handed to
    `on_error` and left out.
    """
    if len(manifest) == 0:
        return
    reader = UtteranceReader(manifest, sample_rate=sample_rate, min_num_samples=min_num_samples)
    durations = np.maximum(manifest.durations, 1e-3)
    order = np.argsort(-durations, kind="stable")
    place = 0
    while place < len(order):
        size = max(1, int(batch_seconds // durations[order[place]]))
        clips = []
        for index in order[place : place + size]:
            clip = reader.read(int(index))
            if isinstance(clip, Clip):
                clips.append(clip)
            elif on_error is not None:
                on_error(manifest[int(index)], AudioError(clip.reason))
            else:
                logger.warning("left out %s: %s", clip.utterance_id, clip.reason)
        place += size
        if clips:
            yield collate_audio(clips, sample_rate=sample_rate)
