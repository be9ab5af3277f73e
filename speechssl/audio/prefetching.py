"""Fetch the remote recordings of a batch at once: ranges that lie near each other as one, several at a time."""

import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from speechssl.audio import remote
from speechssl.audio.location import Location, locate
from speechssl.audio.windows import WHOLE_BYTES

MAX_GAP_BYTES = 64 << 10
"""Ranges of one archive that are no further apart are fetched as one: less than a request's round trip costs."""
MAX_BLOCK_BYTES = 8 << 20
MAX_BYTES = 256 << 20
"""What one batch holds in memory at most; ranges beyond it are fetched when they are read."""
MAX_REQUESTS = 16


@dataclass(frozen=True)
class _Piece:
    """Where a prefetched recording lies: `skip` bytes into the content of `block`."""

    block: "Future[bytes]"
    skip: int
    num_bytes: int

    def content(self) -> bytes:
        """Waits for the block; fewer bytes than `num_bytes` where the archive ends before."""
        return self.block.result()[self.skip : self.skip + self.num_bytes]


class _Shelf:
    """What prefetching has fetched and no one has closed yet, for `open_input`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: dict[str, list[_Piece]] = {}

    def put(self, path: str, piece: _Piece) -> None:
        with self._lock:
            self._pieces.setdefault(path, []).append(piece)

    def remove(self, path: str, piece: _Piece) -> None:
        with self._lock:
            left = [other for other in self._pieces.get(path, ()) if other is not piece]
            if left:
                self._pieces[path] = left
            else:
                self._pieces.pop(path, None)

    def get(self, path: str) -> _Piece | None:
        if not self._pieces:
            return None
        with self._lock:
            pieces = self._pieces.get(path)
            return pieces[-1] if pieces else None


_SHELF = _Shelf()


class Prefetched:
    """Recordings on their way into memory, until `close` or the end of a `with` block.

    `open_input`, and so `read` and `probe`, take them from here and wait where they have not come yet. `num_requests`
    and `num_bytes` say what is fetched.
    """

    def __init__(self, blocks: Sequence["_Block"]) -> None:
        self.num_requests = len(blocks)
        self.num_bytes = sum(block.stop - block.start for block in blocks)
        self._pieces: list[tuple[str, _Piece]] = []
        self._pool = ThreadPoolExecutor(min(MAX_REQUESTS, len(blocks)), "prefetch") if blocks else None
        for block in blocks:
            assert self._pool is not None
            future = self._pool.submit(remote.fetch, block.url, block.start, block.stop - block.start)
            for path, location in block.members:
                assert location.start is not None and location.num_bytes is not None
                piece = _Piece(future, location.start - block.start, location.num_bytes)
                self._pieces.append((path, piece))
                _SHELF.put(path, piece)

    def close(self) -> None:
        """Let go of the bytes; what is not fetched yet never will be."""
        for path, piece in self._pieces:
            _SHELF.remove(path, piece)
        self._pieces.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> "Prefetched":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def prefetch(paths: Sequence[str]) -> Prefetched:
    """Begin to fetch the byte ranges among `paths` that lie behind URLs, and return at once.

    Local paths, large members (read by the span) and whole remote files are passed over. Nothing is raised here: an
    error comes, with the name of its recording, when that is opened. The bytes serve this process alone.
    """
    return Prefetched(_plan(paths))


def prefetched(path: str) -> bytes | None:
    """The content of a recording that is being prefetched, waited for; None where it is not.

    Raises:
        RemoteFault: it cannot be had.
    """
    piece = _SHELF.get(path)
    try:
        return None if piece is None else piece.content()
    except CancelledError:  # closed meanwhile
        return None


@dataclass
class _Block:
    """Bytes `start` to `stop` of a file, and the recordings within."""

    url: str
    start: int
    stop: int
    members: list[tuple[str, Location]]


def _plan(paths: Sequence[str]) -> list[_Block]:
    """Blocks that cover the ranges, gaps up to `MAX_GAP_BYTES` included, in the order of the archives."""
    ranges = []
    for path in dict.fromkeys(paths):
        location = locate(path)
        if not location.is_remote or location.start is None or location.num_bytes is None:
            continue
        if location.num_bytes <= WHOLE_BYTES:
            ranges.append((location.file, location.start, location.start + location.num_bytes, path, location))
    blocks: list[_Block] = []
    budget = MAX_BYTES
    for url, start, stop, path, location in sorted(ranges, key=lambda item: item[:4]):
        last = blocks[-1] if blocks else None
        joins = last is not None and last.url == url and start - last.stop <= MAX_GAP_BYTES
        if last is not None and joins and max(stop, last.stop) - last.start <= MAX_BLOCK_BYTES:
            grown = max(stop, last.stop) - last.stop
            if grown <= budget:
                budget -= grown
                last.stop += grown
                last.members.append((path, location))
        elif stop - start <= budget:
            budget -= stop - start
            blocks.append(_Block(url, start, stop, [(path, location)]))
    return blocks
