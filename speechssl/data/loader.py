"""Endless streams of training batches that can start at any batch.

Batch number n is a function of the manifest, the settings and the seed alone: not of the worker count, of what was
read before, of where the run was resumed, nor of how many ranks share the work. Rank r of W takes the batches
start + r, start + r + W, and so on; epochs follow one another without a gap, so all ranks take the same number of
steps. What a run must remember to go on, with any number of ranks, is how many batches all of them have consumed.
"""

import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from speechssl.data.augmentation import Augmenter
from speechssl.data.batching import BatchPlan
from speechssl.data.collate import batch_bytes
from speechssl.data.coverage import MAX_PROBLEMS, CoverageFile, EpochCoverage, ProblemLog
from speechssl.data.dataset import TOO_SHORT, UtteranceReader, too_short
from speechssl.data.making import Batch, BatchMaker, Crops, Labeled, Made, Recipe, Request
from speechssl.data.settings import DataConfig
from speechssl.data.shards import shard_windows
from speechssl.data.workers import read_ahead
from speechssl.errors import ConfigError, TrainingError
from speechssl.types import AudioBatch, LabeledBatch

if TYPE_CHECKING:
    from speechssl.manifest import Manifest

logger = logging.getLogger(__name__)

MIN_SECONDS_BETWEEN_LINES = 10.0
"""Epochs may be as short as one batch; so the log does not tell of all of them."""


class BatchStream(Generic[Batch]):
    """What both kinds of streams have in common; made by `AudioBatches` and `LabeledBatches`.

    `plan` says which utterances make which batch; its indices are those of the rows that are long enough.
    """

    def __init__(
        self, manifest: "Manifest", config: DataConfig, reader: UtteranceReader, recipe: Recipe[Batch], *,
        max_seconds: float, seed: int, rank: int, world_size: int, pin_memory: bool, coverage_path: Path | None,
    ) -> None:  # fmt: skip
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank must be from 0 to {world_size - 1} of {world_size} ranks, but is {rank}")
        self.manifest = manifest
        self.rank = rank
        self.world_size = world_size
        self._coverage_path = coverage_path
        self._coverage_file: CoverageFile | None = None
        self._told_at = -math.inf
        self._num_workers = config.num_workers
        self._batch_bytes = batch_bytes(config.batch_seconds, reader.sample_rate)
        self._pin_memory = pin_memory
        self._log = ProblemLog()
        self._coverage: list[EpochCoverage] = []
        durations = manifest.durations
        self._rows, self._num_short = self._usable_rows(durations, reader)
        if self._rows is not None:
            durations = durations[self._rows]
        longest = np.maximum(durations * config.augment.max_length_factor, 1e-3)
        lengths = np.minimum(longest, max_seconds)
        self._share_within_max_seconds = float(lengths.sum() / longest.sum())
        windows = None
        if config.order == "by_shard":
            paths = manifest.column("audio_filepath")
            windows = shard_windows(
                paths if self._rows is None else paths.take(pa.array(self._rows)), durations,
                shards_at_once=config.shards_at_once, batch_seconds=config.batch_seconds, seed=seed,
            )  # fmt: skip
        self.plan = BatchPlan(
            lengths,
            max_batch_length=config.batch_seconds,
            max_batch_size=config.max_batch_size,
            seed=seed,
            windows=windows,
            alike=config.alike_batches,
        )
        self._maker = BatchMaker(reader, recipe, self.rows, plan=self.plan, seed=seed)

    def _usable_rows(
        self, durations: NDArray[np.float64], reader: UtteranceReader
    ) -> tuple[NDArray[np.int64] | None, int]:
        """Rows that may be long enough, by their durations, or None for all; and how many are not."""
        # one sample of doubt, for the rounding of a resampled length; a duration of 0 reaches to the end of the file
        usable = (durations * reader.sample_rate >= reader.min_num_samples - 1) | (durations == 0)
        if usable.all():
            return None, 0
        short = np.flatnonzero(~usable)
        self._log.add(
            [
                too_short(
                    self.manifest[int(row)], durations[row], min_num_samples=reader.min_num_samples,
                    sample_rate=reader.sample_rate,
                )
                for row in short[:MAX_PROBLEMS]
            ]
        )  # fmt: skip
        if not usable.any():
            first = next(iter(self._log.problems.values()))
            raise TrainingError(f"none of the {len(durations)} utterances can be used; the first problem: {first}")
        return np.flatnonzero(usable), len(short)

    def rows(self, number: int) -> NDArray[np.int64]:
        """Rows of the manifest in batch `number`."""
        indices = self.plan.batch(number)
        return indices if self._rows is None else self._rows[indices]

    @property
    def problems(self) -> dict[str, str]:
        """Utterances left out so far: id -> reason."""
        return self._log.problems

    @property
    def coverage(self) -> tuple[EpochCoverage, ...]:
        """What this rank was handed since `batches` was called last, by epoch."""
        return tuple(self._coverage)

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """This rank's batches from global number `start` on, without end.

        Unreadable utterances are left out and counted. Where nothing of a batch can be read, another batch is repeated
        in its place and counted, so that numbering stays fixed and no rank has to stand aside.

        Raises:
            TrainingError: nothing can be read at all, or a worker process died.
            UnreachableError: the storage cannot be reached.
        """
        self._coverage = []
        self._coverage_file = None if self._coverage_path is None else CoverageFile(self._coverage_path)
        try:
            made = read_ahead(
                self._maker, self._requests(start), num_workers=self._num_workers, result_bytes=self._batch_bytes
            )
            with closing(made):
                for item in made:
                    self._log.add(item.problems)
                    if item.substitute is not None:
                        logger.warning(
                            "nothing of batch %d can be read; batch %d is repeated for it", item.number, item.substitute
                        )
                    self._cover(item, start)
                    yield cast(Batch, item.batch.pin_memory()) if self._pin_memory else item.batch
        finally:
            if self._coverage and not self._coverage[-1].ended:
                self._record(self._coverage[-1])

    def _requests(self, start: int) -> Iterator[Request]:
        for number in itertools.count(start + self.rank, self.world_size):
            yield Request(number=number, epoch=self.plan.epoch(number), rows=self.rows(number))

    def _cover(self, made: Made[Batch], start: int) -> None:
        """Count a batch that is about to be handed over, and tell where an epoch ends with it."""
        num_batches, part = self.plan.num_batches, made.coverage
        first = start % num_batches if part.epoch == start // num_batches else 0
        part = replace(part, first_place=first)
        if made.number % num_batches == 0 and self._num_short:
            short = EpochCoverage(epoch=part.epoch, planned=self._num_short, left_out={TOO_SHORT: self._num_short})
            part = part.merged(short)
        if self._coverage and self._coverage[-1].epoch == part.epoch:
            part = self._coverage.pop().merged(part)
        part = replace(part, ended=self.plan.epoch(made.number + self.world_size) > part.epoch)
        self._coverage.append(part)
        if part.ended:
            if time.monotonic() - self._told_at >= MIN_SECONDS_BETWEEN_LINES:
                share = f" (rank {self.rank} of {self.world_size})" if self.world_size > 1 else ""
                logger.info("%s%s", part.describe(), share)
                self._told_at = time.monotonic()
            self._record(part)

    def _record(self, coverage: EpochCoverage) -> None:
        if self._coverage_file is not None:
            self._coverage_file.write(coverage)


