"""JSON Lines <-> Arrow tables, by columns.

pyarrow parses and Arrow's string functions write, block by block, so that ten million rows pass without a Python object
per row. Only a block where that fails is read line by line, to repair what can be repaired and to name every line that
cannot.
"""

import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

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

MAX_DEPTH = 50
"""Levels of lists and objects in a line. Arrow's files hold 64, and its reader ends the process at some thousands."""

_BLOCK_BYTES = 32 << 20
_PARSED_BYTES = 8 << 20
_MAX_REPORTED = 20
_TEXTS = re.compile(rb'"(?:[^"\\\n]|\\.)*"')
_NO_OPENINGS = bytes(set(range(256)) - set(b"[{\n"))
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_SAFE_DEPTH = 1000
"""Levels that Arrow's reader bears."""


def read_jsonl(path: Path) -> pa.Table:
    """Read a manifest; core columns have the types of `CORE_TYPES`, absent ones are left out.

    Raises:
        ManifestError: not UTF-8, not JSON, or of wrong types; names the lines.
    """
    tables = list(scan_jsonl(path))
    schema = join_schemas([table.schema for table in tables])
    return pa.concat_tables([conform(table, schema) for table in tables])


def scan_jsonl(path: Path) -> Iterator[pa.Table]:
    """A manifest in tables of some ten thousand lines, each with the columns that it has values for.

    Raises:
        ManifestError: as `read_jsonl`, after the last table, so that it names all bad lines.
    """
    shown: list[str] = []
    num_problems = num_rows = 0
    for table, problems in _parse_blocks(path):
        num_problems += len(problems)
        shown += [f"{path}:{problem.line}: {problem.message}" for problem in problems[: _MAX_REPORTED - len(shown)]]
        num_rows += table.num_rows
        if table.num_rows and not num_problems:
            yield table
    if num_problems:
        if num_problems > len(shown):
            shown.append(f"... and {num_problems - len(shown)} more")
        shown.append("`speechssl manifest validate --quarantine` sets bad lines aside")
        raise ManifestError("\n".join(shown))
    if num_rows == 0:
        what = "is empty" if path.stat().st_size == 0 else "holds no utterance"
        raise ManifestError(f"{path}: {what}; build it again with `speechssl manifest build`")


