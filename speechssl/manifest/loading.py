"""Open a manifest file: a small one in memory, a large one where it lies."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from speechssl.errors import ManifestError
from speechssl.manifest.cache import Cache, Stamp
from speechssl.manifest.checks import CHECKED_COLUMNS, Checks
from speechssl.manifest.complete import complete, complete_part, hash_short_ids, lacks_ids
from speechssl.manifest.files import ArrowFile, ParquetFile, warn_of_memory, write_arrow
from speechssl.manifest.hashing import Hashes, repeated_hashes
from speechssl.manifest.jsonl import conform, join_schemas, read_jsonl, scan_jsonl
from speechssl.manifest.storage import BATCH_ROWS, InMemory, Storage, cast_batch, cast_table, target_schema

logger = logging.getLogger(__name__)

LARGE_ROWS = 200_000
"""A Parquet manifest of fewer rows is read into memory."""

LARGE_BYTES = 64 << 20
"""A JSON Lines manifest of fewer bytes is read into memory."""

FORMATS = (".jsonl", ".json", ".parquet")


def load_rows(path: Path, cache: Cache) -> Storage:
    """The rows of a manifest file, complete and checked.

    Raises:
        ManifestError: missing, empty, not UTF-8, wrong types, duplicate ids or impossible durations.
    """
    _check_file(path)
    with _file_errors(path):
        if _is_parquet(path) and pq.read_metadata(path).num_rows >= LARGE_ROWS:
            return _load_parquet(path, cache)
        if not _is_parquet(path) and path.stat().st_size >= LARGE_BYTES:
            return _load_converted(path, cache)
    return _in_memory(complete(read_table(path), path), path)


def read_table(path: Path) -> pa.Table:
    """The raw columns of a manifest file, before anything is filled in, in memory."""
    _check_file(path)
    with _file_errors(path):
        table = pq.read_table(path) if _is_parquet(path) else read_jsonl(path)
        table.validate(full=True)  # texts of a damaged Parquet file may not be UTF-8, which Arrow else finds row by row
    _check_columns(path, table.column_names)
    return table


def _load_parquet(path: Path, cache: Cache) -> Storage:
    """In place where no value is lacking; checked once, until the file changes."""
    names = pq.read_schema(path).names
    _check_columns(path, names)
    if any(name not in names for name in CHECKED_COLUMNS):
        return _load_converted(path, cache)
    rows = ParquetFile(path, cache)
    if cache.facts(rows.stamp).get("checked"):
        return rows
    checks = Checks(path)
    for _ in checks.watch(rows.scan(CHECKED_COLUMNS)):
        pass
    if checks.lacks_values:
        return _load_converted(path, cache)
    checks.finish(rows)
    cache.note(rows.stamp, checked=True)
    return rows


def _load_converted(path: Path, cache: Cache) -> Storage:
    """Parsed and completed once, until the file changes, into the cache."""
    stamp = Stamp.of(path)
    if cache.facts(stamp).get("num_assumed"):  # recordings that could not be opened then; they may be there now
        cache.forget(stamp)
    try:
        return ArrowFile(cache.rows(stamp, lambda target: _convert(path, target, stamp, cache)), stamp, cache)
    except OSError as error:
        warn_of_memory(stamp, cache, error)
    return _in_memory(complete(read_table(path), path), path)


def _in_memory(table: pa.Table, path: Path) -> Storage:
    rows = InMemory(cast_table(table))
    checks = Checks(path)
    for _ in checks.watch(rows.scan(CHECKED_COLUMNS)):
        pass
    checks.finish(rows)
    return rows


@dataclass(kw_only=True)
class _Plan:
    """What must be known of all rows before the first is written; both None until `_survey` has found them."""

    schema: pa.Schema | None = None
    repeated_ids: Hashes | None = None


class _PlanFailsError(Exception):
    """A part of the file has other columns than its beginning, or rows without ids."""


def _convert(path: Path, target: Path, stamp: Stamp, cache: Cache) -> None:
    """Write the rows of a manifest, completed, as an Arrow file, and check them.

    What the beginning of the file tells of its columns mostly holds for all of it; else the file is read once more.
    """
    logger.info("%s: is read for the first time, %.2f GB", path, stamp.num_bytes / 1e9)
    plan = _Plan()
    try:
        _write(path, target, plan, stamp, cache)
    except _PlanFailsError:
        _write(path, target, _survey(path), stamp, cache)


def _write(path: Path, target: Path, plan: _Plan, stamp: Stamp, cache: Cache) -> None:
    parts = _completed(path, plan, stamp, cache)
    first = next(parts, None)
    if first is None:
        raise ManifestError(f"{path}: holds no utterance; build it again with `speechssl manifest build`")
    schema = target_schema(first.schema)
    checks = Checks(path)
    batches = (
        cast_batch(batch, schema).select(schema.names)
        for part in _chain(first, parts)
        for batch in part.to_batches(max_chunksize=BATCH_ROWS)
    )
    write_arrow(checks.watch(batches), schema, target)
    checks.finish(ArrowFile(target, stamp, cache))


def _completed(path: Path, plan: _Plan, stamp: Stamp, cache: Cache) -> Iterator[pa.Table]:
    """The file's parts with all that a manifest needs, and of one schema."""
    num_rows = num_assumed = 0
    for part in _parts(path):
        if plan.schema is None:
            plan.schema = part.schema
        elif join_schemas([plan.schema, part.schema]) != plan.schema:
            raise _PlanFailsError
        if lacks_ids(part) and plan.repeated_ids is None:
            raise _PlanFailsError
        part = conform(part, plan.schema)
        done = complete_part(part, path, first_row=num_rows, repeated=plan.repeated_ids)
        num_rows += len(part)
        num_assumed += done.num_assumed
        yield done.table.combine_chunks()
    cache.note(stamp, num_assumed=num_assumed)


