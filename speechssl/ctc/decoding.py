"""From CTC logits to text: the best path, with the frames of every character and word."""

from dataclasses import dataclass

from torch import Tensor

from speechssl.text import Vocabulary


@dataclass(frozen=True, kw_only=True)
class TokenSpan:
    """One written label and the frames `start_frame <= t < end_frame` in which it was the best."""

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

    `log_probability` is that of the best path, in nats, summed over the frames.
    """

    text: str
    tokens: tuple[TokenSpan, ...]
    words: tuple[WordSpan, ...]
    log_probability: float


def greedy_decode(logits: Tensor, num_frames: Tensor, vocabulary: Vocabulary) -> list[Hypothesis]:
    """Best-path decoding: the best label of every frame, repeats merged, blanks removed (Graves et al. 2006, 3.2).

    Args:
        logits: `[B, T, N]`; what lies beyond `num_frames` is ignored.
        num_frames: i64 `[B]`.
        vocabulary: N tokens.
    """
    best, labels = logits.float().log_softmax(dim=-1).max(dim=-1)  # [B, T] each
    best, labels = best.cpu(), labels.cpu()
    hypotheses = []
    for row, length in enumerate(num_frames.tolist()):
        tokens = _merge_repeats(labels[row, :length].tolist(), vocabulary.blank)
        hypotheses.append(
            Hypothesis(
                text=vocabulary.decode([token.label for token in tokens]),
                tokens=tokens,
                words=_words(tokens, vocabulary),
                log_probability=float(best[row, :length].double().sum()),
            )
        )
    return hypotheses


def _merge_repeats(labels: list[int], blank: int) -> tuple[TokenSpan, ...]:
    spans = []
    start = 0
    for frame in range(1, len(labels) + 1):
        if frame == len(labels) or labels[frame] != labels[start]:
            if labels[start] != blank:
                spans.append(TokenSpan(label=labels[start], start_frame=start, end_frame=frame))
            start = frame
    return tuple(spans)


def _words(tokens: tuple[TokenSpan, ...], vocabulary: Vocabulary) -> tuple[WordSpan, ...]:
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
