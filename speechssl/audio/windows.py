"""Large recordings within an archive or behind a URL as file objects: only what a decoder asks for is read."""

import io
import os
from collections import OrderedDict
from typing import Any

from speechssl.audio import remote
from speechssl.audio.remote import RemoteFault

WHOLE_BYTES = 4 << 20
"""Members up to this size (two minutes of 16 kHz wav) are read whole, at once."""
UNSIZED_BYTES = 2 << 20
"""So much of a remote file is asked for at first, because its size would cost a request of its own."""
HEADER_BYTES = 64 << 10
"""What is read at once where only the header is wanted."""
BUFFER_BYTES = 64 << 10
BLOCK_BYTES = 1 << 20
MAX_READ_AHEAD_BYTES = 8 << 20
MAX_KEPT_BYTES = 32 << 20


class ShortfallError(Exception):
    """A file ends before the window does."""


class SizedStream(io.RawIOBase):
    """A file object of `num_bytes` that knows its position; how it is read is up to who derives from it."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._num_bytes = num_bytes
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; nothing is read yet."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position


class Window(SizedStream):
    """A seekable file object of `num_bytes`; `_read_at` brings the bytes.

    Decoders call it from C and cannot pass on what a read raises. So a fault ends the file, and is kept in `failure`
    for the caller to raise instead of the decoder's guess.
    """

    def __init__(self, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self.failure: Exception | None = None

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as the window goes, or as there is no fault."""
        view = memoryview(buffer).cast("B")
        filled = 0
        while filled < len(view) and self._position < self._num_bytes:
            try:
                piece = self._read_at(self._position, min(len(view) - filled, self._num_bytes - self._position))
                if not piece:
                    raise ShortfallError(f"{self._position} of {self._num_bytes} bytes are there")
            except (ShortfallError, RemoteFault, OSError) as error:
                self.failure = self.failure or error
                break
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        return filled

    def _read_at(self, position: int, count: int) -> bytes:
        """Between 1 and `count` bytes from `position`."""
        raise NotImplementedError


class LocalWindow(Window):
    """`num_bytes` from `start` of a local file; takes over the file descriptor and closes it."""

    def __init__(self, descriptor: int, start: int, num_bytes: int) -> None:
        super().__init__(num_bytes)
        self._descriptor = descriptor
        self._start = start

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _read_at(self, position: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, self._start + position)


class RemoteWindow(Window):
    """`num_bytes` from `start` of a remote file, in a few cached blocks; whoever reads on and on gets larger ones."""

    def __init__(
        self, url: str, start: int, num_bytes: int, head: bytes = b"", *, block_bytes: int | None = None
    ) -> None:
        """`head` is what is known of the beginning already; `block_bytes` is fetched at once after a jump."""
        super().__init__(num_bytes)
        self._url = url
        self._start = start
        self._blocks: OrderedDict[int, bytes] = OrderedDict({0: head} if head else {})
        self._next_miss = len(head)
        self._block_bytes = block_bytes or BLOCK_BYTES
        self._read_ahead = self._block_bytes

    def _read_at(self, position: int, count: int) -> bytes:
        for start, block in self._blocks.items():
            if start <= position < start + len(block):
                self._blocks.move_to_end(start)
                return block[position - start : position - start + count]
        goes_on = 0 <= position - self._next_miss <= self._block_bytes
        self._read_ahead = min(2 * self._read_ahead, MAX_READ_AHEAD_BYTES) if goes_on else self._block_bytes
        wanted = min(self._read_ahead, self._num_bytes - position)
        block = remote.fetch(self._url, self._start + position, wanted)
        self._next_miss = position + wanted
        self._blocks[position] = block
        while sum(map(len, self._blocks.values())) > MAX_KEPT_BYTES:
            self._blocks.popitem(last=False)
        return block[:count]