def _survey(path: Path) -> _Plan:
    """Go through the whole file for its columns and for ids that would occur twice."""
    schemas: dict[pa.Schema, None] = {}
    hashes = []
    for part in _parts(path):
        schemas[part.schema] = None
        hashes.append(hash_short_ids(part))
    joined = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
    return _Plan(schema=join_schemas(list(schemas)), repeated_ids=repeated_hashes(joined))


def _parts(path: Path) -> Iterator[pa.Table]:
    """The raw columns in parts."""
    if not _is_parquet(path):
        for table in scan_jsonl(path):
            _check_columns(path, table.column_names)
            yield table
        return
    for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(BATCH_ROWS, use_threads=False):
        batch.validate(full=True)
        yield pa.Table.from_batches([batch])


def _chain(first: pa.Table, others: Iterable[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from others


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _check_file(path: Path) -> None:
    if not path.is_file():
        what = "is a folder; name a manifest file in it" if path.is_dir() else "no such manifest"
        raise ManifestError(f"{path}: {what}, or make one with `speechssl manifest build FOLDER --output {path.name}`")
    if path.suffix.lower() not in FORMATS:
        raise ManifestError(f"{path}: a manifest's name must end in .jsonl, .json or .parquet")


def _check_columns(path: Path, names: Iterable[str]) -> None:
    if "audio_filepath" not in names:
        raise ManifestError(
            f"{path}: has no field audio_filepath, only {', '.join(names)}; it is not a manifest, or one of another"
            " tool: rename the field that holds the path"
        )


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """Say what is wrong with the file as a whole."""
    try:
        yield
    except PermissionError:
        raise ManifestError(f"{path}: permission denied; make the file readable for this user (chmod +r)") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last for names of columns
        if isinstance(error, OSError) and error.errno is not None:  # the system's; Arrow's own for damage has none
            raise
        kind = path.suffix.lower()[1:]
        raise ManifestError(f"{path}: cannot be read as {kind} ({error}); write it again") from None
