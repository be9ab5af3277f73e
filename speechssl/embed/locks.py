"""Who may write a table: one run at a time, and of its processes only those that belong to it.

A run that is killed may leave processes behind on this or other machines (ranks, actors), which go on for a moment.
So the processes of a run hold a lock of their own together, and a new run waits until they let go of it.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from speechssl.errors import ConfigError
from speechssl.locks import take

LOCK_NAME = ".lock"
MAKERS_NAME = ".makers"
WAIT_SECONDS = 180.0  # for what an earlier run left behind; a busy cluster takes its time to end it


@contextmanager
def exclusive(folder: Path) -> Iterator[str]:
    """Be the one run that writes the table in `folder`; gives the name by which its other processes know it.

    Raises:
        ConfigError: another process is writing there.
    """
    with open(folder / LOCK_NAME, "w") as file:
        if not take(file):
            raise ConfigError(f"{folder}: another process is writing embeddings there; wait for it")
        run = uuid.uuid4().hex
        _take_over(folder, run)
        yield run
    for name in (LOCK_NAME, MAKERS_NAME):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def shared(folder: Path, run: str) -> Iterator[None]:
    """Be a process of a run.

    Raises:
        ConfigError: another run has taken over.
    """
    with open(folder / MAKERS_NAME, "a+") as file:
        is_free = take(file, shared=True)
        file.seek(0)
        if not is_free or file.read() != run:
            raise ConfigError(f"{folder}: another run has begun to write embeddings there; this one was given up")
        yield


def _take_over(folder: Path, run: str) -> None:
    with open(folder / MAKERS_NAME, "a") as file:
        end = time.monotonic() + WAIT_SECONDS
        while not take(file):
            if time.monotonic() > end:
                raise ConfigError(
                    f"{folder}: processes of an earlier run are still writing embeddings there; end them first"
                )
            time.sleep(0.1)
        file.truncate(0)
        file.write(run)
