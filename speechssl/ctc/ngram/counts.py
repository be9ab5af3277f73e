"""N-grams of a text and their counts, as arrays.

An n-gram is a pair: the (n-1)-gram of its first words, by number, and its last word. So an order is one sorted array of
64-bit keys whatever its length, and counting is sorting: a few million words take seconds and some 100 bytes a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.ctc.ngram.arpa import BEGIN, END, UNKNOWN
from speechssl.errors import ConfigError

Ints = npt.NDArray[np.int64]

UNKNOWN_ID, BEGIN_ID, END_ID = 0, 1, 2


@dataclass(frozen=True)
class Text:
    """Sentences as numbers: `words` i64 holds `<s> w1 .. wn </s>` of each in turn, `places` each word's place in its
    sentence, from 0 for `<s>`.
    """

    words: Ints
    places: Ints

    @property
    def num_sentences(self) -> int:
        """Sentences."""
        return int((self.places == 0).sum())

    @property
    def num_predicted(self) -> int:
        """Words that a model predicts: all, and every sentence's end."""
        return len(self.words) - self.num_sentences


@dataclass(frozen=True)
class Order:
    """All n-grams of one order, in the order of their keys.

    `prefix` and `suffix` are the numbers of the n-gram without its last and without its first word among those of the
    order below; `word` is the last word, `count` how often the n-gram occurs.
    """

    prefix: Ints
    word: Ints
    suffix: Ints
    count: Ints


def build_vocabulary(sentences: pa.ListArray, *, min_count: int = 1) -> tuple[str, ...]:
    """`<unk>`, `<s>`, `</s>` and the words that occur at least `min_count` times, most frequent first.

    Raises:
        ConfigError: the text holds a reserved word, or no word is left.
    """
    counted = pc.value_counts(sentences.flatten())
    counts = dict(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    reserved = [word for word in (BEGIN, END) if word in counts]
    if reserved:
        raise ConfigError(f"the text holds the word {reserved[0]!r}, which language models reserve; remove it")
    counts.pop(UNKNOWN, None)
    words = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    if not words:
        raise ConfigError(f"no word of the text occurs at least {min_count} times, so there is nothing to learn")
    return (UNKNOWN, BEGIN, END, *words)


def number_text(sentences: pa.ListArray, vocabulary: Sequence[str]) -> Text:
    """Sentences (lists of words) as numbers; a word that the vocabulary lacks is `<unk>`."""
    found = pc.index_in(sentences.flatten(), pa.array(vocabulary, pa.string()))
    inner = found.fill_null(UNKNOWN_ID).to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = sentences.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64) + 2
    ends = np.cumsum(lengths)
    places = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    words = np.full(len(places), -1, dtype=np.int64)
    words[ends - lengths], words[ends - 1] = BEGIN_ID, END_ID
    words[words < 0] = inner
    return Text(words, places)


def count_ngrams(text: Text, *, order: int, vocabulary_size: int) -> list[Order]:
    """The n-grams of the orders 1 to `order`; those of order 1 are the whole vocabulary, with counts of 0 too."""
    unigrams = np.arange(vocabulary_size)
    nothing = np.zeros(vocabulary_size, dtype=np.int64)
    orders = [Order(nothing, unigrams, nothing, np.bincount(text.words, minlength=vocabulary_size))]
    numbers = text.words  # of the n-gram that ends at each place of the text, where there is one
    for length in range(2, order + 1):
        ends = np.flatnonzero(text.places >= length - 1)
        keys = numbers[ends - 1] * vocabulary_size + text.words[ends]
        unique, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        orders.append(Order(unique // vocabulary_size, unique % vocabulary_size, numbers[ends[first]], counts))
        numbers = np.full(len(text.words), -1, dtype=np.int64)
        numbers[ends] = inverse
    return orders
