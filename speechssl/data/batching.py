"""Which utterances make which batch: by length, at random but reproducibly, with a fixed number of batches an epoch.

Utterances are sorted by length into buckets. A bucket's batch size follows from its longest utterance, so a batch
never exceeds its budget, and neither the number of batches nor their sizes depend on the epoch. Every epoch shuffles
the utterances within each bucket, and the batches of all buckets. So batch number n belongs to epoch n // num_batches,
and any batch can be named, and a run resumed there, without replaying the ones before: what it costs is the shuffle
of one epoch's batch numbers and of one bucket.

With windows, utterances are kept together that lie in the same few shards: each window has buckets of its own, and an
epoch finishes one window before it begins the next.

Shapes: N utterances, K buckets, P batches of an epoch.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDEST_BUCKET = 0.2
"""A bucket ends where an utterance would be shorter than its longest by this share."""
NARROW_BUCKET = 0.02
"""Where there are utterances enough, a bucket ends already at this share ..."""
MIN_BUCKET_BATCHES = 8
"""... once it holds so many batches, so that utterances still meet others every epoch."""

_PLAN_SEED = 1  # keeps these draws apart from those of the crops, which start from the same seed


@dataclass(frozen=True, kw_only=True)
class _Bucket:
    """How many neighbours in the order of lengths it holds, and into how many batches they are dealt out."""

    size: int
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
        windows: ArrayLike | None = None,
        alike: int = 1,
    ) -> None:
        """Plan for utterances of the given lengths, in any unit, `max_batch_length` in the same.

        Args:
            lengths: `[N]`, each > 0.
            max_batch_length: budget of a batch with its padding.
            max_batch_size: at most so many utterances in a batch.
            seed: of the shuffling.
            windows: `[N]`, the number of the window that each utterance belongs to; one for all by default.
            alike: so many consecutive batches are of neighbouring lengths, from the first batch of an epoch on.
        """
        self._lengths = np.asarray(lengths, dtype=np.float64)
        if self._lengths.size == 0:
            raise ValueError("there must be at least one utterance to plan batches of, but there is none")
        if alike < 1:
            raise ValueError(f"alike must be at least 1, but is {alike}")
        self._seed = seed
        members, edges = _sorted_by_window(self._lengths, windows)
        self._members: NDArray[np.int32] | NDArray[np.int64] = members
        made = [
            _made_multiple(list(_buckets(self._lengths[members[start:stop]], max_batch_length, max_batch_size)), alike)
            for start, stop in zip(edges[:-1], edges[1:], strict=True)
        ]
        sizes = np.array([bucket.size for window in made for bucket in window])
        counts = np.array([bucket.num_batches for window in made for bucket in window])
        self._bounds = np.concatenate([[0], np.cumsum(sizes)])
        self._first_batches = np.concatenate([[0], np.cumsum(counts)])
        self.num_batches = int(self._first_batches[-1])
        num_in_window = [sum(bucket.num_batches for bucket in window) for window in made]
        self._window_of_batch = np.repeat(np.arange(len(made)), num_in_window)
        self._run_of_batch = _runs(num_in_window, alike)
        self._epoch: int | None = None
        self._order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._shuffled: dict[int, NDArray[np.int64]] = {}

    def batch(self, number: int) -> NDArray[np.int64]:
        """Utterance indices of batch `number`, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.num_batches)
        if epoch != self._epoch:
            self._order = self._batch_order(epoch)
            self._shuffled = {}
            self._epoch = epoch
        planned = int(self._order[place])
        bucket = int(np.searchsorted(self._first_batches, planned, side="right")) - 1
        if bucket not in self._shuffled:
            self._shuffled[bucket] = self._random(epoch, 1 + bucket).permutation(self._bucket(bucket))
        start, stop = self._span(bucket, planned)
        return self._shuffled[bucket][start:stop].astype(np.int64)

    def epoch(self, number: int) -> int:
        """The epoch that batch `number` belongs to."""
        return number // self.num_batches

    def substitutes(self, number: int) -> Iterator[int]:
        """Other batches of the same epoch, nearest to half an epoch away first; in place of one that is no use."""
        epoch, place = divmod(number, self.num_batches)
        for step in range(self.num_batches):
            candidate = (place + self.num_batches // 2 + step) % self.num_batches
            if candidate != place:
                yield epoch * self.num_batches + candidate

    def _random(self, epoch: int, use: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, _PLAN_SEED, epoch, use])

    def _batch_order(self, epoch: int) -> NDArray[np.int64]:
        """i64 `[P]`: which planned batch comes when; windows one after the other, runs of `alike` kept together."""
        random = self._random(epoch, 0)
        turns = random.permutation(int(self._window_of_batch[-1]) + 1)
        draws = random.random(int(self._run_of_batch[-1]) + 1)
        return np.lexsort((draws[self._run_of_batch], turns[self._window_of_batch]))

    def _bucket(self, bucket: int) -> NDArray[np.int32] | NDArray[np.int64]:
        """The utterances of a bucket, longest first."""
        return self._members[self._bounds[bucket] : self._bounds[bucket + 1]]

    def _span(self, bucket: int, planned: int) -> tuple[int, int]:
        """Start and end, within its bucket, of a batch: the first ones have one utterance more than the last."""
        first, after = self._first_batches[bucket : bucket + 2].tolist()
        smaller, larger_ones = divmod(int(self._bounds[bucket + 1] - self._bounds[bucket]), after - first)
        place = planned - first
        start = place * smaller + min(place, larger_ones)
        return start, start + smaller + (place < larger_ones)

    def padding_share(self) -> float:
        """Expected share of all batches that is padding, if every batch is padded to its longest."""
        return max(0.0, 1 - float(self._lengths.sum()) / self._expected_cells(longest=True))

    def cropped_share(self) -> float:
        """Expected share of all lengths that is cut off, if every batch is cut to its shortest."""
        return max(0.0, 1 - self._expected_cells(longest=False) / float(self._lengths.sum()))

    def _expected_cells(self, *, longest: bool) -> float:
        """Sum over an epoch's batches of size times longest (or shortest) length, in the mean over all shuffles."""
        total = 0.0
        for bucket in range(len(self._bounds) - 1):
            values = self._lengths[self._bucket(bucket)]
            count = int(self._first_batches[bucket + 1] - self._first_batches[bucket])
            smaller, larger_ones = divmod(len(values), count)
            for size, how_many in ((smaller + 1, larger_ones), (smaller, count - larger_ones)):
                if how_many:
                    total += how_many * size * _expected_first(values if longest else values[::-1], size)
        return total


