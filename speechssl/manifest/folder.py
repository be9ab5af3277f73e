"""What a folder of recordings holds: their paths and texts as columns, before any of them is opened."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.audio import AUDIO_EXTENSIONS
from speechssl.errors import ManifestError
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import map_in_threads
from speechssl.manifest.transcripts import find_table, read_sidecar, read_transcripts


@dataclass(frozen=True, kw_only=True)
class FolderContents:
    """The recordings of a folder.

    `table` has the column path (relative to the folder, with `/`) and, where any is known, id, text, speaker, language
    and others. `skipped` holds `(path, reason)` for what is left out, `notes` lines for the user.
    """

    table: pa.Table
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def read_folder(
    folder: Path, transcripts: str | os.PathLike[str] | None = None, language: str | None = None
) -> FolderContents:
    """All recordings of a folder, at any depth, by path, with their texts; hidden files and folders are passed.

    Raises:
        ManifestError: the folder holds no recordings, or a bad transcript file.
    """
    listed, skipped = _list(folder)
    if not len(listed):
        known = ", ".join(sorted(extension[1:] for extension in AUDIO_EXTENSIONS))
        raise ManifestError(f"{folder}: holds no recordings (looked at any depth for {known}); name another folder")
    names = listed["path"]
    columns: dict[str, pa.Array | pa.ChunkedArray] = {"path": names}
    notes = []
    table = Path(transcripts) if transcripts is not None else find_table(folder)
    if table is not None:
        wanted = names.to_pylist()
        texts = read_transcripts(table, wanted, folder)
        skipped += [(str(table), reason) for reason in texts.unmatched]
        notes.append(f"texts from {table}: {len(texts.rows)} of {len(names)} recordings have one")
        columns |= _fields(wanted, texts.rows)
    else:
        columns |= _sidecar_texts(folder, listed)
    if language is not None:
        given = columns.get("language", pa.nulls(len(names), STRING))
        columns["language"] = pc.fill_null(pc.if_else(pc.equal(given, ""), None, given), language)
    return FolderContents(table=pa.table(columns), skipped=tuple(skipped), notes=tuple(notes))


def read_folders(
    folders: Sequence[Path], transcripts: str | os.PathLike[str] | None, language: str | None
) -> tuple[Path, FolderContents]:
    """What several folders hold, with paths from the folder that holds them all.

    Raises:
        ManifestError: as `read_folder`, or a folder is not there or lies within another.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ManifestError(f"{folder}: no such folder; several sources must all be folders of recordings")
    absolute = [os.path.abspath(folder) for folder in folders]
    for one in absolute:
        for other in absolute:
            if one is not other and (one == other or one.startswith(other.rstrip(os.sep) + os.sep)):
                raise ManifestError(f"{one} lies within {other}, its recordings would count twice; leave it out")
    common = os.path.commonpath(absolute)
    tables = []
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    for folder, path in zip(folders, absolute, strict=True):
        contents = read_folder(folder, transcripts, language)
        prefix = os.path.relpath(path, common).replace(os.sep, "/") + "/"
        names = pc.binary_join_element_wise(pa.scalar(prefix, STRING), contents.table["path"], pa.scalar("", STRING))
        tables.append(contents.table.set_column(0, "path", names))
        skipped += contents.skipped
        notes += contents.notes
    table = pa.concat_tables(tables, promote_options="default").combine_chunks().sort_by("path")
    return Path(common), FolderContents(table=table, skipped=tuple(skipped), notes=tuple(notes))


def _list(folder: Path) -> tuple[pa.Table, list[tuple[str, str]]]:
    """Columns path, and whether there is a `.txt` of the same name; in the order of the paths. And what has no path."""
    skipped: list[tuple[str, str]] = []
    batches = []
    for paths, has_text in _walk(folder):
        try:
            column = pa.array(paths, STRING)
        except UnicodeEncodeError:
            good = [number for number, path in enumerate(paths) if _is_text(path)]
            shown = [os.fsencode(path).decode("utf-8", "backslashreplace") for path in paths if not _is_text(path)]
            skipped += [(os.path.join(folder, path), "the name is not UTF-8; rename the file") for path in shown]
            column = pa.array([paths[number] for number in good], STRING)
            has_text = [has_text[number] for number in good]
        batches.append(pa.record_batch({"path": column, "has_text": pa.array(has_text, pa.bool_())}))
    schema = pa.schema([("path", STRING), ("has_text", pa.bool_())])
    return pa.Table.from_batches(batches, schema).combine_chunks().sort_by("path"), skipped


def _walk(folder: Path) -> Iterator[tuple[list[str], list[bool]]]:
    """Paths of recordings, and whether there is a `.txt` of the same name, some ten thousand at a time."""
    paths: list[str] = []
    has_text: list[bool] = []
    for directory, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _leads_back(directory, name))
        relative = os.path.relpath(directory, folder).replace(os.sep, "/")
        prefix = "" if relative == os.curdir else f"{relative}/"
        texts = {name[:-4] for name in files if name.endswith(".txt")}
        for name in files:
            stem, extension = os.path.splitext(name)
            if extension.lower() in AUDIO_EXTENSIONS and not name.startswith("."):
                paths.append(prefix + name)
                has_text.append(stem in texts)
        if len(paths) >= 1 << 14:
            yield paths, has_text
            paths, has_text = [], []
    yield paths, has_text


def _leads_back(directory: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in, which would be walked through without end."""
    path = os.path.join(directory, name)
    if not os.path.islink(path):
        return False
    here, target = os.path.realpath(directory), os.path.realpath(path)
    return here == target or here.startswith(target.rstrip(os.sep) + os.sep)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fields(names: Iterable[str], rows: Mapping[str, Mapping[str, str]]) -> dict[str, pa.Array]:
    """The fields that a table of texts gives, as columns."""
    known = [rows.get(name, {}) for name in names]
    fields = dict.fromkeys(field for row in rows.values() for field in row)
    return {field: pa.array([row.get(field) for row in known], STRING) for field in fields}


def _sidecar_texts(folder: Path, listed: pa.Table) -> dict[str, pa.Array]:
    """The column of texts, from a `.txt` beside each recording; none where there are no such files."""
    has_text = listed["has_text"].to_numpy()
    wanted = np.flatnonzero(has_text)
    if not len(wanted):
        return {}
    paths = (folder / path for path in listed["path"].take(pa.array(wanted)).to_pylist())
    found = pa.array(list(map_in_threads(read_sidecar, paths, num_items=len(wanted))), STRING)
    places = pa.array(np.where(has_text, np.cumsum(has_text) - 1, 0), mask=~has_text)
    return {"text": found.take(places)}
