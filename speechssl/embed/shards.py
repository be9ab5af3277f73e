"""One shard: the embeddings of some recordings as a file, and the file of the index that says where they are.

Within a shard the rows of the first layer come first, then those of the second and so on; within a layer the recordings
follow on each other in the order of the index, one row each, or one row a frame.

Shapes: R rows of a layer, K layers, T frames, E embedding dim.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from speechssl.embed.layout import Format, remove_file, shard_paths, write_file
from speechssl.lengths import StridedLayers, frame_to_seconds

Dtype = Literal["float32", "float16", "bfloat16"]

# Columns of the index beside the manifest's own.
PLACE_COLUMNS = {
    "shard": pa.int32(),
    "first_row": pa.int64(),
    "num_rows": pa.int64(),
    "num_samples_used": pa.int64(),
    "content_sha256": pa.string(),
    "source_key": pa.string(),
    "row_key": pa.string(),
    "error": pa.string(),
}
ROW_COLUMNS = ("layer", "embedding")
FRAME_COLUMNS = ("frame", "time")
GROUP_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class FrameTimes:
    """When the frames are: number t is centred at `first_seconds + t * step_seconds` of its recording."""

    first_seconds: float
    step_seconds: float

    @classmethod
    def of(cls, layers: StridedLayers, sample_rate: int) -> "FrameTimes":
        """Those of a front end."""
        first, second = (frame_to_seconds(frame, layers, sample_rate) for frame in (0, 1))
        return cls(first_seconds=first, step_seconds=second - first)


@dataclass(frozen=True, kw_only=True)
class ShardShape:
    """What all shards of a table have in common.

    `layers` are the values of the column `layer`, null for the context; `times` is None where a recording has one row.
    """

    layers: tuple[int | None, ...]
    dimension: int
    dtype: Dtype
    format: Format
    times: FrameTimes | None


def write_shard(
    folder: Path, number: int, *, clips: pa.Table, vectors: Sequence[NDArray[np.float32]], shape: ShardShape
) -> None:
    """Write or replace both files of a shard, so that it is found whole or not at all.

    Args:
        folder: that of the table.
        number: of the shard.
        clips: a row a recording: the manifest's columns, `num_samples_used`, `content_sha256`, `source_key`,
            `row_key`, and `error`, which is null where there are vectors.
        vectors: of every recording without an error f32 `[K, E]`, or `[K, T, E]` of frames.
        shape: layers, dimension, dtype and format.
    """
    data_path, index_path = shard_paths(folder, number, shape.format)
    remove_file(index_path)
    good = clips.filter(pa.compute.is_null(clips["error"]))
    counts = np.array([1 if shape.times is None else row.shape[1] for row in vectors], dtype=np.int64)
    if len(good):
        write_file(data_path, folder, lambda path: _write_data(path, good, vectors, counts, shape))
    else:
        remove_file(data_path)
    placed = _placed(clips, counts, number)
    write_file(index_path, folder, lambda path: pq.write_table(placed, path, compression="zstd"))


def remove_shard(folder: Path, number: int, format: Format) -> None:
    """Remove both files of a shard."""
    data_path, index_path = shard_paths(folder, number, format)
    remove_file(index_path)
    remove_file(data_path)


def read_layer(path: Path, place: int, num_rows: int, shape: ShardShape) -> NDArray[np.float32]:
    """The rows f32 `[R, E]` of layer number `place` of a shard's file; `num_rows` is R."""
    if shape.format == "parquet":
        groups = -(-num_rows // GROUP_ROWS)
        table = pq.ParquetFile(path).read_row_groups(
            list(range(place * groups, (place + 1) * groups)), columns=["embedding"]
        )
        flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float32).reshape(num_rows, shape.dimension)
    if shape.format == "numpy":
        return np.asarray(np.load(path, mmap_mode="r")[place], dtype=np.float32)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found = file.get_slice("embeddings")[place].float().numpy()
    return np.asarray(found, dtype=np.float32)


