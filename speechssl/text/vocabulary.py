"""The labels of a CTC model, and how texts become labels and labels texts."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from speechssl.errors import CheckpointError, ConfigError
from speechssl.files import write_text
from speechssl.text.policy import CASES, Case, TextPolicy
from speechssl.text.pronunciations import Pronunciations, read_pronunciations, write_pronunciations
from speechssl.text.units import PieceModel

BLANK = "<blank>"
WORD_SEPARATOR = "|"
PIECES_FILE = "sentencepiece.model"
LEXICON_FILE = "lexicon.txt"

Segmentation = Literal["longest", "sentencepiece", "lexicon"]
_LATER = {"segmentation", "policy"}  # facts that are told only where they are not the standard
_OWN_FILES = ("pieces", "pronunciations")  # fields with a file beside vocab.json


@dataclass(frozen=True)
class Vocabulary:
    """The labels of a CTC model: `tokens[i]` stands for label id i, in the model's own order.

    Our own vocabularies (`from_texts`) hold the blank, the word separator `|` and then characters in sorted order; the
    other fields describe those of other tools. There is no unknown-token: what the vocabulary lacks cannot be learnt
    or written, so it is reported (`unknown_characters`) instead of being turned into something else.

    Attributes:
        tokens: text of every label, each different.
        blank: label id of the CTC blank.
        separator: label id that is written as a space; None where no label is.
        special: label ids that are never written (`<s>`, `</s>`, `<unk>`, `<pad>`).
        word_prefix: what begins the tokens that begin a word, `\u2581` of sentencepiece; None where none has it.
        joiner: what is written between tokens: nothing, or a space between phonemes.
        encode_case: the case into which texts are brought before they are encoded.
        decode_case: the case in which texts are written.
        segmentation: how texts are cut: into the longest labels that fit, by the sentencepiece model `pieces`, or
            into the phonemes that `pronunciations` has for each word (the first of a word's).
        policy: what is done to texts before, beyond the normaliser; None does nothing.
        pieces: a sentencepiece model whose piece i is label i, and whose unknown piece is the blank.
        pronunciations: of words, in tokens.
    """

    tokens: tuple[str, ...]
    blank: int = 0
    separator: int | None = 1
    special: tuple[int, ...] = ()
    word_prefix: str | None = None
    joiner: Literal["", " "] = ""
    encode_case: Case = "keep"
    decode_case: Case = "keep"
    segmentation: Segmentation = "longest"
    policy: TextPolicy | None = None
    pieces: bytes | None = field(default=None, repr=False)
    pronunciations: Pronunciations | None = field(default=None, repr=False, hash=False)

    def __post_init__(self) -> None:
        if len(set(self.tokens)) != len(self.tokens):
            doubled = sorted(token for token, count in Counter(self.tokens).items() if count > 1)
            raise ConfigError(f"vocabulary: every token must occur once, but these occur more than once: {doubled}")
        for name, label in (
            ("blank", self.blank),
            ("separator", self.separator),
            *(("special", i) for i in self.special),
        ):
            if label is not None and not 0 <= label < len(self.tokens):
                raise ConfigError(f"vocabulary: {name} must be a label id below {len(self.tokens)}, but is {label}")
        if self.separator == self.blank:
            raise ConfigError(f"vocabulary: blank and separator must differ, but both are {self.blank}")
        silent = {self.blank, self.separator, *self.special}
        wrong = [token for i, token in enumerate(self.tokens) if i not in silent and not token.strip()]
        if wrong:
            raise ConfigError(f"vocabulary: a token that is written must not be empty or a space, but found {wrong}")
        for name, holder in (("sentencepiece", self.pieces), ("lexicon", self.pronunciations)):
            if (self.segmentation == name) != (holder is not None):
                raise ConfigError(f"vocabulary: segmentation is {self.segmentation}, which does not fit its files")
        for name in ("encode_case", "decode_case"):
            if getattr(self, name) not in get_args(Case):
                raise ConfigError(f"vocabulary: {name} must be one of {', '.join(get_args(Case))}")

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
        """Label id of everything that is written, the space included; blank, special tokens and a literal separator
        are not among them.
        """
        silent = {self.blank, self.separator, *self.special}
        ids = {token: index for index, token in enumerate(self.tokens) if index not in silent}
        if self.separator is not None:
            ids[" "] = self.separator
        return ids

    @cached_property
    def _longest(self) -> int:
        """Characters of the longest token that is written."""
        return max(map(len, self.ids), default=1)

    def prepare(self, text: str) -> str:
        """`text` as it is cut into labels: after the policy, in the case of the labels."""
        return CASES[self.encode_case](text if self.policy is None else self.policy.apply(text))

    def written(self, text: str) -> str:
        """`text` as a model without errors would write it: after the policy, and as phonemes where it writes those.
        What has no label stays, and so counts as an error.
        """
        if self.pronunciations is None:
            return self._composed(self.in_written_case(self.prepare(text)))
        words = self.prepare(text).split()
        return " ".join(
            " ".join(self.pronunciations[word][0]) if word in self.pronunciations else word for word in words
        )

    def unknown_characters(self, text: str) -> Counter[str]:
        """What of `text` has no label, with counts: characters; where phonemes are written, words that the
        pronunciations lack, or phonemes where there are none.
        """
        return self._split(text)[1]

    def encode(self, text: str, *, skip_unknown: bool = False) -> list[int]:
        """Label ids of a normalised text; a space becomes the word separator.

        Where tokens have several characters the longest that fits is taken, from left to right, unless a
        sentencepiece model or pronunciations say otherwise.

        Raises:
            ConfigError: a character is unknown, unless `skip_unknown` leaves it out.
        """
        labels, unknown = self._split(text)
        if unknown and not skip_unknown:
            raise ConfigError(
                f"text {text!r}: the vocabulary has no label for {describe_characters(unknown)}; "
                "choose a normalizer that removes them or build the vocabulary from texts that hold them"
            )
        return labels

    def _split(self, text: str) -> tuple[list[int], Counter[str]]:
        """Label ids, and what has none."""
        ids, longest = self.ids, self._longest
        text = self.prepare(text)
        if self._piece_model is not None:
            return self._piece_model.encode(text)
        if self.pronunciations is not None:
            return self._pronounce(text)
        if self.joiner:
            units = text.split(self.joiner)
            return [ids[unit] for unit in units if unit in ids], Counter(u for u in units if u and u not in ids)
        if self.word_prefix is not None and text:
            text = self.word_prefix + text.replace(" ", self.word_prefix)
        if longest == 1:
            return [ids[c] for c in text if c in ids], Counter(c for c in text if c not in ids)
        labels: list[int] = []
        unknown: Counter[str] = Counter()
        start = 0
        while start < len(text):
            unit = next((text[start:end] for end in range(start + longest, start, -1) if text[start:end] in ids), None)
            if unit is None:
                unknown[text[start]] += 1
                start += 1
            else:
                labels.append(ids[unit])
                start += len(unit)
        return labels, unknown

    @cached_property
    def _piece_model(self) -> PieceModel | None:
        return None if self.pieces is None else PieceModel(self.pieces)

    def _pronounce(self, text: str) -> tuple[list[int], Counter[str]]:
        """The first pronunciation of every word, separators between, and the words without one."""
        assert self.pronunciations is not None
        labels: list[int] = []
        unknown: Counter[str] = Counter()
        for word in text.split():
            if word not in self.pronunciations:
                unknown[word] += 1
                continue
            if labels and self.separator is not None:
                labels.append(self.separator)
            labels += [self.ids[phoneme] for phoneme in self.pronunciations[word][0]]
        return labels, unknown

    def _composed(self, text: str) -> str:
        """Marks joined to their letters again where labels are decomposed."""
        return text if self.policy is None else unicodedata.normalize(self.policy.composed_form, text)

    def decode(self, label_ids: Sequence[int]) -> str:
        """The text of label ids from which blanks and repeats are already removed; blanks are ignored."""
        silent = {self.blank, *self.special}
        pieces = (" " if label == self.separator else self.tokens[label] for label in label_ids if label not in silent)
        text = self.joiner.join(pieces)
        if self.word_prefix is not None:
            text = text.replace(self.word_prefix, " ")
        return self._composed(CASES[self.decode_case](" ".join(text.split())))

    def spellings(self, word: str) -> tuple[tuple[int, ...], ...]:
        """The label sequences that write a word; those of what it can write of it, see `unknown_characters`."""
        if self.pronunciations is not None:
            found = self.pronunciations.get(self.prepare(word), ())
            return tuple(tuple(self.ids[phoneme] for phoneme in phonemes) for phonemes in found)
        labels = tuple(self.encode(word, skip_unknown=True))
        return (labels,) if labels else ()

    def in_written_case(self, text: str) -> str:
        """`text` in the case in which texts are written."""
        return CASES[self.decode_case](text)

    @cached_property
    def unit_names(self) -> tuple[str, ...]:
        """What language models over labels call each label: its token, and the separator `|`."""
        return tuple(WORD_SEPARATOR if i == self.separator else token for i, token in enumerate(self.tokens))

    def begins_word(self, label: int) -> bool:
        """Whether a token that is written begins a word, without a separator before it."""
        return bool(self.joiner) or (self.word_prefix is not None and self.tokens[label].startswith(self.word_prefix))

    def facts(self) -> dict[str, Any]:
        """What `vocab.json` does not say, for JSON; empty for a vocabulary of our own."""
        standard = {field.name: field.default for field in fields(self)}
        own = self.tokens[:2] == (BLANK, WORD_SEPARATOR)
        values = {name: getattr(self, name) for name in standard if name not in ("tokens", *_OWN_FILES)}
        changed = {name for name, value in values.items() if value != standard[name]}
        if own and not changed:
            return {}
        told = {name: value for name, value in values.items() if name in changed or name not in _LATER}
        if self.policy is not None:
            told["policy"] = asdict(self.policy)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}

    def save(self, path: Path) -> None:
        """Write `vocab.json`: an object from token to label id, the layout that Hugging Face tokenizers read. A
        sentencepiece model or pronunciations go beside it.
        """
        content = {token: index for index, token in enumerate(self.tokens)}
        write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        if self.pieces is not None:
            path.with_name(PIECES_FILE).write_bytes(self.pieces)
        if self.pronunciations is not None:
            write_pronunciations(self.pronunciations, path.with_name(LEXICON_FILE))

    @classmethod
    def load(cls, path: Path, *, facts: Mapping[str, Any] | None = None) -> "Vocabulary":
        """Read what `save` wrote; `facts` as `facts()` gave them, None or empty for a vocabulary of our own.

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
        if not facts and tokens[:2] != (BLANK, WORD_SEPARATOR):
            raise CheckpointError(
                f"{path}: vocabulary: tokens must begin with {BLANK!r} and {WORD_SEPARATOR!r}, but begin with"
                f" {tokens[:2]}; a vocabulary of another tool comes in with its model (speechssl import)"
            )
        try:
            values = dict(facts or {})
            values["special"] = tuple(values.get("special", ()))
            if values.get("policy") is not None:
                values["policy"] = TextPolicy(**values["policy"])
            if values.get("segmentation") == "sentencepiece":
                values["pieces"] = path.with_name(PIECES_FILE).read_bytes()
            elif values.get("segmentation") == "lexicon":
                values["pronunciations"] = read_pronunciations(path.with_name(LEXICON_FILE))
            return cls(tokens, **values)
        except (ConfigError, TypeError, OSError) as error:
            raise CheckpointError(f"{path}: {error}") from error


def describe_characters(counts: Mapping[str, int], *, limit: int = 20) -> str:
    """Characters with counts for a message, most frequent first: `'é' (U+00E9) x3, '3' x1`."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(
        f"{character!r}{f' (U+{ord(character):04X})' if len(character) == 1 and character > '~' else ''} x{count}"
        for character, count in ordered[:limit]
    )
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"
