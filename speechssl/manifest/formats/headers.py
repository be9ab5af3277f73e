"""Fill in from the recordings' headers what a format does not tell, and check what it does."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.audio import AudioInfo
from speechssl.errors import ManifestError
from speechssl.manifest import paths
from speechssl.manifest.complete import make_ids
from speechssl.manifest.formats.base import MAX_SHOWN, ReadOptions, combined
from speechssl.manifest.hashing import Hashes
from speechssl.manifest.jsonl import CORE_TYPES, STRING
from speechssl.manifest.scan import map_in_threads, try_probe
from speechssl.manifest.table import Manifest

Column = npt.NDArray[np.float64]

OPTIONAL = ("text", "speaker", "language")
"""Core columns that are left out where no row has a value."""

MAX_KEPT_HEADERS = 1 << 18


Finished = Callable[[pa.Table], pa.Table]
"""Changes rows once nothing is missing in them, each by itself."""


def make_manifest(
    table: pa.Table,
    folder: Path,
    source: Path,
    lines: npt.NDArray[np.int64] | None,
    options: ReadOptions,
    *,
    finished: Finished = lambda table: table,
) -> Manifest:
    """A manifest of a format's columns, of which only audio_filepath must be there.

    A header is opened where a row has no sample rate (and `options.sample_rate` gives none) or no length; a length may
    be a duration or num_samples. Ids are made of the paths where there are none.

    Args:
        table: columns of the manifest, with nulls where something is unknown.
        folder: what relative paths are relative to.
        source: the file, for messages.
        lines: line of every row in `source`, for messages; rows are counted from 1 where None.
        options: the caller's.
        finished: applied to the complete rows.

    Raises:
        ManifestError: a recording that cannot be opened, an impossible time or repeated ids; names file and line.
    """
    lines = np.arange(1, len(table) + 1) if lines is None else lines
    empty = [name for name in OPTIONAL if name in table.column_names and table[name].null_count == len(table)]
    filled = finished(fill(table.drop_columns(empty), folder, source, lines, options))
    check_unique(filled["id"], source, lambda rows: lines[rows])
    return Manifest(filled, folder)


def fill(
    table: pa.Table,
    folder: Path,
    source: Path,
    lines: npt.NDArray[np.int64],
    options: ReadOptions,
    *,
    repeated: Hashes | None = None,
    opened: dict[str, AudioInfo] | None = None,
) -> pa.Table:
    """The columns of `make_manifest`, of a source or of a piece of one; whether ids are unique is not looked at.

    Of a piece, `repeated` holds the hashes of the ids that would occur twice in the whole (`make_ids`), and `opened`
    keeps headers for the next piece.
    """
    _check_paths(table["audio_filepath"], source, lines)
    rate, duration = _numbers(table, "sample_rate"), _numbers(table, "duration")
    num_samples = _numbers(table, "num_samples")
    offset = np.nan_to_num(_numbers(table, "offset"))
    if options.sample_rate is not None:
        rate[np.isnan(rate)] = options.sample_rate
    no_length = np.isnan(duration) & np.isnan(num_samples)
    unknown = np.flatnonzero(np.isnan(rate) | no_length)
    if len(unknown):
        full = _open(table, folder, source, lines, unknown, options, rate, {} if opened is None else opened)
        here = no_length[unknown]
        duration[unknown[here]] = full[here] - offset[unknown[here]]
    duration = np.where(np.isnan(duration), num_samples / rate, duration)
    num_samples = np.where(np.isnan(num_samples), np.floor(duration * rate + 0.5), num_samples)
    _check_times(table, source, lines, offset, duration)
    columns = {name: table[name] for name in table.column_names if name not in CORE_TYPES}
    core = {name: table[name] for name in ("audio_filepath", *OPTIONAL) if name in table.column_names}
    core |= {"sample_rate": pa.array(rate.astype(np.int64)), "num_samples": pa.array(num_samples.astype(np.int64))}
    core |= {"offset": pa.array(offset), "duration": pa.array(duration)}
    core["id"] = make_ids(table, offset, repeated)
    ordered = {name: core[name] for name in CORE_TYPES if name in core}
    return pa.table(ordered | columns)


def first_relative(files: pa.Array) -> str | None:
    """The first path that is relative, if any."""
    relative = files.filter(pc.invert(pc.match_substring_regex(files, r"\A(/|[A-Za-z][A-Za-z0-9+.-]*://)")))
    return relative[0].as_py() if len(relative) else None


def choose_folder(first: str | None, source: Path, options: ReadOptions) -> Path:
    """What the relative paths of a format are relative to, where the format leaves it to the working folder.

    The option, else whichever of the working folder and the source's folder holds the `first_relative` of them.

    Raises:
        ManifestError: neither does.
    """
    home = source if source.is_dir() else source.parent
    if options.audio_root is not None:
        return options.audio_root
    if first is None or "\0" in first:  # the latter is refused with its line
        return home
    plain = first.split(":")[0]
    for folder in (Path.cwd(), home):
        if (folder / first).exists() or (folder / plain).exists():
            return folder
    raise ManifestError(
        f"{source}: the relative path {first!r} is neither in the working folder nor in {home}; say with --audio_root"
        " what paths are relative to"
    )


def _open(
    table: pa.Table,
    folder: Path,
    source: Path,
    lines: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    options: ReadOptions,
    rate: Column,
    opened: dict[str, AudioInfo],
) -> Column:
    """Put the headers' rates into `rate` where it has none at `rows`; returns the whole lengths in seconds there."""
    encoded = combined(table["audio_filepath"].take(pa.array(rows))).dictionary_encode()
    files = [paths.resolve(path or "", folder) for path in encoded.dictionary.to_pylist()]
    others = [file for file in files if file not in opened]
    probed = map_in_threads(try_probe, others, num_items=len(others), progress=options.progress)
    found = dict(zip(others, probed, strict=True))
    infos = [found[file] if file in found else opened[file] for file in files]
    opened |= {
        file: info
        for file, info in itertools.islice(found.items(), max(0, MAX_KEPT_HEADERS - len(opened)))
        if isinstance(info, AudioInfo)
    }
    which = encoded.indices.to_numpy(zero_copy_only=False)
    good = np.array([isinstance(info, AudioInfo) for info in infos])
    bad = np.flatnonzero(~good[which])
    if len(bad):
        messages = [f"{source}:{lines[rows[place]]}: {infos[which[place]]}" for place in bad[:MAX_SHOWN].tolist()]
        messages += [f"... and {len(bad) - MAX_SHOWN} more"] if len(bad) > MAX_SHOWN else []
        raise ManifestError(
            f"{len(bad)} of {len(table)} rows name recordings that cannot be opened to find their sample rate or length"
            " (--audio_root says where they lie, --sample_rate gives the rate without opening them)\n"
            + "\n".join(messages)
        )
    rates = np.array([info.sample_rate for info in infos if isinstance(info, AudioInfo)], dtype=np.float64)
    seconds = np.array([info.duration for info in infos if isinstance(info, AudioInfo)], dtype=np.float64)
    rate[rows] = np.where(np.isnan(rate[rows]), rates[which], rate[rows])
    return np.asarray(seconds[which], dtype=np.float64)


