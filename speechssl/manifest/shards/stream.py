"""Read a shard once, front to back, without an index: for cold storage, copies and shards of others."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from speechssl.audio import is_url, remote
from speechssl.audio.windows import SizedStream
from speechssl.errors import ManifestError
from speechssl.manifest.shards.keys import split_name
from speechssl.manifest.shards.storage import StoredFile, list_files, open_stored
from speechssl.manifest.shards.tar import scan

PIECE_BYTES = 8 << 20
PIECES_AHEAD = 3


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The members of a shard that share a key, by extension; `faults` are `(member, reason)` of those left out."""

    key: str
    members: dict[str, bytes]
    faults: tuple[tuple[str, str], ...] = ()


def iterate_shard(path: str) -> Iterator[Sample]:
    """Samples of a shard in its order; a remote one is fetched in large pieces ahead of the reader, once.

    What cannot be used (cut off, a link, a path out of the archive) is in the `faults` of the sample before or around
    it; faults before the first sample come as a sample with an empty key.

    Raises:
        ManifestError: no such shard, compressed, or no tar.
        RecordingError: it cannot be read.
    """
    files = list_files(path)
    if len(files) != 1:
        raise ManifestError(f"{path}: is a folder; name one shard")
    with _open_ahead(files[0]) as file:
        gathered = _Gathered()
        for member in scan(file, files[0].num_bytes, path):
            name = split_name(member.name)
            if member.fault is not None:
                gathered.faults.append((member.name, member.fault))
            elif name is None:
                gathered.faults.append((member.name, "has no extension and belongs to no sample"))
            else:
                key, extension = name
                if key != gathered.key:
                    if not gathered.is_empty:
                        yield gathered.sample()
                    gathered = _Gathered(key=key)
                with member.open() as content:
                    gathered.members[extension] = content.read()
        if not gathered.is_empty:
            yield gathered.sample()


@dataclass
class _Gathered:
    key: str = ""
    members: dict[str, bytes] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.members and not self.faults

    def sample(self) -> Sample:
        return Sample(key=self.key, members=self.members, faults=tuple(self.faults))


def _open_ahead(file: StoredFile) -> Any:
    return _Ahead(file) if is_url(file.path) else open_stored(file)


class _Ahead(SizedStream):
    """A remote file of which the next pieces are fetched while the present one is read; going back costs a request."""

    def __init__(self, file: StoredFile) -> None:
        super().__init__(file.num_bytes)
        self._file = file
        self._pool = ThreadPoolExecutor(PIECES_AHEAD, "shard")
        self._pieces: dict[int, Future[bytes]] = {}

    def read(self, count: int = -1) -> bytes:
        """Exactly `count` bytes, fewer only at the end; all that is left by default."""
        left = max(0, self._file.num_bytes - self._position)
        count = left if count is None or count < 0 else min(count, left)
        parts = []
        while count > 0:
            number, skip = divmod(self._position, PIECE_BYTES)
            part = self._piece(number)[skip : skip + count]
            if not part:
                break
            parts.append(part)
            self._position += len(part)
            count -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Stop fetching."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _piece(self, number: int) -> bytes:
        last = (self._file.num_bytes - 1) // PIECE_BYTES
        for ahead in range(number, min(number + PIECES_AHEAD, last) + 1):
            if ahead not in self._pieces:
                start = ahead * PIECE_BYTES
                length = min(PIECE_BYTES, self._file.num_bytes - start)
                self._pieces[ahead] = self._pool.submit(remote.fetch, self._file.path, start, length)
        for passed in [piece for piece in self._pieces if piece < number - 1]:
            del self._pieces[passed]
        try:
            return self._pieces[number].result()
        except remote.RemoteFault as fault:
            raise remote.remote_error(self._file.path, fault) from None
