"""ARPA files of n-gram models."""

import gzip
from pathlib import Path
from typing import BinaryIO, cast

from speechssl.errors import ConfigError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
_KENLM_BINARY = b"mmap lm http://kheafield.com/code"


def read_words(path: Path) -> frozenset[str] | None:
    """The words of an ARPA file, without `<s>`, `</s>` and `<unk>`; None where it is KenLM's binary.

    Raises:
        ConfigError: the file is missing, or is neither.
    """
    words: set[str] = set()
    try:
        with _open(path) as file:
            head = file.read(len(_KENLM_BINARY))
            if head == _KENLM_BINARY:
                return None
            file.seek(0)
            inside = False
            for raw in file:
                line = raw.strip()
                if inside and line.startswith(b"\\"):
                    break
                if line == b"\\1-grams:":
                    inside = True
                elif inside and line:
                    words.add(line.split()[1].decode())
    except (OSError, IndexError, UnicodeDecodeError, EOFError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a language model: {error}; `speechssl lm TEXT --output {path.name}` makes one"
        ) from error
    if not words:
        raise ConfigError(f"{path}: is no language model: it has no section \\1-grams: with words; give an ARPA file")
    return frozenset(words - {BEGIN, END, UNKNOWN, UNKNOWN.upper()})


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file
