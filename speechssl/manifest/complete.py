"""Fill in what a manifest of another tool leaves out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.audio import AudioInfo
from speechssl.errors import ManifestError
from speechssl.manifest import paths
from speechssl.manifest.hashing import hash_values, repeated_hashes
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import map_in_threads, try_probe

REQUIRED_COLUMNS = ("id", "audio_filepath", "sample_rate", "num_samples", "offset", "duration")
ASSUMED_SAMPLE_RATE = 16000

Column = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Completed:
    """A table that has all columns of a manifest; `num_assumed` rows have a sample rate that was only assumed."""

    table: pa.Table
    num_assumed: int = 0


def complete(table: pa.Table, source: Path) -> pa.Table:
    """Add ids, offsets, sample rates, numbers of samples and durations where they are absent.

    A recording is opened only when its row lacks a sample rate or a duration. One that cannot be opened but has a
    duration is taken to be at 16 kHz: the error comes, with its name, when it is read.

    Raises:
        ManifestError: a duration is absent and the recording cannot be opened.
    """
    return complete_part(table, source).table


def complete_part(
    table: pa.Table, source: Path, *, first_row: int = 0, repeated: npt.NDArray[np.uint64] | None = None
) -> Completed:
    """`complete` for a part of a manifest that begins at `first_row`.

    `repeated` holds the hashes of all ids that would occur twice in the whole manifest (`make_ids`).
    """
    if is_complete(table):
        return Completed(table=table)
    if "offset" not in table.column_names:
        table = table.append_column("offset", pa.array(np.zeros(len(table))))
    table = _put(table, "offset", pc.fill_null(table["offset"].cast(pa.float64()), 0.0))
    if lacks_ids(table):
        table = _put(table, "id", make_ids(table, _column(table, "offset", source), repeated))
    rate, duration = _column(table, "sample_rate", source), _column(table, "duration", source)
    unknown = np.flatnonzero(np.isnan(rate) | np.isnan(duration))
    num_assumed = _fill_from_headers(table, source, unknown, rate, duration, first_row) if len(unknown) else 0
    num_samples = _column(table, "num_samples", source)
    num_samples = np.where(np.isnan(num_samples), np.floor(duration * rate + 0.5), num_samples)
    table = _put(table, "sample_rate", _to_int(rate))
    table = _put(table, "duration", pa.array(duration))
    return Completed(table=_put(table, "num_samples", _to_int(num_samples)), num_assumed=num_assumed)


def is_complete(table: pa.Table) -> bool:
    """Whether a table has a value in every row for all that a manifest needs; NaN is none."""
    return all(name in table.column_names and not _lacks_values(table[name]) for name in REQUIRED_COLUMNS)


def _lacks_values(column: pa.ChunkedArray) -> bool:
    is_float = pa.types.is_floating(column.type)
    return column.null_count > 0 or (is_float and bool(pc.any(pc.is_nan(column)).as_py()))


def lacks_ids(table: pa.Table) -> bool:
    """Whether some row has no id."""
    return "id" not in table.column_names or table["id"].null_count > 0


def _fill_from_headers(
    table: pa.Table, source: Path, rows: npt.NDArray[np.int64], rate: Column, duration: Column, first_row: int
) -> int:
    """Write into `rate` and `duration` at `rows` what the recordings' headers say; how many rates had to be assumed."""
    encoded = table["audio_filepath"].take(pa.array(rows)).combine_chunks().dictionary_encode()
    files = [paths.resolve(path or "", source.parent) for path in encoded.dictionary.to_pylist()]
    infos = list(map_in_threads(try_probe, files, num_items=len(files)))
    offsets = _column(table, "offset", source)
    bad = []
    num_assumed = 0
    for row, file in zip(rows.tolist(), encoded.indices.to_pylist(), strict=True):
        info = "no audio_filepath" if file is None else infos[file]
        if isinstance(info, AudioInfo):
            rate[row] = info.sample_rate if np.isnan(rate[row]) else rate[row]
            duration[row] = info.duration - offsets[row] if np.isnan(duration[row]) else duration[row]
        elif np.isnan(duration[row]):
            bad.append(f"row {first_row + row + 1}: {info}")
        else:
            rate[row] = ASSUMED_SAMPLE_RATE
            num_assumed += 1
    if bad:
        shown = "\n".join(bad[:5]) + (f"\n... and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise ManifestError(
            f"{source}: {len(bad)} rows have no duration, and their recordings cannot be opened to find it; `speechssl"
            f" manifest validate --quarantine` sets them aside\n{shown}"
        )
    return num_assumed


def make_ids(table: pa.Table, offset: Column, repeated: npt.NDArray[np.uint64] | None = None) -> pa.ChunkedArray:
    """Given ids; elsewhere the path without its extension, and `@milliseconds` where a row starts within a recording.

    The extension stays where two recordings differ in nothing else: in this table, or among those whose hashes
    (`hash_values`) are `repeated`.
    """
    files, starts, ids = _short_ids(table, offset)
    hashes = hash_values(ids)
    again = np.isin(hashes, repeated_hashes(hashes) if repeated is None else repeated)
    ids = pc.if_else(pa.array(again), pc.binary_join_element_wise(files, starts, pa.scalar("", STRING)), ids)
    return pc.coalesce(table["id"].cast(STRING), ids) if "id" in table.column_names else pa.chunked_array([ids])


def hash_short_ids(table: pa.Table) -> npt.NDArray[np.uint64]:
    """Hashes of the ids that `make_ids` would give were there no second recording of the name."""
    return hash_values(_short_ids(table, np.nan_to_num(_column(table, "offset")))[2])


def _short_ids(table: pa.Table, offset: Column) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Paths, `@milliseconds` or nothing, and ids without extension."""
    files = table["audio_filepath"].cast(STRING).combine_chunks()
    stems = pc.replace_substring_regex(files, r"\.[^./]*\z", "")
    milliseconds = pa.array(np.nan_to_num(offset * 1000).round().astype(np.int64)).cast(STRING)
    starts = pc.binary_join_element_wise(pa.scalar("", STRING), milliseconds, pa.scalar("@", STRING))
    starts = pc.if_else(pa.array(offset > 0), starts, pa.scalar("", STRING))
    return files, starts, pc.binary_join_element_wise(stems, starts, pa.scalar("", STRING))


def _column(table: pa.Table, name: str, source: Path | None = None) -> Column:
    """A numeric column as float64, NaN where null or absent; a copy that may be written to."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    try:
        return np.array(table[name].cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        where = "" if source is None else f"{source}: "
        raise ManifestError(f"{where}column {name} must be numeric, is {table.schema.field(name).type}") from None


def _to_int(values: Column) -> pa.Array:
    return pa.array(np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0).astype(np.int64))


def _put(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)
