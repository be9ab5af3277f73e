"""`Manifest`: a list of utterances held as Arrow columns, in memory or in a file."""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechssl.errors import ManifestError
from speechssl.files import replacing
from speechssl.manifest import loading, paths
from speechssl.manifest.cache import Cache
from speechssl.manifest.checks import check_ids
from speechssl.manifest.complete import REQUIRED_COLUMNS
from speechssl.manifest.files import ArrowFile, ParquetFile, write_parquet
from speechssl.manifest.fingerprint import fingerprint
from speechssl.manifest.hashing import hash_values
from speechssl.manifest.jsonl import CORE_TYPES, write_json_lines
from speechssl.manifest.storage import Chosen, InMemory, Joined, Moved, Selected, Storage, Widened, cast_table
from speechssl.types import Utterance

SMALL_ROWS = 100_000
"""So few rows chosen from a table in memory are copied; of more, their numbers are kept."""


class Manifest:
    """Utterances as columns; ten million of them stay usable.

    The columns are id, audio_filepath, sample_rate (Hz), num_samples, offset and duration (seconds) and, where known,
    text, speaker, language, then whatever else the source had. `folder` is what relative paths are relative to.
    Immutable: every method returns a new manifest that shares the columns it did not change.

    A large manifest (200,000 rows of Parquet, 64 MB of JSON Lines) stays in its file: columns are read when they are
    asked for, and choosing rows keeps their numbers. `batches` passes over any number of rows in little memory, while
    `table` and `column` bring what they return into memory. Pickling it hands on the file's name, not the rows.
    """

    def __init__(self, table: pa.Table, folder: str | os.PathLike[str] | None = None) -> None:
        missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names and name != "offset"]
        if missing:
            raise ManifestError(
                f"a manifest needs the columns {', '.join(REQUIRED_COLUMNS)}, but {', '.join(missing)} is missing;"
                " `Manifest.load` fills in what a recording's header tells"
            )
        if "offset" not in table.column_names:
            table = table.append_column("offset", pa.array(np.zeros(len(table))))
        self._rows: Storage = InMemory(cast_table(table))
        self.folder: Path | None = None if folder is None else Path(folder)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, cache_folder: str | os.PathLike[str] | None = None) -> "Manifest":
        """Open a `.jsonl`, `.json` or `.parquet` manifest.

        A NeMo manifest is read as it is: ids are made from the paths, and what only the recordings tell (sample rate,
        number of samples, a missing duration) is read from their headers.

        `cache_folder` is where large manifests keep their rows for random access, and JSON Lines what was parsed; the
        user's cache folder when None.

        Raises:
            ManifestError: missing, empty, not UTF-8, wrong types, duplicate ids or impossible durations.
        """
        path = Path(path)
        return cls._of(loading.load_rows(path, Cache(cache_folder)), path.parent)

    @classmethod
    def from_utterances(
        cls, utterances: Iterable[Utterance], folder: str | os.PathLike[str] | None = None
    ) -> "Manifest":
        """A manifest of the given utterances; `folder` is what relative paths in them are relative to."""
        rows = list(utterances)
        columns: dict[str, pa.Array] = {
            name: pa.array([getattr(row, name) for row in rows], kind) for name, kind in CORE_TYPES.items()
        }
        for name in dict.fromkeys(name for row in rows for name in row.extra):
            columns[name] = pa.array([row.extra.get(name) for row in rows])
        optional = [name for name in ("text", "speaker", "language") if columns[name].null_count == len(rows)]
        return cls(pa.table({name: column for name, column in columns.items() if name not in optional}), folder)

    @classmethod
    def _of(cls, rows: Storage, folder: Path | None) -> "Manifest":
        """A manifest of rows that have all columns."""
        manifest = cls.__new__(cls)
        manifest._rows = rows
        manifest.folder = folder
        return manifest

    def save(self, path: str | os.PathLike[str]) -> "Manifest":
        """Write as JSON Lines or, by the name `.parquet`, as Parquet; written beside and renamed.

        Relative paths are rewritten to be relative to the new folder.

        Returns:
            The manifest as it was written: the same rows with `folder` the new one.
        """
        path = Path(path)
        if path.suffix.lower() not in loading.FORMATS:
            raise ManifestError(f"{path}: a manifest's name must end in .jsonl, .json or .parquet")
        moved = self.rebased(path.parent)
        batches = moved._rows.scan(moved.column_names)
        with replacing(path) as temporary:
            if path.suffix.lower() == ".parquet":
                write_parquet(batches, moved._rows.schema, temporary)
            else:
                write_json_lines(batches, temporary)
        return moved

    def rebased(self, folder: str | os.PathLike[str]) -> "Manifest":
        """The same utterances with paths relative to another folder."""
        folder = Path(folder)
        if not isinstance(self._rows, InMemory):
            return Manifest._of(Moved(self._rows, self.folder, folder), folder)
        moved = paths.rebase(self.table["audio_filepath"], self.folder, folder)
        return Manifest(_set_column(self.table, "audio_filepath", moved), folder)

    @property
    def table(self) -> pa.Table:
        """All columns of all rows in memory."""
        return self._rows.read()

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self._rows.schema.names)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, in memory.

        Raises:
            ManifestError: there is none of that name.
        """
        self._check_names([name])
        return self._rows.read([name])[name]

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """One column of numbers as float64, NaN where it is null.

        Raises:
            ManifestError: there is none of that name.
        """
        found = np.empty(len(self), dtype=np.float64)
        done = 0
        for batch in self.batches([name]):
            found[done : done + batch.num_rows] = batch.column(0).cast(pa.float64()).to_numpy(zero_copy_only=False)
            done += batch.num_rows
        return found

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The named columns of all rows, in order, some ten thousand rows at a time.

        Raises:
            ManifestError: a column that there is not.
        """
        self._check_names(names)
        return self._rows.scan(list(names))

    def __len__(self) -> int:
        return self._rows.num_rows

    def __getitem__(self, index: int) -> Utterance:
        if not -len(self) <= index < len(self):
            raise IndexError(f"utterance {index} of a manifest of {len(self)}")
        return self._utterance(self._quick_rows.row(int(index) % len(self)))

    def __iter__(self) -> Iterator[Utterance]:
        for batch in self._rows.scan(self.column_names):
            for row in batch.to_pylist():
                yield self._utterance(row)

    def __repr__(self) -> str:
        return f"Manifest({len(self)} utterances, {self.total_seconds / 3600:.2f} hours, folder={self.folder})"

    def prepare(self) -> "Manifest":
        """Make single rows quick to reach, which otherwise happens at the first `manifest[i]`; returns the manifest.

        For a large manifest of Parquet its rows are written to the cache once. Call it before worker processes start;
        else one of them does it and the others wait.
        """
        _ = self._quick_rows
        return self

    def take(self, indices: Sequence[int] | npt.NDArray[Any] | pa.Array) -> "Manifest":
        """The rows of the given numbers, in their order.

        Raises:
            IndexError: there is no such row.
        """
        if isinstance(indices, (pa.Array, pa.ChunkedArray)):
            indices = indices.to_numpy()
        rows = np.asarray(indices)
        rows = rows if np.issubdtype(rows.dtype, np.integer) else rows.astype(np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            wrong = rows.min() if rows.min() < 0 else rows.max()
            raise IndexError(f"utterance {wrong} of a manifest of {len(self)}")
        if isinstance(self._rows, InMemory) and len(rows) < SMALL_ROWS:
            return Manifest(self.table.take(pa.array(rows)), self.folder)
        return Manifest._of(Chosen(self._rows, rows), self.folder)

    def filter(self, mask: npt.NDArray[np.bool_] | pa.Array | pa.ChunkedArray | Sequence[bool]) -> "Manifest":
        """The rows where the mask is true; null counts as false."""
        if isinstance(mask, (pa.Array, pa.ChunkedArray)):
            mask = mask.fill_null(False).to_numpy(zero_copy_only=False)
        wanted = np.asarray(mask, dtype=bool)
        if len(wanted) != len(self):
            raise ManifestError(f"a mask of {len(wanted)} values cannot choose among {len(self)} utterances")
        return self.take(np.flatnonzero(wanted))

    def select(self, names: Sequence[str]) -> "Manifest":
        """Only the named columns and those that every manifest has.

        Raises:
            ManifestError: a column that there is not.
        """
        self._check_names(names)
        kept = [name for name in self.column_names if name in REQUIRED_COLUMNS or name in names]
        if isinstance(self._rows, InMemory):
            return Manifest(self.table.select(kept), self.folder)
        return Manifest._of(Selected(self._rows, kept), self.folder)

    def with_column(self, name: str, values: Any) -> "Manifest":
        """The manifest with a column added or replaced; `values` is an Arrow or NumPy array or a list."""
        if not isinstance(values, (pa.Array, pa.ChunkedArray)):
            values = pa.array(values)
        if isinstance(self._rows, InMemory):
            return Manifest(_set_column(self.table, name, values), self.folder)
        _check_length(name, values, len(self))
        return Manifest._of(Widened(self._rows, name, values), self.folder)

    def concat(self, *others: "Manifest") -> "Manifest":
        """Append the rows of other manifests; paths become relative to this one's folder.

        Raises:
            ManifestError: an id occurs twice, or a column has types that do not go together.
        """
        folder = self.folder if self.folder is not None else Path.cwd()
        parts = [self, *(other.rebased(folder) for other in others)]
        try:
            if all(isinstance(part._rows, InMemory) for part in parts):
                table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
                joined = Manifest(table, folder)
            else:
                joined = Manifest._of(Joined([part._rows for part in parts]), folder)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ManifestError(f"manifests cannot be joined: {error}; drop or convert that column") from None
        hashes = [hash_values(batch.column(0)) for batch in joined.batches(["id"])]
        check_ids(joined._rows, hashes, "the joined manifests")
        return joined

    @property
    def durations(self) -> npt.NDArray[np.float64]:
        """Seconds of every utterance."""
        return self.numbers("duration")

    @cached_property
    def total_seconds(self) -> float:
        """Seconds of audio altogether."""
        return float(np.nansum(self.durations))

    def fingerprint(self) -> str:
        """Hex SHA-256 of the contents: all columns in all rows, of paths only the last part.

        So a corpus that moves to another folder, or is saved as Parquet, keeps its fingerprint. That of a large
        manifest file is kept in the cache until the file changes.
        """
        if not isinstance(self._rows, (ParquetFile, ArrowFile)):
            return fingerprint(self._rows)
        known = self._rows.cache.facts(self._rows.stamp).get("fingerprint")
        if known is None:
            known = fingerprint(self._rows)
            self._rows.cache.note(self._rows.stamp, fingerprint=known)
        return str(known)

    @cached_property
    def _quick_rows(self) -> Storage:
        quick = self._rows.quick()
        if isinstance(quick, InMemory):  # then nothing needs the file any more
            self._rows = quick
        return quick

    def _utterance(self, row: dict[str, Any]) -> Utterance:
        core = {name: row.pop(name) for name in CORE_TYPES if name in row}
        core["audio_filepath"] = paths.resolve(core["audio_filepath"], self.folder)
        return Utterance(**core, extra={name: value for name, value in row.items() if value is not None})

    def _check_names(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.column_names:
                known = ", ".join(self.column_names)
                raise ManifestError(f"the manifest has no column {name!r}; it has {known}")


def _set_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    _check_length(name, values, len(table))
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def _check_length(name: str, values: Any, expected: int) -> None:
    if len(values) != expected:
        raise ManifestError(f"column {name} has {len(values)} values for {expected} utterances")
