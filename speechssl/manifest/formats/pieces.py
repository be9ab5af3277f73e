"""Imports of more rows than memory should hold: piece by piece into an Arrow file, which the manifest then reads.

The file lies in the manifests' cache folder for as long as the manifest is in use.
"""

import itertools
import logging
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechssl.audio import AudioInfo
from speechssl.errors import ManifestError
from speechssl.manifest.cache import Cache, Stamp
from speechssl.manifest.complete import hash_short_ids, lacks_ids
from speechssl.manifest.files import ArrowFile, write_arrow
from speechssl.manifest.formats.base import ReadOptions, check_unique_ids
from speechssl.manifest.formats.headers import OPTIONAL, Finished, check_unique, fill, make_manifest
from speechssl.manifest.hashing import Hashes, hash_values, repeated_hashes, repeated_rows
from speechssl.manifest.jsonl import conform, join_schemas
from speechssl.manifest.storage import (
    BATCH_ROWS,
    InMemory,
    Joined,
    Selected,
    Storage,
    cast_batch,
    in_order,
    target_schema,
)
from speechssl.manifest.table import Manifest

logger = logging.getLogger(__name__)

PIECE_ROWS = 1 << 17
"""Rows of a piece of a file of lines."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some rows of a source, and the line of each, for messages."""

    table: pa.Table
    lines: npt.NDArray[np.int64]


Named = Callable[[pa.Table], pa.Table]
"""Gives a piece, once it has the columns of all pieces, the manifest's names and types."""


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What must be known of all pieces before the first is written."""

    schema: pa.Schema
    empty: frozenset[str]
    repeated_ids: Hashes
    num_rows: int


def import_pieces(
    pieces: Callable[[], Iterable[Piece]],
    folder: Path,
    source: Path,
    options: ReadOptions,
    *,
    named: Named = lambda table: table,
    finished: Finished = lambda table: table,
) -> Manifest:
    """`make_manifest` of all pieces together; of several, no more than one is in memory.

    Args:
        pieces: gives the pieces, in order and the same each time. It is called several times if there are several.
        folder: what relative paths are relative to.
        source: the file, for messages.
        options: the caller's.
        named: applied to each piece; columns by which recordings and ids are known must have our names before it.
        finished: applied to the complete rows.

    Raises:
        ManifestError: as `make_manifest`.
    """
    found = iter(pieces())
    start = list(itertools.islice(found, 2))
    if len(start) == 1:
        return make_manifest(named(start[0].table), folder, source, start[0].lines, options, finished=finished)
    survey = _look_through(itertools.chain(start, found))
    cache = Cache()
    try:
        cache.folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="import-", suffix=".rows", dir=cache.folder)
    except OSError as error:
        logger.warning(
            "%s: its rows cannot be kept in %s (%s), so all of them are read into memory; name another folder by"
            " XDG_CACHE_HOME", source, cache.folder, error.strerror or error,
        )  # fmt: skip
        parts = [(conform(piece.table, survey.schema), piece.lines) for piece in pieces()]
        table = pa.concat_tables([table for table, _ in parts])
        lines = np.concatenate([lines for _, lines in parts])
        return make_manifest(named(table), folder, source, lines, options, finished=finished)
    os.close(descriptor)
    path = Path(name)
    try:
        filled = map(finished, _filled(pieces(), folder, source, options, named, survey))
        rows = _write(filled, pieces, source, path, cache)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    weakref.finalize(rows, _remove, path, os.getpid())
    return Manifest._of(rows, folder)


def join_parts(parts: Sequence[Manifest], folder: Path, source: Path) -> Manifest:
    """Several imports as one, in order, with paths relative to `folder`; in memory where all of them are.

    Raises:
        ManifestError: columns that do not go together, or an id that occurs twice; names `source`.
    """
    parts = [part.rebased(folder) for part in parts]
    try:
        if all(isinstance(part._rows, InMemory) for part in parts):
            table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
            check_unique_ids(table, str(source))
            return Manifest(table, folder)
        rows: Storage = Joined([part._rows for part in parts]) if len(parts) > 1 else parts[0]._rows
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ManifestError(f"{source}: its parts do not go together: {error}; drop or convert that column") from None
    rows = Selected(rows, in_order(rows.schema.names))
    suspects = repeated_rows([hash_values(batch.column(0)) for batch in rows.scan(["id"])])
    if len(suspects):
        check_unique_ids(rows.read(["id"], suspects), str(source))
    return Manifest._of(rows, folder)


def _look_through(pieces: Iterable[Piece]) -> _Survey:
    schemas: dict[pa.Schema, None] = {}
    filled: set[str] = set()
    hashes: list[Hashes] = []
    num_rows = 0
    is_without_ids = False
    for piece in pieces:
        table = piece.table
        schemas[table.schema] = None
        filled |= {name for name in table.column_names if table[name].null_count < len(table)}
        is_without_ids |= lacks_ids(table)
        if "audio_filepath" in table.column_names:
            hashes.append(hash_short_ids(table))
        num_rows += len(table)
    joined = np.concatenate(hashes) if hashes and is_without_ids else np.zeros(0, dtype=np.uint64)
    hashes.clear()
    schema = join_schemas(list(schemas))
    return _Survey(
        schema=schema,
        empty=frozenset(schema.names) - filled,
        repeated_ids=repeated_hashes(joined),
        num_rows=num_rows,
    )


def _write(
    filled: Iterator[pa.Table], pieces: Callable[[], Iterable[Piece]], source: Path, path: Path, cache: Cache
) -> ArrowFile:
    """Write the complete rows to `path`, and see that their ids differ."""
    hashes: list[Hashes] = []
    first = next(filled)
    schema = target_schema(first.schema)

    def batches() -> Iterator[pa.RecordBatch]:
        for table in itertools.chain([first], filled):
            hashes.append(hash_values(table["id"]))
            for batch in table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
                yield cast_batch(batch, schema).select(schema.names)

    write_arrow(batches(), schema, path)
    rows = ArrowFile(path, Stamp.of(path), cache)
    suspects = repeated_rows(hashes)
    if len(suspects):
        ids = rows.read(["id"], suspects)["id"]
        check_unique(ids, source, lambda places: _lines_of(suspects[places], pieces()))
    return rows


def _filled(
    pieces: Iterable[Piece], folder: Path, source: Path, options: ReadOptions, named: Named, survey: _Survey
) -> Iterator[pa.Table]:
    opened: dict[str, AudioInfo] = {}
    quiet = replace(options, progress=None)
    done = 0
    for piece in pieces:
        table = named(conform(piece.table, survey.schema))
        table = table.drop_columns([name for name in OPTIONAL if name in table.column_names and name in survey.empty])
        yield fill(table, folder, source, piece.lines, quiet, repeated=survey.repeated_ids, opened=opened)
        done += len(table)
        if options.progress is not None:
            options.progress(done, survey.num_rows)


def _lines_of(rows: npt.NDArray[np.int64], pieces: Iterable[Piece]) -> npt.NDArray[np.int64]:
    """Lines of rows of the whole."""
    found = np.zeros(len(rows), dtype=np.int64)
    start = 0
    for piece in pieces:
        here = (rows >= start) & (rows < start + len(piece.lines))
        found[here] = piece.lines[rows[here] - start]
        start += len(piece.lines)
    return found


def _remove(path: Path, process: int) -> None:
    """A forked process that lets go of the manifest leaves the file to the one that made it."""
    if os.getpid() == process:
        path.unlink(missing_ok=True)
