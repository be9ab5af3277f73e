"""What was recognised: text, labels and words with their frames, scores, alternatives."""

from collections.abc import Sequence
from dataclasses import dataclass

from speechssl.text import Vocabulary


@dataclass(frozen=True, kw_only=True)
class TokenSpan:
    """One written label and the frames `start_frame <= t < end_frame` in which it stands on the path."""

    label: int
    start_frame: int
    end_frame: int


@dataclass(frozen=True, kw_only=True)
class WordSpan:
    """One word and the frames from its first character to its last: `start_frame <= t < end_frame`."""

    text: str
    start_frame: int
    end_frame: int


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What was recognised in one utterance. `text` is empty when every frame says blank: that is an answer too.

    `log_probability` is that of the path that was chosen, in nats, summed over the frames: the acoustic score. A beam
    search adds `lm_log10`, what its language model gives the whole text with the sentence's end (base 10, as such
    models are written; 0 without one), and `score`, the sum that it ranks by (see `BeamConfig`). Its other hypotheses,
    best first and each of another text, are the `alternatives`.
    """

    text: str
    tokens: tuple[TokenSpan, ...]
    words: tuple[WordSpan, ...]
    log_probability: float
    lm_log10: float = 0.0
    score: float | None = None
    alternatives: tuple["Hypothesis", ...] = ()


def merge_repeats(labels: Sequence[int], blank: int) -> tuple[TokenSpan, ...]:
    """The labels of a path, one a frame, with repeats merged and blanks removed."""
    spans = []
    start = 0
    for frame in range(1, len(labels) + 1):
        if frame == len(labels) or labels[frame] != labels[start]:
            if labels[start] != blank:
                spans.append(TokenSpan(label=labels[start], start_frame=start, end_frame=frame))
            start = frame
    return tuple(spans)


def words_of(tokens: Sequence[TokenSpan], vocabulary: Vocabulary) -> tuple[WordSpan, ...]:
    """Words as the vocabulary parts them: at separators, or before tokens that begin a word."""
    words: list[WordSpan] = []
    current: list[TokenSpan] = []

    def finish() -> None:
        text = vocabulary.decode([part.label for part in current])
        if text:
            words.append(WordSpan(text=text, start_frame=current[0].start_frame, end_frame=current[-1].end_frame))
        current.clear()

    for token in tokens:
        if token.label in vocabulary.special:
            continue
        if token.label == vocabulary.separator or vocabulary.begins_word(token.label):
            finish()
        if token.label != vocabulary.separator:
            current.append(token)
    finish()
    return tuple(words)