def _sorted_by_window(
    lengths: NDArray[np.float64], windows: ArrayLike | None
) -> tuple[NDArray[np.int32] | NDArray[np.int64], list[int]]:
    """Utterances window by window, longest first in each, and where the windows begin and end."""
    if windows is None:
        members = np.argsort(-lengths, kind="stable")
        edges = [0, len(members)]
    else:
        windows = np.asarray(windows)
        members = np.lexsort((-lengths, windows))
        edges = [0, *(np.flatnonzero(np.diff(windows[members])) + 1).tolist(), len(members)]
    return (members.astype(np.int32) if len(members) < 2**31 else members), edges


def _buckets(descending: NDArray[np.float64], max_length: float, max_size: int | None) -> Iterator[_Bucket]:
    """The buckets of lengths in descending order. Batches are full wherever the next utterances can fill them."""
    negative = -descending
    start = 0
    while start < len(descending):
        longest = float(descending[start])
        size = max(1, int(max_length // longest))
        if max_size is not None:
            size = min(size, max_size)
        widest = bisect_right(negative, -longest * (1 - WIDEST_BUCKET))
        narrow = bisect_right(negative, -longest * (1 - NARROW_BUCKET))
        stop = min(widest, max(narrow, start + MIN_BUCKET_BATCHES * size))
        num_batches = max(1, (stop - start) // size)
        stop = min(len(descending), start + num_batches * size)
        yield _Bucket(size=stop - start, num_batches=num_batches)
        start = stop


def _made_multiple(buckets: list[_Bucket], multiple: int) -> list[_Bucket]:
    """Deal utterances out into a few batches more, until there is a multiple, as far as there are utterances."""
    for _ in range(-sum(bucket.num_batches for bucket in buckets) % multiple):
        divisible = [place for place, bucket in enumerate(buckets) if bucket.num_batches < bucket.size]
        if not divisible:
            break
        place = max(divisible, key=lambda place: buckets[place].num_batches)
        buckets[place] = replace(buckets[place], num_batches=buckets[place].num_batches + 1)
    return buckets


def _runs(num_in_window: Sequence[int], alike: int) -> NDArray[np.int64]:
    """i64 `[P]`: to which run of `alike` neighbouring batches each belongs; a run ends where its window ends."""
    per_window = [np.arange(count) // alike for count in num_in_window]
    firsts = np.concatenate([[0], np.cumsum([runs[-1] + 1 for runs in per_window])])
    return np.concatenate([first + runs for first, runs in zip(firsts[:-1], per_window, strict=True)])


def _expected_first(values: NDArray[np.float64], size: int) -> float:
    """Mean, over all ways to draw `size` of the sorted values, of the one that comes first in their order."""
    count = len(values)
    places = np.arange(count - size)
    # probability that the first i values are all left out: product of (count - size - i) / (count - i)
    left_out = np.concatenate([[1.0], np.cumprod((count - size - places) / (count - places))])
    chances = left_out * size / (count - np.arange(count - size + 1))
    return float(chances @ values[: count - size + 1])
