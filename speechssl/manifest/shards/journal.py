"""What is in the shards that were read, kept beside a manifest: an interrupted build goes on, a later one reads less.

The file is one entry after the other: its length and checksum, then an Arrow stream with the rows of a shard, and in
its schema's metadata which shard it was, how it looked, and what was left out of it. The last one may be torn.
"""

import io
import json
import logging
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from speechssl.audio import is_url
from speechssl.files import replacing
from speechssl.manifest.locked import open_locked
from speechssl.manifest.shards.storage import StoredFile

logger = logging.getLogger(__name__)

_KEY = b"speechssl"
_VERSION = 1
_HEAD = struct.Struct("<8sQI")
"""A mark, bytes of the stream, their CRC-32. Arrow itself would set memory aside for whatever size garbage promises."""
_MARK = b"shard 01"


@dataclass(frozen=True, kw_only=True)
class IndexedShard:
    """Rows of a shard, None where there are none, and path and reason of all that is left out."""

    table: pa.Table | None
    skipped: tuple[tuple[str, str], ...]


class ShardJournal:
    """Shards are found again by name, place, size, and time of change or the store's tag."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """Use the journal at `path`, or begin one there; `fresh` forgets what it holds. Nothing is opened yet."""
        self.path = path
        self._fresh = fresh
        self._opened: BinaryIO | None = None
        self._num_stale = 0

    def find(self, shards: Sequence[StoredFile]) -> dict[str, IndexedShard]:
        """What is known of those that have not changed, by name. Also cuts off a torn end, so that more can be added.

        Raises:
            ManifestError: another process has the journal open.
        """
        self._opened = open_locked(self.path, fresh=self._fresh)
        wanted = {shard.name: _facts(shard) for shard in shards if shard.version is not None}
        found: dict[str, IndexedShard] = {}
        end = 0
        with open(self.path, "rb") as file:
            while True:
                try:
                    content = _read_entry(file)
                    if content is None:
                        break
                    with pa.ipc.open_stream(content) as reader:
                        table = reader.read_all()
                    table.validate(full=True)
                    facts, skipped = _header(table.schema)
                except (pa.ArrowInvalid, OSError, EOFError, KeyError, TypeError, ValueError) as error:
                    logger.info("%s: the last entry was cut off (%s)", self.path, error)
                    break
                end = file.tell()
                name = str(facts.get("name"))
                self._num_stale += wanted.get(name) != facts or name in found
                if wanted.get(name) == facts:
                    rows = table.replace_schema_metadata(None) if table.num_columns else None
                    found[name] = IndexedShard(table=rows, skipped=skipped)
        self._opened.truncate(end)
        return found

    def add(self, shard: StoredFile, found: IndexedShard) -> None:
        """Note a shard; once this returns, only a failure of the whole machine can lose it."""
        assert self._opened is not None, "`find` comes first"
        if shard.version is not None:
            self._opened.seek(0, os.SEEK_END)
            self._opened.write(_entry(shard, found))

    def finish(self, shards: Sequence[tuple[StoredFile, IndexedShard]]) -> None:
        """The build is done: keep exactly these, and close."""
        if self._num_stale:
            with replacing(self.path) as temporary, temporary.open("wb") as file:
                for shard, found in shards:
                    if shard.version is not None:
                        file.write(_entry(shard, found))
        self.close()

    def close(self) -> None:
        """Let others have it."""
        if self._opened is not None:
            self._opened.close()


def _facts(shard: StoredFile) -> dict[str, Any]:
    """By what a shard is known again; as read from JSON."""
    place = shard.path if is_url(shard.path) else os.path.abspath(shard.path)
    return {"journal": _VERSION, "name": shard.name, "place": place, "num_bytes": shard.num_bytes,
            "version": shard.version}  # fmt: skip


def _header(schema: pa.Schema) -> tuple[dict[str, Any], tuple[tuple[str, str], ...]]:
    stored = json.loads((schema.metadata or {})[_KEY])
    return stored["shard"], tuple((str(path), str(reason)) for path, reason in stored["skipped"])


def _read_entry(file: BinaryIO) -> bytes | None:
    """The next Arrow stream; None at the end of the file."""
    head = file.read(_HEAD.size)
    if not head:
        return None
    if len(head) < _HEAD.size:
        raise EOFError("its head is not whole")
    mark, num_bytes, checksum = _HEAD.unpack(head)
    if mark != _MARK or num_bytes > os.fstat(file.fileno()).st_size:
        raise ValueError("it does not begin as an entry")
    content = file.read(num_bytes)
    if len(content) < num_bytes or zlib.crc32(content) != checksum:
        raise EOFError("its end is missing")
    return content


def _entry(shard: StoredFile, found: IndexedShard) -> bytes:
    """Head and Arrow stream."""
    table = pa.table({}) if found.table is None else found.table
    header = json.dumps({"shard": _facts(shard), "skipped": found.skipped})
    schema = table.schema.with_metadata({_KEY: header.encode()})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table.replace_schema_metadata(schema.metadata))
    content = sink.getvalue()
    return _HEAD.pack(_MARK, len(content), zlib.crc32(content)) + content
