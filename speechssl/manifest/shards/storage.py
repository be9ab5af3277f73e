"""Where shards lie: a local folder, or a place in an object store behind a URL."""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from speechssl.audio import RecordingError, is_url, remote
from speechssl.audio.windows import BUFFER_BYTES, RemoteWindow
from speechssl.errors import ManifestError
from speechssl.locks import locked


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file below a folder: `path` opens it, `name` is relative to the folder with `/`, `num_bytes` its size.

    `version` changes when the file does: the time of change, or the tag that a store gives; None where none is known.
    """

    path: str
    name: str
    num_bytes: int
    version: str | None = None


def list_files(source: str) -> list[StoredFile]:
    """All files below a local folder or a URL, or the one that it names itself, sorted by name; hidden ones passed.

    Raises:
        ManifestError: nothing is there, or it may not be listed.
    """
    files = _list_remote(source) if is_url(source) else list(_list_local(Path(source)))
    files = [file for file in files if not any(part.startswith(".") for part in file.name.split("/"))]
    return sorted(files, key=lambda file: file.name)


@contextmanager
def open_stored(file: StoredFile) -> Iterator[BinaryIO]:
    """A file object of it, seekable; of a remote file only what is asked for is fetched, ahead where read in order.

    Raises:
        RecordingError: it cannot be opened, or a fault of the network came to light at the end.
    """
    if not is_url(file.path):
        try:
            with open(file.path, "rb") as opened:
                yield opened
        except OSError as error:
            reason = f"{file.path}: cannot be read ({error.strerror or error}); check the disk and the permissions"
            raise RecordingError(reason, "unreadable") from None
        return
    window = RemoteWindow(file.path, 0, file.num_bytes)
    yield io.BufferedReader(window, BUFFER_BYTES)
    if isinstance(window.failure, remote.RemoteFault):
        raise remote.remote_error(file.path, window.failure)
    if window.failure is not None:
        raise RecordingError(f"{file.path}: truncated: {window.failure}; it was changed meanwhile", "truncated")


class OutputFolder:
    """A folder that is written to, local or behind a URL; every file appears in it whole or not at all."""

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.location = os.fspath(location).rstrip("/")
        self.is_remote = is_url(self.location)

    def path(self, name: str) -> str:
        """What opens a file of the folder."""
        return f"{self.location}/{name}"

    def create(self) -> None:
        """Make the folder where it has to be made."""
        if not self.is_remote:
            os.makedirs(self.location, exist_ok=True)

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Where files of shards called `name` are written before `publish` puts them in place: beside them, or in a
        temporary folder. A local one belongs to one run at a time.

        Raises:
            ConfigError: another run has it.
        """
        if self.is_remote:
            with tempfile.TemporaryDirectory(prefix="speechssl-") as folder:
                yield Path(folder)
            return
        folder = self.path(f".{name}.unfinished")
        busy = f"{self.location}: another command is writing shards named {name} there; wait for it"
        with locked(Path(self.path(f".{name}.lock")), busy):
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            os.makedirs(folder)
            try:
                yield Path(folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def publish(self, file: Path, name: str) -> None:
        """Move a complete local file into the folder under its name; uploads are tried again after faults."""
        if not self.is_remote:
            os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
            os.replace(file, self.path(name))
            return
        try:
            files, path = remote.filesystem(self.path(name))
            remote.with_retries(lambda: files.put_file(str(file), path))
        except remote.RemoteFault as fault:
            raise remote.remote_error(self.path(name), fault) from None
        file.unlink()

    def write(self, name: str, content: bytes, scratch: Path) -> None:
        """Write a small file."""
        temporary = scratch / f"{os.path.basename(name)}.tmp"
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self.publish(temporary, name)

    def read(self, name: str) -> bytes | None:
        """A small file's content; None where there is none."""
        if not self.is_remote:
            path = Path(self.path(name))
            return path.read_bytes() if path.is_file() else None
        try:
            return remote.fetch(self.path(name))
        except remote.RemoteFault as fault:
            if isinstance(fault.cause, FileNotFoundError):
                return None
            raise remote.remote_error(self.path(name), fault) from None

    def names(self) -> list[str]:
        """Names of all files, relative to the folder; none where there is no such folder."""
        if not self.is_remote:
            folder = Path(self.location)
            return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        return sorted(file.name for file in _list_remote(self.location, may_be_absent=True))


def _list_local(source: Path) -> Iterator[StoredFile]:
    if source.is_file():
        yield _stored(str(source), source.name)
        return
    if not source.is_dir():
        raise ManifestError(f"{source}: no such file or folder; check the path")
    for directory, folders, files in os.walk(source, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = os.path.join(directory, name)
            if os.path.isfile(path):
                relative = os.path.relpath(path, source).replace(os.sep, "/")
                yield _stored(path, relative)


def _stored(path: str, name: str) -> StoredFile:
    status = os.stat(path)
    return StoredFile(path=path, name=name, num_bytes=status.st_size, version=str(status.st_mtime_ns))


def _list_remote(source: str, *, may_be_absent: bool = False) -> list[StoredFile]:
    try:
        files, root = remote.filesystem(source)
        root = root.rstrip("/")
        files.invalidate_cache()  # what others wrote meanwhile counts
        found = remote.with_retries(lambda: files.find(root, detail=True))
    except remote.RemoteFault as fault:
        if not isinstance(fault.cause, FileNotFoundError):
            raise remote.remote_error(source, fault) from None
        found = {}
    if not found and not may_be_absent:
        raise ManifestError(f"{source}: nothing is there; check the URL (bucket and prefix), and that it may be listed")
    stored = []
    for path, info in found.items():
        relative = path.removeprefix(root).strip("/") or path.rsplit("/", 1)[-1]
        url = path if is_url(path) else f"{source.partition('://')[0]}://{path.lstrip('/')}"
        if info.get("type") != "directory":
            num_bytes = info["size"] if info.get("size") is not None else remote.size(url)
            stored.append(StoredFile(path=url, name=relative, num_bytes=int(num_bytes), version=_version(info)))
    return stored


def _version(info: dict[str, Any]) -> str | None:
    """From what an fsspec file system tells about a file: S3 has ETag, GCS etag, others a time."""
    for name in ("ETag", "etag", "LastModified", "last_modified", "mtime", "created"):
        if info.get(name):
            return f"{name} {info[name]}"
    return None
