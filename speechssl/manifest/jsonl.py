"""JSON Lines <-> Arrow tables, by columns.

pyarrow parses and Arrow's string functions write, so that ten million rows pass without a Python object per row. Only
when that fails is a file read line by line, to repair what can be repaired and to name every line that cannot.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    present = [name for name in table.column_names if table[name].null_count < len(table)]
    present = [name for name in present if not pa.types.is_null(table.schema.field(name).type)]
    return table.select(present)


def parse_line(line: bytes) -> dict[str, Any]:
    """One line as a row with checked types; numbers given as ids or speakers become text, as NeMo's may be.

    Raises:
        ValueError: with what is wrong; the caller knows file and line.
    """
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start + 1});"
            " convert it with `iconv -f LATIN1 -t UTF-8`"
        ) from None
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise ValueError(f"must be a JSON object, is {_kind(row)}")
    problems = []
    for name, value in row.items():
        converted, problem = _convert(name, value)
        row[name] = converted
        if problem:
            problems.append(problem)
    if not row.get("audio_filepath"):
        problems.append("audio_filepath is missing")
    if problems:
        raise ValueError("; ".join(problems))
    return row


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
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    num_bad = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                rows.append(parse_line(line))
            except ValueError as error:
                num_bad += 1
                if len(problems) < _MAX_REPORTED:
                    problems.append(f"{path}:{number}: {error}")
    if num_bad:
        if num_bad > len(problems):
            problems.append(f"... and {num_bad - len(problems)} more bad lines")
        problems.append("`speechssl manifest validate --quarantine` sets bad lines aside")
        raise ManifestError("\n".join(problems))
    if not rows:
        raise ManifestError(f"{path}: holds no utterance; build it again with `speechssl manifest build`")
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _array(name, [row.get(name) for row in rows]) for name in names}
    return pa.table({name: column for name, column in columns.items() if column.null_count < len(rows)})


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
