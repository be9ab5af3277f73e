"""Make a manifest of tar shards that are there, whoever wrote them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from speechssl.audio import is_url
from speechssl.errors import ManifestError
from speechssl.manifest.build import BuildResult
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import default_num_workers
from speechssl.manifest.shards.journal import IndexedShard, ShardJournal
from speechssl.manifest.shards.samples import as_text, index_shard
from speechssl.manifest.shards.storage import StoredFile, list_files
from speechssl.manifest.shards.threads import in_order
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress

COMPRESSED_EXTENSIONS = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def build_from_shards(
    source: str | os.PathLike[str],
    *,
    language: str | None = None,
    journal: ShardJournal | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """A manifest of the tar shards in a folder, at a URL, or of one shard; nothing is unpacked.

    Headers are scanned, members are grouped by key (WebDataset's convention), the header of every audio member is
    read. `KEY.json` gives columns (`id`, `text`, `speaker`, `language` and whatever it has), `KEY.txt` the text,
    `KEY.cls` the column `label`. Durations come from the recordings, not from the JSON; the `spans` that
    `shard_manifest` writes make a row each. What is damaged, refused or without audio is counted with its reason, the
    rest is kept.

    With a journal a shard is noted as soon as it is read, and one that has not changed is not opened again.

    Raises:
        ManifestError: no shards, compressed ones, or nothing in them can be used; or the journal is in use.
        UnreachableError: storage could not be reached.
    """
    source = os.fspath(source)
    files = list_files(source)
    shards = [file for file in files if file.name.lower().endswith(".tar")]
    packed = [file.name for file in files if file.name.lower().endswith(COMPRESSED_EXTENSIONS)]
    if not shards:
        hint = f"{packed[0]} is compressed: unpack it to .tar" if packed else "name a folder or URL of .tar files"
        raise ManifestError(f"{source}: holds no tar shards; {hint}")
    reason = "is compressed, so that its members cannot be read at random; unpack it to .tar"
    skipped = [(name, reason) for name in packed]
    known = {} if journal is None else journal.find(shards)
    indexed = _index_all(shards, known, journal, is_url(source), num_workers or default_num_workers(), progress)
    tables = [found.table for found in indexed if found.table is not None]
    skipped += [left for found in indexed for left in found.skipped]
    if not tables:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3]) or "there is no audio in them"
        raise ManifestError(f"{source}: none of {len(shards)} shards holds a recording that can be used: {reasons}")
    table = _unique_ids(_join(tables))
    if language is not None and "language" not in table.column_names:
        table = table.append_column("language", pa.array([language] * len(table), STRING))
    folder = None if is_url(source) else os.path.dirname(source) if os.path.isfile(source) else source
    notes = [f"{len(shards)} shards" + (f", {len(known)} known from an earlier build" if known else "")]
    return BuildResult(manifest=Manifest(table, folder), skipped=tuple(skipped), notes=tuple(notes))


def _index_all(
    shards: Sequence[StoredFile],
    known: Mapping[str, IndexedShard],
    journal: ShardJournal | None,
    is_remote: bool,
    num_workers: int,
    progress: Progress | None,
) -> list[IndexedShard]:
    """What is in each shard, in order; those that are not `known` are read, and noted if they were read to the end."""
    others = [shard for shard in shards if shard.name not in known]
    reading = in_order(partial(index_shard, is_remote=is_remote), others, num_workers)
    indexed: list[IndexedShard] = []
    whole: list[tuple[StoredFile, IndexedShard]] = []
    for done, shard in enumerate(shards, start=1):
        found = known.get(shard.name)
        if found is not None:
            whole.append((shard, found))
        else:
            read = next(reading)
            found = IndexedShard(table=read.table() if read.rows else None, skipped=tuple(read.skipped))
            if read.is_whole:
                whole.append((shard, found))
                if journal is not None:
                    journal.add(shard, found)
        indexed.append(found)
        if progress is not None:
            progress(done, len(shards))
    if journal is not None:
        journal.finish(whole)
    return indexed


def _join(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows; a column that differs in kind between shards becomes text."""
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for column in table.schema:
            if not pa.types.is_null(column.type):
                kinds.setdefault(column.name, set()).add(column.type)
    mixed = {name for name, found in kinds.items() if len(found) > 1 and not all(map(_is_number, found))}
    unified = []
    for table in tables:
        for name in mixed & set(table.column_names):
            texts = pa.array([as_text(value) for value in table[name].to_pylist()], STRING)
            table = table.set_column(table.column_names.index(name), name, texts)
        unified.append(table)
    return pa.concat_tables(unified, promote_options="permissive").combine_chunks()


def _unique_ids(table: pa.Table) -> pa.Table:
    """Ids that occur in several shards get the shard's name before them, and a number where that is not enough."""
    shards = table["_shard"]
    table = table.drop_columns(["_shard"])
    for attempt in range(2):
        codes = table["id"].combine_chunks().dictionary_encode().indices.to_numpy()
        repeated = np.flatnonzero(np.bincount(codes)[codes] > 1)
        if len(repeated) == 0:
            break
        ids = table["id"].to_numpy(zero_copy_only=False)
        counts: Counter[str] = Counter()
        for row in repeated.tolist():
            if attempt == 0:
                ids[row] = f"{shards[row].as_py()}/{ids[row]}"
            else:
                counts[ids[row]] += 1
                ids[row] = f"{ids[row]}#{counts[ids[row]]}"
        table = table.set_column(table.column_names.index("id"), "id", pa.array(ids, STRING))
    return table


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
