"""A file that belongs to one build at a time."""

from pathlib import Path
from typing import BinaryIO

from speechssl.errors import ManifestError
from speechssl.locks import take


def open_locked(path: Path, *, fresh: bool = False) -> BinaryIO:
    """The file for reading and writing, made where it is missing, without buffer; `fresh` empties it.

    It is locked until it is closed or the process ends, where the file system knows locks.

    Raises:
        ManifestError: another process has it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "r+b" if path.exists() else "w+b", buffering=0)
    if not take(file):
        file.close()
        raise ManifestError(
            f"{path}: another build of the same manifest is running; wait for it, or name another output"
        )
    if fresh:
        file.truncate(0)
    return file
