"""Decoding of logits that come piece by piece: best paths, the same as of the whole, and any decoder between pauses.

Shapes: T frames, N vocabulary.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.ctc.decoding import Hypothesis, greedy_decode
from speechssl.ctc.scored import ScoredToken, ScoredWord, WordJoiner, score_words
from speechssl.text import Vocabulary

Decode = Callable[[Tensor, Tensor], list[Hypothesis]]


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


class SegmentStream:
    """Any decoder over logits that come piece by piece: what lies between pauses is decoded as one utterance.

    Words come when their segment ends, at a pause or at `max_frames`; `open_text` is the best path of the open segment,
    which the decoder may still change. Holds the logits of one segment.
    """

    def __init__(self, decode: Decode, vocabulary: Vocabulary, *, pause_frames: int, max_frames: int) -> None:
        """`decode` takes `[B, T, N]` and `[B]`, like `greedy_decode`."""
        self._decode = decode
        self._vocabulary = vocabulary
        self._pause_frames, self._max_frames = pause_frames, max_frames
        self._open: list[Tensor] = []  # frames from number `_start` on, one tensor each
        self._start = 0
        self._last_label: int | None = None  # the last frame of the segment that is no blank
        self.num_frames = 0
        """Frames taken so far."""
        self.log_probability = 0.0
        """Of the best path so far, in nats, summed over the frames."""

    @property
    def open_text(self) -> str:
        """The best path of the open segment."""
        if not self._open:
            return ""
        logits = torch.stack(self._open)
        return greedy_decode(logits[None], torch.tensor([len(logits)]), self._vocabulary)[0].text

    def push(self, logits: Tensor) -> list[ScoredWord]:
        """Take `[T, N]`; the words of the segments that ended."""
        if not len(logits):
            return []
        best, labels = logits.float().log_softmax(dim=-1).max(dim=-1)
        self.log_probability += float(best.double().sum())
        words: list[ScoredWord] = []
        for frame, label in zip(logits, labels.tolist(), strict=True):
            self._open.append(frame)
            self.num_frames += 1
            if label != self._vocabulary.blank:
                self._last_label = self.num_frames
            since = self.num_frames - (self._start if self._last_label is None else self._last_label)
            if since >= self._pause_frames or len(self._open) >= self._max_frames:
                words += self.finish()
        return words

    def finish(self) -> list[ScoredWord]:
        """The words of the open segment, which ends."""
        segment, start, silent = self._open, self._start, self._last_label is None
        self._open, self._start, self._last_label = [], self.num_frames, None
        if silent:
            return []
        logits = torch.stack(segment)
        hypothesis = self._decode(logits[None], torch.tensor([len(logits)]))[0]
        words = score_words(logits.float().log_softmax(dim=-1), hypothesis, separator=self._vocabulary.separator)
        return [replace(word, tokens=tuple(_later(token, start) for token in word.tokens)) for word in words]


def _later(token: ScoredToken, frames: int) -> ScoredToken:
    return replace(token, start_frame=token.start_frame + frames, end_frame=token.end_frame + frames)
