"""From what was heard to clips: intervals of samples, no audio.

Shapes: N frames, K intervals.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.manifest.segmentation.activity import Activity, Intervals, Levels

SMOOTHING_FRAMES = 5


@dataclass(frozen=True, kw_only=True)
class ClipLengths:
    """In samples: `SegmentConfig` at a sampling rate."""

    shortest: int
    longest: int
    padding: int
    search: int
    pause: int


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Clips to keep and clips that are too short, i64 `[K, 2]` each, in order; none overlaps another."""

    kept: Intervals
    too_short: Intervals


def make_clips(activity: Activity, lengths: ClipLengths) -> Clips:
    """Clips of the shortest to the longest length, around everything that was heard.

    Each interval is padded, and further up to where it is quietest close by, half-way into a pause at most; neighbours
    are joined over short pauses; what is then too long is cut in its longest pause, else where it is quietest.
    """
    smooth = _smoothed(activity.levels)
    least = pad(activity.intervals, lengths.padding, activity.num_samples)
    most = pad(activity.intervals, lengths.padding + lengths.search, activity.num_samples)
    clips: list[tuple[int, int]] = []
    settled = _settle(least, most, smooth, activity.hop_samples)
    for run in np.split(settled, _long_pauses(activity.intervals, lengths.pause)):
        clips += _cut(run, smooth, activity.hop_samples, lengths)
    found = np.array(clips, dtype=np.int64).reshape(-1, 2)
    long_enough = found[:, 1] - found[:, 0] >= lengths.shortest
    return Clips(kept=found[long_enough], too_short=found[~long_enough])


def pad(intervals: Intervals, padding: int, num_samples: int) -> Intervals:
    """Intervals `[K, 2]` made longer at both ends, up to the middle of the pause between two and to the ends."""
    if not len(intervals):
        return intervals
    middles = (intervals[:-1, 1] + intervals[1:, 0]) // 2
    first = np.maximum(intervals[:, 0] - padding, np.concatenate([[0], middles]))
    last = np.minimum(intervals[:, 1] + padding, np.concatenate([middles, [num_samples]]))
    return np.stack([first, last], axis=1)


def _settle(least: Intervals, most: Intervals, levels: Levels, hop: int) -> Intervals:
    """Intervals `[K, 2]` whose ends lie between those of `least` and `most`, each where it is quietest."""
    settled = [
        (_quietest(levels, hop, most_start, start, last=True), _quietest(levels, hop, end, most_end))
        for (start, end), (most_start, most_end) in zip(least.tolist(), most.tolist(), strict=True)
    ]
    return np.array(settled, dtype=np.int64).reshape(-1, 2)


def _long_pauses(intervals: Intervals, pause: int) -> npt.NDArray[np.int64]:
    """Numbers of the intervals before which there are more than `pause` samples of silence."""
    return np.flatnonzero(intervals[1:, 0] - intervals[:-1, 1] > pause) + 1


def _cut(run: Intervals, levels: Levels, hop: int, lengths: ClipLengths) -> list[tuple[int, int]]:
    """Clips of a run of intervals, each at most the longest and, if the run is, at least the shortest length."""
    if not len(run):
        return []
    start, end = int(run[0, 0]), int(run[-1, 1])
    clips = []
    while end - start > lengths.longest:
        low, high = start - (-lengths.longest // 2), min(start + lengths.longest, end - lengths.shortest)
        # pauses that begin and end within the window: the clip ends at the one side, the next begins at the other
        inside = (run[:-1, 1] >= low) & (run[1:, 0] <= high) & (run[1:, 0] > run[:-1, 1])
        if inside.any():
            pauses = np.where(inside, run[1:, 0] - run[:-1, 1], 0)
            longest = int(pauses.argmax())
            stop, resume = int(run[longest, 1]), int(run[longest + 1, 0])
        else:
            stop = resume = _quietest(levels, hop, low, high)
        clips.append((start, stop))
        start = resume
    return [*clips, (start, end)]


def _quietest(levels: Levels, hop: int, low: int, high: int, *, last: bool = False) -> int:
    """The sample from `low` to `high` at the centre of the quietest frame; the first, or last, of several.

    Where no frame's centre is between them, the end at which the search begins.
    """
    frames = np.arange(-(-low // hop), min(high // hop, len(levels) - 1) + 1)
    if last:
        frames = frames[::-1]
    if not len(frames):
        return high if last else low
    return int(frames[levels[frames].argmin()]) * hop


def _smoothed(levels: Levels) -> Levels:
    """Mean over frames around each, so that a cut falls into a stretch and not into one quiet frame."""
    if len(levels) < SMOOTHING_FRAMES:
        return levels
    return np.convolve(levels, np.full(SMOOTHING_FRAMES, 1 / SMOOTHING_FRAMES, dtype=np.float32), mode="same")
