"""Best-path decoding of logits that come piece by piece, to the same words as `greedy_decode` of the whole.

Shapes: T frames, N vocabulary.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechssl.ctc.scored import ScoredToken, ScoredWord, WordJoiner
from speechssl.text import Vocabulary


class GreedyStream:
    """Takes logits in order and gives words as they end. Holds one unfinished label and one unfinished word."""

    def __init__(self, vocabulary: Vocabulary, *, pause_frames: int | None = None) -> None:
        """`pause_frames` without a label end a word that has no separator behind it; None never ends one so, which
        is what `greedy_decode` does.
        """
        self._vocabulary = vocabulary
        self._pause_frames = pause_frames
        self._joiner = WordJoiner(vocabulary)
        self._label = vocabulary.blank
        self._label_start = 0
        self._label_sum = 0.0
        self.num_frames = 0
        """Frames taken so far."""
        self.log_probability = 0.0
        """Of the best path so far, in nats, summed over the frames."""

    @property
    def open_text(self) -> str:
        """The word that has begun and may go on; later logits lengthen it and change none of its letters."""
        return self._joiner.open_text

    def push(self, logits: Tensor) -> list[ScoredWord]:
        """Take `[T, N]`; the words that ended."""
        if not len(logits):
            return []
        best, labels = logits.float().log_softmax(dim=-1).max(dim=-1)
        self.log_probability += float(best.double().sum())
        return self._push_path(labels.cpu().numpy(), best.double().cpu().numpy())

    def _push_path(self, labels: NDArray[np.int64], best: NDArray[np.float64]) -> list[ScoredWord]:
        sums = np.concatenate([[0.0], np.cumsum(best)])
        edges = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
        words: list[ScoredWord] = []
        for start, stop in pairwise(edges):
            if int(labels[start]) != self._label or self.num_frames == 0:
                words += self._end_label(self.num_frames + start)
                self._label, self._label_start, self._label_sum = int(labels[start]), self.num_frames + start, 0.0
            self._label_sum += float(sums[stop] - sums[start])
            words += self._end_word_after_pause(self.num_frames + stop)
        self.num_frames += len(labels)
        return words

    def _end_label(self, frame: int) -> list[ScoredWord]:
        if self._label == self._vocabulary.blank or frame == self._label_start:
            return []
        mean = self._label_sum / (frame - self._label_start)
        token = ScoredToken(label=self._label, start_frame=self._label_start, end_frame=frame, log_posterior=mean)
        return self._joiner.push(token)

    def _end_word_after_pause(self, frame: int) -> list[ScoredWord]:
        last = self._joiner.end_frame
        if self._pause_frames is None or last is None or self._label != self._vocabulary.blank:
            return []
        return self._joiner.finish() if frame - last >= self._pause_frames else []

    def finish(self) -> list[ScoredWord]:
        """The words that the end of the recording ends."""
        words = self._end_label(self.num_frames)
        self._label, self._label_start = self._vocabulary.blank, self.num_frames
        return words + self._joiner.finish()
