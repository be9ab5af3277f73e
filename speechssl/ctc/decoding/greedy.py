"""Best-path decoding."""

from torch import Tensor

from speechssl.ctc.decoding.hypothesis import Hypothesis, merge_repeats, words_of
from speechssl.text import Vocabulary


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
        tokens = merge_repeats(labels[row, :length].tolist(), vocabulary.blank)
        hypotheses.append(
            Hypothesis(
                text=vocabulary.decode([token.label for token in tokens]),
                tokens=tokens,
                words=words_of(tokens, vocabulary),
                log_probability=float(best[row, :length].double().sum()),
            )
        )
    return hypotheses
