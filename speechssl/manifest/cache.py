"""What is kept between runs of manifests too large for memory: their rows for random access, and facts about them.

The folder is `$XDG_CACHE_HOME/speechssl/manifests` (`~/.cache/...`) unless another one is named. Entries are named by
the manifest's path, size and time of change, so that a changed manifest is never taken for the old one. Entries of
changed manifests, those not used for a month, and the longest unused beyond 50 GB are removed when a new one is made.
Everything in the folder may be deleted at any time.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.files import replacing, write_text

logger = logging.getLogger(__name__)

MAX_BYTES = 50 << 30
MAX_DAYS = 30

_FORMAT = 1
_LEFTOVER_SECONDS = 3600


@dataclass(frozen=True)
class Stamp:
    """A file as it was at one time: absolute path, size in bytes, time of change in nanoseconds."""

    path: Path
    num_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Stamp":
        """The file as it is now."""
        status = os.stat(path)
        return cls(Path(os.path.abspath(path)), status.st_size, status.st_mtime_ns)

    @property
    def is_current(self) -> bool:
        """Whether the file is still the same."""
        try:
            return Stamp.of(self.path) == self
        except OSError:
            return False


class Cache:
    """Rows and facts of manifests, by their stamps."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_folder()

    def facts(self, stamp: Stamp) -> dict[str, Any]:
        """What was noted about a manifest; empty where nothing was, or it cannot be read."""
        try:
            found = json.loads(self._path(stamp, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, stamp: Stamp, **facts: Any) -> None:
        """Keep facts about a manifest; where the folder cannot be written to they are found out again next time."""
        known = self.facts(stamp)
        if known | facts == known:
            return
        path = self._path(stamp, ".json")
        try:
            write_text(path, json.dumps({"manifest": str(stamp.path), **known, **facts}))
        except OSError as error:
            logger.debug("%s: %s", path, error)

    def rows(self, stamp: Stamp, write: Callable[[Path], None]) -> Path:
        """The file that holds a manifest's rows; made by `write(path)` where it is not there, by one process only.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(stamp, ".arrow")
        if _touch(path):
            return path
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock(stamp):
            if _touch(path):  # another process made it in the meantime
                return path
            self._clean(stamp)
            started = time.monotonic()
            with replacing(path) as temporary:
                write(temporary)
        logger.info(
            "%s: its rows are kept in %s for random access (%.2f GB, written in %.0f s)",
            stamp.path, path, path.stat().st_size / 1e9, time.monotonic() - started,
        )  # fmt: skip
        return path

    def forget(self, stamp: Stamp) -> None:
        """Remove what is kept of a manifest."""
        for suffix in (".arrow", ".json", ".lock"):
            self._path(stamp, suffix).unlink(missing_ok=True)

    def _path(self, stamp: Stamp, suffix: str) -> Path:
        return self.folder / f"{_source_key(stamp)}-{stamp.num_bytes:x}-{stamp.mtime_ns:x}{suffix}"

    @contextlib.contextmanager
    def _lock(self, stamp: Stamp) -> Iterator[None]:
        """Held by one process at a time where the file system knows locks; elsewhere the last to finish wins."""
        with open(self._path(stamp, ".lock"), "w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
                    raise
            yield

    def _clean(self, stamp: Stamp) -> None:
        """Remove what is out of date, before an entry for `stamp` is written."""
        now = time.time()
        kept: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            try:
                status = path.stat()
                if path.suffix == ".tmp":
                    if now - status.st_mtime > _LEFTOVER_SECONDS:  # of a process that was killed
                        path.unlink()
                    continue
                changed = path.name.startswith(_source_key(stamp)) and path.stem != self._path(stamp, "").name
                if changed or now - status.st_mtime > MAX_DAYS * 86400:
                    self._remove(path)
                elif path.suffix == ".arrow":
                    kept.append((status.st_mtime, status.st_size, path))
            except OSError as error:
                logger.debug("%s: %s", path, error)
        room = MAX_BYTES - stamp.num_bytes
        for _, num_bytes, path in sorted(kept, reverse=True):
            room -= num_bytes
            if room < 0:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """Processes that have the file open keep what they see."""
        if path.suffix == ".arrow":
            logger.info("%s: removed, its manifest has changed or it was not used for long", path)
        path.unlink(missing_ok=True)


def default_folder() -> Path:
    """The user's cache folder for manifests."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "speechssl" / "manifests"


def _source_key(stamp: Stamp) -> str:
    return f"v{_FORMAT}-{hashlib.sha256(os.fsencode(stamp.path)).hexdigest()[:16]}"


def _touch(path: Path) -> bool:
    """Note that an entry is used; whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # a folder that may only be read
        return path.exists()
    return True
