"""Where in a recording something is said: every span of the query's length is compared, then the best are warped.

A span is described by the means of its three thirds, so that order matters; its score is the mean of the three cosines
with the query's. Means of all spans come from one cumulative sum, so a block costs as much as a few passes over it. The
best spans are then compared by subsequence dynamic time warping, which forgives another pace and sharpens the ends.

Shapes: N frames of a block, Q frames of the query, D dimensions.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speechssl.search.collection import Block, Statistics, unit_length
from speechssl.search.settings import Hit

Frames = NDArray[np.float32]

NUM_PARTS = 3
MIN_QUERY_FRAMES = 3
SLACK = 0.5  # of the query's length, on both sides of a span that is warped


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A span before warping: its hit, and the standardised frames around it with their times."""

    hit: Hit
    frames: Frames
    times: NDArray[np.float64]


def thirds(num_frames: int) -> list[tuple[int, int]]:
    """Three parts of the frames as (first, one past the last), each with at least one frame."""
    ends = [max(1, round(part * num_frames / NUM_PARTS)) for part in range(1, NUM_PARTS + 1)]
    starts = [0, *(min(end, num_frames - 1) for end in ends[:-1])]
    return [(start, max(start + 1, end)) for start, end in zip(starts, ends, strict=True)]


def describe(frames: Frames) -> Frames:
    """Unit-length means of the thirds of some frames `[Q, D]`, one after the other: `[3, D]`."""
    return unit_length(np.stack([frames[first:last].mean(axis=0) for first, last in thirds(len(frames))]))


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What all queries look at: standardised frames `[N, D]`, their cumulative sums `[N + 1, D]`, and their times."""

    frames: Frames
    sums: NDArray[np.float64]
    times: NDArray[np.float64]

    @classmethod
    def of(cls, frames: Frames, times: NDArray[np.float64]) -> "Recording":
        """Of standardised frames."""
        return cls(frames=frames, sums=cumulative(frames), times=times)


def cumulative(frames: Frames) -> NDArray[np.float64]:
    """Sums of the frames `[N, D]` before each place: `[N + 1, D]`."""
    return np.concatenate([np.zeros((1, frames.shape[1])), np.cumsum(frames, axis=0, dtype=np.float64)])


def span_scores(sums: NDArray[np.float64], query: Frames, num_frames: int) -> NDArray[np.float64]:
    """Score of the span of `num_frames` frames from every start, out of `cumulative` sums: `[N - Q + 1]`.

    `query` is `[3, D]` of `describe`.
    """
    count = len(sums) - num_frames
    total = np.zeros(count)
    for part, (first, last) in zip(query, thirds(num_frames), strict=True):
        means = sums[last : last + count] - sums[first : first + count]
        total += (means @ part.astype(np.float64)) / np.maximum(np.linalg.norm(means, axis=1), 1e-12)
    return total / NUM_PARTS


def best_spans(scores: NDArray[np.float64], num_frames: int, limit: int) -> list[int]:
    """Starts of the best spans, best first; none overlaps a better one by half or more."""
    remaining = scores.copy()
    found: list[int] = []
    while len(found) < limit and np.isfinite(remaining).any():
        best = int(np.nanargmax(remaining))
        found.append(best)
        reach = max(1, num_frames // 2)
        remaining[max(0, best - reach) : best + reach + 1] = -np.inf
        if not (remaining > -np.inf).any():
            break
    return found


class SpanSearch:
    """The best spans of all blocks that it is shown."""

    def __init__(
        self, name: str, frames: Frames, statistics: Statistics, *, keep: int, per_recording: int, frame_seconds: float
    ) -> None:
        """`frames` `[Q, D]` of the query as they came from the encoder; the `keep` best spans are held."""
        self.name = name
        self.frames = statistics.standardise(frames)
        self._query = describe(self.frames)
        self._statistics = statistics
        self._keep, self._per_recording, self._frame_seconds = keep, per_recording, frame_seconds
        self._heap: list[tuple[float, int, Candidate]] = []
        self._seen = 0

    def show(self, block: Block, only: Sequence[str] | None = None) -> None:
        """Compare a block's recordings, or some of them, with the query."""
        wanted = None if only is None else set(only)
        assert block.times is not None, "a block of frames"
        for number, utterance_id in enumerate(block.ids):
            if wanted is not None and utterance_id not in wanted:
                continue
            rows = block.rows(number)
            frames = self._statistics.standardise(block.vectors[rows])
            self.look(utterance_id, Recording.of(frames, block.times[rows]))

    def candidates(self) -> list[Candidate]:
        """The best spans, best first."""
        return [entry[2] for entry in sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))]

    def look(self, utterance_id: str, recording: Recording) -> None:
        """Compare one recording with the query."""
        frames, times = recording.frames, recording.times
        length = min(len(self.frames), len(frames))
        scores = span_scores(recording.sums, self._query, length)
        slack = round(SLACK * length)
        for start in best_spans(scores, length, self._per_recording):
            score = float(scores[start])
            self._seen += 1
            if len(self._heap) == self._keep and score <= self._heap[0][0]:
                break
            around = slice(max(0, start - slack), start + length + slack)
            half = self._frame_seconds / 2
            hit = Hit(
                query=self.name,
                id=utterance_id,
                score=score,
                start=max(0.0, float(times[start]) - half),
                end=float(times[start + length - 1]) + half,
            )
            entry = (score, -self._seen, Candidate(hit=hit, frames=frames[around].copy(), times=times[around].copy()))
            if len(self._heap) < self._keep:
                heapq.heappush(self._heap, entry)
            else:
                heapq.heapreplace(self._heap, entry)


def warp(query: Frames, candidate: Candidate, *, frame_seconds: float) -> Hit:
    """The candidate's hit with the warped score and the span that the cheapest path covers.

    The whole query is matched to any part of the candidate's frames; both are standardised.
    """
    from librosa.sequence import dtw

    costs = np.maximum(1 - unit_length(query) @ unit_length(candidate.frames).T, 0).astype(np.float64)
    if costs.shape[0] > costs.shape[1]:  # librosa's subsequence is along the longer side
        totals, path = dtw(C=costs, backtrack=True)
        total = totals[-1, -1]
    else:
        totals, path = dtw(C=costs, subseq=True, backtrack=True)
        total = totals[-1].min()
    first, last = int(path[:, 1].min()), int(path[:, 1].max())
    return replace(
        candidate.hit,
        warped=float(1 - total / len(path)),
        start=max(0.0, float(candidate.times[first]) - frame_seconds / 2),
        end=float(candidate.times[last]) + frame_seconds / 2,
    )


def without_overlaps(hits: Sequence[Hit], *, per_recording: int) -> list[Hit]:
    """Hits best first; of two in one recording that overlap by half or more of the shorter, the better one."""
    kept: dict[str, list[Hit]] = {}
    found: list[Hit] = []
    for hit in sorted(hits, key=lambda hit: -hit.value):
        mine = kept.setdefault(hit.id, [])
        if len(mine) < per_recording and not any(_overlap(hit, other) >= 0.5 for other in mine):
            mine.append(hit)
            found.append(hit)
    return found


def _overlap(first: Hit, second: Hit) -> float:
    assert first.start is not None and first.end is not None and second.start is not None and second.end is not None
    common = min(first.end, second.end) - max(first.start, second.start)
    return max(0.0, common) / max(1e-9, min(first.end - first.start, second.end - second.start))
