"""Text normalisers by name, and the character vocabulary of a CTC model.

A transcript passes through `normalize` and then `Vocabulary.encode`; a sequence of label ids passes through
`Vocabulary.decode`. The same normaliser is applied to references and hypotheses when they are scored, and its name and
version are part of every result, since a word error rate means nothing without them.
"""

import importlib.metadata
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, get_args

from speechssl.errors import CheckpointError, ConfigError

NormalizerName = Literal["none", "lowercase", "letters", "basic", "english"]
"""`none`: only Unicode NFC and single spaces. `lowercase`: `none`, then lower case (for references that are already
clean, as LibriSpeech's). `letters`: lower case; letters, combining marks, digits and apostrophes inside a word are kept
and all else becomes a space. `basic` and `english`: the two normalisers of Whisper's evaluation."""

BLANK = "<blank>"
WORD_SEPARATOR = "|"
_OWN_VERSION = "1"  # raised when the output of `none`, `lowercase` or `letters` changes
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "＇": "'", "`": "'", "´": "'"})


def normalize(text: str, normalizer: NormalizerName) -> str:
    """`text` normalised by the named rule, words separated by single spaces; see `NormalizerName`.

    Raises:
        ConfigError: the name is not one of the normalisers.
    """
    _check_name(normalizer)
    return " ".join(_NORMALIZERS[normalizer](unicodedata.normalize("NFC", text)).split())


def normalizer_version(normalizer: NormalizerName) -> str:
    """Name and version of what defines the rule, as recorded in results: `whisper-normalizer 0.1.15`."""
    _check_name(normalizer)
    if normalizer in ("basic", "english"):
        return f"whisper-normalizer {importlib.metadata.version('whisper-normalizer')}"
    return f"speechssl rule {_OWN_VERSION}"


def _check_name(normalizer: str) -> None:
    names = get_args(NormalizerName)
    if normalizer not in names:
        raise ConfigError(f"normalizer: must be one of {', '.join(names)}, but is {normalizer!r}")


def _letters(text: str) -> str:
    text = text.translate(_APOSTROPHES).lower()
    kept = [character if unicodedata.category(character)[0] in "LMN" else " " for character in text]
    for index in range(1, len(text) - 1):
        if text[index] == "'" and kept[index - 1] != " " and unicodedata.category(text[index + 1])[0] in "LMN":
            kept[index] = "'"
    return "".join(kept)


@lru_cache(maxsize=1)
def _whisper_basic() -> Callable[[str], str]:
    from whisper_normalizer.basic import BasicTextNormalizer

    normalizer: Callable[[str], str] = BasicTextNormalizer()
    return normalizer


@lru_cache(maxsize=1)
def _whisper_english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    normalizer: Callable[[str], str] = EnglishTextNormalizer()
    return normalizer


_NORMALIZERS: Mapping[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "lowercase": str.lower,
    "letters": _letters,
    "basic": lambda text: _whisper_basic()(text),
    "english": lambda text: _whisper_english()(text),
}


@dataclass(frozen=True)
class Vocabulary:
    """The labels of a character model: `tokens[i]` is written for label id i.

    Token 0 is the CTC blank, token 1 the word separator `|` that stands for a space; the characters follow in sorted
    order. There is no unknown-token: a character that the vocabulary lacks cannot be learnt or written, so it is
    reported (`unknown_characters`) instead of being turned into something else.
    """

    tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.tokens[:2] != (BLANK, WORD_SEPARATOR):
            raise ConfigError(
                f"vocabulary: tokens must begin with {BLANK!r} and {WORD_SEPARATOR!r}, but begin with {self.tokens[:2]}"
            )
        if len(set(self.tokens)) != len(self.tokens):
            doubled = sorted(token for token, count in Counter(self.tokens).items() if count > 1)
            raise ConfigError(f"vocabulary: every token must occur once, but these occur more than once: {doubled}")
        wrong = [token for token in self.tokens[2:] if len(token) != 1 or token.isspace()]
        if wrong:
            raise ConfigError(f"vocabulary: every token after the first two must be one character, but found {wrong}")

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, min_count: int = 1) -> "Vocabulary":
        """All characters that occur at least `min_count` times in `texts` (which are already normalised).

        A literal `|` is left out, since it is the word separator: texts that hold one are reported like texts with
        any other unknown character.

        Raises:
            ConfigError: no character is left, so there is nothing to learn.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        characters = sorted(
            character
            for character, count in counts.items()
            if count >= min_count and not character.isspace() and character != WORD_SEPARATOR
        )
        if not characters:
            raise ConfigError(
                f"vocabulary: no character occurs at least {min_count} times in the texts; "
                "give transcripts in the training manifest or choose another normalizer"
            )
        return cls((BLANK, WORD_SEPARATOR, *characters))

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """Label id of every character, the space included; the blank and a literal `|` are not among them."""
        ids = {token: index for index, token in enumerate(self.tokens)}
        ids[" "] = ids.pop(WORD_SEPARATOR)
        del ids[BLANK]
        return ids

    def unknown_characters(self, text: str) -> Counter[str]:
        """The characters of `text` that have no label, with their counts."""
        return Counter(character for character in text if character not in self.ids)

    def encode(self, text: str, *, skip_unknown: bool = False) -> list[int]:
        """Label ids of a normalised text; a space becomes the word separator.

        Raises:
            ConfigError: a character is unknown, unless `skip_unknown` leaves it out.
        """
        ids = self.ids
        if not skip_unknown:
            unknown = self.unknown_characters(text)
            if unknown:
                raise ConfigError(
                    f"text {text!r}: the vocabulary has no label for {describe_characters(unknown)}; "
                    "choose a normalizer that removes them or build the vocabulary from texts that hold them"
                )
        return [ids[character] for character in text if character in ids]

    def decode(self, label_ids: Sequence[int]) -> str:
        """The text of label ids from which blanks and repeats are already removed; blanks are ignored."""
        characters = (" " if label == 1 else self.tokens[label] for label in label_ids if label != 0)
        return " ".join("".join(characters).split())

    def save(self, path: Path) -> None:
        """Write `vocab.json`: an object from token to label id, the layout that Hugging Face tokenizers read."""
        content = {token: index for index, token in enumerate(self.tokens)}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, is no JSON, or its ids are not 0..N-1.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            by_id = {int(index): str(token) for token, index in content.items()}
            tokens = tuple(by_id[index] for index in range(len(content)))
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such vocabulary; give a fine-tuned model directory") from error
        except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{path}: is not a vocabulary (a JSON object from token to ids 0..N-1): {error}"
            ) from error
        try:
            return cls(tokens)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from error


def describe_characters(counts: Mapping[str, int], *, limit: int = 20) -> str:
    """Characters with counts for a message, most frequent first: `'é' (U+00E9) x3, '3' x1`."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(
        f"{character!r}{'' if character.isascii() else f' (U+{ord(character):04X})'} x{count}"
        for character, count in ordered[:limit]
    )
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"
