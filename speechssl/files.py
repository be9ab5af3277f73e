"""Files that appear under their name when they are complete, so that nobody reads half of one, and locks."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from speechssl.errors import ConfigError

logger = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to: it takes the place of `path` when the block ends, and goes when it fails.

    The folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """A UTF-8 text file to write to, which keeps line ends as they are given; see `replacing`."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; see `replacing`."""
    with writing(path) as file:
        file.write(text)


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold the lock of a file until the block or the process ends; the file is there only meanwhile.

    Where the file system knows no locks, nothing is locked.

    Raises:
        ConfigError: another process holds it; says `message`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                    raise ConfigError(message) from None
                logger.debug("%s: cannot be locked: %s", path, error)
            if not _is_at(path, file):
                continue  # its last holder took it away between our two calls
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
