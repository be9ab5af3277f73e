"""What a model says of a text: log probabilities of all words at once, perplexity, unknown words."""

from dataclasses import dataclass

import numpy as np

from speechssl.ctc.ngram.counts import BEGIN_ID, UNKNOWN_ID, Text
from speechssl.ctc.ngram.kneser_ney import Floats, NgramModel


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """Scores of a text. `perplexity` counts every word and sentence end, unknown words by the model's `<unk>`;
    `perplexity_known` leaves unknown words out. Perplexities compare only between models of the same words.
    """

    num_sentences: int
    num_words: int
    num_unknown: int
    log10: float
    perplexity: float
    perplexity_known: float

    @property
    def unknown_rate(self) -> float:
        """Share of the words that the model lacks."""
        return self.num_unknown / max(self.num_words, 1)


def score_words(model: NgramModel, text: Text) -> Floats:
    """log10 probability of every word of `text` after the words before it; 0 for `<s>`, f64 `[words]`."""
    size = len(model.vocabulary)
    numbers = text.words  # of the n-gram that ends at each place, -1 where the model lacks it
    log10 = model.orders[0].log10[numbers]
    backoff = model.orders[0].backoff[numbers]
    for order, held in enumerate(model.orders[1:], start=2):
        before = np.concatenate([[-1], numbers[:-1]])
        factor = np.concatenate([[0.0], backoff[:-1]])
        possible = (text.places >= order - 1) & (before >= 0)
        keys = held.prefix * size + held.word
        wanted = before * size + text.words
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        found = possible & (keys[place] == wanted) if len(keys) else np.zeros(len(possible), dtype=bool)
        log10 = np.where(found, held.log10[place] if len(keys) else 0.0, log10 + np.where(possible, factor, 0.0))
        numbers = np.where(found, place, -1)
        backoff = np.where(found, held.backoff[place] if len(keys) else 0.0, 0.0)
    return np.where(text.words == BEGIN_ID, 0.0, log10)


def score_text(model: NgramModel, text: Text) -> TextScore:
    """Sums over a text."""
    values = score_words(model, text)
    unknown = text.words == UNKNOWN_ID
    predicted, num_unknown = text.num_predicted, int(unknown.sum())
    total, known = float(values.sum()), float(values[~unknown].sum())
    return TextScore(
        num_sentences=text.num_sentences,
        num_words=predicted - text.num_sentences,
        num_unknown=num_unknown,
        log10=total,
        perplexity=float(10 ** (-total / max(predicted, 1))),
        perplexity_known=float(10 ** (-known / max(predicted - num_unknown, 1))),
    )
