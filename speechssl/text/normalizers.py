"""Text normalisers by name."""

import importlib.metadata
import unicodedata
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal, get_args

from speechssl.errors import ConfigError

NormalizerName = Literal["none", "lowercase", "letters", "basic", "english"]
"""`none`: only Unicode NFC and single spaces. `lowercase`: `none`, then lower case (for references that are already
clean, as LibriSpeech's). `letters`: lower case; letters, combining marks, digits and apostrophes inside a word are kept
and all else becomes a space. `basic` and `english`: the two normalisers of Whisper's evaluation."""

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
