"""Files of lines as Arrow columns, read and written without a Python object per line."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.transcripts import decode_lines

_BOM = b"\xef\xbb\xbf"
_SCAN_BYTES = 64 << 20
_ROWS_PER_PIECE = 1 << 18

# What Python's str.split takes for white space, since most readers of these formats are written in Python.
_ODD_SPACES = "\t-\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_SPACES = f"[ {_ODD_SPACES}]"


def read_lines(path: Path) -> pa.Array:
    """Every line of a UTF-8 file without its ending (LF or CRLF) or a byte-order mark.

    Raises:
        ManifestError: missing, empty or not UTF-8; names the line.
    """
    with _file_errors(path):
        content = _map_file(path)
    return _lines_of(content, path, is_start=True)


def scan_lines(path: Path, num_rows: int, *, skip: int = 0) -> Iterator[pa.Array]:
    """`read_lines` without the first `skip`, in pieces of `num_rows` lines, the last of fewer."""
    is_start = skip == 0
    with _file_errors(path), open(path, "rb") as file:
        for _ in itertools.islice(file, skip):
            pass
        while content := b"".join(itertools.islice(file, num_rows)):
            yield _lines_of(pa.py_buffer(content), path, is_start=is_start)
            is_start = False


def count_lines(path: Path) -> int:
    """How many `read_lines` would give; raises like it, but does not look at what they hold."""
    with _file_errors(path), open(path, "rb") as file:
        count = sum(1 for _ in file)
    if not count:
        raise ManifestError(f"{path}: is empty; write it again")
    return count


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise ManifestError(f"{path}: is a folder; name a file in it") from None
    except PermissionError:
        raise ManifestError(f"{path}: permission denied; make the file readable for this user (chmod +r)") from None


def _lines_of(content: pa.Buffer, path: Path, *, is_start: bool) -> pa.Array:
    """The lines in a part of a file, whose beginning `is_start` says it is."""
    if content.size == 0:
        raise ManifestError(f"{path}: is empty; write it again")
    has_mark = is_start and content.slice(0, min(content.size, len(_BOM))).to_pybytes() == _BOM
    ends = _line_ends(np.frombuffer(content, dtype=np.uint8))
    offsets = np.concatenate([[len(_BOM) if has_mark else 0], ends]).astype(np.int64)
    lines = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), content)
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid:
        decode_lines(_map_file(path).to_pybytes(), path)  # raises, with the line's number
        raise
    return pc.utf8_rtrim(lines, "\r\n")


def split_fields(lines: pa.Array, num_fields: int, path: Path, *, first_line: int, what: str) -> list[pa.Array]:
    """The columns of lines whose fields are separated by tabs; `first_line` is the number of the first.

    Raises:
        ManifestError: a line has another number of fields; names it.
    """
    bad = pc.indices_nonzero(pc.not_equal(pc.count_substring(lines, "\t"), num_fields - 1))
    if len(bad):
        row = bad[0].as_py()
        line = lines[row].as_py()
        raise ManifestError(
            f"{path}:{first_line + row}: must be {what}, {num_fields} fields with tabs between them, but has"
            f" {line.count(chr(9)) + 1}: {line[:80]!r}{_others(len(bad))}"
        )
    if num_fields == 1 or len(lines) == 0:
        return [lines] * num_fields
    flat = pc.list_flatten(pc.split_pattern(lines, "\t"))
    starts = np.arange(len(lines), dtype=np.int64) * num_fields
    return [flat.take(pa.array(starts + number)) for number in range(num_fields)]


def parse_numbers(texts: pa.Array, path: Path, *, first_line: int, what: str, whole: bool = False) -> pa.Array:
    """Texts as float64, or int64 where `whole`.

    Raises:
        ManifestError: one is no number; names its line.
    """
    kind = pa.int64() if whole else pa.float64()
    pattern = r"\A-?\d+\z" if whole else r"\A-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\z"
    bad = pc.indices_nonzero(pc.invert(pc.match_substring_regex(texts, pattern)))
    if len(bad):
        row = bad[0].as_py()
        needed = "a whole number" if whole else "a number"
        raise ManifestError(
            f"{path}:{first_line + row}: {what} must be {needed}, is {texts[row].as_py()!r}{_others(len(bad))}"
        )
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:  # more digits than 64 bits hold
        place = next(row for row, text in enumerate(texts.to_pylist()) if not -(1 << 63) <= float(text) < 1 << 63)
        raise ManifestError(
            f"{path}:{first_line + place}: {what} must be a number that 64 bits hold, is {texts[place].as_py()[:80]!r}"
        ) from None


def check_same_length(labels: Path, num_labels: int, audio: Path, num_audio: int) -> None:
    """Refuse a file of labels that does not go with its list of recordings.

    Raises:
        ManifestError: names both files and the first line that has no partner.
    """
    if num_labels == num_audio:
        return
    line = min(num_labels, num_audio) + 1
    raise ManifestError(
        f"{labels}:{line}: holds {num_labels} lines, but {audio} names {num_audio} recordings; line n of one belongs to"
        " recording n of the other, so make both again from the same source"
    )


def single_spaced(texts: pa.Array) -> tuple[pa.Array, int]:
    """Texts with every run of white space as one space and none at the ends, and how many that changed."""
    wrong = pc.match_substring_regex(texts, rf"[{_ODD_SPACES}]|  |\A | \z")  # quick; replacing is not
    count = int(pc.sum(wrong).as_py() or 0)
    if not count:
        return texts, 0
    better = pc.utf8_trim(pc.replace_substring_regex(texts.filter(wrong), f"{_SPACES}+", " "), " ")
    return pc.replace_with_mask(texts, wrong, better), count


def has_space(texts: pa.Array) -> npt.NDArray[np.bool_]:
    """Which texts hold white space of any kind."""
    return np.asarray(pc.fill_null(pc.match_substring_regex(texts, _SPACES), False).to_numpy(zero_copy_only=False))


def joined(*columns: pa.Array | str, separator: str = "") -> pa.Array:
    """Texts of several columns, or the same text everywhere, in one."""
    parts = [pa.scalar(column, STRING) if isinstance(column, str) else column.cast(STRING) for column in columns]
    return pc.binary_join_element_wise(*parts, pa.scalar(separator, STRING))


def write_lines(
    path: Path, lines: pa.Array, *, header: str | None = None, change: Callable[[pa.Array], pa.Array] | None = None
) -> None:
    """Write each text as a line; `header` goes before them, and `change` is applied to a piece of them at a time."""
    pieces = (lines.slice(start, _ROWS_PER_PIECE) for start in range(0, len(lines), _ROWS_PER_PIECE))
    write_pieces(path, pieces if change is None else map(change, pieces), header=header)


def write_pieces(path: Path, pieces: Iterable[pa.Array], *, header: str | None = None) -> None:
    """Write each text of each piece as a line."""
    with open(path, "wb") as file:
        if header is not None:
            file.write(header.encode() + b"\n")
        for piece in pieces:
            file.write(text_bytes(joined(piece, "\n"))[1].data)


def text_bytes(texts: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Where every text begins and the last one ends, `[N + 1]` from 0, and the bytes of all of them, not copied."""
    if len(texts) == 0:
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint8)
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    everything = np.frombuffer(content or b"", dtype=np.uint8)
    return ends - ends[0], everything[ends[0] : ends[-1]]


