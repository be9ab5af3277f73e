"""JSON Lines <-> Arrow tables, by columns.

pyarrow parses and Arrow's string functions write, so that ten million rows pass without a Python object per row. Only
when that fails is a file read line by line, to repair what can be repaired and to name every line that cannot.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from speechssl.errors import ManifestError

STRING = pa.large_string()
CORE_TYPES: Mapping[str, pa.DataType] = {
    "id": STRING,
    "audio_filepath": STRING,
    "sample_rate": pa.int64(),
    "num_samples": pa.int64(),
    "offset": pa.float64(),
    "duration": pa.float64(),
    "text": STRING,
    "speaker": STRING,
    "language": STRING,
}
"""Arrow type of the columns that every manifest may have; other columns keep the type they come with."""

_BLOCK_BYTES = 16 << 20
_MAX_REPORTED = 20


def read_jsonl(path: Path) -> pa.Table:
    """Read a manifest; core columns have the types of `CORE_TYPES`, absent ones are left out.

    Raises:
        ManifestError: not UTF-8, not JSON, or of wrong types; names the lines.
    """
    if path.stat().st_size == 0:
        raise ManifestError(f"{path}: is empty; build it again with `speechssl manifest build`")
    try:
        table = _parse(path, dict(CORE_TYPES))
        # Arrow guesses that "2020-01-01" is a time and would change how it is written: take such columns as text.
        guessed = {
            field.name: STRING
            for field in table.schema
            if field.name not in CORE_TYPES and pa.types.is_temporal(field.type)
        }
        if guessed:
            table = _parse(path, {**CORE_TYPES, **guessed})
        table.validate(full=True)
    except pa.ArrowInvalid:
        return _read_line_by_line(path)
    if table.num_rows == 0:
        raise ManifestError(f"{path}: holds no utterance; build it again with `speechssl manifest build`")
    present = [name for name in table.column_names if table[name].null_count < len(table)]
    present = [name for name in present if not pa.types.is_null(table.schema.field(name).type)]
    return table.select(present)


@dataclass(frozen=True, kw_only=True)
class LineProblem:
    """What is wrong with a line: `kind` is "line" (not UTF-8 or not JSON) or "type"; `row` is what could be read."""

    line: int
    kind: str
    message: str
    row: Mapping[str, Any] = field(default_factory=dict)


def read_rows(path: Path) -> tuple[pa.Table, npt.NDArray[np.int64], list[LineProblem]]:
    """Read line by line: the good rows, their line numbers, and what is wrong with each of the others."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    problems: list[LineProblem] = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row, found = _parse_line(line, number)
            if found:
                problems += found
            else:
                rows.append(row)
                lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _array(name, [row.get(name) for row in rows]) for name in names}
    table = pa.table({name: column for name, column in columns.items() if column.null_count < len(rows)})
    return table, np.array(lines, dtype=np.int64), problems


def write_jsonl(table: pa.Table, path: Path) -> None:
    """Write a table as JSON Lines; nulls are left out."""
    with open(path, "wb") as file:
        for batch in table.to_batches(max_chunksize=1 << 16):
            lines = json_lines(batch)
            if len(lines):
                file.write("\n".join(lines.to_pylist()).encode() + b"\n")


def json_lines(batch: pa.RecordBatch) -> pa.LargeStringArray:
    """Every row as the text of a JSON object, without its nulls."""
    fields = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        key = json.dumps(name, ensure_ascii=False) + ": "
        fields.append(pc.binary_join_element_wise(pa.scalar(key, STRING), _json_values(column), _empty()))
    joined = pc.binary_join_element_wise(*fields, pa.scalar(", ", STRING), null_handling="skip")
    return pc.binary_join_element_wise(pa.scalar("{", STRING), joined, pa.scalar("}", STRING), _empty())


def _empty() -> pa.Scalar:
    return pa.scalar("", STRING)


def _json_values(column: pa.Array) -> pa.Array:
    """Each value as JSON text; null stays null."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = column.cast(STRING)
        if pc.any(pc.match_substring_regex(text, r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")).as_py():
            return _json_values_slowly(text)
        for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
            text = pc.replace_substring(text, plain, escaped)
        quote = pa.scalar('"', STRING)
        return pc.binary_join_element_wise(quote, text, quote, _empty())
    if pa.types.is_floating(kind):
        values = column.cast(pa.float64())
        return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64())).cast(STRING)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(STRING)
    return _json_values_slowly(column)


def _json_values_slowly(column: pa.Array) -> pa.Array:
    values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_pylist()]
    return pa.array(values, STRING)


def _parse(path: Path, types: Mapping[str, pa.DataType]) -> pa.Table:
    return pyarrow.json.read_json(
        os.fspath(path),
        read_options=pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="infer"
        ),
    )


def _read_line_by_line(path: Path) -> pa.Table:
    table, _, problems = read_rows(path)
    if problems:
        shown = [f"{path}:{problem.line}: {problem.message}" for problem in problems[:_MAX_REPORTED]]
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more")
        shown.append("`speechssl manifest validate --quarantine` sets bad lines aside")
        raise ManifestError("\n".join(shown))
    if table.num_rows == 0:
        raise ManifestError(f"{path}: holds no utterance; build it again with `speechssl manifest build`")
    return table


def _parse_line(line: bytes, number: int) -> tuple[dict[str, Any], list[LineProblem]]:
    """A line as a row with checked types, and what is wrong with it.

    Numbers given as ids or speakers become text, as NeMo's may be.
    """
    try:
        text = line.decode("utf-8-sig")
        row = json.loads(text)
    except UnicodeDecodeError as error:
        message = (
            f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1}); convert the file with"
            " `iconv -f LATIN1 -t UTF-8` (or whatever encoding it has)"
        )
        return {}, [LineProblem(line=number, kind="line", message=message)]
    except json.JSONDecodeError as error:
        message = f"not JSON ({error.msg} at column {error.colno}); every line must be one JSON object"
        return {}, [LineProblem(line=number, kind="line", message=message)]
    if not isinstance(row, dict):
        return {}, [LineProblem(line=number, kind="line", message=f"must be a JSON object, is {_kind(row)}")]
    written = dict(row)
    messages = []
    for name, value in written.items():
        row[name], problem = _convert(name, value)
        if problem is not None:
            messages.append(problem)
    if written.get("audio_filepath") in (None, ""):
        messages.append("audio_filepath is missing; it must be the path of a recording")
    return row, [LineProblem(line=number, kind="type", message=message, row=written) for message in messages]


def _array(name: str, values: list[Any]) -> pa.Array:
    if name in CORE_TYPES:
        return pa.array(values, CORE_TYPES[name])
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # of several kinds: keep what was written, as text
        texts = [
            value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for value in values
        ]
        return pa.array(texts, STRING)
    return array.cast(STRING) if pa.types.is_string(array.type) else array


def _kind(value: Any) -> str:
    names = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _convert(name: str, value: Any) -> tuple[Any, str | None]:
    """A core column's value in its type, or what is wrong with it."""
    kind = CORE_TYPES.get(name)
    if kind is None or value is None:
        return value, None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == STRING:
        if name in ("id", "speaker") and isinstance(value, int) and not isinstance(value, bool):
            return str(value), None
        return (value, None) if isinstance(value, str) else (None, f"{name} must be text, is {_kind(value)} ({value})")
    if not is_number:
        return None, f"{name} must be a number, is {_kind(value)} ({value!r})"
    if kind == pa.int64():
        if float(value) != int(value) if math.isfinite(value) else True:
            return None, f"{name} must be a whole number, is {value}"
        return int(value), None
    return float(value), None
