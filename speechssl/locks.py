"""Files that belong to one process at a time; the system lets go of them when that process ends, however it ends."""

import errno
import fcntl
import logging
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from speechssl.errors import ConfigError

logger = logging.getLogger(__name__)

_held: "weakref.WeakSet[IO[Any]]" = weakref.WeakSet()


def take(file: IO[Any], *, shared: bool = False) -> bool:
    """Lock an open file until this process closes it or ends, alone or shared; false where another process has it.

    Worker processes forked meanwhile do not hold it. Where the file system knows no locks, nothing is locked.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        logger.debug("%s: cannot be locked: %s", file.name, error)
    else:
        _held.add(file)
    return True


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold the lock of a file until the block or the process ends; the file is there only meanwhile.

    Raises:
        ConfigError: another process holds it; says `message`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            if not take(file):
                raise ConfigError(message)
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


def _let_go() -> None:
    """A forked worker shares the lock, and would keep it for a while when the process that took it is killed."""
    for file in list(_held):
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
