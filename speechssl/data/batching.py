"""Which utterances make which batch: by duration, at random but reproducibly, with a fixed number of batches an epoch.

Utterances are sorted by length into buckets. Within a bucket they are shuffled anew every epoch; the batch size
follows from the bucket's longest utterance, so a batch never exceeds its budget, and the number of batches does not
depend on the epoch. Batch number n therefore belongs to epoch n // num_batches, and any batch can be named, and a run
resumed there, without replaying the ones before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class _Bucket:
    members: NDArray[np.int64]
    num_batches: int


class BatchPlan:
    """Batches of at most `max_batch_length` (batch size times the longest length of its bucket).

    An utterance longer than that makes a batch of its own. Every utterance is in exactly one batch of each epoch.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        *,
        max_batch_length: float,
        max_batch_size: int | None = None,
        seed: int = 0,
        max_padding: float = 0.2,
    ) -> None:
        """Plan for utterances of the given lengths, in any unit, `max_batch_length` in the same.

        Args:
            lengths: one for each utterance, > 0.
            max_batch_length: budget of a batch with its padding.
            max_batch_size: at most so many utterances in a batch.
            seed: of the shuffling.
            max_padding: a bucket ends where an utterance would be shorter than its longest by this share, unless it
                does not fill a batch yet.
        """
        self._lengths = np.asarray(lengths, dtype=np.float64)
        if self._lengths.size == 0:
            raise ValueError("there must be at least one utterance to plan batches of, but there is none")
        self._seed = seed
        self._buckets = list(self._make_buckets(max_batch_length, max_batch_size, max_padding))
        self.num_batches = sum(bucket.num_batches for bucket in self._buckets)
        self._epoch: int | None = None
        self._epoch_batches: list[NDArray[np.int64]] = []

    def _make_buckets(
        self, max_batch_length: float, max_batch_size: int | None, max_padding: float
    ) -> Sequence[_Bucket]:
        order = np.argsort(-self._lengths, kind="stable")
        descending = self._lengths[order]
        buckets = []
        start = 0
        while start < len(order):
            longest = descending[start]
            size = max(1, int(max_batch_length // longest))
            if max_batch_size is not None:
                size = min(size, max_batch_size)
            # first place whose length is below the bucket's share; `descending` is searched through its negative
            similar = int(np.searchsorted(-descending, -longest * (1 - max_padding), side="right"))
            end = min(len(order), max(similar, start + size))
            buckets.append(_Bucket(members=order[start:end], num_batches=-(-(end - start) // size)))
            start = end
        return buckets

    def batch(self, number: int) -> NDArray[np.int64]:
        """Utterance indices of batch `number`, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.num_batches)
        if epoch != self._epoch:
            self._epoch_batches = self._shuffled(epoch)
            self._epoch = epoch
        return self._epoch_batches[place]

    def epoch(self, number: int) -> int:
        """The epoch that batch `number` belongs to."""
        return number // self.num_batches

    def _shuffled(self, epoch: int) -> list[NDArray[np.int64]]:
        random = np.random.default_rng([self._seed, epoch])
        batches: list[NDArray[np.int64]] = []
        for bucket in self._buckets:
            batches += np.array_split(random.permutation(bucket.members), bucket.num_batches)
        return [batches[place] for place in random.permutation(len(batches))]

    def padding_share(self) -> float:
        """Share of a batch that is padding, averaged over epoch 0, if every batch is padded to its longest."""
        padded = sum(len(batch) * self._lengths[batch].max() for batch in self._shuffled(0))
        return float(1 - self._lengths.sum() / padded)
