"""Open a recording wherever its bytes lie: a file, a member of an archive, or either of them behind a URL.

A path is that of a file, a URL that fsspec reads, or `ARCHIVE:START:NUM_BYTES` for a member of an uncompressed archive
such as a tar shard (fairseq's and fairseq2's notation), where ARCHIVE is a path or a URL.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from speechssl.audio import remote
from speechssl.audio.location import Location, locate
from speechssl.audio.prefetching import prefetch as prefetch
from speechssl.audio.prefetching import prefetched
from speechssl.audio.recording import RecordingError
from speechssl.audio.windows import (
    BLOCK_BYTES,
    BUFFER_BYTES,
    HEADER_BYTES,
    UNSIZED_BYTES,
    WHOLE_BYTES,
    LocalWindow,
    RemoteWindow,
    ShortfallError,
    Window,
)

Source = str | BinaryIO
"""What a decoder opens: the path of a plain file, or a seekable binary file object."""


@contextmanager
def opened(path: str, *, sparsely: bool = False) -> Iterator[Source]:
    """`open_input` for a `with` statement; a file object is closed at its end.

    Raises:
        RecordingError: missing, unreadable, truncated or empty; names `path`. A network fault in the middle of a
            large file is raised in place of what the decoder made of it.
    """
    source = open_input(path, sparsely=sparsely)
    if isinstance(source, str):
        yield source
        return
    window = getattr(source, "raw", None)
    try:
        yield source
        _raise_failure(path, window)
    except RecordingError:
        _raise_failure(path, window)
        raise
    finally:
        source.close()


def open_input(path: str, *, sparsely: bool = False) -> Source:
    """What a decoder can open: the path itself of a plain local file, else the bytes as a file object.

    Members of archives and remote files are read at once, large ones as the decoder asks; with `sparsely` all but the
    smallest are read as the decoder asks, because only the header is wanted.

    Raises:
        RecordingError: missing, unreadable, truncated or empty; names `path`.
    """
    location = locate(path)
    at_once = HEADER_BYTES if sparsely else WHOLE_BYTES
    if location.is_remote:
        try:
            return _open_remote(path, location, at_once)
        except remote.RemoteFault as fault:
            raise remote.remote_error(path, fault) from None
    if location.start is None or location.num_bytes is None or _has_colons(path, location):
        _check_length(path, _openable_bytes(path, path), Location(file=path))
        return path
    return _open_member(path, location, at_once)


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


def check_openable(path: str) -> None:
    """Raise what is wrong with a recording as far as its name, its size and the permissions tell.

    Of a local file libsndfile would only say `System error`. A member must lie within its archive. For a URL one
    request for the size is made.

    Raises:
        RecordingError: missing, unreadable, truncated or empty.
    """
    location = locate(path)
    if location.is_remote:
        try:
            size = remote.size(location.file)
        except remote.RemoteFault as fault:
            raise remote.remote_error(path, fault) from None
    else:
        if _has_colons(path, location):
            location = Location(file=path)
        size = _openable_bytes(path, location.file)
    if location.start is not None and location.num_bytes is not None:
        size = max(0, min(size - location.start, location.num_bytes))
    _check_length(path, size, location)


def _openable_bytes(path: str, file: str) -> int:
    """Size of a local file that this user may read; errors name `path`."""
    with _explained(path):
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError
            return status.st_size
        finally:
            os.close(descriptor)


def _open_remote(path: str, location: Location, at_once: int) -> BinaryIO:
    content = prefetched(path)
    if content is not None:
        return io.BytesIO(_checked(path, content, location))
    start, size = location.start or 0, location.num_bytes
    block = min(at_once, BLOCK_BYTES)
    if size is None:
        wanted = min(at_once, UNSIZED_BYTES)
    else:
        wanted = size if size <= at_once else block
    head = remote.fetch(location.file, start, wanted)
    if len(head) < wanted or len(head) == size:
        return io.BytesIO(_checked(path, head, location))
    if size is None:
        size = remote.size(location.file)
    return io.BufferedReader(RemoteWindow(location.file, start, size, head, block_bytes=block), BUFFER_BYTES)


def _open_member(path: str, location: Location, at_once: int) -> BinaryIO:
    assert location.start is not None and location.num_bytes is not None
    with _explained(path):
        file = os.open(location.file, os.O_RDONLY)
        try:
            _check_length(path, max(0, min(os.fstat(file).st_size - location.start, location.num_bytes)), location)
            if location.num_bytes <= at_once:
                return io.BytesIO(os.pread(file, location.num_bytes, location.start))
            window = LocalWindow(os.dup(file), location.start, location.num_bytes)
        finally:
            os.close(file)
    return io.BufferedReader(window, BUFFER_BYTES)


def _has_colons(path: str, location: Location) -> bool:
    """Whether what looks like a range is the name of a local file that has colons in it."""
    return location.start is not None and not os.path.exists(location.file) and os.path.exists(path)


def _raise_failure(path: str, window: Window | None) -> None:
    """Raise what a decoder swallowed while it read."""
    failure = window.failure if isinstance(window, Window) else None
    if failure is None:
        return
    if isinstance(failure, ShortfallError):
        raise RecordingError(f"{path}: truncated: {failure}; copy the file or the archive again", "truncated")
    if isinstance(failure, remote.RemoteFault):
        raise remote.remote_error(path, failure)
    with _explained(path):
        raise failure


def _checked(path: str, content: bytes, location: Location) -> bytes:
    """The content, if it is all there and not nothing."""
    _check_length(path, len(content), location)
    return content


def _check_length(path: str, found: int, location: Location) -> None:
    if location.num_bytes is not None and found < location.num_bytes:
        raise RecordingError(
            f"{path}: truncated: {found} of {location.num_bytes} bytes are there, {location.file} ends before; copy the"
            " archive again, or index it again if it was replaced",
            "truncated",
        )
    if found == 0:
        raise RecordingError(f"{path}: is empty (0 bytes); replace or remove it", "empty")


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """What the operating system objects to, in words."""
    try:
        yield
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
