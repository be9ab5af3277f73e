"""A collection of embeddings that lies on disk: read in blocks, standardised by its own statistics.

Frames of one layer differ little in direction until the collection's mean is taken off, so all cosines here are between
vectors that are centred and scaled by the collection's mean and deviation; these are counted once and kept beside the
index.

Shapes: N rows of a block (frames or utterances), D dimensions.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from speechssl.embed import open_index
from speechssl.embed.layout import shard_paths
from speechssl.embed.shards import read_layer
from speechssl.errors import ConfigError
from speechssl.files import replacing

Vectors = NDArray[np.float32]
Layer = int | None | Literal["only"]

STATISTICS_NAME = "search-statistics.safetensors"


@dataclass(frozen=True, kw_only=True)
class Block:
    """Whole recordings: `vectors` f32 `[N, D]` in order; recording number i has rows `starts[i]` to `starts[i + 1]`.

    `times` are the seconds of the frames' centres `[N]`, None of utterance vectors. `number` is the block's own.
    """

    number: int
    ids: tuple[str, ...]
    starts: NDArray[np.int64]
    vectors: Vectors
    times: NDArray[np.float64] | None

    def rows(self, recording: int) -> slice:
        """The rows of a recording."""
        return slice(int(self.starts[recording]), int(self.starts[recording + 1]))


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """`mean` and `scale` (deviation, 1 where there is none) of the collection, `[D]` each."""

    mean: Vectors
    scale: Vectors

    def standardise(self, vectors: Vectors) -> Vectors:
        """Centred and scaled."""
        return np.asarray((vectors - self.mean) / self.scale, dtype=np.float32)


def unit_length(vectors: Vectors) -> Vectors:
    """Vectors `[..., D]` scaled to length 1; zeros stay."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), dtype=np.float32)


class Collection:
    """Embeddings of one layer that `speechssl embed` wrote, of frames or of utterances."""

    def __init__(self, path: Path, *, layer: Layer = "only") -> None:
        """Open them; nothing but the index is read. `layer` may be left out where there is one; None is the context.

        Raises:
            ConfigError: there are none, no such layer, or of a pooling that a query cannot be given.
        """
        self.index = open_index(path)
        self.folder = self.index.folder
        self.facts: Mapping[str, Any] = self.index.facts
        if layer == "only" and len(self.index.layers) == 1:
            layer = self.index.layers[0]
        if layer == "only" or layer not in self.index.layers:
            known = ", ".join("context" if name is None else str(name) for name in self.index.layers)
            asked = "several layers" if layer == "only" else f"no layer {'context' if layer is None else layer}"
            raise ConfigError(f"{path}: has {asked}, but {known}; name one of them as --layer")
        self.layer: int | None = None if layer is None else int(layer)
        if self.facts["pool"] not in ("none", "mean") or self.layer == -1:
            raise ConfigError(
                f"{path}: holds {self.facts['pool']} vectors{' of weighted layers' if self.layer == -1 else ''}; search"
                " needs frames (--pool none) or means (--pool mean) of one layer"
            )

    @property
    def has_frames(self) -> bool:
        """Whether the vectors are frames rather than utterances."""
        return self.index.has_frames

    @property
    def dimension(self) -> int:
        """D."""
        return self.index.dimension

    @property
    def frame_seconds(self) -> float:
        """Seconds from one frame to the next."""
        return float(self.facts["frame_seconds"])

    @property
    def num_vectors(self) -> int:
        """Rows in all blocks."""
        return int(self.index.clips["num_rows"].to_numpy().sum())

    def key(self) -> str:
        """Changes when the table or the layer does."""
        clips = self.index.clips
        digest = hashlib.sha256(json.dumps([str(self.layer), str(self.facts.get("model_sha256"))]).encode())
        for name in ("id", "content_sha256", "num_rows"):
            digest.update("\n".join(map(str, clips[name].to_pylist())).encode())
        return digest.hexdigest()

    def blocks(self, numbers: Iterable[int] | None = None) -> Iterator[Block]:
        """All blocks, which are shards of the table, or some by number; one in memory at a time."""
        clips = self.index.clips
        shards = clips["shard"].to_numpy()
        wanted = np.unique(shards) if numbers is None else np.array(sorted(set(numbers)))
        for number in wanted:
            mine = clips.filter(pa.array(shards == number))
            counts = mine["num_rows"].to_numpy()
            yield Block(
                number=int(number),
                ids=tuple(mine["id"].to_pylist()),
                starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
                vectors=self._vectors(int(number), int(counts.sum())),
                times=np.concatenate([self._times(int(count)) for count in counts]) if self.has_frames else None,
            )

    def _vectors(self, number: int, num_rows: int) -> Vectors:
        shape = self.index.shape
        path = shard_paths(self.folder, number, shape.format)[0]
        return read_layer(path, self.index.layers.index(self.layer), num_rows, shape)

    def _times(self, num_frames: int) -> NDArray[np.float64]:
        first = float(self.facts["first_frame_seconds"])
        return np.asarray(first + self.frame_seconds * np.arange(num_frames), dtype=np.float64)

    def statistics(self) -> Statistics:
        """Mean and deviation; counted at the first call for a table and kept in its folder."""
        from safetensors.numpy import load_file, save_file

        path = self.folder / STATISTICS_NAME
        if path.exists() and _stored_key(path) == self.key():
            found = load_file(path)
            return Statistics(mean=found["mean"], scale=found["scale"])
        count, total, squares = 0, np.zeros(self.dimension), np.zeros(self.dimension)
        for block in self.blocks():
            values = block.vectors.astype(np.float64)
            count, total, squares = count + len(values), total + values.sum(axis=0), squares + (values**2).sum(axis=0)
        mean = total / max(count, 1)
        deviation = np.sqrt(np.maximum(squares / max(count, 1) - mean**2, 0))
        scale = np.where(deviation > 1e-6, deviation, 1.0)
        made = Statistics(mean=mean.astype(np.float32), scale=scale.astype(np.float32))
        with replacing(path) as temporary:
            save_file({"mean": made.mean, "scale": made.scale}, temporary, metadata={"key": self.key()})
        return made


def _stored_key(path: Path) -> str | None:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get("key")
