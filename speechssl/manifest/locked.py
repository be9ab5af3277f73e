"""A file that belongs to one build at a time."""

import errno
import fcntl
import logging
from pathlib import Path
from typing import BinaryIO

from speechssl.errors import ManifestError

logger = logging.getLogger(__name__)


def open_locked(path: Path, *, fresh: bool = False) -> BinaryIO:
    """The file for reading and writing, made where it is missing, without buffer; `fresh` empties it.

    It is locked until it is closed or the process ends, where the file system knows locks.

    Raises:
        ManifestError: another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "r+b" if path.exists() else "w+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            file.close()
            raise ManifestError(
                f"{path}: another build of the same manifest is running; wait for it, or name another output"
            ) from None
        logger.debug("%s: cannot be locked: %s", path, error)
    if fresh:
        file.truncate(0)
    return file
