"""The folder that Hugging Face's `load_dataset("audiofolder", data_dir=...)` reads.

A folder holds recordings and beside them `metadata.csv`, `.jsonl` or `.parquet` with the column `file_name` and any
others. One such folder a split, named after it, or a single one. Recordings must lie within the folder of their
metadata, and are whole: there are no spans.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from speechssl.errors import ManifestError
from speechssl.manifest import paths
from speechssl.manifest.formats.base import (
    ExportResult,
    ImportResult,
    ReadOptions,
    WriteOptions,
    combined,
    shown,
)
from speechssl.manifest.formats.delimited import Columns, numbered, scan_csv, write_csv_table
from speechssl.manifest.formats.headers import repeated
from speechssl.manifest.formats.lines import staged
from speechssl.manifest.formats.pieces import PIECE_ROWS, Piece, import_pieces, join_parts
from speechssl.manifest.formats.rows import gather, read_objects
from speechssl.manifest.formats.spool import KeptPieces, Pieces
from speechssl.manifest.jsonl import STRING, conform, join_schemas, write_jsonl
from speechssl.manifest.table import Manifest

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

# The words by which `datasets` sorts files into splits (datasets/data_files.py), alone or between these marks.
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_MARKS = r"[-._ 0-9]"

# What pandas, with which `datasets` reads a CSV, takes for a missing value or a truth value.
_NOT_TEXT_IN_CSV = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip
_NUMBER_IN_CSV = (
    r"\A\s*([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?[iI][nN][fF](inity)?|[Tt]rue|TRUE|[Ff]alse|FALSE)\s*\z"
)
_TIME_IN_JSON = r"\A\d{4}-\d{2}-\d{2}([T ]\d{2}(:?\d{2}(:?\d{2}(\.\d+)?)?)?(Z|[-+]\d{2}(:?\d{2})?)?)?\z"


def metadata_files(path: Path) -> list[Path]:
    """The metadata of a folder: its own, else that of the folders in it."""
    for folder in ([path], sorted(child for child in path.iterdir() if child.is_dir())):
        found = [place / name for place in folder for name in METADATA if (place / name).is_file()]
        if found:
            return found
    return []


def read(path: Path, options: ReadOptions) -> ImportResult:
    """Import a folder or one metadata file; of several folders each is a split.

    Raises:
        ManifestError: no metadata, or a line or recording that cannot be used; names file and line.
    """
    files = metadata_files(path) if path.is_dir() else [path]
    if not files:
        raise ManifestError(
            f"{path}: holds no {', '.join(METADATA)}, nor do its folders; `speechssl manifest build` takes a folder of"
            " recordings without one"
        )
    if len({file.parent for file in files}) < len(files):
        raise ManifestError(f"{path}: holds {shown([file.name for file in files])}; name the one to read")
    parts = []
    for file in files:
        is_split = len(files) > 1 or (file.parent != path and _split_of(file.parent.name) is not None and path.is_dir())
        parts.append(_read_part(file, file.parent.name if is_split else None, options))
    manifest = join_parts(parts, path if path.is_dir() else path.parent, path)
    return ImportResult(manifest=manifest, format="audiofolder")


def _read_part(path: Path, split: str | None, options: ReadOptions) -> Manifest:
    """The rows of a metadata file; `split` becomes a column where the file has none of that name."""
    columns = Columns(path)
    scan = _scan_metadata(path)

    def named(table: pa.Table) -> pa.Table:
        table = columns.typed(table)
        if split is None or "split" in table.column_names:
            return table
        return table.append_column("split", repeated(split, len(table)))

    folder = options.audio_root or path.parent
    return import_pieces(lambda: columns.pieces(scan()), folder, path, options, named=named)


def write(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export to a folder, or to a metadata file whose ending says which kind.

    In a folder the metadata is CSV, or JSON Lines or Parquet where `datasets` would read values of a CSV as something
    else. With the column `split` every split gets a folder. Recordings that do not lie within are refused unless
    `options.place` says how to bring them there.

    Raises:
        ManifestError: a recording outside, or something that `datasets` would read as something else.
    """
    folder, names = (path.parent, (path.name,)) if path.name in METADATA else (path, METADATA)
    parts = {home: (part, _table(part)) for home, part in _parts(manifest, folder).items()}
    trouble = {
        name: [text for _, table in parts.values() for text in _trouble(table, manifest, name)] for name in names
    }
    name = next((name for name in names if not trouble[name]), None)
    if name is None:
        other = METADATA[min(METADATA.index(names[-1]) + 1, len(METADATA) - 1)]
        raise ManifestError(
            f"{path}: `datasets` would not read these columns as they are: {shown(trouble[names[-1]])}; name"
            f" {folder / other} as the file to write"
        )
    notes = [f'read it with datasets.load_dataset("audiofolder", data_dir="{folder}")']
    if name != names[0]:
        notes.append(f"no {names[0]}, in which `datasets` would change columns: {shown(trouble[names[0]])}")
    with staged() as files:
        for home, (part, table) in parts.items():
            placed = _place(part, home, options)
            _check_names(placed, folder, home)
            table = table.set_column(0, "file_name", combined(placed.column("audio_filepath")))
            _write_metadata(table, files(home / name))
            for other in METADATA:
                files.drop(home / other)
    return ExportResult(
        format="audiofolder",
        files=files.files,
        num_utterances=len(manifest),
        seconds=manifest.total_seconds,
        carried=tuple(name for name in manifest.column_names if name != "offset"),
        notes=tuple(notes),
    )


