"""Plain CSV and TSV with a header.

CSV follows RFC 4180: a field with commas, quotes or line breaks stands in quotes, `""` is an empty text and an empty
field is an unknown value. TSV has no quoting, as in Common Voice: quotes are letters, and a value holds no tab or
line break.
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
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
    return _imported(lambda: scan_csv(path), path, "csv", options)


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


def scan_csv(path: Path) -> Iterator[pa.Table]:
    """A CSV's columns as text, null where a field is empty and not quoted, in pieces; raises like `read_csv`."""
    if not path.is_file():
        raise ManifestError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; name a CSV file")
    with open(path, "rb") as file:
        header = decode_lines(file.readline(), path)
    if not header:
        raise ManifestError(f"{path}: is empty; its first line must name the columns")
    delimiter = next((mark for mark in ",;|\t" if mark in header[0]), ",")
    try:
        names = next(csv.reader(header, delimiter=delimiter))
    except csv.Error as error:
        raise ManifestError(f"{path}:1: the header cannot be read as CSV ({error}); check its quotes") from None
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
            if reader.schema.names != names:
                raise ManifestError(
                    f"{path}:1: the header must be one line that names the columns, but a quoted name goes on in the"
                    " next; write the name without a line break"
                )
            for batch in reader:
                num_rows += batch.num_rows
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:  # the latter from a header's second line
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


def numbered(tables: Iterable[pa.Table]) -> Iterator[Piece]:
    """Tables of a file with a header as pieces: the line on which every row begins; fields may hold line breaks."""
    line = 2
    for table in tables:
        breaks = np.zeros(len(table) + 1, dtype=np.int64)
        for column in table.columns:
            breaks[1:] += pc.fill_null(pc.count_substring(column, "\n"), 0).to_numpy()
        starts = line + np.arange(len(table) + 1) + np.cumsum(breaks)
        yield Piece(table=table, lines=starts[:-1])
        line = int(starts[-1])


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


class Columns:
    """Pieces of a file of columns under the manifest's names, and the types that all of them allow.

    A column of text becomes one of numbers or truth values where every value is written as these are. `names` are
    the file's columns and what they are called here.
    """

    def __init__(self, path: Path) -> None:
        self.names: dict[str, str] = {}
        self._path = path
        self._possible: dict[str, list[pa.DataType]] = {}

    def pieces(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """All pieces with our names, core columns in their types; all have the same columns.

        Raises:
            ManifestError: no column names the recordings, or a number is none.
        """
        num_rows = 0
        for piece in pieces:
            table = _core_columns(piece.table, self._path, num_rows)
            self.names.update(zip(piece.table.column_names, table.column_names, strict=True))
            self._watch(table)
            yield Piece(table=table, lines=piece.lines)
            num_rows += len(table)

    def typed(self, table: pa.Table) -> pa.Table:
        """The columns of a piece, once all have been seen, in the types that all of them allow."""
        columns = {}
        for name in table.column_names:
            possible = self._possible.get(name, [])
            columns[name] = table[name].cast(possible[0]) if possible else table[name]
        return pa.table(columns)

    def _watch(self, table: pa.Table) -> None:
        for name in table.column_names:
            if name not in CORE_TYPES and pa.types.is_large_string(table[name].type):
                values = pc.drop_null(table[name])
                if len(values):
                    possible = self._possible.get(name, list(_KINDS))
                    self._possible[name] = [kind for kind in possible if _is_written_as(values, kind)]


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


def _convert(column: pa.ChunkedArray, name: str, path: Path, first_row: int) -> pa.ChunkedArray:
    kind = CORE_TYPES.get(name)
    if kind is None:
        return column
    if name == "audio_filepath" and column.null_count:
        row = pc.indices_nonzero(combined(pc.is_null(column)))[0].as_py()
        raise ManifestError(f"{path}: row {first_row + row + 1} names no recording; fill in its path or remove it")
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        what = "text" if kind == STRING else f"numbers ({kind})"
        raise ManifestError(f"{path}: the column {name} must hold {what}; {error}") from None


def _imported(scan: Callable[[], Iterator[pa.Table]], path: Path, format: str, options: ReadOptions) -> ImportResult:
    columns = Columns(path)
    folder = options.audio_root or path.parent
    manifest = import_pieces(lambda: columns.pieces(numbered(scan())), folder, path, options, named=columns.typed)
    changed = [f"{old} as {new}" for old, new in columns.names.items() if old != new]
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
    with contextlib.suppress(csv.Error):  # a field of more than csv.field_size_limit(); Arrow's message is left
        for values in reader:
            if values and len(values) != num_fields:
                return ManifestError(
                    f"{path}:{reader.line_num}: {len(values)} fields, but the header has {num_fields}; put a field that"
                    f" holds {delimiter!r} in quotes"
                )
    return ManifestError(f"{path}: cannot be read as CSV ({message}); check its quotes")