class AudioBatches(BatchStream[AudioBatch]):
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
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        coverage_path: Path | None = None,
    ) -> None:
        """Batches of `manifest` at `sample_rate` Hz for one of `world_size` ranks.

        Clips below `min_num_samples` are left out and counted. `pin_memory` is for training on a GPU. A line of JSON
        for each epoch goes to `coverage_path`, if given; see `EpochCoverage`.
        """
        if len(manifest) == 0:
            raise ConfigError("the training manifest has no rows; build it from a folder that holds recordings")
        reader = _reader(manifest, config, sample_rate=sample_rate, min_num_samples=min_num_samples, seed=seed)
        super().__init__(
            manifest, config, reader, Crops(reader, config.max_crop_seconds), max_seconds=config.max_crop_seconds,
            seed=seed, rank=rank, world_size=world_size, pin_memory=pin_memory, coverage_path=coverage_path,
        )  # fmt: skip

    def describe(self) -> str:
        """What to expect of an epoch, for the log."""
        cropped = 1 - self._share_within_max_seconds * (1 - self.plan.cropped_share())
        return f"{self.plan.num_batches} batches an epoch, about {100 * cropped:.1f} % of the audio cropped off"


class LabeledBatches(BatchStream[LabeledBatch]):
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
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        coverage_path: Path | None = None,
    ) -> None:
        """Like `AudioBatches`; `labels[i]` belongs to row i."""
        if len(manifest) == 0:
            raise ConfigError("the training manifest has no rows; build it with transcripts, or lift the filters")
        assert len(labels) == len(manifest), "one label sequence for each row"
        reader = _reader(manifest, config, sample_rate=sample_rate, min_num_samples=min_num_samples, seed=seed)
        super().__init__(
            manifest, config, reader, Labeled(reader, labels), max_seconds=float("inf"),
            seed=seed, rank=rank, world_size=world_size, pin_memory=pin_memory, coverage_path=coverage_path,
        )  # fmt: skip

    def describe(self) -> str:
        """What to expect of an epoch, for the log."""
        return f"{self.plan.num_batches} batches an epoch, about {100 * self.plan.padding_share():.1f} % padding"


def _reader(
    manifest: "Manifest", config: DataConfig, *, sample_rate: int, min_num_samples: int, seed: int
) -> UtteranceReader:
    augmenter = Augmenter(config.augment, sample_rate=sample_rate, seed=seed) if config.augment.enabled else None
    return UtteranceReader(
        manifest,
        sample_rate=sample_rate,
        min_num_samples=min_num_samples,
        cache_megabytes=config.cache_megabytes,
        augmenter=augmenter,
        compact=True,
    )