def _scan_metadata(path: Path) -> Pieces:
    """Gives the columns of a metadata file, all of them in each piece."""
    if path.suffix == ".csv":
        return lambda: numbered(scan_csv(path))
    if path.suffix == ".jsonl":
        kept = KeptPieces(gather(_rows_of_json(path)))
        schema = join_schemas(list(kept.schemas))
        return lambda: (Piece(table=conform(piece.table, schema), lines=piece.lines) for piece in kept())
    return lambda: _scan_parquet(path)


def _rows_of_json(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in read_objects(path):
        if not row:
            raise ManifestError(
                f"{path}:{line}: an object without any field names no recording; fill it in or remove it"
            )
        yield line, row


def _scan_parquet(path: Path) -> Iterator[Piece]:
    done = 0
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
        for batch in file.iter_batches(PIECE_ROWS, use_threads=False):
            batch.validate(full=True)  # texts of a damaged file may not be UTF-8
            yield Piece(table=_plain(pa.Table.from_batches([batch])), lines=np.arange(done + 1, done + len(batch) + 1))
            done += len(batch)
        if not done:
            yield Piece(table=_plain(file.schema_arrow.empty_table()), lines=np.zeros(0, dtype=np.int64))
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as Parquet ({error}); write it again") from None


def _plain(table: pa.Table) -> pa.Table:
    """Values instead of numbers in a dictionary, which may be another in each piece."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
    return table


def _parts(manifest: Manifest, folder: Path) -> dict[Path, Manifest]:
    """The rows of every folder that gets metadata."""
    if "split" not in manifest.column_names:
        return {folder: manifest}
    splits = manifest.column("split").cast(STRING)
    names = pc.unique(splits).to_pylist()
    unknown = [str(name) for name in names if name is None or "/" in name or _split_of(name) is None]
    if unknown:
        words = ", ".join(word for words in _SPLIT_WORDS.values() for word in words)
        raise ManifestError(
            f"the split {shown(unknown)} is none that `datasets` knows by its folder's name ({words}); rename it"
        )
    parts = {}
    for name in names:
        part = manifest.filter(pc.equal(splits, name))
        kept = [column for column in part.column_names if column != "split"]
        parts[folder / name] = part.select(kept)
    return parts


def _split_of(name: str) -> str | None:
    """The split that `datasets` takes a file or folder of that name to belong to."""
    for split, words in _SPLIT_WORDS.items():
        for word in words:
            if re.fullmatch(rf"(.*{_MARKS})?{word}({_MARKS}.*)?", name, re.DOTALL):
                return split
    return None


def _place(manifest: Manifest, home: Path, options: WriteOptions) -> Manifest:
    """The manifest with all recordings below `home`, linked or copied there where that is asked for."""
    moved = manifest.rebased(home)
    names = combined(moved.column("audio_filepath"))
    outside = pc.match_substring_regex(names, r"\A(/|\.\./|[A-Za-z][A-Za-z0-9+.-]*://)|\A\.\.\z")
    if not pc.any(outside).as_py():
        return moved
    if options.place == "keep":
        row = pc.indices_nonzero(outside)[0].as_py()
        raise ManifestError(
            f"{pc.sum(outside).as_py()} recordings do not lie in {home}, where `datasets` must find them; the first is"
            f" {names[row].as_py()}: use --place link or --place copy"
        )
    wanted = pc.unique(names.filter(outside)).to_pylist()
    targets: list[str] = []
    taken: set[Path] = set()
    for number, name in enumerate(wanted, start=1):
        source = Path(os.path.abspath(paths.resolve(name, home)))
        target = home / "audio" / source.name
        count = 1
        while target in taken or (target.exists() and not _same(target, source)):
            count += 1
            target = home / "audio" / f"{source.stem}-{count}{source.suffix}"
        _bring(source, target, copy=options.place == "copy")
        taken.add(target)
        targets.append(target.relative_to(home).as_posix())
        if options.progress is not None:
            options.progress(number, len(wanted))
    new = pa.array(targets, STRING).take(pc.index_in(names, value_set=pa.array(wanted, STRING)))
    return moved.with_column("audio_filepath", pc.coalesce(new, names))


def _same(target: Path, source: Path) -> bool:
    """Whether an earlier export brought this recording here."""
    if target.samefile(source):
        return True
    return target.stat().st_size == source.stat().st_size and target.read_bytes() == source.read_bytes()


def _bring(source: Path, target: Path, *, copy: bool) -> None:
    if not source.is_file():
        raise ManifestError(f"{source}: no such recording; check the manifest's paths")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    if copy:
        shutil.copyfile(source, target)
    else:
        target.symlink_to(source)


def _check_names(manifest: Manifest, folder: Path, home: Path) -> None:
    """Refuse names by which `datasets` would sort recordings into splits, away from their metadata."""
    if home != folder:
        return
    names = pc.unique(combined(manifest.column("audio_filepath")))
    words = "|".join(word for words in _SPLIT_WORDS.values() for word in words)
    sorted_away = names.filter(pc.match_substring_regex(names, rf"(\A|/|{_MARKS})({words})({_MARKS}[^/]*)?(/|\z)"))
    if len(sorted_away):
        raise ManifestError(
            f"{len(sorted_away)} recordings have a name by which `datasets` sorts them into a split without their"
            f" metadata, such as {sorted_away[0].as_py()!r}; give the manifest a column split (train for all of them)"
        )


def _table(manifest: Manifest) -> pa.Table:
    """The columns of the metadata: `file_name` first; the offset is 0 everywhere and is left away."""
    columns = {"file_name": combined(manifest.column("audio_filepath"))}
    for name in manifest.column_names:
        if name in ("file_name", "audio", "file_names") or name.endswith(("_file_name", "_file_names")):
            raise ManifestError(f"the column {name} means something else to `datasets`; rename it")
        if name not in ("audio_filepath", "offset"):
            columns[name] = combined(manifest.column(name))
    return pa.table(columns)


def _trouble(table: pa.Table, manifest: Manifest, name: str) -> list[str]:
    """Columns that `datasets`, which guesses the types in CSV and JSON, would read as something else, and why."""
    bad = []
    for field in table.schema.remove(0):
        column = combined(table[field.name])
        reason = None
        if name != METADATA[2] and column.null_count == len(column) < len(manifest):
            reason = "unknown in a whole split"
        elif name == METADATA[0]:
            reason = _trouble_in_csv(column)
        elif name == METADATA[1] and (pa.types.is_large_string(field.type) or pa.types.is_string(field.type)):
            dates = pc.match_substring_regex(pc.drop_null(column), _TIME_IN_JSON)
            reason = "all times" if len(dates) and pc.all(dates).as_py() else None
        if reason is not None:
            bad.append(f"{field.name} ({reason})")
    return bad


def _trouble_in_csv(column: pa.Array) -> str | None:
    """How pandas, with which `datasets` reads a CSV, would change a column."""
    kind = column.type
    if pa.types.is_large_string(kind) or pa.types.is_string(kind):
        known = pc.drop_null(column.cast(STRING))
        missing = pc.sum(pc.is_in(known, pa.array(_NOT_TEXT_IN_CSV, STRING))).as_py() or 0
        if len(known) and pc.all(pc.match_substring_regex(known, _NUMBER_IN_CSV)).as_py():
            return "all numbers"
        return f"{missing} values such as NA or nothing" if missing else None
    if not pa.types.is_primitive(kind):
        return str(kind)
    return "whole numbers with gaps" if column.null_count and not pa.types.is_floating(kind) else None


def _write_metadata(table: pa.Table, path: Path) -> None:
    name = path.name
    if ".csv" in name:
        write_csv_table(table, path)
    elif ".jsonl" in name:
        write_jsonl(table, path)
    else:
        pq.write_table(table, path, compression="zstd")