def join_schemas(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Columns and types that can hold all of the tables; a column of kinds that do not go together becomes text."""
    kinds: dict[str, list[pa.DataType]] = {}
    for schema in dict.fromkeys(schemas):
        for field_ in schema:
            kinds.setdefault(field_.name, []).append(field_.type)
    return pa.schema([(name, _common_type(types)) for name, types in kinds.items()])


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns and types of a joined schema; absent columns are null."""
    columns = []
    for field_ in schema:
        if field_.name not in table.column_names:
            column = pa.chunked_array([pa.nulls(len(table), field_.type)])
        elif table.schema.field(field_.name).type == field_.type:
            column = table[field_.name]
        elif field_.type == STRING:
            column = pa.chunked_array([_as_text(chunk) for chunk in table[field_.name].chunks], STRING)
        else:
            column = table[field_.name].cast(field_.type)
        columns.append(column)
    return pa.table(columns, schema=schema)


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    fields = [pa.schema([("value", kind)]) for kind in types]
    try:
        return pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return STRING


def _as_text(column: pa.Array) -> pa.Array:
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if pa.types.is_floating(column.type):  # 1.0, as within a block of several kinds, where Arrow writes 1
        return _json_values_slowly(column)
    return column.cast(STRING) if is_text else _json_values(column)


@dataclass(frozen=True, kw_only=True)
class LineProblem:
    """What is wrong with a line: `kind` is "line" (not UTF-8 or not JSON) or "type"; `row` is what could be read."""

    line: int
    kind: str
    message: str
    row: Mapping[str, Any] = field(default_factory=dict)


def read_rows(path: Path) -> tuple[pa.Table, npt.NDArray[np.int64], list[LineProblem]]:
    """Read line by line: the good rows, their line numbers, and what is wrong with each of the others."""
    with open(path, "rb") as file:
        return _parse_lines(file, 1)


def write_jsonl(table: pa.Table, path: Path) -> None:
    """Write a table as JSON Lines; nulls are left out."""
    write_json_lines(table.to_batches(max_chunksize=1 << 16), path)


def write_json_lines(batches: Iterable[pa.RecordBatch], path: Path) -> None:
    """Write batches as JSON Lines; nulls are left out."""
    with open(path, "wb") as file:
        for batch in batches:
            _write_strings(pc.binary_join_element_wise(json_lines(batch), pa.scalar("\n", STRING), _empty()), file)


def _write_strings(texts: pa.LargeStringArray, file: BinaryIO) -> None:
    """Write the bytes of all strings after each other, without a Python string for each."""
    if len(texts):
        _, offsets, content = texts.buffers()
        ends = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
        file.write(memoryview(content)[int(ends[0]) : int(ends[-1])])


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
        if pc.any(pc.match_substring_regex(text, r'[\x00-\x1f\x7f"\\]')).as_py():
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


def _parse_blocks(path: Path) -> Iterator[tuple[pa.Table, list[LineProblem]]]:
    """The good rows and the bad lines of every block of lines."""
    number = 1
    with open(path, "rb") as file:
        while block := file.read(_BLOCK_BYTES):
            block += file.readline()
            try:
                parsed = None if _is_deep(block) else _parse_block(block)
            except (pa.ArrowInvalid, UnicodeDecodeError):  # the latter from names of fields
                parsed = None
            if parsed is not None:
                yield parsed, []
            else:
                table, _, problems = _parse_lines(io.BytesIO(block), number)
                yield table, problems
            number += block.count(b"\n")


def _is_deep(block: bytes) -> bool:
    """Whether a line of a block has more than `_SAFE_DEPTH` levels."""
    if block.count(b"[") + block.count(b"{") - block.count(b"\n{") <= _SAFE_DEPTH:  # so no line has more
        return False
    openings = block.translate(None, _NO_OPENINGS).split(b"\n")
    suspects = [number for number, line in enumerate(openings) if len(line) > _SAFE_DEPTH]
    lines = block.split(b"\n") if suspects else []
    brackets = (_TEXTS.sub(b"", lines[number]).translate(None, _NO_BRACKETS) for number in suspects)
    return any(_depth_of_brackets(line) > _SAFE_DEPTH for line in brackets)


def _depth_of_brackets(brackets: bytes) -> int:
    opening = np.isin(np.frombuffer(brackets, dtype=np.uint8), np.frombuffer(b"[{", dtype=np.uint8))
    return int(np.cumsum(np.where(opening, 1, -1)).max(initial=0))


def _depth_of_type(kind: pa.DataType) -> int:
    depth = 0
    level = [kind]
    while level := [outer.field(number).type for outer in level for number in range(outer.num_fields)]:
        depth += 1
    return depth


def is_too_deep(text: str, row: Any) -> bool:
    """Whether a line, and what it was read as, has more than `MAX_DEPTH` levels."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return False
    level = [row]
    for _ in range(MAX_DEPTH):
        inner = (value for item in level for value in (item.values() if isinstance(item, dict) else item))
        level = [value for value in inner if isinstance(value, (dict, list))]
    return bool(level)


def _parse_block(block: bytes) -> pa.Table:
    table = _parse(block, CORE_TYPES)
    if any(_depth_of_type(field.type) >= MAX_DEPTH for field in table.schema):
        raise pa.ArrowInvalid("too deep")
    # Arrow guesses that "2020-01-01" is a time and would change how it is written: take such columns as text.
    guessed = {
        field.name: STRING
        for field in table.schema
        if field.name not in CORE_TYPES and pa.types.is_temporal(field.type)
    }
    if guessed:
        table = _parse(block, {**CORE_TYPES, **guessed})
    table.validate(full=True)
    present = [name for name in table.column_names if table[name].null_count < len(table)]
    return table.select([name for name in present if not pa.types.is_null(table.schema.field(name).type)])


def _parse(block: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(block),
        read_options=pyarrow.json.ReadOptions(block_size=_PARSED_BYTES),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="infer"
        ),
    )


def _parse_lines(file: Iterable[bytes], first: int) -> tuple[pa.Table, npt.NDArray[np.int64], list[LineProblem]]:
    """The good rows of lines, the first of which has the number `first`, their numbers, and what is wrong elsewhere."""
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    problems: list[LineProblem] = []
    for number, line in enumerate(file, start=first):
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


def _parse_line(line: bytes, number: int) -> tuple[dict[str, Any], list[LineProblem]]:
    """A line as a row with checked types, and what is wrong with it.

    Numbers given as ids or speakers become text, as NeMo's may be.
    """
    try:
        text = line.decode("utf-8-sig")
        row = json.loads(text)
        if isinstance(row, (dict, list)) and is_too_deep(text, row):
            raise RecursionError
        if "\\ud" in text.lower():
            json.dumps(row, ensure_ascii=False).encode()  # raises where one half of a pair stands alone
    except UnicodeEncodeError:
        message = "holds one of \\ud800 ... \\udfff outside of a pair, which is no character; correct it"
        return {}, [LineProblem(line=number, kind="line", message=message)]
    except RecursionError:
        message = f"lists or objects lie more than {MAX_DEPTH} deep within each other; flatten them"
        return {}, [LineProblem(line=number, kind="line", message=message)]
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
