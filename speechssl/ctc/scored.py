"""Labels and words with frames and scores, and how labels are joined into words.

Shapes: T frames, N vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from speechssl.ctc.decoding import Hypothesis, TokenSpan
from speechssl.text import Vocabulary


@dataclass(frozen=True, kw_only=True)
class ScoredToken:
    """One written label, its frames `start_frame <= t < end_frame`, and the mean over them of its log posterior."""

    label: int
    start_frame: int
    end_frame: int
    log_posterior: float


@dataclass(frozen=True, kw_only=True)
class ScoredWord:
    """One word, from its first label to its last."""

    text: str
    tokens: tuple[ScoredToken, ...]

    @property
    def start_frame(self) -> int:
        """The first frame."""
        return self.tokens[0].start_frame

    @property
    def end_frame(self) -> int:
        """The frame behind the last."""
        return self.tokens[-1].end_frame

    @property
    def score(self) -> float:
        """Raw confidence between 0 and 1: the geometric mean over the labels of their posteriors.

        Long words are not doubted for their length, and the blanks between labels, where a network is nearly always
        sure of itself, do not count.
        """
        return math.exp(sum(token.log_posterior for token in self.tokens) / len(self.tokens))


class WordJoiner:
    """Takes labels in order and gives each word when the next begins."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._current: list[ScoredToken] = []

    @property
    def open_text(self) -> str:
        """The word that has begun and may go on."""
        return self._vocabulary.decode([token.label for token in self._current])

    @property
    def end_frame(self) -> int | None:
        """The frame behind the word that has begun; None where none has."""
        return self._current[-1].end_frame if self._current else None

    def push(self, token: ScoredToken) -> list[ScoredWord]:
        """The word that `token` ends, if any; as `greedy_decode` divides words."""
        vocabulary = self._vocabulary
        if token.label in vocabulary.special:
            return []
        done = []
        if token.label == vocabulary.separator or vocabulary.begins_word(token.label):
            done = self.finish()
        if token.label != vocabulary.separator:
            self._current.append(token)
        return done

    def finish(self) -> list[ScoredWord]:
        """The word that has begun, if any."""
        text = self.open_text
        tokens = tuple(self._current)
        self._current = []
        return [ScoredWord(text=text, tokens=tokens)] if text else []


def score_tokens(log_probabilities: Tensor, tokens: Sequence[TokenSpan]) -> list[ScoredToken]:
    """Labels with frames -> labels with frames and scores; log_probabilities `[T, N]`."""
    return [
        ScoredToken(
            label=token.label,
            start_frame=token.start_frame,
            end_frame=token.end_frame,
            log_posterior=float(log_probabilities[token.start_frame : token.end_frame, token.label].mean()),
        )
        for token in tokens
    ]


def score_words(log_probabilities: Tensor, hypothesis: Hypothesis, *, separator: int | None) -> list[ScoredWord]:
    """The words of a hypothesis with their labels and scores; log_probabilities `[T, N]`.

    A search with a lexicon divides and spells words itself, so its words are taken as they are.
    """
    tokens = [token for token in score_tokens(log_probabilities, hypothesis.tokens) if token.label != separator]
    return [
        ScoredWord(
            text=word.text,
            tokens=tuple(t for t in tokens if word.start_frame <= t.start_frame and t.end_frame <= word.end_frame),
        )
        for word in hypothesis.words
    ]