class Staged:
    """Files written beside their places; see `staged`."""

    def __init__(self) -> None:
        self._waiting: dict[Path, Path] = {}
        self._stale: list[Path] = []

    def __call__(self, path: Path) -> Path:
        """Where to write what will be `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._waiting[path] = temporary
        return temporary

    def drop(self, path: Path) -> None:
        """Remove a file of an earlier export, once the new ones are there."""
        self._stale.append(path)

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(self._waiting)

    def _publish(self) -> None:
        for path, temporary in self._waiting.items():
            os.replace(temporary, path)
        for path in self._stale:
            if path not in self._waiting:
                path.unlink(missing_ok=True)

    def _discard(self) -> None:
        for temporary in self._waiting.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def staged() -> Iterator[Staged]:
    """Several files that appear together at the end, or not at all when something fails before."""
    files = Staged()
    try:
        yield files
        files._publish()
    finally:
        files._discard()


def _map_file(path: Path) -> pa.Buffer:
    if path.is_dir():
        raise IsADirectoryError(path)
    if path.stat().st_size == 0:
        return pa.py_buffer(b"")
    with pa.memory_map(os.fspath(path)) as file:
        return file.read_buffer()


def _line_ends(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The position after every line feed, and after the last line where it has none."""
    found = [
        np.flatnonzero(content[start : start + _SCAN_BYTES] == 10) + start + 1
        for start in range(0, len(content), _SCAN_BYTES)
    ]
    ends = np.concatenate(found)
    return ends if len(ends) and ends[-1] == len(content) else np.append(ends, len(content))


def _others(count: int) -> str:
    return f" (and {count - 1} more lines)" if count > 1 else ""
