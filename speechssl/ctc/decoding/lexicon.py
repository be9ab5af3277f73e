"""The words that a search may write, and their spellings in labels."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.errors import ConfigError
from speechssl.text import Vocabulary, describe_characters
from speechssl.text.pronunciations import strip_variant

logger = logging.getLogger(__name__)

Spellings = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Words with their spellings: label ids, without a word separator at the end.

    `left_out` are words that the vocabulary cannot spell, `lacking` what it lacks for them (counts).
    """

    spellings: Mapping[str, Spellings]
    left_out: tuple[str, ...] = ()
    lacking: Mapping[str, int]

    def with_words(self, words: Iterable[str], vocabulary: Vocabulary) -> "Lexicon":
        """This lexicon and the `words` that it lacks.

        Raises:
            ConfigError: one of them cannot be spelled.
        """
        added = spell_words([word for word in words if word not in self.spellings], vocabulary)
        if added.left_out:
            raise ConfigError(
                f"hot_words: {added.left_out[0]!r} cannot be written, the vocabulary lacks"
                f" {describe_characters(added.lacking)}; write it as the model's texts are normalised"
            )
        return Lexicon(
            spellings={**self.spellings, **added.spellings}, left_out=self.left_out, lacking=dict(self.lacking)
        )


def read_lexicon(path: Path, vocabulary: Vocabulary) -> Lexicon:
    """Read `word` or `word label label ...` lines, as Kaldi, flashlight and the CMU dictionary write them.

    A word may stand on several lines, one for each spelling; the CMU dictionary's `word(2)` is `word` again, and its
    comments (`;;;`, and what follows ` #`) are skipped. A separator at the end of a spelling is left off.

    Raises:
        ConfigError: the file cannot be read or holds no word that the vocabulary can spell.
    """
    entries: list[tuple[str, Sequence[str] | None]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                fields = line.partition(" #")[0].split()
                if fields and not fields[0].startswith(";;;"):
                    entries.append((strip_variant(fields[0]), fields[1:] or None))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a lexicon: {error}; give a text file, one word a line") from error
    return _checked(_spell(entries, vocabulary), source=str(path))


def lexicon_of_words(words: Iterable[str], vocabulary: Vocabulary, *, source: str) -> Lexicon:
    """A lexicon of `words` that the vocabulary spells; `source` begins the messages.

    Raises:
        ConfigError: it can spell none of them.
    """
    return _checked(spell_words(words, vocabulary), source=source)


def spell_words(words: Iterable[str], vocabulary: Vocabulary) -> Lexicon:
    """The words as the vocabulary spells them, and those that it cannot."""
    return _spell([(word, None) for word in words], vocabulary)


def _spell(entries: Iterable[tuple[str, Sequence[str] | None]], vocabulary: Vocabulary) -> Lexicon:
    labels = {token: index for index, token in enumerate(vocabulary.tokens) if index != vocabulary.blank}
    spellings: dict[str, dict[tuple[int, ...], None]] = {}
    left_out: list[str] = []
    lacking: Counter[str] = Counter()
    for word, tokens in entries:
        if tokens is None:
            missing, found = vocabulary.unknown_characters(word), vocabulary.spellings(word)
        else:
            missing = Counter(token for token in tokens if token not in labels)
            found = (tuple(labels[token] for token in tokens if token in labels),)
        plain = {tuple(label for label in spelling if label != vocabulary.separator): None for spelling in found}
        plain.pop((), None)
        if missing or not plain:
            left_out.append(word)
            lacking.update(missing)
        else:
            spellings.setdefault(word, {}).update(plain)
    return Lexicon(
        spellings={word: tuple(found) for word, found in spellings.items()}, left_out=tuple(left_out), lacking=lacking
    )


def _checked(lexicon: Lexicon, *, source: str) -> Lexicon:
    if not lexicon.spellings:
        what = describe_characters(lexicon.lacking) if lexicon.lacking else "anything to write"
        raise ConfigError(
            f"{source}: the recogniser can spell none of {len(lexicon.left_out)} words, the vocabulary lacks {what};"
            " make the language model or lexicon from texts that are normalised as the recogniser's were"
        )
    if lexicon.left_out:
        logger.warning(
            "%s: %d of %d words are left out, the recogniser cannot write them (the first is %r; it lacks %s)",
            source,
            len(lexicon.left_out),
            len(lexicon.left_out) + len(lexicon.spellings),
            lexicon.left_out[0],
            describe_characters(lexicon.lacking, limit=5),
        )
    return lexicon
