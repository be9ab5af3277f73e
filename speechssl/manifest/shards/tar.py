"""The tar format, through Python's tarfile: deterministic writing, and scanning that survives damage."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from speechssl.errors import ManifestError
from speechssl.manifest.shards.keys import refusal

BLOCK = tarfile.BLOCKSIZE
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


class TarWriter:
    """Writes members without times, owners or modes of their own, so that equal contents make equal bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar: Any = tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, content: bytes) -> int:
        """Append a member; returns where in the file its content starts."""
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))
        self._tar.members = []  # tarfile keeps them all
        return int(self._tar.offset) - padded(len(content))

    @property
    def num_bytes(self) -> int:
        """Bytes written so far, without the end mark."""
        return int(self._tar.offset)

    def close(self) -> None:
        """Write the end mark; the file stays open."""
        self._tar.close()


def padded(num_bytes: int) -> int:
    """What a content of `num_bytes` takes up in a tar, without its header."""
    return -(-num_bytes // BLOCK) * BLOCK


@dataclass(frozen=True, kw_only=True)
class Member:
    """A regular file in a tar: its content is `num_bytes` from `start`. `fault` says why it cannot be used."""

    name: str
    start: int
    num_bytes: int
    fault: str | None = None
    _tar: tarfile.TarFile | None = field(default=None, repr=False, compare=False)
    _info: tarfile.TarInfo | None = field(default=None, repr=False, compare=False)

    def open(self) -> BinaryIO:
        """The content as a seekable file object, while the tar is open."""
        assert self._tar is not None and self._info is not None
        file = self._tar.extractfile(self._info)
        assert file is not None
        return file  # type: ignore[return-value]


def scan(file: BinaryIO, num_bytes: int, shard: str) -> Iterator[Member]:
    """The files in an uncompressed tar (ustar, pax or GNU) and its damage, by headers alone.

    Nothing is unpacked. Links, devices and names that lead out of the tar come with a fault, so do members that are cut
    off; where bytes are no header the scan goes on at the next header and a fault stands for what lies between.

    Args:
        file: The tar, seekable.
        num_bytes: Its size.
        shard: Its name for messages.

    Raises:
        ManifestError: the tar is compressed or is none.
    """
    _check_format(file, num_bytes, shard)
    understood = 0  # up to here every byte is accounted for
    found_any = False
    for tar, info in _headers(file, num_bytes):
        if info.offset > understood and not _is_zero(file, understood, info.offset):
            yield _damage(understood, info.offset)
        understood = tar.offset  # where the next header is to be
        found_any = True
        if not info.isdir():
            yield _member(tar, info, num_bytes)
    if understood < num_bytes and not _is_zero(file, understood, num_bytes):
        if not found_any:
            raise ManifestError(f"{shard}: is no tar archive, whatever its name says; name only shards")
        yield _damage(understood, num_bytes)
    elif understood <= num_bytes < understood + BLOCK:
        fault = "the tar has no end mark and may be cut off here; copy it again, or go on with what is there"
        yield Member(name="(end)", start=num_bytes, num_bytes=0, fault=fault)


def _check_format(file: BinaryIO, num_bytes: int, shard: str) -> None:
    if num_bytes == 0:
        raise ManifestError(f"{shard}: is empty (0 bytes); copy it again or remove it")
    file.seek(0)
    head = file.read(8)
    for magic, (name, command) in _COMPRESSED.items():
        if head.startswith(magic):
            raise ManifestError(
                f"{shard}: is compressed with {name}, so that its members cannot be read at random; unpack it once with"
                f" `{command}` (audio does not get smaller by it) and build again"
            )


def _headers(file: BinaryIO, num_bytes: int) -> Iterator[tuple[Any, tarfile.TarInfo]]:
    """Every header that can be made out; damaged ones are passed over block by block."""
    position = 0
    while position < num_bytes:
        file.seek(position)
        tar: Any = None
        try:
            tar = tarfile.TarFile(fileobj=file, mode="r", ignore_zeros=True, encoding="utf-8")
            while (info := tar.next()) is not None:
                tar.members = []
                yield tar, info
            return
        except (tarfile.TarError, ValueError, OverflowError, EOFError):
            position = max(position, tar.offset if tar is not None else 0) + BLOCK


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo, num_bytes: int) -> Member:
    fault = None
    if not info.isreg() or info.issparse():
        kind = "a link" if info.issym() or info.islnk() else "a device or a special file"
        fault = f"is {kind}, which is not followed"
    else:
        reason = refusal(info.name)
        if reason is not None:
            fault = f"its name is {reason}, which is refused; pack the shard again with plain names"
        elif info.offset_data + info.size > num_bytes:
            there = max(0, num_bytes - info.offset_data)
            fault = f"truncated: {there} of {info.size} bytes are there; copy the shard again"
    return Member(name=info.name, start=info.offset_data, num_bytes=info.size, fault=fault, _tar=tar, _info=info)


def _damage(start: int, stop: int) -> Member:
    fault = f"damaged: {stop - start} bytes from {start} on are no tar members; copy the shard again"
    return Member(name=f"(bytes {start} to {stop})", start=start, num_bytes=stop - start, fault=fault)


def _is_zero(file: BinaryIO, start: int, stop: int) -> bool:
    file.seek(start)
    while start < stop:
        piece = file.read(min(1 << 20, stop - start))
        if not piece or piece.count(0) < len(piece):
            return not piece
        start += len(piece)
    return True
