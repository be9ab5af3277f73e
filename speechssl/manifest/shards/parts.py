"""Which shards of a run are finished, noted beside them, so that a killed run goes on where it was."""

import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from speechssl.errors import ManifestError
from speechssl.manifest.shards.items import ROW_SCHEMA, Packed, Rejected
from speechssl.manifest.shards.storage import OutputFolder
from speechssl.manifest.shards.tar import TarWriter


@dataclass
class _Shard:
    """A shard being written; `rows` as in `ROW_SCHEMA`."""

    number: int
    path: Path
    file: BinaryIO
    tar: TarWriter
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    num_recordings: int = 0
    num_clipped: int = 0
    seconds: float = 0.0

    @property
    def num_bytes(self) -> int:
        return self.tar.num_bytes


class Parts:
    """The finished shards of a run, and the one being written.

    A note `NAME.parts/000000.parquet` is written after its shard is in place; it holds the shard's rows, what was left
    out up to there, and the number of the item that comes next. What has no note is written again.
    """

    def __init__(self, folder: OutputFolder, name: str, scratch: Path, settings: dict[str, Any]) -> None:
        """Find what a run with the same settings has finished.

        Raises:
            ManifestError: the folder holds shards of that name that are not of such a run.
        """
        self._folder = folder
        self._name = name
        self._scratch = scratch
        self._state_name = f"{name}.shards.json"
        self._settings = settings
        self.quarantine_name = f"{name}.quarantine.jsonl"
        self.next_item = 0
        self._tables: list[pa.Table] = []
        self._notes: list[dict[str, Any]] = []
        self._shard: _Shard | None = None
        self._publisher: ThreadPoolExecutor | None = None
        self._publishing: Future[None] | None = None
        self.is_finished = False
        self._begin()
        self.num_found = self.num_shards

    def _begin(self) -> None:
        state = self._folder.read(self._state_name)
        if state is None:
            names = self._folder.names()
            taken = [found for found in names if found.startswith(f"{self._name}-") and found.endswith(".tar")]
            if taken:
                raise ManifestError(
                    f"{self._folder.path(taken[0])}: is there already and not of this run; choose another output or"
                    " name"
                )
            content = json.dumps({"settings": self._settings, "finished": False}, indent=2)
            self._folder.write(self._state_name, content.encode(), self._scratch)
            return
        found = json.loads(state)
        if found["settings"] != self._settings:
            old, new = found["settings"], self._settings
            changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            raise ManifestError(
                f"{self._folder.path(self._state_name)}: was begun with another {', '.join(sorted(changed))}; call it"
                " with the same manifest and options to go on, or choose another output or name"
            )
        self.is_finished = bool(found["finished"])
        number = 0
        while (note := self._folder.read(self._note_name(number))) is not None:
            table = pq.read_table(io.BytesIO(note))
            self._tables.append(table)
            self._notes.append(json.loads(table.schema.metadata[b"speechssl"]))
            self.next_item = self._notes[-1]["next_item"]
            number += 1

    @property
    def num_shards(self) -> int:
        """Finished shards."""
        return sum(note["num_recordings"] > 0 for note in self._notes)

    @property
    def current(self) -> _Shard:
        """The shard being written; begun where there is none."""
        if self._shard is None:
            number = len(self._notes)
            path = self._scratch / f"{number:06d}.tar"
            file = open(path, "wb")  # closed by close_shard
            self._shard = _Shard(number, path, file, TarWriter(file))
        return self._shard

    def add(self, result: Packed | Rejected) -> None:
        """Write a recording into the current shard, or note what was left out."""
        shard = self.current
        rejected = result.rejected if isinstance(result, Packed) else result
        names = ("row", "id", "audio_filepath", "kind", "reason")
        shard.skipped += [dict(zip(names, row, strict=True)) for row in rejected.rows]
        if isinstance(result, Rejected):
            return
        key = result.members[0][0].partition(".")[0]
        if key in shard.keys:
            raise ManifestError(f"two recordings have the key {key!r} in one shard; give one of them another id")
        shard.keys.add(key)
        starts = [shard.tar.add(name, content) for name, content in result.members]
        stored = result.stored
        place = (shard.number, starts[0], len(stored.content), stored.sample_rate)
        shard.rows += [(row, *place, *facts) for row, *facts in result.rows]
        shard.num_recordings += 1
        shard.num_clipped += stored.is_clipped
        shard.seconds += result.seconds

    def close_shard(self, *, next_item: int) -> None:
        """Finish the current shard, if it has anything; it is put in place and noted behind the scenes, in order."""
        shard, self._shard = self._shard, None
        if shard is None:
            return
        shard.tar.close()
        shard.file.flush()
        os.fsync(shard.file.fileno())
        shard.file.close()
        columns = zip(*shard.rows, strict=True) if shard.rows else [[] for _ in ROW_SCHEMA]
        note = {
            "next_item": next_item,
            "skipped": shard.skipped,
            "num_recordings": shard.num_recordings,
            "num_clipped": shard.num_clipped,
            "num_bytes": shard.path.stat().st_size if shard.rows else 0,
        }
        table = pa.table([pa.array(list(values), kind.type) for values, kind in zip(columns, ROW_SCHEMA, strict=True)],
                         schema=ROW_SCHEMA.with_metadata({"speechssl": json.dumps(note)}))  # fmt: skip
        self._tables.append(table)
        self._notes.append(note)
        self._wait()
        assert self._publisher is not None
        self._publishing = self._publisher.submit(self._publish, shard, table)

    def _publish(self, shard: _Shard, table: pa.Table) -> None:
        if shard.rows:
            self._folder.publish(shard.path, f"{self._name}-{shard.number:06d}.tar")
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        self._folder.write(self._note_name(shard.number), buffer.getvalue(), self._scratch)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within this block shards are put in place; at its end all of them are.

        Raises:
            ManifestError: the disk is full, or it cannot be written for another reason.
        """
        try:
            with ThreadPoolExecutor(1, "publish") as self._publisher:
                try:
                    yield
                finally:
                    if self._shard is not None:
                        self._shard.file.close()
                self._wait()
        except OSError as error:
            raise ManifestError(
                f"{self._folder.location}: cannot be written ({error.strerror or error}); make room and run the same"
                " command again: it goes on after the last finished shard"
            ) from None

    def _wait(self) -> None:
        if self._publishing is not None:
            self._publishing.result()
            self._publishing = None

    def rows(self) -> pa.Table:
        """All stored rows."""
        return pa.concat_tables([table.replace_schema_metadata() for table in self._tables])

    def skipped(self) -> list[dict[str, Any]]:
        """What was left out, with its reasons."""
        return [row for note in self._notes for row in note["skipped"]]

    def total(self, name: str) -> int:
        """Sum of a count over all shards."""
        return sum(int(note[name]) for note in self._notes)

    def finish(self) -> list[dict[str, Any]]:
        """Write the quarantine and the state, and return what was left out."""
        skipped = self.skipped()
        if not self.is_finished:
            if skipped:
                lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in skipped)
                self._folder.write(self.quarantine_name, lines.encode(), self._scratch)
            counts = {name: self.total(name) for name in ("num_recordings", "num_bytes", "num_clipped")}
            state = {"settings": self._settings, "finished": True, "num_shards": self.num_shards, **counts}
            self._folder.write(self._state_name, json.dumps(state, indent=2).encode(), self._scratch)
        return skipped

    def _note_name(self, number: int) -> str:
        return f"{self._name}.parts/{number:06d}.parquet"
