"""Find spans that share audio, by their fingerprints.

The search of Haitsma and Kalker (ISMIR 2002), section 5, for all spans against all: equal hashes propose a pair and an
offset, the bit error rate of the frames around them decides whether it is looked at, and the stretch that fits best is
its overlap. Hashes are sorted in NumPy, in parts by their value, so memory follows the size of a part and not of the
collection.

Shapes: T frames of all spans, N spans, P candidates.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.manifest.audit.fingerprint import Frames
from speechssl.progress import Progress

Integers = npt.NDArray[np.int64]

MAX_AROUND = 0.27
"""Highest bit error rate of the frames around two equal hashes. Of 40,000 equal hashes of different speech 3 came
below 0.25, and 37 below 0.30; copies with noise 10 dB below the speech are at 0.16."""

MAX_BIT_ERRORS = 0.25
"""Highest bit error rate of a stretch that is looked at."""

STRETCH_BIT_ERRORS = 0.32
"""Frames below this rate lengthen a stretch, those above shorten it."""

MIN_FRAMES = 16
"""Shortest stretch in frames that are loud enough; a quarter of a second and what it is about."""

_NEIGHBOURS = 32
"""Spans with one hash are compared with so many others that have it: all of a small group, a chain of a large one."""

_AROUND = np.array([-48, -40, -32, -24, -16, -12, -8, 8, 12, 16, 24, 32, 40, 48])
_PART_FRAMES = 1 << 22
_VOTES_AT_ONCE = 1 << 20
_MIX = np.uint32(0x9E3779B1)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Frames `start` to `end` of span `first` fit those of `second` that are `offset` frames earlier in it."""

    first: int
    second: int
    offset: int
    start: int
    end: int
    bit_errors: float


def find_candidates(
    frames: Frames,
    starts: Integers,
    groups: Integers,
    *,
    progress: Progress | None = None,
) -> list[Candidate]:
    """Pairs of spans that may share audio, the best offset of each, in order of the first span.

    Args:
        frames: hashes u32 `[T]` of all spans; 0 where there is none.
        starts: where each span's hashes begin, i64 `[N + 1]`.
        groups: i64 `[N]`; spans of one group are not compared.
        progress: called while it works.
    """
    best: dict[tuple[int, int], Candidate] = {}
    for votes in _votes(frames, starts, groups, progress):
        for first, second, offset in votes.tolist():
            candidate = _stretch(frames, starts, first, second, offset)
            if candidate is None:
                continue
            known = best.get((first, second))
            if known is None or _weight(candidate) > _weight(known):
                best[first, second] = candidate
    return [best[pair] for pair in sorted(best)]


def _weight(candidate: Candidate) -> float:
    return (STRETCH_BIT_ERRORS - candidate.bit_errors) * (candidate.end - candidate.start)


def _votes(frames: Frames, starts: Integers, groups: Integers, progress: Progress | None) -> Iterator[Integers]:
    """Different (first, second, offset in frames) i64 `[P, 3]` whose surroundings fit, part by part."""
    num_loud = _count_loud(frames)
    part_bits = max(0, int(np.ceil(np.log2(max(num_loud, 1) / _PART_FRAMES))))
    for part in range(1 << part_bits):
        hashes, places = _sorted_part(frames, part, part_bits)
        for first, second in _equal_pairs(hashes, places):
            span, other = (np.searchsorted(starts, place, side="right") - 1 for place in (first, second))
            kept = groups[span] != groups[other]
            first, second, span, other = first[kept], second[kept], span[kept], other[kept]
            kept = _bit_errors_around(frames, starts, first, second, span, other) <= MAX_AROUND
            span, other = span[kept], other[kept]
            offset = (first[kept] - starts[span]) - (second[kept] - starts[other])
            if len(span):
                yield np.unique(np.stack([span, other, offset], axis=1), axis=0)
        if progress is not None:
            progress(part + 1, 1 << part_bits)


def _count_loud(frames: Frames) -> int:
    pieces = range(0, len(frames), _PART_FRAMES)
    return sum(int(np.count_nonzero(frames[start : start + _PART_FRAMES])) for start in pieces)


def _sorted_part(frames: Frames, part: int, part_bits: int) -> tuple[npt.NDArray[np.uint64], Integers]:
    """Hashes whose mixed value begins with the bits of `part`, in order, and their places; those of a part alone.

    Hash and place are sorted as one number: the bits that all hashes of a part share make room for longer places.
    """
    place_bits = np.uint64(32 + part_bits)
    found = []
    for start in range(0, len(frames), _PART_FRAMES):
        piece = np.asarray(frames[start : start + _PART_FRAMES])
        mixed = piece * _MIX
        wanted = piece != 0
        if part_bits:
            wanted &= (mixed >> np.uint32(32 - part_bits)) == part
        places = np.flatnonzero(wanted)
        found.append((mixed[places].astype(np.uint64) << place_bits) | (places + start).astype(np.uint64))
    packed = np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)
    return packed >> place_bits, (packed & ((np.uint64(1) << place_bits) - np.uint64(1))).astype(np.int64)


def _equal_pairs(hashes: npt.NDArray[np.uint64], places: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Places of equal hashes, the earlier one first; each with at most `_NEIGHBOURS` later ones."""
    for step in range(1, _NEIGHBOURS + 1):
        equal = np.flatnonzero(hashes[step:] == hashes[:-step])
        if not len(equal):
            return
        for start in range(0, len(equal), _VOTES_AT_ONCE):
            here = equal[start : start + _VOTES_AT_ONCE]
            yield places[here], places[here + step]


def _bit_errors_around(
    frames: Frames, starts: Integers, first: Integers, second: Integers, span: Integers, other: Integers
) -> npt.NDArray[np.float64]:
    """Share of unlike bits, f64 `[P]`, in the frames around two places; 1 where no frame around can be compared."""
    errors = np.zeros(len(first))
    counts = np.zeros(len(first))
    low, high, other_low, other_high = starts[span], starts[span + 1], starts[other], starts[other + 1]
    for step in _AROUND.tolist():
        a, b = first + step, second + step
        inside = (a >= low) & (a < high) & (b >= other_low) & (b < other_high)
        left, right = frames[np.where(inside, a, 0)], frames[np.where(inside, b, 0)]
        inside &= (left != 0) & (right != 0)
        errors += np.where(inside, np.bitwise_count(left ^ right), 0)
        counts += inside
    return np.where(counts > 0, errors / np.maximum(32 * counts, 1), 1.0)


def _stretch(frames: Frames, starts: Integers, first: int, second: int, offset: int) -> Candidate | None:
    """The stretch of most fitting frames at an offset, or None where it is too short or fits too badly."""
    begin = max(0, offset)
    length = int(min(starts[first + 1] - starts[first] - begin, starts[second + 1] - starts[second] - begin + offset))
    left = np.asarray(frames[starts[first] + begin :][:length])
    right = np.asarray(frames[starts[second] + begin - offset :][:length])
    loud = (left != 0) & (right != 0)
    errors = np.bitwise_count(left ^ right) / 32
    gain = np.cumsum(np.concatenate([[0.0], np.where(loud, STRETCH_BIT_ERRORS - errors, -0.02)]))
    lowest = np.minimum.accumulate(gain)
    end = int(np.argmax(gain - lowest))
    start = int(np.argmin(gain[: end + 1]))
    counted = loud[start:end]
    if counted.sum() < MIN_FRAMES or (rate := float(errors[start:end][counted].mean())) > MAX_BIT_ERRORS:
        return None
    return Candidate(first=first, second=second, offset=offset, start=begin + start, end=begin + end, bit_errors=rate)
