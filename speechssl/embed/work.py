"""Making one shard: what is known is copied, the rest is computed; both files of it appear whole.

Any process that has the model, the manifest and the folder can make any shard of a plan, and all make the same one.

Shapes: T frames, D model dim, K layers, E embedding dim.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from speechssl.embed.encode import Encoded, EncodeSettings, encode_rows
from speechssl.embed.layout import UNFINISHED_NAME, shard_paths
from speechssl.embed.plan import Row, ShardTask
from speechssl.embed.rows import MemoryRows, Rows
from speechssl.embed.shards import (
    PLACE_COLUMNS,
    ShardReader,
    ShardRows,
    ShardShape,
    remove_shard,
    to_dtype,
    write_shard,
)
from speechssl.errors import AudioError
from speechssl.extraction import Extractor
from speechssl.manifest import Manifest
from speechssl.types import Utterance

Counted = Callable[[int], None]
"""Called with how many recordings of a shard are done."""


@dataclass(frozen=True, kw_only=True)
class ShardMaker:
    """Makes shards of the table in `folder` out of `manifest`; without `reuse` all is computed."""

    folder: Path
    manifest: Manifest
    extractor: Extractor
    settings: EncodeSettings
    shape: ShardShape
    reuse: bool = True

    def __call__(self, task: ShardTask, progress: Counted = lambda done: None) -> int:
        """Write or remove a shard; the number of its recordings that were computed anew.

        `progress` is told how many of its recordings are done.
        """
        if not task.rows:
            remove_shard(self.folder, task.number, self.shape.format)
            return 0
        old = _OldShard(self.folder, task.number, self.shape) if self.reuse else _NoShard()
        results: dict[str, _Result] = {row.id: found for row in task.rows if (found := old.find(row)) is not None}
        missing = [place for place, row in zip(task.places, task.rows, strict=True) if row.id not in results]
        computed = self._compute(missing, old, results, progress)
        self._write(task, results)
        return computed

    def _compute(
        self, places: Sequence[int], old: "_OldShard | _NoShard", results: dict[str, "_Result"], progress: Counted
    ) -> int:
        computed = 0

        def failed(utterance: Utterance, error: AudioError) -> None:
            nonlocal computed
            computed += 1
            results[utterance.id] = _Result(error=str(error))

        def is_known(name: str, digest: str) -> bool:
            return old.has_content(name, digest)

        if not places:
            return 0
        wanted = self.manifest.take(np.asarray(places))
        found_rows = encode_rows(
            wanted,
            self.extractor,
            self.settings,
            on_error=failed,
            is_known=is_known,
            frames_folder=self.folder / UNFINISHED_NAME,
        )
        for found in found_rows:
            if found.vectors is None and found.stored is None:
                results[found.id] = self._result(found, old.rows(found.id))
            else:
                computed += 1
                results[found.id] = self._fitting(found)
                progress(len(results))
        return computed

    def _fitting(self, found: Encoded) -> "_Result":
        """What was computed, or an error where it does not fit into the dtype."""
        if found.stored is not None:
            rows: Rows = found.stored
            ends = found.stored.ends
        else:
            assert found.vectors is not None
            rows = MemoryRows(found.vectors[:, None] if self.shape.times is None else found.vectors)
            ends = np.array([found.vectors.min(), found.vectors.max()], dtype=np.float32)
        if not np.isfinite(to_dtype(ends, self.shape.dtype)).all():  # rounding keeps the order
            largest = float(np.abs(ends).max())
            reason = f"its values reach {largest:.3g}, too large for {self.shape.dtype}; use float32 or bfloat16"
            return _Result(error=reason)
        return self._result(found, rows)

    def _result(self, found: Encoded, rows: Rows) -> "_Result":
        return _Result(rows=rows, num_samples=found.num_samples, content_sha256=found.content_sha256)

    def _write(self, task: ShardTask, results: Mapping[str, "_Result"]) -> None:
        found = [results[row.id] for row in task.rows]
        clips = self.manifest.take(np.asarray(task.places)).rebased(self.folder).table
        columns: dict[str, Any] = {
            "num_samples_used": [result.num_samples for result in found],
            "content_sha256": [result.content_sha256 for result in found],
            "source_key": [row.source_key for row in task.rows],
            "row_key": [row.row_key for row in task.rows],
            "error": [result.error for result in found],
        }
        for name, values in columns.items():
            clips = clips.append_column(name, pa.array(values, PLACE_COLUMNS[name]))
        vectors = [result.rows for result in found if result.rows is not None]
        write_shard(self.folder, task.number, clips=clips, vectors=vectors, shape=self.shape)


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What became of a recording: its rows, or an error."""

    rows: Rows | None = None
    num_samples: int | None = None
    content_sha256: str | None = None
    error: str | None = None


class _NoShard:
    """Nothing is known."""

    def find(self, row: Row) -> _Result | None:
        """None."""
        return None

    def has_content(self, name: str, digest: str) -> bool:
        """No."""
        return False

    def rows(self, name: str) -> Rows:
        """Never called."""
        raise KeyError(name)


class _OldShard:
    """What a finished shard knows of its recordings."""

    def __init__(self, folder: Path, number: int, shape: ShardShape) -> None:
        self._data_path, index_path = shard_paths(folder, number, shape.format)
        self._shape = shape
        index = pq.read_table(index_path).to_pylist() if index_path.exists() else []
        if any(entry["error"] is None for entry in index) and not self._data_path.exists():
            index = []
        self._entries = {entry["id"]: entry for entry in index}

    def find(self, row: Row) -> _Result | None:
        """What is known of a recording whose audio cannot have changed."""
        entry = self._entries.get(row.id)
        if entry is None or entry["source_key"] != row.source_key:
            return None
        if entry["error"] is not None:
            return _Result(error=entry["error"])
        return _Result(
            rows=self.rows(row.id),
            num_samples=entry["num_samples_used"],
            content_sha256=entry["content_sha256"],
        )

    def has_content(self, name: str, digest: str) -> bool:
        """Whether these very samples were embedded."""
        entry = self._entries.get(name)
        return entry is not None and entry["error"] is None and entry["content_sha256"] == digest

    def rows(self, name: str) -> Rows:
        """What was stored of a recording; it is read when it is asked for."""
        entry = self._entries[name]
        return ShardRows(reader=self._reader, first_row=entry["first_row"], num_rows=entry["num_rows"])

    @cached_property
    def _reader(self) -> ShardReader:
        total = sum(entry["num_rows"] for entry in self._entries.values())
        return ShardReader(self._data_path, num_rows=total, shape=self._shape)
