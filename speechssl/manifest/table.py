"""`Manifest`: a list of utterances held as an Arrow table."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from speechssl.errors import ManifestError
from speechssl.manifest import paths
from speechssl.manifest.complete import complete
from speechssl.manifest.jsonl import CORE_TYPES, STRING, read_jsonl, write_jsonl
from speechssl.types import Utterance

REQUIRED_COLUMNS = ("id", "audio_filepath", "sample_rate", "num_samples", "offset", "duration")

_BATCH_ROWS = 4096


class Manifest:
    """Utterances as columns; ten million of them stay usable.

    `table` has the columns id, audio_filepath, sample_rate (Hz), num_samples, offset and duration (seconds) and, where
    known, text, speaker, language, then whatever else the source had. `folder` is what relative paths are relative
    to. Immutable: every method returns a new manifest that shares the columns it did not change.
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
        core = [name for name in CORE_TYPES if name in table.column_names]
        extra = [name for name in table.column_names if name not in CORE_TYPES]
        columns = {name: _cast(table[name], name) for name in core} | {name: table[name] for name in extra}
        self.table: pa.Table = pa.table(columns).combine_chunks()
        self.folder: Path | None = None if folder is None else Path(folder)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Read a `.jsonl`, `.json` or `.parquet` manifest.

        A NeMo manifest is read as it is: ids are made from the paths, and what only the recordings tell (sample rate,
        number of samples, a missing duration) is read from their headers.

        Raises:
            ManifestError: missing, empty, not UTF-8, wrong types, duplicate ids or impossible durations.
        """
        path = Path(path)
        table = read_table(path)
        manifest = cls(complete(table, path), path.parent)
        manifest._check(path)
        return manifest

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

    def save(self, path: str | os.PathLike[str]) -> "Manifest":
        """Write as JSON Lines or, by the name `.parquet`, as Parquet; written beside and renamed.

        Relative paths are rewritten to be relative to the new folder.

        Returns:
            The manifest as it was written: the same rows with `folder` the new one.
        """
        path = Path(path)
        if path.suffix.lower() not in (".jsonl", ".json", ".parquet"):
            raise ManifestError(f"{path}: a manifest's name must end in .jsonl, .json or .parquet")
        moved = self.rebased(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            if path.suffix.lower() == ".parquet":
                pq.write_table(moved.table, temporary, compression="zstd")
            else:
                write_jsonl(moved.table, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return moved

    def rebased(self, folder: str | os.PathLike[str]) -> "Manifest":
        """The same utterances with paths relative to another folder."""
        folder = Path(folder)
        moved = paths.rebase(self.table["audio_filepath"], self.folder, folder)
        return Manifest(_set_column(self.table, "audio_filepath", moved), folder)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Utterance:
        if not -len(self) <= index < len(self):
            raise IndexError(f"utterance {index} of a manifest of {len(self)}")
        index = int(index) % len(self)
        row = {name: column[index].as_py() for name, column in zip(self.table.column_names, self._arrays, strict=True)}
        return self._utterance(row)

    def __iter__(self) -> Iterator[Utterance]:
        for batch in self.table.to_batches(max_chunksize=_BATCH_ROWS):
            for row in batch.to_pylist():
                yield self._utterance(row)

    def __repr__(self) -> str:
        return f"Manifest({len(self)} utterances, {self.total_seconds / 3600:.2f} hours, folder={self.folder})"

    def column(self, name: str) -> pa.ChunkedArray:
        """One column.

        Raises:
            ManifestError: there is none of that name.
        """
        if name not in self.table.column_names:
            known = ", ".join(self.table.column_names)
            raise ManifestError(f"the manifest has no column {name!r}; it has {known}")
        return self.table[name]

    def take(self, indices: Sequence[int] | npt.NDArray[Any] | pa.Array) -> "Manifest":
        """The rows of the given numbers, in their order."""
        if not isinstance(indices, (pa.Array, pa.ChunkedArray)):
            indices = pa.array(np.asarray(indices, dtype=np.int64))
        return Manifest(self.table.take(indices), self.folder)

    def filter(self, mask: npt.NDArray[np.bool_] | pa.Array | pa.ChunkedArray | Sequence[bool]) -> "Manifest":
        """The rows where the mask is true; null counts as false."""
        if not isinstance(mask, (pa.Array, pa.ChunkedArray)):
            mask = pa.array(np.asarray(mask, dtype=bool))
        return Manifest(self.table.filter(mask), self.folder)

    def with_column(self, name: str, values: Any) -> "Manifest":
        """The manifest with a column added or replaced; `values` is an Arrow or NumPy array or a list."""
        if not isinstance(values, (pa.Array, pa.ChunkedArray)):
            values = pa.array(values)
        return Manifest(_set_column(self.table, name, values), self.folder)

    def concat(self, *others: "Manifest") -> "Manifest":
        """Append the rows of other manifests; paths become relative to this one's folder.

        Raises:
            ManifestError: an id occurs twice, or a column has types that do not go together.
        """
        folder = self.folder if self.folder is not None else Path.cwd()
        parts = [self.table, *(other.rebased(folder).table for other in others)]
        try:
            table = pa.concat_tables(parts, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ManifestError(f"manifests cannot be joined: {error}; drop or convert that column") from None
        joined = Manifest(table, folder)
        joined._check_ids("the joined manifests")
        return joined

    @property
    def durations(self) -> npt.NDArray[np.float64]:
        """Seconds of every utterance."""
        return np.asarray(self.table["duration"].to_numpy(), dtype=np.float64)

    @cached_property
    def total_seconds(self) -> float:
        """Seconds of audio altogether."""
        return float(pc.sum(self.table["duration"]).as_py() or 0.0)

    def fingerprint(self) -> str:
        """Hex SHA-256 of the contents: all columns in all rows, of paths only the last part.

        So a corpus that moves to another folder, or is saved as Parquet, keeps its fingerprint.
        """
        digest = hashlib.sha256()
        for name in sorted(self.table.column_names):
            column = self.table[name]
            if name == "audio_filepath":
                column = paths.basenames(column)
            digest.update(f"\n{name}\n".encode())
            _hash_column(column, digest)
        return digest.hexdigest()

    @cached_property
    def _arrays(self) -> list[pa.Array]:
        return [column.combine_chunks() for column in self.table.columns]

    def _utterance(self, row: dict[str, Any]) -> Utterance:
        core = {name: row.pop(name) for name in CORE_TYPES if name in row}
        core["audio_filepath"] = paths.resolve(core["audio_filepath"], self.folder)
        return Utterance(**core, extra={name: value for name, value in row.items() if value is not None})

    def _check(self, path: Path) -> None:
        """What later code relies on, by columns; `validate` tells everything with line numbers."""
        if len(self) == 0:
            raise ManifestError(f"{path}: holds no utterance; build it again with `speechssl manifest build`")
        self._check_ids(str(path))
        table = self.table
        for name, low, strict in (("duration", 0, True), ("offset", 0, False), ("sample_rate", 0, True)):
            column = table[name]
            good = pc.and_(pc.greater(column, low) if strict else pc.greater_equal(column, low), pc.is_finite(column))
            bad = pc.indices_nonzero(pc.invert(pc.fill_null(good, False)))
            if len(bad):
                row = bad[0].as_py()
                raise ManifestError(
                    f"{path}: {len(bad)} rows have an impossible {name}, the first is row {row + 1},"
                    f" {table['id'][row].as_py()!r}: {column[row].as_py()}; run `speechssl manifest validate"
                    " --quarantine` to set them aside"
                )

    def _check_ids(self, where: str) -> None:
        ids = self.table["id"]
        num_distinct = pc.count_distinct(ids).as_py()
        if num_distinct == len(ids):
            return
        counts = pc.value_counts(ids)
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        names = ", ".join(repr(value) for value in repeated[:3].to_pylist())
        raise ManifestError(
            f"{where}: ids must be unique, but {len(repeated)} occur more than once: {names}"
            f"{', ...' if len(repeated) > 3 else ''}; `speechssl manifest validate` lists the lines"
        )


def read_table(path: Path) -> pa.Table:
    """The raw columns of a manifest file, before anything is filled in."""
    if not path.is_file():
        what = "is a folder; name a manifest file in it" if path.is_dir() else "no such manifest"
        raise ManifestError(f"{path}: {what}, or make one with `speechssl manifest build FOLDER --output {path.name}`")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            table = pq.read_table(path)
        elif suffix in (".jsonl", ".json"):
            table = read_jsonl(path)
        else:
            raise ManifestError(f"{path}: a manifest's name must end in .jsonl, .json or .parquet")
    except PermissionError:
        raise ManifestError(f"{path}: permission denied; make the file readable for this user (chmod +r)") from None
    except pa.ArrowException as error:
        raise ManifestError(f"{path}: cannot be read as {suffix[1:]} ({error}); write it again") from None
    if "audio_filepath" not in table.column_names:
        raise ManifestError(
            f"{path}: has no field audio_filepath, only {', '.join(table.column_names)}; it is not a manifest, or one"
            " of another tool: rename the field that holds the path"
        )
    return table


def _cast(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = CORE_TYPES[name]
    if column.type == kind:
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ManifestError(f"column {name} must be {kind}, is {column.type}; convert it") from None


def _set_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    if len(values) != len(table):
        raise ManifestError(f"column {name} has {len(values)} values for {len(table)} utterances")
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, values)
    return table.append_column(name, values)


def _hash_column(column: pa.ChunkedArray, digest: Any) -> None:
    """Hash values independently of chunks, of offsets in buffers and of the width of the type."""
    kind = column.type
    digest.update(np.packbits(column.is_null().to_numpy().astype(bool)).tobytes() if column.null_count else b"")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        filled = pc.fill_null(column.cast(STRING), "")
        digest.update(pc.binary_length(filled).to_numpy().astype("<i8").tobytes())
        for chunk in filled.chunks:
            if len(chunk) == 0:
                continue
            offsets = np.frombuffer(chunk.buffers()[1], dtype="<i8")[chunk.offset : chunk.offset + len(chunk) + 1]
            digest.update(memoryview(chunk.buffers()[2])[int(offsets[0]) : int(offsets[-1])] if offsets[-1] else b"")
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        filled = pc.fill_null(column.cast(pa.float64()), 0.0)
        digest.update(filled.to_numpy().astype("<f8").tobytes())
    else:
        for value in column.to_pylist():
            digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
