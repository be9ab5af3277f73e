"""Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998, section 3), as KenLM's lmplz computes it
(Heafield et al. 2013, section 3).

Of the highest order occurrences are counted; below it an n-gram counts once for each different word before it, unless
it begins a sentence. From the count a, D(a) is taken away and given to the order below:

    p(w | h) = (a(hw) - D(a(hw))) / sum a(h.) + gamma(h) p(w | h'),   D one of D1, D2, D3+ of the order

Unigrams share with the uniform distribution over all words, `<unk>` and `</s>`. Pruned n-grams (fewer occurrences than
the order's minimum) give their whole count to gamma.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.ctc.ngram.counts import BEGIN_ID, Ints, Order

Floats = npt.NDArray[np.float64]
Discounts = tuple[float, float, float]

FALLBACK_DISCOUNTS: Discounts = (0.5, 1.0, 1.5)
"""Taken where a text is too small to estimate them, as by lmplz's --discount_fallback."""
NO_PROBABILITY = -99.0


@dataclass(frozen=True)
class ModelOrder:
    """The n-grams of one order that a model holds, sorted by `prefix` and then `word`, which number as in `Order`.

    `log10` is the log probability of the word after the prefix, `backoff` log10 of the factor for words that follow
    the n-gram nowhere (none in the highest order).
    """

    prefix: Ints
    word: Ints
    log10: Floats
    backoff: Floats


@dataclass(frozen=True)
class NgramModel:
    """A back-off model; `discounts` of every order, `estimated` whether they come from the text."""

    vocabulary: tuple[str, ...]
    orders: tuple[ModelOrder, ...]
    discounts: tuple[Discounts, ...]
    estimated: tuple[bool, ...]


def train_model(orders: Sequence[Order], vocabulary: Sequence[str], *, min_counts: Sequence[int] = ()) -> NgramModel:
    """Smooth the counts of all orders.

    Args:
        orders: of `count_ngrams`.
        vocabulary: the words.
        min_counts: occurrences that n-grams need to stay, for order 1 (must be 1), 2 and so on, never falling; orders
            beyond the list have its last. Empty keeps all.
    """
    minima = [*min_counts, *[min_counts[-1] if min_counts else 1] * len(orders)][: len(orders)]
    adjusted = _adjusted_counts(orders)
    made: list[ModelOrder] = []
    discounts, estimated = [], []
    renumber = np.arange(len(orders[0].word))  # numbers of the order below, after pruning
    below = np.full(len(vocabulary), 1 / (len(vocabulary) - 1))  # uniform: <s> is never predicted
    for number, (order, counts, minimum) in enumerate(zip(orders, adjusted, minima, strict=True)):
        values, is_estimated = _discounts(counts)
        discounts.append(values)
        estimated.append(is_estimated)
        keep = (order.count >= minimum) if number else np.ones(len(counts), dtype=bool)
        taken = np.array([0.0, *values])[np.minimum(counts, 3)]
        num_contexts = len(orders[number - 1].word) if number else 1
        total = np.bincount(order.prefix, weights=counts, minlength=num_contexts)
        with np.errstate(divide="ignore", invalid="ignore"):
            given = np.bincount(order.prefix, weights=np.where(keep, taken, counts), minlength=num_contexts) / total
        probability = (counts - taken)[keep] / total[order.prefix[keep]]
        lower = below[order.suffix[keep]] if number else below
        probability = probability + given[order.prefix[keep]] * lower
        if number:
            contexts = np.flatnonzero(renumber >= 0)
            factor = np.where(total[contexts] > 0, given[contexts], 1.0)
            made[-1].backoff[:] = np.log10(factor)
        else:
            probability[BEGIN_ID] = 10**NO_PROBABILITY
        made.append(
            ModelOrder(
                renumber[order.prefix[keep]] if number else order.prefix,
                order.word[keep],
                np.log10(probability),
                np.zeros(int(keep.sum())),
            )
        )
        below = np.full(len(keep), np.nan)
        below[keep] = probability
        renumber = np.where(keep, np.cumsum(keep) - 1, -1)
    return NgramModel(tuple(vocabulary), tuple(made), tuple(discounts), tuple(estimated))


def _adjusted_counts(orders: Sequence[Order]) -> list[Ints]:
    """Counts to smooth: of `Order.count` in the highest order, below of different words before the n-gram."""
    adjusted = []
    begins = np.arange(len(orders[0].word)) == BEGIN_ID
    for number, order in enumerate(orders):
        if number:
            begins = begins[order.prefix]
        if number == len(orders) - 1:
            counts = order.count.copy()
        else:
            different = np.bincount(orders[number + 1].suffix, minlength=len(order.word))
            counts = np.where(begins, order.count, different)
        if number == 0:
            counts[BEGIN_ID] = 0
        adjusted.append(counts)
    return adjusted


def _discounts(counts: Ints) -> tuple[Discounts, bool]:
    """D1, D2, D3+ as Chen and Goodman estimate them, and whether the counts allowed that."""
    seen = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)  # n-grams seen once, .., four times
    if (seen[:3] == 0).any():
        return FALLBACK_DISCOUNTS, False
    share = seen[0] / (seen[0] + 2 * seen[1])
    values = [k - (k + 1) * share * seen[k] / seen[k - 1] for k in (1, 2, 3)]
    if any(not 0 <= value <= k for k, value in enumerate(values, start=1)):
        return FALLBACK_DISCOUNTS, False
    return (values[0], values[1], values[2]), True
