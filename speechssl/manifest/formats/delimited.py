"""Plain CSV and TSV with a header.

CSV follows RFC 4180: a field with commas, quotes or line breaks stands in quotes, `""` is an empty text and an empty
field is an unknown value. TSV has no quoting, as in Common Voice: quotes are letters, and a value holds no tab or
line break.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from speechssl.errors import ManifestError
from speechssl.manifest.formats import pieces
from speechssl.manifest.formats.base import (
    ExportResult,
    ImportResult,
    ReadOptions,
    WriteOptions,
    combined,
    num_known,
)
from speechssl.manifest.formats.lines import count_lines, joined, scan_lines, split_fields, staged, write_pieces
from speechssl.manifest.formats.pieces import Piece, import_pieces
from speechssl.manifest.jsonl import CORE_TYPES, STRING
from speechssl.manifest.table import Manifest
from speechssl.manifest.transcripts import LANGUAGE_NAMES, PATH_NAMES, SPEAKER_NAMES, TEXT_NAMES, decode_lines

_ALIASES = {"audio_filepath": PATH_NAMES, "text": TEXT_NAMES, "speaker": SPEAKER_NAMES, "language": LANGUAGE_NAMES}
_WHOLE = r"\A(0|-?[1-9]\d{0,17})\z"
_KINDS = (pa.int64(), pa.bool_(), pa.float64())
"""What a column of text may be read as, the first that fits all of it."""

CSV_BLOCK_BYTES = 16 << 20


def read_csv(path: Path, options: ReadOptions) -> ImportResult:
    """Import a CSV; the separator is whichever of comma, semicolon and `|` the header has.

    Raises:
        ManifestError: no column of paths, a line with another number of fields, not UTF-8; names file and line.
    """
    return _imported(lambda: _scan_csv(path), path, "csv", options)


def read_tsv(path: Path, options: ReadOptions) -> ImportResult:
    """Import a TSV; raises like `read_csv`."""
    return _imported(lambda: _scan_tsv(path), path, "tsv", options)


def _scan_tsv(path: Path) -> Iterator[pa.Table]:
    """The columns as text, null where a field is empty, in pieces."""
    if count_lines(path) == 1:
        raise ManifestError(f"{path}: holds a header and no row; write it again")
    names = next(scan_lines(path, 1))[0].as_py().split("\t")
    _check_header(names, path)
    empty = pa.scalar(None, STRING)
    first, what = 2, "like the header " + ", ".join(names)
    for lines in scan_lines(path, pieces.PIECE_ROWS, skip=1):
        fields = split_fields(lines, len(names), path, first_line=first, what=what)
        yield pa.table(
            {n: pc.if_else(pc.equal(field, ""), empty, field) for n, field in zip(names, fields, strict=True)}
        )
        first += len(lines)


def write_csv(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export every column; paths are relative to the file's folder."""
    moved = manifest.rebased(path.parent)
    schema = _flat(next(moved.batches(moved.column_names))).schema
    with staged() as files:
        _write_csv((_flat(batch) for batch in moved.batches(moved.column_names)), schema, files(path))
    return _exported(manifest, path, "csv", {})


def write_tsv(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export every column; tabs and line breaks in values become spaces, which is counted."""
    moved = manifest.rebased(path.parent)
    left_out: dict[str, int] = {}
    with staged() as files:
        lines = (_tsv_lines(_flat(batch), left_out) for batch in moved.batches(moved.column_names))
        write_pieces(files(path), lines, header="\t".join(moved.column_names))
    return _exported(manifest, path, "tsv", left_out)


def _tsv_lines(batch: pa.RecordBatch, left_out: dict[str, int]) -> pa.Array:
    columns = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        flat = column.cast(STRING)
        if pa.types.is_large_string(column.type):
            flat = _one_field(column, name, left_out)
        columns.append(pc.fill_null(flat, ""))
    return joined(*columns, separator="\t")


def read_csv_table(path: Path) -> pa.Table:
    """A CSV's columns as text, null where a field is empty and not quoted; raises like `read_csv`."""
    return pa.concat_tables(list(_scan_csv(path)))


def _scan_csv(path: Path) -> Iterator[pa.Table]:
    """`read_csv_table` in pieces."""
    if not path.is_file():
        raise ManifestError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; name a CSV file")
    with open(path, "rb") as file:
        header = decode_lines(file.readline(), path)
    if not header:
        raise ManifestError(f"{path}: is empty; its first line must name the columns")
    delimiter = next((mark for mark in ",;|\t" if mark in header[0]), ",")
    names = next(csv.reader(header, delimiter=delimiter))
    _check_header(names, path)
    num_rows = 0
    try:
        with pyarrow.csv.open_csv(
            os.fspath(path),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, STRING),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
            read_options=pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
        ) as reader:
            for batch in reader:
                num_rows += batch.num_rows
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])
    except pa.ArrowInvalid as error:
        raise _csv_error(path, delimiter, len(names), str(error)) from None
    if num_rows == 0:
        raise ManifestError(f"{path}: holds a header and no row; write it again")


