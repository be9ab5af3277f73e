"""One ordered pass over a manifest, for validation and inference."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechssl.data.collate import batch_bytes, collate_audio
from speechssl.data.dataset import Clip, Unreadable, UtteranceReader
from speechssl.data.workers import read_ahead
from speechssl.errors import AudioError, ConfigError
from speechssl.types import AudioBatch, Utterance

if TYPE_CHECKING:
    from speechssl.manifest import Manifest

logger = logging.getLogger(__name__)

OnError = Callable[[Utterance, AudioError], None]
"""Called with a recording that cannot be read and why."""


def iterate_once(
    manifest: "Manifest",
    *,
    batch_seconds: float,
    sample_rate: int,
    min_num_samples: int = 1,
    on_error: OnError | None = None,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[AudioBatch]:
    """Every readable utterance exactly once, whole, longest first, padded within a batch; nothing is augmented.

    Longest first so that a batch that does not fit in memory fails at once. What cannot be read is handed to
    `on_error` and left out. Of several ranks, each takes every `world_size`-th of the same batches, so all utterances
    are handed out once over all ranks; some ranks may have a batch more than others.

    Raises:
        UnreachableError: the storage cannot be reached.
    """
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank must be from 0 to {world_size - 1} of {world_size} ranks, but is {rank}")
    reader = UtteranceReader(manifest, sample_rate=sample_rate, min_num_samples=min_num_samples, compact=True)
    requests = _requests(manifest, batch_seconds, rank, world_size)
    results = read_ahead(
        _OneBatch(reader), requests, num_workers=num_workers, result_bytes=batch_bytes(batch_seconds, sample_rate)
    )
    with closing(results):
        for result in results:
            for row, problem in result.problems:
                if on_error is not None:
                    on_error(manifest[row], AudioError(problem.reason))
                else:
                    logger.warning("left out %s: %s", problem.utterance_id, problem.reason)
            if result.batch is not None:
                yield result.batch


def _requests(manifest: "Manifest", batch_seconds: float, rank: int, world_size: int) -> Iterator[NDArray[np.int64]]:
    """Rows of this rank's batches."""
    durations = np.maximum(manifest.durations, 1e-3)
    order = np.argsort(-durations, kind="stable")
    place = number = 0
    while place < len(order):
        size = max(1, int(batch_seconds // durations[order[place]]))
        if number % world_size == rank:
            yield order[place : place + size]
        place += size
        number += 1


@dataclass(frozen=True, kw_only=True)
class _Result:
    """A batch, unless nothing of it can be read, and what is missing from it with its row."""

    batch: AudioBatch | None
    problems: list[tuple[int, Unreadable]]


class _OneBatch:
    """Rows -> batch; lives in every worker process."""

    def __init__(self, reader: UtteranceReader) -> None:
        self._reader = reader

    def __call__(self, rows: NDArray[np.int64]) -> _Result:
        indices = rows.tolist()
        clips, problems = [], []
        with self._reader.fetched(indices) as utterances:
            for index, utterance in zip(indices, utterances, strict=True):
                found = self._reader.read(index, utterance)
                if isinstance(found, Clip):
                    clips.append(found)
                else:
                    problems.append((index, found))
        batch = collate_audio(clips, sample_rate=self._reader.sample_rate) if clips else None
        return _Result(batch=batch, problems=problems)