def read_columns(path: Path, place: int, num_rows: int, columns: Sequence[str]) -> pa.Table:
    """Columns other than the embedding of layer number `place` of a shard's Parquet file."""
    groups = -(-num_rows // GROUP_ROWS)
    return pq.ParquetFile(path).read_row_groups(
        list(range(place * groups, (place + 1) * groups)), columns=list(columns)
    )


def row_columns(good: pa.Table, counts: NDArray[np.int64], layer: int | None, times: FrameTimes | None) -> pa.Table:
    """The columns of a layer's rows other than the embedding.

    Pooled, they are id, layer and the manifest's own; of frames id, frame (from 0), time (seconds, its centre), layer.
    """
    total = int(counts.sum())
    layers = pa.nulls(total, pa.int32()) if layer is None else pa.array(np.full(total, layer, dtype=np.int32))
    if times is None:
        own = {name: good[name] for name in good.column_names if name != "id" and name not in PLACE_COLUMNS}
        return pa.table({"id": good["id"], "layer": layers} | own)
    frames = np.concatenate([np.zeros(0, np.int64), *(np.arange(count) for count in counts)])
    return pa.table(
        {
            "id": good["id"].take(pa.array(np.repeat(np.arange(len(good)), counts))),
            "frame": pa.array(frames, pa.int32()),
            "time": pa.array(times.first_seconds + times.step_seconds * frames, pa.float64()),
            "layer": layers,
        }
    )


def to_dtype(values: NDArray[np.float32], dtype: Dtype) -> NDArray[np.float32]:
    """What is left of the values in a narrower dtype, as float32; out of float16's range they become infinite."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "bfloat16":
        import torch

        return np.asarray(torch.from_numpy(np.ascontiguousarray(values)).bfloat16().float().numpy())
    return values


def fits(values: NDArray[np.float32], dtype: Dtype) -> bool:
    """Whether all values are finite, also in a narrower dtype."""
    ends = np.array([values.min(), values.max()], dtype=np.float32)  # rounding keeps the order; NaN is passed on
    return bool(np.isfinite(to_dtype(ends, dtype)).all())


def _placed(clips: pa.Table, counts: NDArray[np.int64], number: int) -> pa.Table:
    """The clips with the places of their rows; those with an error have none."""
    is_good = pa.compute.is_null(clips["error"]).to_numpy()
    num_rows = np.zeros(len(clips), dtype=np.int64)
    num_rows[is_good] = counts
    first_row = np.cumsum(num_rows) - num_rows
    places: Mapping[str, Any] = {
        "shard": pa.array(np.full(len(clips), number, dtype=np.int32)),
        "first_row": pa.array(first_row),
        "num_rows": pa.array(num_rows),
    }
    columns = {name: clips[name] for name in clips.column_names if name not in PLACE_COLUMNS}
    columns |= {name: places.get(name, clips[name] if name not in places else None) for name in PLACE_COLUMNS}
    return pa.table(columns)


def _write_data(
    path: Path, good: pa.Table, vectors: Sequence[NDArray[np.float32]], counts: NDArray[np.int64], shape: ShardShape
) -> None:
    if shape.format == "parquet":
        _write_parquet(path, good, vectors, counts, shape)
        return
    stacked = np.empty((len(shape.layers), int(counts.sum()), shape.dimension), dtype=np.float32)
    for place in range(len(shape.layers)):
        for first, rows in _row_groups(vectors, counts, place, shape):
            stacked[place, first : first + len(rows)] = rows
    if shape.format == "numpy":
        kind = np.float16 if shape.dtype == "float16" else np.float32
        with open(path, "wb") as file:  # np.save would add a suffix to the name
            np.save(file, stacked.astype(kind, copy=False))
        return
    import torch
    from safetensors.torch import save_file

    save_file({"embeddings": torch.from_numpy(stacked).to(getattr(torch, shape.dtype))}, path)


def _write_parquet(
    path: Path, good: pa.Table, vectors: Sequence[NDArray[np.float32]], counts: NDArray[np.int64], shape: ShardShape
) -> None:
    """bfloat16 has no type in Parquet: its values lie in a float32 column, whose zero bits compress away."""
    kind = np.float16 if shape.dtype == "float16" else np.float32
    writer: pq.ParquetWriter | None = None
    try:
        for place, layer in enumerate(shape.layers):
            columns = row_columns(good, counts, layer, shape.times)
            place_of = columns.column_names.index("layer") + 1
            for first, rows in _row_groups(vectors, counts, place, shape):
                flat = pa.array(rows.astype(kind, copy=False).reshape(-1))
                lists = pa.FixedSizeListArray.from_arrays(flat, shape.dimension)
                table = columns.slice(first, len(rows)).add_column(place_of, "embedding", lists)
                if writer is None:
                    named = columns.column_names
                    writer = pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=named)
                writer.write_table(table, row_group_size=GROUP_ROWS)
    finally:
        if writer is not None:
            writer.close()


def _row_groups(
    vectors: Sequence[NDArray[np.float32]], counts: NDArray[np.int64], place: int, shape: ShardShape
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of a layer, `GROUP_ROWS` at a time: the number of the first, and f32 `[rows, E]`."""
    ends = np.cumsum(counts)
    for first in range(0, int(ends[-1]), GROUP_ROWS):
        last = min(first + GROUP_ROWS, int(ends[-1]))
        parts = []
        for number in range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last)) + 1):
            start = int(ends[number] - counts[number])
            own = vectors[number][place]
            rows = own[None] if shape.times is None else own
            parts.append(rows[max(0, first - start) : last - start])
        yield first, to_dtype(np.concatenate(parts), shape.dtype)
