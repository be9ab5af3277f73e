"""The best CTC path through hours, in two passes over blocks of frames.

Shapes: T frames, L labels, W states that are searched at a time, U labels that occur.

The first pass carries, with every state's score, in which state its path was at the end of the last block: that is all
it keeps of a block, `[W]` integers. Read from the end they give the state at every block's border, and the second pass
finds the path within each block, between two known states. Scores are added in float32, as torchaudio's
`forced_align` does, and the path is the same.

Only states within `BEAM_NATS` of the best are carried over a block's border. Where that lost the end of the text, the
search is repeated without a limit.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
States = NDArray[np.int64]

BLOCK_FRAMES = 1500
BEAM_NATS = 1000.0
_NEVER = np.float32(-np.inf)


def best_states(
    scores: Floats,
    targets: States,
    blank: int,
    *,
    block_frames: int = BLOCK_FRAMES,
    beam_nats: float | None = BEAM_NATS,
) -> States:
    """The state of every frame, i64 `[T]`: state 2 i + 1 is label i of `targets` `[L]`, the even ones are blanks.

    Args:
        scores: log probabilities `[T, U]`.
        targets: columns of `scores`, as many as fit into the frames.
        blank: column of the blank.
        block_frames: frames a block.
        beam_nats: states that score less than the best by more than this are given up at a block's border; None gives
            up none.
    """
    num_states = 2 * len(targets) + 1
    columns = np.full(num_states, blank, np.int64)
    columns[1::2] = targets
    may_skip = np.zeros(num_states, bool)  # a label may follow the label before it without a blank, if they differ
    may_skip[3::2] = targets[1:] != targets[:-1]
    search = _Search(scores, columns, may_skip)
    borders = search.borders(block_frames, beam_nats)
    if borders is None:
        borders = search.borders(block_frames, None)
        assert borders is not None, "the labels fit into the frames"
    return search.path(borders, block_frames)


class _Search:
    def __init__(self, scores: Floats, columns: States, may_skip: NDArray[np.bool_]) -> None:
        self._scores, self._columns, self._may_skip = scores, columns, may_skip

    def borders(self, block_frames: int, beam_nats: float | None) -> list[int] | None:
        """The state in the last frame of every block; None where the end of the text was given up."""
        num_frames, num_states = len(self._scores), len(self._columns)
        low = 0
        alpha = np.zeros(1, np.float32)  # of the states low, low + 1, ...; before the first frame there is only state 0
        kept: list[tuple[int, NDArray[np.int32]]] = []
        for begin in range(0, num_frames, block_frames):
            stop = min(begin + block_frames, num_frames)
            # states that the block can reach, and from which the end can still be reached behind it
            high = min(low + len(alpha) + 2 * (stop - begin), num_states)
            width = high - low
            alpha = np.concatenate([alpha, np.full(max(width - len(alpha), 0), _NEVER)])[:width]
            origins = np.arange(low, high, dtype=np.int32)
            for frame in range(begin, stop):
                alpha, came = self._step(alpha, low, high, frame)
                origins = np.where(came == 0, origins, np.where(came == 1, _shift(origins, 1), _shift(origins, 2)))
            first, last = self._worth_keeping(alpha, beam_nats)
            # what cannot reach the end in the frames that are left is of no use
            first = max(first, num_states - 2 - 2 * (num_frames - stop) - low)
            if first >= last:
                return None
            kept.append((low, origins))
            low, alpha = low + first, alpha[first:last]
        ends = [
            (alpha[state - low], state) for state in (num_states - 1, num_states - 2) if 0 <= state - low < len(alpha)
        ]
        if not ends or max(ends)[0] == _NEVER:
            return None
        state = max(ends)[1]
        borders = [state]
        for low, origins in reversed(kept[1:]):
            state = int(origins[state - low])
            borders.append(state)
        return borders[::-1]

    def path(self, borders: list[int], block_frames: int) -> States:
        """The state of every frame, from those at the blocks' ends."""
        num_frames = len(self._scores)
        path = np.empty(num_frames, np.int64)
        low = 0
        for index, state in enumerate(borders):
            begin = index * block_frames
            stop = min(begin + block_frames, num_frames)
            alpha = np.full(state + 1 - low, _NEVER)
            alpha[0] = 0
            steps = np.zeros((stop - begin, state + 1 - low), np.uint8)
            for frame in range(begin, stop):
                alpha, steps[frame - begin] = self._step(alpha, low, state + 1, frame)
            place = state - low
            for frame in range(stop - 1, begin - 1, -1):
                path[frame] = low + place
                place -= int(steps[frame - begin, place])
            low = state
        return path

    def _step(self, alpha: Floats, low: int, high: int, frame: int) -> tuple[Floats, NDArray[np.uint8]]:
        """Scores after one more frame, and by how many states each path advanced: 0, 1 or 2."""
        one = _shift(alpha, 1)
        two = np.where(self._may_skip[low:high], _shift(alpha, 2), _NEVER)
        came = (one > alpha).astype(np.uint8)
        best = np.maximum(one, alpha)
        further = two > best
        came[further] = 2
        best = np.where(further, two, best)
        return best + self._scores[frame, self._columns[low:high]], came

    @staticmethod
    def _worth_keeping(alpha: Floats, beam_nats: float | None) -> tuple[int, int]:
        limit = _NEVER if beam_nats is None else alpha.max() - np.float32(beam_nats)
        good = np.flatnonzero((alpha >= limit) & (alpha > _NEVER))
        return (int(good[0]), int(good[-1]) + 1) if len(good) else (0, 0)


def _shift(values: NDArray, count: int) -> NDArray:  # type: ignore[type-arg]
    """`values` moved up by `count` places; scores come from nowhere, states from themselves."""
    moved = np.empty_like(values)
    moved[count:] = values[: max(len(values) - count, 0)]
    moved[:count] = _NEVER if values.dtype.kind == "f" else values[:count]
    return moved
