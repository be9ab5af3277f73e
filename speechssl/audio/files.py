"""Where a recording's bytes lie: a file, or a range of bytes of an archive.

A path is that of a file, or `ARCHIVE:START:NUM_BYTES` for a member of an uncompressed archive such as a tar shard
(fairseq's and fairseq2's notation).
"""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from speechssl.audio.recording import RecordingError

Source = str | BinaryIO
"""What a decoder opens: the path of a plain file, or a seekable binary file object."""

_RANGE = re.compile(r"(?P<file>.+):(?P<start>\d+):(?P<num_bytes>\d+)\Z", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Location:
    """`file` is a path; `start` and `num_bytes` are a range within it, None for the whole."""

    file: str
    start: int | None = None
    num_bytes: int | None = None


def locate(path: str) -> Location:
    """Take a path apart."""
    found = _RANGE.match(path)
    if found is None:
        return Location(file=path)
    return Location(file=found["file"], start=int(found["start"]), num_bytes=int(found["num_bytes"]))


@contextmanager
def opened(path: str) -> Iterator[Source]:
    """`open_input` for a `with` statement; a file object is closed at its end.

    Raises:
        RecordingError: missing, unreadable, truncated or empty; names `path`.
    """
    source = open_input(path)
    try:
        yield source
    finally:
        if not isinstance(source, str):
            source.close()


def read_head(source: Source, count: int) -> bytes:
    """The first `count` bytes, or fewer where there are no more; a file object is left at its start."""
    if isinstance(source, str):
        with open(source, "rb") as file:
            return file.read(count)
    source.seek(0)
    head = source.read(count)
    source.seek(0)
    return head


def num_bytes(source: Source) -> int:
    """Size of the whole; a file object is left at its start."""
    if isinstance(source, str):
        return os.path.getsize(source)
    size = source.seek(0, os.SEEK_END)
    source.seek(0)
    return size


def open_input(path: str) -> Source:
    """What a decoder can open: the path itself of a plain file, else the bytes as a file object."""
    location = locate(path)
    if location.start is None or location.num_bytes is None:
        check_openable(path)
        return path
    with open(location.file, "rb") as file:
        file.seek(location.start)
        content = file.read(location.num_bytes)
    return io.BytesIO(content)


def check_openable(path: str) -> None:
    """Say plainly what the operating system objects to; libsndfile only says `System error`."""
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise RecordingError(
            f"{path}: no such file; check the path, relative ones are relative to the manifest", "missing"
        ) from None
    except PermissionError:
        raise RecordingError(
            f"{path}: permission denied; make the file readable for this user (chmod +r)", "unreadable"
        ) from None
    except IsADirectoryError:
        raise RecordingError(
            f"{path}: is a folder, not a recording; use `speechssl manifest build` on folders", "unreadable"
        ) from None
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be opened ({error.strerror or error}); check the disk", "unreadable"
        ) from None
    if empty:
        raise RecordingError(f"{path}: is empty (0 bytes); replace or remove it", "empty")
