"""From the rows of one batch to the batch: reading, cropping, collation, and the account of what was left out.

All of this runs in the worker processes.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechssl.data.batching import BatchPlan
from speechssl.data.collate import collate_audio, collate_labeled
from speechssl.data.coverage import EpochCoverage
from speechssl.data.dataset import Clip, Unreadable, UtteranceReader
from speechssl.errors import TrainingError
from speechssl.types import AudioBatch, LabeledBatch, Utterance

Batch = TypeVar("Batch", bound=AudioBatch | LabeledBatch)
MadeBatch = TypeVar("MadeBatch", bound=AudioBatch | LabeledBatch, covariant=True)

MAX_SUBSTITUTES = 32
"""So many other batches are tried in place of one of which nothing can be read."""

_CROP_SEED = 2  # keeps these draws apart from those of the plan, which start from the same seed


@dataclass(frozen=True, kw_only=True)
class Row:
    """A clip and its row in the manifest."""

    index: int
    clip: Clip


class Recipe(Protocol[MadeBatch]):
    """How one kind of batch is read and put together."""

    def read(self, index: int, utterance: Utterance, *, epoch: int, random: np.random.Generator) -> Clip | Unreadable:
        """The clip of a row."""

    def collate(self, rows: Sequence[Row], random: np.random.Generator) -> MadeBatch:
        """The batch of some clips."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which batch to make: its number, its epoch and the manifest's rows in it."""

    number: int
    epoch: int
    rows: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Made(Generic[Batch]):
    """A batch, what it covers and what is missing from it; `substitute` is the batch that was made in its place."""

    number: int
    substitute: int | None
    batch: Batch
    coverage: EpochCoverage
    problems: list[Unreadable]


class BatchMaker(Generic[Batch]):
    """Reads and joins the utterances of a batch; lives in every worker process."""

    def __init__(
        self, reader: UtteranceReader, recipe: Recipe[Batch], rows_of: Callable[[int], NDArray[np.int64]], *,
        plan: BatchPlan, seed: int,
    ) -> None:  # fmt: skip
        self._reader = reader
        self._recipe = recipe
        self._rows_of = rows_of
        self._plan = plan
        self._seed = seed

    def __call__(self, request: Request) -> Made[Batch]:
        """Make a batch.

        Raises:
            TrainingError: nothing can be read, of it or of those tried in its place.
        """
        random = np.random.default_rng([self._seed, _CROP_SEED, request.number])
        rows, problems = self._read(request.rows, request.epoch, random)
        delivered = len(rows)
        substitute = None
        if not rows:
            substitute, rows = self._substitute(request, random, problems[0])
        batch = self._recipe.collate(rows, random)
        audio = batch.audio if isinstance(batch, LabeledBatch) else batch
        coverage = EpochCoverage(
            epoch=request.epoch,
            num_batches=1,
            planned=len(request.rows),
            delivered=delivered,
            left_out=dict(Counter(problem.kind for problem in problems)),
            repeated=len(rows) - delivered,
            seconds=audio.seconds,
            padded_seconds=audio.waveform.numel() / audio.sample_rate,
            source_seconds=sum(row.clip.source_seconds for row in rows),
        )
        return Made(number=request.number, substitute=substitute, batch=batch, coverage=coverage, problems=problems)

    def _read(
        self, rows: NDArray[np.int64], epoch: int, random: np.random.Generator
    ) -> tuple[list[Row], list[Unreadable]]:
        indices = rows.tolist()
        read, problems = [], []
        with self._reader.fetched(indices) as utterances:
            for index, utterance in zip(indices, utterances, strict=True):
                found = self._recipe.read(index, utterance, epoch=epoch, random=random)
                if isinstance(found, Clip):
                    read.append(Row(index=index, clip=found))
                else:
                    problems.append(found)
        return read, problems

    def _substitute(self, request: Request, random: np.random.Generator, problem: Unreadable) -> tuple[int, list[Row]]:
        """Another batch of the epoch, cropped anew: every rank has something to do in every step, whatever is lost."""
        tried = 0
        for number in itertools.islice(self._plan.substitutes(request.number), MAX_SUBSTITUTES):
            rows, _ = self._read(self._rows_of(number), request.epoch, random)
            if rows:
                return number, rows
            tried += 1
        everything = tried + 1 == self._plan.num_batches
        what = (
            f"none of the {len(self._reader.manifest)} utterances" if everything else f"nothing of {tried + 1} batches"
        )
        raise TrainingError(
            f"{what} can be read; the first problem: {problem.reason}; run `speechssl manifest validate --audio` on"
            " the manifest"
        )


class Crops:
    """Recipe of equal crops."""

    def __init__(self, reader: UtteranceReader, max_seconds: float) -> None:
        self._reader = reader
        self._max_seconds = max_seconds

    def read(self, index: int, utterance: Utterance, *, epoch: int, random: np.random.Generator) -> Clip | Unreadable:
        """A random crop, augmented before."""
        return self._reader.read_crop(index, utterance, max_seconds=self._max_seconds, random=random, epoch=epoch)

    def collate(self, rows: Sequence[Row], random: np.random.Generator) -> AudioBatch:
        """All cropped to the shortest."""
        clips = [row.clip for row in rows]
        return collate_audio(clips, sample_rate=self._reader.sample_rate, lengths="crop", random=random)


class Labeled:
    """Recipe of whole utterances with labels.

    The labels of all rows lie in one array, which worker processes share; of a list of lists each would come to hold a
    copy, because Python writes to what it looks at.
    """

    def __init__(self, reader: UtteranceReader, labels: Sequence[Sequence[int]]) -> None:
        self._reader = reader
        lengths = np.fromiter(map(len, labels), np.int64, len(labels))
        self._bounds = np.concatenate([[0], np.cumsum(lengths)])
        self._values = np.fromiter(itertools.chain.from_iterable(labels), np.int32, int(self._bounds[-1]))

    def read(self, index: int, utterance: Utterance, *, epoch: int, random: np.random.Generator) -> Clip | Unreadable:
        """The whole, augmented."""
        return self._reader.read(index, utterance, epoch=epoch)

    def collate(self, rows: Sequence[Row], random: np.random.Generator) -> LabeledBatch:
        """Padded, each with its labels."""
        labels = [self._values[self._bounds[row.index] : self._bounds[row.index + 1]] for row in rows]
        return collate_labeled([row.clip for row in rows], labels, sample_rate=self._reader.sample_rate)
