"""Which recordings make which shard, and which shards are there already.

A recording keeps its shard as long as it stays in the manifest; new ones go to new shards behind. So a plan follows
from the manifest and the index on disk, and two processes that look at the same make the same.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from speechssl.audio.location import is_url, locate
from speechssl.embed.layout import INDEX_NAME, Format, shard_number, shard_paths
from speechssl.manifest import Manifest
from speechssl.manifest.paths import resolve

SHARD_BYTES = 128 << 20  # of embeddings, held in memory while a shard is made, but for frames of long recordings


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What identifies a row of the manifest.

    `source_key` changes when the audio may have: place, span, size and time of the file; `row_key` when any column did.
    """

    id: str
    source_key: str
    row_key: str


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """A shard that must be written: numbers of the manifest's rows in it, in order, and who they are.

    One without rows is to be removed.
    """

    number: int
    places: tuple[int, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What there is to do.

    `tasks` rewrite or remove shards first, then add new ones. `num_removed` recordings have left the manifest. `run` is
    the name under which the shards may be made (`locks`), once it is to be carried out.
    """

    tasks: tuple[ShardTask, ...]
    num_removed: int
    run: str = ""


def manifest_rows(manifest: Manifest) -> Iterator[Row]:
    """The identities of all rows, in order."""
    last = ("", "")
    for batch in manifest.batches(manifest.column_names):
        for values in batch.to_pylist():
            path = resolve(values["audio_filepath"], manifest.folder)
            path = path if is_url(path) else os.path.abspath(path)
            if path != last[0]:  # spans of one recording mostly follow on each other
                last = (path, _stamp(path))
            span = [path, values.get("offset"), values.get("duration"), last[1]]
            yield Row(id=values["id"], source_key=_key(span), row_key=_key(values))


def make_plan(
    rows: Sequence[Row], durations: NDArray[np.float64], folder: Path, *, shard_rows: int, row_bytes: int,
    frame_rate: float | None, format: Format,
) -> Plan:  # fmt: skip
    """Compare a manifest with the shards in `folder`.

    Args:
        rows: of the manifest.
        durations: seconds of each.
        folder: of the table.
        shard_rows: recordings in a new shard at most.
        row_bytes: of one recording's (or frame's) embeddings.
        frame_rate: where a row is a frame.
        format: of the shards.
    """
    places = {row.id: number for number, row in enumerate(rows)}
    tasks: list[ShardTask] = []
    num_removed = 0
    taken: set[int] = set()
    finished: dict[int, list[str]] = {}
    for number, index in finished_shards(folder, format):
        finished[number] = index["id"]
        kept = [places[name] for name in index["id"] if name in places and places[name] not in taken]
        taken.update(kept)
        num_removed += len(index["id"]) - len(kept)
        stored = {name: (source, own) for name, source, own in zip(*index.values(), strict=True)}
        changed = any(stored[rows[place].id] != (rows[place].source_key, rows[place].row_key) for place in kept)
        if changed or len(kept) < len(index["id"]):
            tasks.append(_task(number, kept, rows))
    cut = partial(plan_spans, shard_rows=shard_rows, row_bytes=row_bytes, frame_rate=frame_rate)
    new = [place for place in range(len(rows)) if place not in taken]
    added = _interrupted(rows, durations, finished, cut)
    if added is None:
        last = max(finished, default=-1)
        added = {last + 1 + number: new[first:end] for number, (first, end) in enumerate(cut(durations[new]))}
    tasks += [_task(number, kept, rows) for number, kept in added.items()]
    return Plan(tasks=tuple(tasks), num_removed=num_removed)


def _interrupted(
    rows: Sequence[Row],
    durations: NDArray[np.float64],
    finished: Mapping[int, list[str]],
    cut: Callable[[NDArray[np.float64]], list[tuple[int, int]]],
) -> dict[int, list[int]] | None:
    """Shards that an interrupted run left out, so that the table will be as if nothing had happened.

    Several processes do not finish their shards in order. Cut anew from the first missing one on, the rows fall into
    the same shards, unless the manifest or the settings are others; then None.
    """
    first = next(number for number in range(len(finished) + 1) if number not in finished)
    before = {name for number, names in finished.items() if number < first for name in names}
    rest = [place for place, row in enumerate(rows) if row.id not in before]
    planned = {first + number: rest[start:end] for number, (start, end) in enumerate(cut(durations[rest]))}
    for number, names in finished.items():
        if number > first and [rows[place].id for place in planned.get(number, [])] != names:
            return None
    return {number: places for number, places in planned.items() if number not in finished}


def plan_spans(
    durations: NDArray[np.float64], *, shard_rows: int, row_bytes: int, frame_rate: float | None
) -> list[tuple[int, int]]:
    """Spans of rows (first, one past the last), a shard each, bounded in rows and in memory."""
    spans: list[tuple[int, int]] = []
    first, total = 0, 0.0
    for row, seconds in enumerate(durations):
        more = row_bytes * (1.0 if frame_rate is None else seconds * frame_rate)
        if row > first and (total + more > SHARD_BYTES or row - first >= shard_rows):
            spans.append((first, row))
            first, total = row, 0.0
        total += more
    return [*spans, (first, len(durations))] if len(durations) else spans


def finished_shards(folder: Path, format: Format) -> Iterator[tuple[int, Mapping[str, list[str]]]]:
    """Numbers of the shards that are there, with `id`, `source_key` and `row_key` of their recordings.

    A file of the index whose embeddings are missing does not count.
    """
    for path in sorted((folder / INDEX_NAME).glob("shard-*.parquet")):
        number = shard_number(path)
        index = pq.read_table(path, columns=["id", "source_key", "row_key", "error"])
        if index["error"].null_count and not shard_paths(folder, number, format)[0].exists():
            continue
        yield number, {name: index[name].to_pylist() for name in ("id", "source_key", "row_key")}


def strays(folder: Path, format: Format) -> list[int]:
    """Numbers of shards of which one file is there without the other: what an interruption left."""
    finished = {number for number, _ in finished_shards(folder, format)}
    found = {
        shard_number(path)
        for part in (shard_paths(folder, 0, format)[0].parent, folder / INDEX_NAME)
        for path in part.glob("shard-*.*")
    }
    return sorted(found - finished)


def _task(number: int, places: Sequence[int], rows: Sequence[Row]) -> ShardTask:
    return ShardTask(number=number, places=tuple(places), rows=tuple(rows[place] for place in places))


def _stamp(path: str) -> str:
    """Size and time of a file, or of the archive it lies in; what lies behind a URL goes by its name."""
    if is_url(path):
        return "url"
    try:
        found = os.stat(locate(path).file)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _key(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
