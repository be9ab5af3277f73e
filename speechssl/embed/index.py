"""Reading tables of embeddings back: all at once, shard by shard, or the rows of one recording.

    index = open_index("embeddings/")              # reads the index, not the embeddings
    index.clips                                    # Arrow table, one row a recording: id, audio_filepath, ...
    index.read(layer=3)                            # Embeddings: .vectors [rows, E], .table with the other columns
    for part in index.batches(layer=3): ...        # the same, a shard at a time
    index.vectors("utterance-7", layer=3)          # [T, E] of frames, [1, E] pooled
    load_table("embeddings/", layer=3)             # open_index(...).read(...)

Shapes: T frames, E embedding dim.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from speechssl.embed.layout import FACTS_NAME, INDEX_NAME, data_folder, read_facts, shard_paths
from speechssl.embed.shards import FrameTimes, ShardReader, ShardShape, read_layer, row_columns
from speechssl.errors import ConfigError

Layer = int | None | Literal["only"]


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Rows of a table: `vectors` f32 `[rows, E]`, `table` the other columns, `metadata` what the table was made of."""

    table: pa.Table
    vectors: NDArray[np.float32]
    metadata: Mapping[str, Any]


class EmbeddingIndex:
    """A finished table of embeddings; made by `open_index`.

    Attributes:
        folder: where it lies; the column `audio_filepath` is relative to it.
        facts: what made the table (`embeddings.json`): `model_sha256`, `layers`, `pool`, `dimension`, `frame_rate`, ...
        shape: layers, dimension, dtype, format and times of the frames.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self.facts = dict(facts)
        self.shape = shape_of(facts)

    @cached_property
    def rows(self) -> pa.Table:
        """The index as it is stored: also the recordings that could not be embedded."""
        paths = sorted((self.folder / INDEX_NAME).glob("shard-*.parquet"))
        return pa.concat_tables([pq.read_table(path) for path in paths], promote_options="permissive")

    @cached_property
    def clips(self) -> pa.Table:
        """One row a recording that was embedded: the manifest's columns, `shard`, `first_row`, `num_rows`,
        `num_samples_used` (at the encoder's rate) and `content_sha256`.

        Rows of a recording are `first_row`, ... of each layer of its shard.
        """
        good = self.rows.filter(pc.is_null(self.rows["error"]))
        return good.drop_columns(["error", "source_key", "row_key"])

    @property
    def errors(self) -> list[tuple[str, str]]:
        """(id, reason) of the recordings that could not be embedded."""
        bad = self.rows.filter(pc.is_valid(self.rows["error"]))
        return list(zip(bad["id"].to_pylist(), bad["error"].to_pylist(), strict=True))

    @property
    def layers(self) -> tuple[int | None, ...]:
        """Values of the column `layer`; None is the context, -1 a weighted sum."""
        return self.shape.layers

    @property
    def dimension(self) -> int:
        """E."""
        return self.shape.dimension

    @property
    def has_frames(self) -> bool:
        """Whether a row is a frame."""
        return self.shape.times is not None

    def __len__(self) -> int:
        """Recordings in the table."""
        return len(self.clips)

    def seconds(self, frame: float) -> float:
        """Time in a recording, in seconds, of the centre of a frame."""
        times = FrameTimes(first_seconds=self.facts["first_frame_seconds"], step_seconds=self.facts["frame_seconds"])
        return times.first_seconds + frame * times.step_seconds

    def batches(self, layer: Layer = "only") -> Iterator[Embeddings]:
        """The rows of a layer, a shard at a time, in the order of the index.

        Raises:
            ConfigError: the table has no such layer, or has several and none was named.
        """
        place = self._place(layer)
        shards = self.clips["shard"].to_numpy()
        for number in np.unique(shards):
            clips = self.clips.filter(pa.array(shards == number))
            counts = clips["num_rows"].to_numpy()
            yield Embeddings(
                table=row_columns(clips, counts, self.layers[place], self.shape.times),
                vectors=self._read_shard(int(number), place, int(counts.sum())),
                metadata=self.facts,
            )

    def read(self, layer: Layer = "only") -> Embeddings:
        """All rows of a layer, in memory, in the order of the index.

        Raises:
            ConfigError: like `batches`.
        """
        parts = list(self.batches(layer))
        if not parts:
            return Embeddings(table=pa.table({"id": pa.array([], pa.string())}), vectors=np.zeros(
                (0, self.dimension), np.float32), metadata=self.facts)  # fmt: skip
        return Embeddings(
            table=pa.concat_tables([part.table for part in parts], promote_options="permissive"),
            vectors=np.concatenate([part.vectors for part in parts]),
            metadata=self.facts,
        )

    def vectors(self, id: str, layer: Layer = "only") -> NDArray[np.float32]:
        """The rows of one recording: f32 `[T, E]` of frames, `[1, E]` pooled.

        Raises:
            ConfigError: it is not in the table, or like `batches`.
        """
        row = self._row_of.get(id)
        if row is None:
            raise ConfigError(f"{self.folder}: holds no recording {id!r}; its ids are those of the manifest")
        place = self._place(layer)
        shard, first, count = (self.clips[name][row].as_py() for name in ("shard", "first_row", "num_rows"))
        total = pc.sum(self.clips["num_rows"].filter(pc.equal(self.clips["shard"], shard))).as_py()
        path = shard_paths(self.folder, shard, self.shape.format)[0]
        return ShardReader(path, num_rows=total, shape=self.shape).read(place, first, first + count)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.clips["id"].to_pylist())}

    def _place(self, layer: Layer) -> int:
        known = ", ".join("null (the context)" if name is None else str(name) for name in self.layers)
        if layer == "only":
            if len(self.layers) > 1:
                raise ConfigError(f"{self.folder}: holds the layers {known}; name one of them: layer=...")
            return 0
        if layer not in self.layers:
            raise ConfigError(f"{self.folder}: holds the layers {known}, but not {layer}")
        return self.layers.index(layer)

    def _read_shard(self, number: int, place: int, num_rows: int) -> NDArray[np.float32]:
        path = shard_paths(self.folder, number, self.shape.format)[0]
        return read_layer(path, place, num_rows, self.shape)


def open_index(path: str | os.PathLike[str]) -> EmbeddingIndex:
    """Open the table in a folder that `speechssl embed` wrote; its `embeddings.parquet` or `embeddings.json` will do.

    Raises:
        ConfigError: there is none, or it is not finished.
    """
    folder = Path(path)
    if folder.name == FACTS_NAME or folder.name in {data_folder(Path(), name).name for name in _FORMATS}:
        folder = folder.parent
    facts = read_facts(folder)
    if not facts:
        raise ConfigError(f"{path}: no such table of embeddings; make one with `speechssl embed`")
    if not facts["complete"]:
        raise ConfigError(
            f"{folder}: its embeddings are being written, or a run was interrupted; the same `speechssl embed` goes on"
        )
    return EmbeddingIndex(folder, facts)


def load_table(path: str | os.PathLike[str], *, layer: Layer = "only") -> Embeddings:
    """All rows of one layer of a table (its only one where none is named); None is the context.

    Raises:
        ConfigError: there is no finished table, or no such layer.
    """
    return open_index(path).read(layer)


def read_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """All rows of a table, of several layers one after the other.

    Raises:
        ConfigError: there is no finished table.
    """
    index = open_index(path)
    parts = [index.read(layer) for layer in index.layers]
    return Embeddings(
        table=pa.concat_tables([part.table for part in parts], promote_options="permissive"),
        vectors=np.concatenate([part.vectors for part in parts]),
        metadata=index.facts,
    )


def shape_of(facts: Mapping[str, Any]) -> ShardShape:
    """What a table's facts say of its shards."""
    times = FrameTimes(first_seconds=facts["first_frame_seconds"], step_seconds=facts["frame_seconds"])
    return ShardShape(
        layers=tuple(facts["layers"]),
        dimension=facts["dimension"],
        dtype=facts["dtype"],
        format=facts["format"],
        times=times if facts["pool"] == "none" else None,
    )


_FORMATS: tuple[Any, ...] = ("parquet", "safetensors", "numpy")
