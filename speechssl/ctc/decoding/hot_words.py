"""Hot words: phrases that the search favours, as a layer over its language model.

Every word of a phrase adds the boost when it is recognised; where the phrase then goes on otherwise, or the utterance
ends inside it, what it had added is taken back. So part of a phrase gains nothing in the end, but is kept in the beam.
In the free search a label adds its share of the phrase's boost, and phrases begin and end at word boundaries.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from speechssl.ctc.decoding.flashlight import flashlight
from speechssl.errors import ConfigError
from speechssl.text import Vocabulary, describe_characters


@dataclass(frozen=True)
class Phrase:
    """A hot phrase in the search's symbols."""

    symbols: tuple[int, ...]
    num_words: int


@dataclass(frozen=True)
class Match:
    """How far a phrase has been said: its first symbols, and whether the next symbol begins a word."""

    said: tuple[int, ...] = ()
    begins_word: bool = True


def hot_symbols(
    phrases: Iterable[str], symbols: Sequence[str], vocabulary: Vocabulary, *, over_words: bool
) -> list[Phrase]:
    """The phrases as word symbols, or as labels with the separator at the end.

    Raises:
        ConfigError: the vocabulary cannot write one of them.
    """
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    found = []
    for phrase in phrases:
        words = phrase.split()
        if over_words:
            coded = [numbers[word] for word in words]  # the lexicon was given all of them
        else:
            lacking = vocabulary.unknown_characters(" ".join(words))
            if lacking:
                raise ConfigError(
                    f"hot_words: {phrase!r} cannot be written, the vocabulary lacks {describe_characters(lacking)}; "
                    "write it as the model's texts are normalised"
                )
            coded = vocabulary.encode(" ".join(words))
            coded += [] if vocabulary.separator is None else [vocabulary.separator]
        found.append(Phrase(tuple(coded), len(words)))
    return found


class HotWords:
    """The boosts of phrases over a language model.

    Args:
        base: flashlight's language model.
        phrases: what is favoured.
        weight: factor on what `base` says.
        boost: of every word of a phrase.
        separator: label that ends words where symbols are labels; None where every symbol is a word.
    """

    def __init__(
        self, base: Any, phrases: Sequence[Phrase], *, weight: float, boost: float, separator: int | None
    ) -> None:
        self._base, self._weight, self._separator = base, weight, separator
        self._held: dict[tuple[int, ...], float] = {(): 0.0}  # what a beginning of a phrase has added so far
        self._kept: dict[tuple[int, ...], float] = {(): 0.0}  # what stays of it when the phrase goes on otherwise
        for phrase in phrases:
            total = boost * phrase.num_words
            for length in range(1, len(phrase.symbols) + 1):
                said = phrase.symbols[:length]
                self._held[said] = max(self._held.get(said, 0.0), total * length / len(phrase.symbols))
                self._kept.setdefault(said, 0.0)
            self._kept[phrase.symbols] = total
        # A phrase that another one begins with stays when that other one is not completed.
        for said in sorted(self._kept, key=len):
            if said:
                self._kept[said] = max(self._kept[said], self._kept[said[:-1]])

    def step(self, match: Match, symbol: int) -> tuple[Match, float]:
        """The next match, and what the symbol adds."""
        begins_word = self._separator is None or symbol == self._separator
        said, held = match.said, self._held[match.said]
        longer = (*said, symbol)
        if longer in self._held and (said or match.begins_word):
            return Match(longer, begins_word), self._held[longer] - held
        kept = self._kept[said]
        starts = self._starts(longer, match.begins_word, after_phrase=kept > 0)
        again = next((longer[start:] for start in starts if longer[start:] in self._held), ())
        return Match(again, begins_word), kept - held + self._held[again]

    def finish(self, match: Match) -> float:
        """What the end of the utterance adds: it ends a word too."""
        closed = (*match.said, self._separator) if self._separator is not None else match.said
        kept = max(self._kept.get(closed, 0.0) if match.said else 0.0, self._kept[match.said])  # type: ignore[arg-type]
        return kept - self._held[match.said]

    def _starts(self, symbols: tuple[int, ...], last_begins: bool, *, after_phrase: bool) -> list[int]:
        """Where in `symbols` another phrase may begin, after its first."""
        last = len(symbols) - 1
        if after_phrase:  # its words are counted
            return [last] if last_begins else []
        if self._separator is None:
            return list(range(1, last + 1)) or [0]
        return [i for i in range(1, last + 1) if symbols[i - 1] == self._separator]

    def language_model(self) -> Any:
        """The two as one language model for flashlight."""
        decoder, hot = flashlight(), self

        class Boosted(decoder.LM):  # type: ignore[misc, name-defined]
            """Keeps, for every state that it handed out, the state of the base and the match."""

            def __init__(self) -> None:
                decoder.LM.__init__(self)
                self._states: dict[Any, tuple[Any, Match, float]] = {}

            def start(self, start_with_nothing: bool) -> Any:
                state = decoder.LMState()
                self._states = {state: (hot._base.start(start_with_nothing), Match(), 0.0)}
                return state

            def score(self, state: Any, symbol: int) -> tuple[Any, float]:
                child = state.child(symbol)
                known = self._states.get(child)
                if known is None:
                    base, match, _ = self._states[state]
                    base, value = hot._base.score(base, symbol)
                    match, boost = hot.step(match, symbol)
                    known = self._states[child] = (base, match, hot._weight * value + boost)
                return child, known[2]

            def finish(self, state: Any) -> tuple[Any, float]:
                base, match, _ = self._states[state]
                value = hot._base.finish(base)[1]
                return state.child(-1), hot._weight * value + hot.finish(match)

        return Boosted()
