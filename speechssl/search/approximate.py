"""An approximate index of a collection, by FAISS: it names recordings that are worth an exact look.

Of frames it holds the mean of every window of `WINDOW_SECONDS`, a hop of half of that apart; of utterances their
vectors. All are standardised and of unit length, so the inner product is a cosine. It is made block by block, kept
beside the collection, and made anew when that has changed.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import ConfigError
from speechssl.files import replacing, write_text
from speechssl.progress import StepProgress
from speechssl.search.collection import Block, Collection, Statistics, unit_length

Vectors = NDArray[np.float32]

INDEX_NAME = "search.faiss"
FACTS_NAME = "search.json"
WINDOW_SECONDS = 0.4
TRAIN_VECTORS = 100_000  # for kinds of index that must be trained first


@dataclass(frozen=True, kw_only=True)
class Approximate:
    """`index` is FAISS's; `blocks` and `recordings` say where each of its vectors is from."""

    index: Any
    blocks: NDArray[np.int32]
    recordings: NDArray[np.int32]

    def nearest(self, vectors: Vectors, count: int) -> dict[int, set[int]]:
        """Recordings, by block, that hold the `count` nearest neighbours of any of the vectors `[n, D]`."""
        _, found = self.index.search(np.ascontiguousarray(vectors), min(count, len(self.blocks)))
        named: dict[int, set[int]] = {}
        for place in np.unique(found[found >= 0]):
            named.setdefault(int(self.blocks[place]), set()).add(int(self.recordings[place]))
        return named


def windows(frames: Vectors, frame_seconds: float) -> Vectors:
    """Unit-length means of windows of standardised frames `[N, D]`; of fewer frames than a window, of them all."""
    size = max(1, round(WINDOW_SECONDS / frame_seconds))
    if len(frames) <= size:
        return unit_length(frames.mean(axis=0, keepdims=True))
    sums = np.concatenate([np.zeros((1, frames.shape[1])), np.cumsum(frames, axis=0, dtype=np.float64)])
    starts = np.append(np.arange(0, len(frames) - size, max(1, size // 2)), len(frames) - size)
    return unit_length((sums[starts + size] - sums[starts]).astype(np.float32))


def open_approximate(
    collection: Collection, statistics: Statistics, *, factory: str, parameters: str = "", progress: StepProgress
) -> Approximate:
    """The index beside the collection; made if there is none for it as it is now.

    Raises:
        ConfigError: FAISS is not installed, or does not know the kind of index or its parameters.
    """
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "method=faiss needs the package faiss-cpu: pip install 'speechssl[search]', or search with method=exact"
        ) from None
    path, facts_path = collection.folder / INDEX_NAME, collection.folder / FACTS_NAME
    facts = {"key": collection.key(), "factory": factory, "window_seconds": WINDOW_SECONDS}
    if not (path.exists() and facts_path.exists() and json.loads(facts_path.read_text()) == facts):
        facts_path.unlink(missing_ok=True)
        _make(collection, statistics, factory, path, progress)
        write_text(facts_path, json.dumps(facts) + "\n")
    places = np.load(_places(path), allow_pickle=False)
    index = faiss.read_index(str(path))
    if parameters:
        space: Any = faiss.ParameterSpace()
        try:
            space.set_index_parameters(index, parameters)
        except RuntimeError as error:
            raise ConfigError(
                f"parameters {parameters!r}: FAISS knows none such of {factory} ({str(error).splitlines()[-1]})"
            ) from None
    return Approximate(index=index, blocks=places[0], recordings=places[1])


def usual_parameters(factory: str, candidates: int) -> str:
    """How carefully an index is searched unless told otherwise: FAISS's own defaults miss up to half of the hits.

    HNSW keeps as many candidates as it is to name; of IVF's n cells the square root of n is looked at.
    """
    if factory.startswith("HNSW"):
        return f"efSearch={candidates}"
    cells = re.match(r"IVF(\d+)", factory)
    return "" if cells is None else f"nprobe={math.ceil(math.sqrt(int(cells[1])))}"


def _make(collection: Collection, statistics: Statistics, factory: str, path: Path, progress: StepProgress) -> None:
    import faiss

    try:
        index = faiss.index_factory(collection.dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(f"factory {factory!r}: FAISS knows no such index ({str(error).splitlines()[-1]})") from None
    if not index.is_trained:
        index.train(np.ascontiguousarray(_sample(collection, statistics)))
    blocks: list[int] = []
    recordings: list[int] = []
    for block in collection.blocks():
        for number, vectors in _described(block, collection, statistics):
            index.add(np.ascontiguousarray(vectors))
            blocks += [block.number] * len(vectors)
            recordings += [number] * len(vectors)
        progress("indexing", int(block.starts[-1]), collection.num_vectors)
    with replacing(path) as temporary, replacing(_places(path)) as places:
        faiss.write_index(index, str(temporary))
        with places.open("wb") as file:
            np.save(file, np.array([blocks, recordings], dtype=np.int32), allow_pickle=False)


def _described(block: Block, collection: Collection, statistics: Statistics) -> Iterator[tuple[int, Vectors]]:
    """The vectors of every recording of a block."""
    standard = statistics.standardise(block.vectors)
    for number in range(len(block.ids)):
        mine = standard[block.rows(number)]
        yield number, windows(mine, collection.frame_seconds) if collection.has_frames else unit_length(mine)


def _sample(collection: Collection, statistics: Statistics) -> Vectors:
    """Vectors to train an index on: an equal share of every block."""
    count = max(1, sum(1 for _ in collection.blocks()))
    parts = []
    for block in collection.blocks():
        mine = np.concatenate([vectors for _, vectors in _described(block, collection, statistics)])
        share = np.random.default_rng(block.number).permutation(len(mine))[: TRAIN_VECTORS // count + 1]
        parts.append(mine[share])
    return np.concatenate(parts)


def _places(path: Path) -> Path:
    return path.with_suffix(".npy")
