"""What is done to texts before they become labels, beyond the normaliser: Unicode form, punctuation, case."""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from speechssl.errors import ConfigError

Case = Literal["keep", "upper", "lower"]
UnicodeForm = Literal["NFC", "NFKC", "NFD", "NFKD"]
Punctuation = Literal["keep", "remove"]
CASES: Mapping[str, Callable[[str], str]] = {"keep": str, "upper": str.upper, "lower": str.lower}

_TURKIC = {"upper": str.maketrans({"i": "İ", "ı": "I"}), "lower": str.maketrans({"I": "ı", "İ": "i"}), "keep": {}}
_JOINERS = "\u200c\u200d"  # zero-width non-joiner and joiner: spelling in Persian and in Indic scripts


@dataclass(frozen=True, kw_only=True)
class TextPolicy:
    """How a model writes; part of its vocabulary.

    Attributes:
        unicode: normal form. NFKC also replaces compatibility characters (full-width letters, ligatures, superscripts).
            NFD and NFKD take letters apart, so that marks, or the jamo of Hangul, are labels of their own; what is
            decoded is composed again.
        case: keep, upper or lower.
        turkic_case: upper and lower case of i as in Turkish and Azerbaijani.
        punctuation: remove makes a space of punctuation and symbols. Invisible format characters are left out, but a
            zero-width joiner or non-joiner inside a word stays.
        kept_punctuation: characters that stay when punctuation is removed, such as `'-`.
    """

    unicode: UnicodeForm = "NFC"
    case: Case = "keep"
    turkic_case: bool = False
    punctuation: Punctuation = "keep"
    kept_punctuation: str = ""

    def __post_init__(self) -> None:
        for name, choices in (("unicode", UnicodeForm), ("case", Case), ("punctuation", Punctuation)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"{name} must be one of {', '.join(get_args(choices))}, but is {getattr(self, name)!r}"
                )

    @property
    def composed_form(self) -> Literal["NFC", "NFKC"]:
        """The composed form of `unicode`."""
        return "NFKC" if "K" in self.unicode else "NFC"

    def apply(self, text: str) -> str:
        """`text` by these rules, words separated by single spaces."""
        text = unicodedata.normalize(self.composed_form, text)
        if self.punctuation == "remove":
            text = "".join(map(self._kept, text))
        if self.turkic_case:
            text = text.translate(_TURKIC[self.case])
        text = CASES[self.case](text)
        words = (word.strip(_JOINERS) for word in unicodedata.normalize(self.unicode, text).split())
        return " ".join(word for word in words if word)

    def _kept(self, character: str) -> str:
        category = unicodedata.category(character)
        if category[0] in "LMN" or character in self.kept_punctuation or character in _JOINERS:
            return character
        return "" if category == "Cf" else " "
