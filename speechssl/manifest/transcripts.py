"""Texts of recordings: a TSV or CSV beside them, or a `.txt` beside each. UTF-8 only, and errors name the line."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechssl.errors import ManifestError

PATH_NAMES = ("path", "audio_filepath", "file", "filename", "file_name", "audio", "wav")
TEXT_NAMES = ("text", "transcript", "transcription", "sentence", "normalized_text")
SPEAKER_NAMES = ("speaker", "speaker_id", "client_id")
LANGUAGE_NAMES = ("language", "lang", "locale")


@dataclass(frozen=True, kw_only=True)
class Transcripts:
    """Fields by recording (`rows`), and a reason for every line that belongs to no recording (`unmatched`)."""

    rows: dict[str, dict[str, str]]
    unmatched: tuple[str, ...]


def find_table(folder: Path) -> Path | None:
    """A table of texts in a folder, under its usual names."""
    for name in ("transcripts.tsv", "transcripts.csv"):
        if (folder / name).is_file():
            return folder / name
    return None


def read_sidecar(recording: Path) -> str | None:
    """The text in the `.txt` file of the same name, white space made single; None where there is no such file."""
    path = recording.with_suffix(".txt")
    if not path.is_file():
        return None
    return " ".join(" ".join(read_lines(path)).split()) or None


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 file, without a byte-order mark.

    Raises:
        ManifestError: missing, unreadable or not UTF-8; names file and line.
    """
    return decode_lines(_read_bytes(path), path)


def scan_lines(path: Path) -> Iterator[str]:
    """`read_lines` one by one."""
    with _file_errors(path), open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                decode_lines(path.read_bytes(), path)  # raises
                raise
            yield from text.splitlines()


def _read_bytes(path: Path) -> bytes:
    with _file_errors(path):
        return path.read_bytes()


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check the path to the texts") from None
    except PermissionError:
        raise ManifestError(f"{path}: permission denied; make the file readable for this user (chmod +r)") from None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror or error})") from None


def decode_lines(content: bytes, path: Path | str) -> list[str]:
    """Lines of UTF-8 bytes; `path` is for the error."""
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02x}); convert it with"
            f" `iconv -f LATIN1 -t UTF-8 {os.path.basename(path)}` (or whatever encoding it has)"
        ) from None


def read_transcripts(table: Path, recordings: Sequence[str], folder: Path) -> Transcripts:
    """Match a table of texts with recordings.

    A line names its recording by path (relative to `folder` or to the table's own folder), with or without the
    extension, or by the bare name where that is unique.

    Raises:
        ManifestError: missing, not UTF-8, without the needed columns, or two texts for one recording; names the line.
    """
    rows, names = _read_rows(table)
    index = _RecordingIndex(recordings)
    found: dict[str, dict[str, str]] = {}
    unmatched = []
    for number, fields in rows:
        key = fields.pop("path")
        recording = index.find(key, table, folder)
        if recording is None:
            unmatched.append(f"{table}:{number}: no such recording: {key}")
            continue
        fields = {name: value for name, value in fields.items() if value}
        if recording in found and found[recording] != fields:
            raise ManifestError(f"{table}:{number}: a second line for the recording {key}; keep one of them")
        found[recording] = fields
    if not found:
        raise ManifestError(
            f"{table}: none of its {len(rows)} lines names one of the {len(recordings)} recordings in {folder};"
            f" its paths look like {unmatched[0].rsplit(': ', 1)[-1]!r}, the recordings like {recordings[0]!r}"
            if unmatched
            else f"{table}: holds no texts (columns {', '.join(names)}); add lines or leave the table away"
        )
    return Transcripts(rows=found, unmatched=tuple(unmatched))


class _RecordingIndex:
    """Finds a recording by whatever a table calls it."""

    def __init__(self, recordings: Sequence[str]) -> None:
        self.by_path = {name: name for name in recordings}
        self.by_stem: dict[str, str | None] = {}
        self.by_name: dict[str, str | None] = {}
        for name in recordings:
            stem = os.path.splitext(name)[0]
            base = os.path.basename(name)
            for index, key in ((self.by_stem, stem), (self.by_name, base), (self.by_name, os.path.splitext(base)[0])):
                index[key] = None if index.get(key, name) != name else name

    def find(self, key: str, table: Path, folder: Path) -> str | None:
        from_table = os.path.relpath(table.parent / key, folder)
        for candidate in (key.removeprefix("./"), from_table):
            found = self.by_path.get(candidate) or self.by_stem.get(candidate)
            if found is not None:
                return found
        return None if "/" in key else self.by_name.get(key)


def _read_rows(table: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """`(line number, fields)` with the names path, text, speaker, language and the table's own for the rest."""
    lines = read_lines(table)
    if not lines:
        raise ManifestError(f"{table}: is empty; it must have a header such as path<TAB>text")
    delimiter = "\t" if "\t" in lines[0] else "|" if "|" in lines[0] and "," not in lines[0] else ","
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)
    header = [name.strip() for name in next(reader)]
    lowered = [name.lower() for name in header]
    path_column = next((lowered.index(name) for name in PATH_NAMES if name in lowered), None)
    if path_column is None:
        if len(header) != 2 or any(name in lowered for name in TEXT_NAMES):
            raise ManifestError(
                f"{table}:1: no column names the recording; the header must have one of {', '.join(PATH_NAMES)}, but"
                f" is {', '.join(header)}"
            )
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting)  # two columns without a header
        header = lowered = ["path", "text"]
        path_column = 0
    names = list(header)
    for wanted, known in (("text", TEXT_NAMES), ("speaker", SPEAKER_NAMES), ("language", LANGUAGE_NAMES)):
        position = next((lowered.index(name) for name in known if name in lowered), None)
        if position is not None:
            names[position] = wanted
    names[path_column] = "path"
    rows = []
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(names):
            raise ManifestError(
                f"{table}:{reader.line_num}: {len(values)} fields, but the header has {len(names)} ({', '.join(names)})"
            )
        rows.append((reader.line_num, {name: value.strip() for name, value in zip(names, values, strict=True)}))
    return rows, names
