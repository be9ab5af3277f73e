"""Tables of embeddings as Parquet: building, writing, joining and reading them.

Shapes: T frames, D model dim.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from speechssl.errors import ConfigError
from speechssl.lengths import StridedLayers, frame_to_seconds
from speechssl.manifest import Manifest

METADATA_KEY = b"speechssl"
TABLE_NAME = "embeddings.parquet"
OWN_COLUMNS = ("layer", "embedding")

Vectors = Mapping[str, NDArray[np.float32]]  # utterance id -> [D], or [T, D] of frames


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """A table read back: `vectors` f32 `[rows, D]`, `table` the other columns, `metadata` what it was made of."""

    table: pa.Table
    vectors: NDArray[np.float32]
    metadata: Mapping[str, Any]


def read_embeddings(path: str | Path) -> Embeddings:
    """Read an `embeddings.parquet`, or the one in a folder.

    Raises:
        ConfigError: there is none, or it is not a table of embeddings.
    """
    path = Path(path)
    path = path / TABLE_NAME if path.is_dir() else path
    metadata = read_metadata(path)
    if "dimension" not in metadata:
        raise ConfigError(f"{path}: is no table of embeddings; make one with `speechssl embed`")
    table = pq.read_table(path)
    vectors = table["embedding"].combine_chunks()
    flat = vectors.flatten() if len(table) else pa.array([], pa.float32())
    return Embeddings(
        table=table.drop_columns(["embedding"]),
        vectors=np.asarray(flat.to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, metadata["dimension"]),
        metadata=metadata,
    )


def read_metadata(path: Path) -> dict[str, Any]:
    """What a table says about its making; empty where it is not one of ours.

    Raises:
        ConfigError: no such file, or no Parquet.
    """
    try:
        stored = (pq.read_schema(path).metadata or {}).get(METADATA_KEY)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such table of embeddings; make one with `speechssl embed`") from None
    except pa.ArrowException as error:
        raise ConfigError(f"{path}: cannot be read as Parquet ({error}); remove it and embed again") from None
    return dict(json.loads(stored)) if stored else {}


def utterance_table(rows: Manifest, vectors: Vectors, *, dimension: int, layer: int | None) -> pa.Table:
    """One row an utterance: id, layer, embedding and the manifest's own columns; `vectors` are `[D]`."""
    ids = rows.column("id").to_pylist()
    matrix = np.stack([vectors[name] for name in ids]) if ids else np.zeros((0, dimension), dtype=np.float32)
    columns = {"id": rows.column("id"), "layer": _layers(layer, len(ids)), "embedding": _fixed_lists(matrix)}
    return pa.table(columns | {name: rows.column(name) for name in rows.table.column_names if name != "id"})


def frame_table(
    rows: Manifest,
    vectors: Vectors,
    *,
    dimension: int,
    layer: int | None,
    strided_layers: StridedLayers,
    sample_rate: int,
) -> pa.Table:
    """One row a frame: id, frame (from 0), time (seconds of its centre), layer, embedding; `vectors` are `[T, D]`."""
    ids = rows.column("id").to_pylist()
    counts = np.array([len(vectors[name]) for name in ids], dtype=np.int64)
    frames = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])
    matrix = np.concatenate([np.zeros((0, dimension), np.float32), *(vectors[name] for name in ids)])
    first, second = (frame_to_seconds(frame, strided_layers, sample_rate) for frame in (0, 1))
    return pa.table(
        {
            "id": rows.column("id").take(pa.array(np.repeat(np.arange(len(ids)), counts))),
            "frame": pa.array(frames, pa.int32()),
            "time": pa.array(first + (second - first) * frames, pa.float64()),
            "layer": _layers(layer, len(frames)),
            "embedding": _fixed_lists(matrix),
        }
    )


def write_tables(path: Path, tables: Iterable[pa.Table], metadata: Mapping[str, Any]) -> None:
    """Write tables of one schema as row groups of one file; it appears under its name only when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    stored = {METADATA_KEY: json.dumps(dict(metadata), ensure_ascii=False).encode()}
    writer: pq.ParquetWriter | None = None
    try:
        for table in tables:
            if writer is None:
                schema = table.schema.with_metadata(stored)
                named = [name for name in schema.names if name != "embedding"]
                writer = pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=named)
            writer.write_table(table.cast(writer.schema), row_group_size=max(len(table), 1))
        assert writer is not None, "at least one table"
        writer.close()
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if writer is not None and writer.is_open:
            writer.close()
        temporary.unlink(missing_ok=True)


def read_tables(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """The tables of the parts, one in memory at a time."""
    for path in paths:
        yield pq.read_table(path)


def _layers(layer: int | None, count: int) -> pa.Array:
    return pa.nulls(count, pa.int32()) if layer is None else pa.array(np.full(count, layer, dtype=np.int32))


def _fixed_lists(matrix: NDArray[np.float32]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])