def write_csv_table(table: pa.Table, path: Path) -> None:
    """Write columns of text and numbers."""
    _write_csv(table.to_batches(), table.schema, path)


def _write_csv(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    options = pyarrow.csv.WriteOptions(quoting_style="needed")
    with pyarrow.csv.CSVWriter(os.fspath(path), schema, write_options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _num_breaks(table: pa.Table) -> int:
    """Line breaks within the fields of some rows."""
    return sum(
        pc.sum(pc.fill_null(pc.count_substring(column, "\n"), 0)).as_py() or 0
        for column in table.columns
        if pa.types.is_large_string(column.type)
    )


def line_numbers(table: pa.Table) -> npt.NDArray[np.int64]:
    """The line on which every row of a file with a header begins; fields may hold line breaks."""
    breaks = np.zeros(len(table) + 1, dtype=np.int64)
    for column in table.columns:
        if pa.types.is_large_string(column.type):
            breaks[1:] += pc.fill_null(pc.count_substring(column, "\n"), 0).to_numpy()
    return np.asarray(2 + np.arange(len(table)) + np.cumsum(breaks)[:-1], dtype=np.int64)


def typed(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text as numbers or truth values where every value is written as these are; else as it is."""
    values = pc.drop_null(column)
    kind = next((kind for kind in _KINDS if len(values) and _is_written_as(values, kind)), None)
    return column if kind is None else column.cast(kind)


def _is_written_as(values: pa.ChunkedArray, kind: pa.DataType) -> bool:
    """Whether all of some texts are what values of a kind are written as."""
    if kind == pa.int64():
        return bool(pc.all(pc.match_substring_regex(values, _WHOLE)).as_py())
    if kind == pa.bool_():
        return bool(pc.all(pc.is_in(values, pa.array(["true", "false"], STRING))).as_py())
    try:
        numbers = values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return bool(pc.all(pc.and_(pc.equal(numbers.cast(STRING), values), pc.is_finite(numbers))).as_py())


class _Types:
    """What `typed` would make of columns that are seen in pieces."""

    def __init__(self) -> None:
        self._possible: dict[str, list[pa.DataType]] = {}
        self._seen: set[str] = set()

    def watch(self, table: pa.Table) -> None:
        """Look at a piece; every piece must have been seen before `apply`."""
        for name in table.column_names:
            values = pc.drop_null(table[name])
            if name not in CORE_TYPES and len(values):
                self._seen.add(name)
                possible = self._possible.get(name, list(_KINDS))
                self._possible[name] = [kind for kind in possible if _is_written_as(values, kind)]

    def apply(self, table: pa.Table) -> pa.Table:
        """A piece with the types that all pieces allow."""
        columns = {}
        for name in table.column_names:
            possible = self._possible.get(name, []) if name in self._seen else []
            columns[name] = table[name].cast(possible[0]) if possible else table[name]
        return pa.table(columns)


def with_our_names(table: pa.Table, path: Path) -> pa.Table:
    """Columns under the manifest's names where they have another tool's, and in the types that their values have.

    Raises:
        ManifestError: no column names the recordings, or a number is none.
    """
    return _typed_columns(_core_columns(table, path))


def _core_columns(table: pa.Table, path: Path, first_row: int = 0) -> pa.Table:
    """Columns under the manifest's names where they have another tool's; core columns in their types.

    Raises:
        ManifestError: no column names the recordings, or a number is none.
    """
    lowered = [name.strip().lower() for name in table.column_names]
    names = list(table.column_names)
    for ours, aliases in _ALIASES.items():
        if ours not in names:
            place = next((lowered.index(alias) for alias in aliases if alias in lowered), None)
            if place is not None:
                names[place] = ours
    if "audio_filepath" not in names:
        raise ManifestError(
            f"{path}:1: no column names the recordings; the header must have one of {', '.join(PATH_NAMES)}, but is"
            f" {', '.join(table.column_names)}"
        )
    table = table.rename_columns(names)
    return pa.table({name: _convert(table[name], name, path, first_row) for name in names})


def _typed_columns(table: pa.Table) -> pa.Table:
    """Columns that are no core columns, as `typed` makes them."""
    return pa.table(
        {
            name: typed(table[name])
            if name not in CORE_TYPES and pa.types.is_large_string(table[name].type)
            else table[name]
            for name in table.column_names
        }
    )


def _convert(column: pa.ChunkedArray, name: str, path: Path, first_row: int) -> pa.ChunkedArray:
    kind = CORE_TYPES.get(name)
    if kind is None:
        return column
    if name == "audio_filepath" and column.null_count:
        row = pc.indices_nonzero(combined(pc.is_null(column)))[0].as_py()
        raise ManifestError(f"{path}: row {first_row + row + 1} names no recording; fill in its path or remove it")
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{path}: the column {name} must hold numbers ({kind}); {error}") from None


def _imported(scan: Callable[[], Iterator[pa.Table]], path: Path, format: str, options: ReadOptions) -> ImportResult:
    types = _Types()
    names: dict[str, str] = {}

    def scan_pieces() -> Iterator[Piece]:
        num_rows, line = 0, 2
        for table in scan():
            lines = line_numbers(table) - 2 + line
            ours = _core_columns(table, path, num_rows)
            names.update(zip(table.column_names, ours.column_names, strict=True))
            types.watch(ours)
            yield Piece(table=ours, lines=lines)
            num_rows += len(table)
            line = int(lines[-1]) + 1 + _num_breaks(table.slice(len(table) - 1))

    manifest = import_pieces(scan_pieces, options.audio_root or path.parent, path, options, named=types.apply)
    changed = [f"{old} as {new}" for old, new in names.items() if old != new]
    notes = (f"columns read: {', '.join(changed)}",) if changed else ()
    return ImportResult(manifest=manifest, format=format, notes=notes)


def _exported(manifest: Manifest, path: Path, format: str, left_out: Mapping[str, int]) -> ExportResult:
    schema = next(manifest.batches(manifest.column_names)).schema
    as_json = [field.name for field in schema if _is_nested(field.type)]
    notes = [f"{name} is written as JSON text ({num_known(manifest, name)} rows)" for name in as_json]
    return ExportResult(
        format=format,
        files=(path,),
        num_utterances=len(manifest),
        seconds=manifest.total_seconds,
        carried=tuple(manifest.column_names),
        left_out=left_out,
        notes=tuple(notes),
    )


def _is_nested(kind: pa.DataType) -> bool:
    """Whether a value is neither text, number, truth value nor time."""
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary, pa.types.is_primitive)
    return not any(is_kind(kind) for is_kind in texts)


def _flat_type(kind: pa.DataType) -> pa.DataType:
    return kind if pa.types.is_primitive(kind) and not pa.types.is_temporal(kind) else STRING


def _flat(batch: pa.RecordBatch) -> pa.RecordBatch:
    """All columns as text, numbers or truth values; others as JSON text."""
    columns = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if _is_nested(column.type):
            texts = [None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in column.to_pylist()]
            column = pa.array(texts, STRING)
        columns[name] = column.cast(_flat_type(column.type))
    return pa.RecordBatch.from_pydict(columns)


def _one_field(column: pa.Array, name: str, left_out: dict[str, int]) -> pa.Array:
    flat = pc.replace_substring_regex(column, r"[\t\r\n]+", " ")
    if name == "audio_filepath" and not flat.equals(column):
        raise ManifestError("a path with a tab or line break cannot stand in a TSV; export CSV or rename the recording")
    changed = pc.sum(pc.not_equal(flat, column)).as_py() or 0
    empty = pc.sum(pc.equal(column, "")).as_py() or 0
    if changed:
        left_out[f"tab or line break in {name}: a space instead"] = changed
    if empty:
        left_out[f"empty {name}: an unknown one when read back"] = empty
    return flat


def _check_header(names: list[str], path: Path) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ManifestError(f"{path}:1: the header names {', '.join(map(repr, repeated))} more than once; rename one")


def _csv_error(path: Path, delimiter: str, num_fields: int, message: str) -> ManifestError:
    """Find the line that Arrow could not read."""
    content = path.read_bytes()
    decode_lines(content, path)  # raises where a line is not UTF-8
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), delimiter=delimiter)
    for values in reader:
        if values and len(values) != num_fields:
            return ManifestError(
                f"{path}:{reader.line_num}: {len(values)} fields, but the header has {num_fields}; put a field that"
                f" holds {delimiter!r} in quotes"
            )
    return ManifestError(f"{path}: cannot be read as CSV ({message}); check its quotes")
