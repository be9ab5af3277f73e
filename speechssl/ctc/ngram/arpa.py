"""ARPA files of n-gram models."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ConfigError
from speechssl.files import writing

if TYPE_CHECKING:
    from speechssl.ctc.ngram.kneser_ney import Floats, NgramModel

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


def write_arpa(model: "NgramModel", path: Path) -> None:
    """Write a model; it appears under its name when it is complete."""
    words = pa.array(model.vocabulary, pa.string())
    with writing(path) as file:
        file.write("\\data\\\n")
        for length, order in enumerate(model.orders, start=1):
            file.write(f"ngram {length}={len(order.word)}\n")
        texts = words  # of the n-grams of the order below
        for length, order in enumerate(model.orders, start=1):
            file.write(f"\n\\{length}-grams:\n")
            last = words.take(pa.array(order.word))
            texts = last if length == 1 else _join(texts.take(pa.array(order.prefix)), last, " ")
            lines = _join(_numbers(order.log10), texts, "\t")
            if length < len(model.orders):
                lines = _join(lines, _numbers(order.backoff), "\t")
            for start in range(0, len(lines), 100_000):
                file.write("\n".join(lines.slice(start, 100_000).to_pylist()) + "\n")
        file.write("\n\\end\\\n")


def _join(first: "pa.Array", second: "pa.Array", between: str) -> "pa.Array":
    large = pa.large_string()  # a file's texts may be more than 2 GB
    return pc.binary_join_element_wise(first.cast(large), second.cast(large), pa.scalar(between, large))


def _numbers(values: "Floats") -> "pa.Array":
    """Numbers as KenLM keeps them, in the fewest digits that give them again."""
    return pa.array((values + 0.0).astype(np.float32)).cast(pa.string())
