"""Pronunciation lexica: words and their phonemes."""

from collections.abc import Callable, Mapping
from pathlib import Path

from speechssl.errors import ConfigError
from speechssl.files import write_text

Pronunciations = Mapping[str, tuple[tuple[str, ...], ...]]
"""The pronunciations of every word, in phonemes; the first is the one that is learnt."""


def read_pronunciations(path: Path, *, normalize: Callable[[str], str] = str) -> Pronunciations:
    """Read `word phoneme phoneme ...` lines, one for each pronunciation; words pass through `normalize`.

    The CMU dictionary's `word(2)` is a further pronunciation of `word`; its comments (`;;;`, and what follows ` #`)
    are skipped.

    Raises:
        ConfigError: the file cannot be read, a word has no phonemes, or there is no word.
    """
    found: dict[str, dict[tuple[str, ...], None]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                fields = line.partition(" #")[0].split()
                if not fields or fields[0].startswith(";;;"):
                    continue
                if len(fields) == 1:
                    raise ConfigError(f"{path}:{number}: {fields[0]!r} has no phonemes; write `word phoneme phoneme`")
                word = normalize(strip_variant(fields[0]))
                if word:
                    found.setdefault(word, {})[tuple(fields[1:])] = None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a lexicon: {error}; give a UTF-8 text file") from error
    if not found:
        raise ConfigError(f"{path}: holds no word; write `word phoneme phoneme` lines")
    return {word: tuple(ways) for word, ways in found.items()}


def write_pronunciations(pronunciations: Pronunciations, path: Path) -> None:
    """Write what `read_pronunciations` reads."""
    lines = (f"{word}\t{' '.join(way)}\n" for word, ways in pronunciations.items() for way in ways)
    write_text(path, "".join(lines))


def strip_variant(word: str) -> str:
    """`tomato(2)` -> `tomato`, the CMU dictionary's mark of a further pronunciation."""
    head, bracket, rest = word.rpartition("(")
    return head if bracket and head and rest[:-1].isdigit() and rest.endswith(")") else word