def _check_paths(files: pa.ChunkedArray, source: Path, lines: npt.NDArray[np.int64]) -> None:
    nameless = pc.or_kleene(pc.is_null(files), pc.match_substring(files, "\0"))
    rows = pc.indices_nonzero(combined(nameless))
    if len(rows):
        row = rows[0].as_py()
        path = files[row].as_py()
        what = "names no recording" if path is None else f"{path[:80]!r} is no path: it holds a zero byte"
        raise ManifestError(f"{source}:{lines[row]}: {what}; fill in its path or remove it")


def _check_times(table: pa.Table, source: Path, lines: npt.NDArray[np.int64], offset: Column, duration: Column) -> None:
    bad = np.flatnonzero(~(np.isfinite(duration) & (duration > 0) & np.isfinite(offset) & (offset >= 0)))
    if len(bad):
        row = int(bad[0])
        path = table["audio_filepath"][row].as_py()
        raise ManifestError(
            f"{source}:{lines[row]}: {len(bad)} rows have an impossible span; the first is {duration[row]:g} s at"
            f" {offset[row]:g} s of {path}: the duration must be positive and the offset not negative"
        )


def check_unique(
    ids: pa.ChunkedArray | pa.Array, source: Path, lines_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
) -> None:
    """Refuse repeated ids; `lines_of` gives the lines of rows, by their places in `ids`.

    Raises:
        ManifestError: names the first, with both lines.
    """
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    codes = combined(ids).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(codes, return_index=True)
    again = np.setdiff1d(np.arange(len(codes)), first)
    row = int(again[0])
    before, line = lines_of(np.array([int(np.flatnonzero(codes == codes[row])[0]), row])).tolist()
    raise ManifestError(
        f"{source}:{line}: ids must be unique, but {ids[row].as_py()!r} is that of line {before} too"
        f" ({len(again)} rows repeat one); give each row an id of its own"
    )


def _numbers(table: pa.Table, name: str) -> Column:
    """A column of numbers as float64, NaN where unknown; a copy that may be written to."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return np.array(table[name].cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def repeated(value: str, count: int) -> pa.Array:
    """The same text in every row."""
    return pa.array([value], STRING).take(pa.array(np.zeros(count, dtype=np.int64)))
