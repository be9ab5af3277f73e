"""One shard: the embeddings of some recordings as a file, and the file of the index that says where they are.

Within a shard the rows of the first layer come first, then those of the second and so on; within a layer the recordings
follow on each other in the order of the index, one row each, or one row a frame.

Shapes: R rows of a layer, K layers, T frames, E embedding dim.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from speechssl.embed.layout import Format, remove_file, shard_paths, write_file
from speechssl.embed.rows import Rows
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
GROUP_BYTES = 16 << 20  # of embeddings in memory while they are written


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

    @property
    def group_rows(self) -> int:
        """Rows that are written at a time: a row group of Parquet."""
        return min(GROUP_ROWS, max(1024, GROUP_BYTES // (4 * self.dimension)))


def write_shard(folder: Path, number: int, *, clips: pa.Table, vectors: Sequence[Rows], shape: ShardShape) -> None:
    """Write or replace both files of a shard, so that it is found whole or not at all.

    Args:
        folder: that of the table.
        number: of the shard.
        clips: a row a recording: the manifest's columns, `num_samples_used`, `content_sha256`, `source_key`,
            `row_key`, and `error`, which is null where there are vectors.
        vectors: of every recording without an error its rows f32 `[K, 1, E]`, or `[K, T, E]` of frames.
        shape: layers, dimension, dtype and format.
    """
    data_path, index_path = shard_paths(folder, number, shape.format)
    remove_file(index_path)
    good = clips.filter(pa.compute.is_null(clips["error"]))
    counts = np.array([rows.num_rows for rows in vectors], dtype=np.int64)
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


class ShardReader:
    """The embeddings of a shard, a few rows at a time; `num_rows` is R of each layer.

    The file may be replaced while it is read: what was opened stays.
    """

    def __init__(self, path: Path, *, num_rows: int, shape: ShardShape) -> None:
        self._path = path
        self._num_rows = num_rows
        self._shape = shape
        self._group: tuple[int, NDArray[np.float32]] = (-1, np.zeros((0, shape.dimension), np.float32))

    def read(self, place: int, first: int, last: int) -> NDArray[np.float32]:
        """The rows `first` to `last - 1` of layer number `place`, f32 `[last - first, E]`."""
        if self._shape.format == "parquet":
            return self._read_groups(place * self._num_rows + first, place * self._num_rows + last)
        if self._shape.format == "numpy":
            return np.asarray(self._mapped[place, first:last], dtype=np.float32)
        found = self._mapped.get_slice("embeddings")[place, first:last].float().numpy()
        return np.asarray(found, dtype=np.float32)

    def _read_groups(self, first: int, last: int) -> NDArray[np.float32]:
        """Of all layers' rows one behind the other; the row group that was read last is kept."""
        _, ends = self._opened
        found = []
        for number in range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last)) + 1):
            if number != self._group[0]:
                self._group = (number, self._read_group(number))
            start = int(ends[number]) - len(self._group[1])
            found.append(self._group[1][max(0, first - start) : last - start])
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _read_group(self, number: int) -> NDArray[np.float32]:
        table = self._opened[0].read_row_group(number, columns=["embedding"])
        flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float32).reshape(-1, self._shape.dimension)

    @cached_property
    def _opened(self) -> tuple[pq.ParquetFile, NDArray[np.int64]]:
        """The file, and for each row group one past its last row."""
        file = pq.ParquetFile(self._path)
        counts = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        return file, np.cumsum(counts)

    @cached_property
    def _mapped(self) -> Any:
        if self._shape.format == "numpy":
            return np.load(self._path, mmap_mode="r")
        from safetensors import safe_open

        return safe_open(self._path, framework="pt")


@dataclass(frozen=True, kw_only=True)
class ShardRows:
    """The rows of one recording in a shard: `num_rows` from `first_row` on, of each layer."""

    reader: ShardReader
    first_row: int
    num_rows: int

    def read(self, place: int, first: int, last: int) -> NDArray[np.float32]:
        """Rows of a layer."""
        return self.reader.read(place, self.first_row + first, self.first_row + last)


def read_layer(path: Path, place: int, num_rows: int, shape: ShardShape) -> NDArray[np.float32]:
    """The rows f32 `[R, E]` of layer number `place` of a shard's file; `num_rows` is R."""
    return ShardReader(path, num_rows=num_rows, shape=shape).read(place, 0, num_rows)


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
    path: Path, good: pa.Table, vectors: Sequence[Rows], counts: NDArray[np.int64], shape: ShardShape
) -> None:
    if shape.format == "parquet":
        _write_parquet(path, good, vectors, counts, shape)
        return
    size = (len(shape.layers), int(counts.sum()), shape.dimension)
    with open(path, "wb") as file:
        if shape.format == "numpy":
            kind = np.dtype(np.float16 if shape.dtype == "float16" else np.float32)
            header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": size}
            np.lib.format.write_array_header_1_0(file, header)
        else:
            _write_safetensors_header(file, size, shape.dtype)
        for place in range(len(shape.layers)):
            for _, rows in _row_groups(vectors, counts, place, shape):
                file.write(_stored_bytes(rows, shape.dtype))


_SAFETENSORS_TYPES: Mapping[Dtype, tuple[str, int]] = {
    "float32": ("F32", 4),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
}


def _write_safetensors_header(file: BinaryIO, size: tuple[int, int, int], dtype: Dtype) -> None:
    """That of one tensor `embeddings`; the library can write a file only when all of it is in memory."""
    name, num_bytes = _SAFETENSORS_TYPES[dtype]
    entry = {"dtype": name, "shape": size, "data_offsets": [0, num_bytes * size[0] * size[1] * size[2]]}
    text = json.dumps({"embeddings": entry}, separators=(",", ":"))
    text += " " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text.encode())


def _stored_bytes(rows: NDArray[np.float32], dtype: Dtype) -> bytes:
    """Values in their type, little-endian; those of a bfloat16 are the upper halves of float32."""
    if dtype == "bfloat16":
        return np.ascontiguousarray(rows, "<f4").view("<u2")[..., 1::2].tobytes()
    return rows.astype("<f2" if dtype == "float16" else "<f4", copy=False).tobytes()


def _write_parquet(
    path: Path, good: pa.Table, vectors: Sequence[Rows], counts: NDArray[np.int64], shape: ShardShape
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
                writer.write_table(table, row_group_size=shape.group_rows)
    finally:
        if writer is not None:
            writer.close()


def _row_groups(
    vectors: Sequence[Rows], counts: NDArray[np.int64], place: int, shape: ShardShape
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of a layer, `group_rows` at a time: the number of the first, and f32 `[rows, E]`."""
    ends = np.cumsum(counts)
    for first in range(0, int(ends[-1]), shape.group_rows):
        last = min(first + shape.group_rows, int(ends[-1]))
        parts = []
        for number in range(int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last)) + 1):
            start = int(ends[number] - counts[number])
            parts.append(vectors[number].read(place, max(0, first - start), min(last - start, int(counts[number]))))
        yield first, to_dtype(np.concatenate(parts), shape.dtype)
