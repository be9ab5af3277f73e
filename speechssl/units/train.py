"""Training units: recordings in a seeded order, chunk by chunk through the encoder and into the k-means.

Memory holds the frames of one chunk. After every chunk the state is stored; a run that was stopped goes on there and
ends with the same bits, because order, shuffles and first centers follow from the seed and the chunk's number alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.data import OnError
from speechssl.errors import AudioError
from speechssl.frames import FrameSource
from speechssl.manifest import Manifest
from speechssl.progress import Progress
from speechssl.types import Utterance
from speechssl.units.kmeans import Frames, UnitState, first_centers, update
from speechssl.units.model import UnitModel, write_units
from speechssl.units.settings import UnitsConfig


def train(
    manifest: Manifest,
    source: FrameSource,
    config: UnitsConfig,
    *,
    start: UnitModel,
    path: Path,
    progress: Progress,
    skipped: dict[str, str],
) -> UnitModel:
    """Go on from `start` (no states: from the beginning) to the end, storing the state at `path` after every chunk.

    Raises:
        AudioError: the recordings give fewer frames than there are units.
    """
    chunks = plan_chunks(manifest.durations, config)

    def failed(utterance: Utterance, error: AudioError) -> None:
        skipped.setdefault(utterance.id, str(error))

    model = start
    if not model.states:
        frames = _first_frames(manifest, source, chunks, config, failed)
        states = tuple(
            first_centers(frames, config.num_units, seed=config.seed + number) for number in range(config.num_seeds)
        )
        model = UnitModel(states=states, facts=start.facts)
        write_units(path, model)
    for number in range(model.chunks_done, len(chunks)):
        progress(number, len(chunks))
        frames = chunk_frames(manifest, source, chunks[number], failed)
        states = tuple(
            _run_chunk(state, frames, config, seed=[config.seed + index, number])
            for index, state in enumerate(model.states)
        )
        model = UnitModel(states=states, facts=model.facts, chunks_done=number + 1)
        write_units(path, model)
    progress(len(chunks), len(chunks))
    return model


def plan_chunks(durations: NDArray[np.float64], config: UnitsConfig) -> list[NDArray[np.int64]]:
    """Rows of every chunk, in order, over all passes; each pass has an order of its own."""
    chunks: list[NDArray[np.int64]] = []
    for number in range(config.num_passes):
        order = np.random.default_rng([config.seed, number]).permutation(len(durations))
        first, seconds = 0, 0.0
        for place, row in enumerate(order):
            length = float(np.nan_to_num(durations[row]))
            if place > first and seconds + length > config.chunk_seconds:
                chunks.append(order[first:place])
                first, seconds = place, 0.0
            seconds += length
        chunks.append(order[first:])
    return chunks


def chunk_frames(manifest: Manifest, source: FrameSource, rows: NDArray[np.int64], failed: OnError) -> Frames:
    """All frames `[N, D]` of some rows, utterance after utterance in the order of the rows."""
    chosen = manifest.take(rows)
    found = {name: frames[0] for name, frames in source.stream(chosen, on_error=failed)}
    ordered = [found[name] for name in chosen.column("id").to_pylist() if name in found]
    return np.concatenate(ordered) if ordered else np.zeros((0, source.dimension), dtype=np.float32)


def mini_batches(frames: Frames, size: int, *, seed: Sequence[int]) -> Iterator[Frames]:
    """The frames in a seeded order, cut into mini-batches of nearly equal size, none above `size`."""
    order = np.random.default_rng(seed).permutation(len(frames))
    for rows in np.array_split(order, max(1, -(-len(frames) // size))):
        yield frames[rows]


def _run_chunk(state: UnitState, frames: Frames, config: UnitsConfig, *, seed: Sequence[int]) -> UnitState:
    for batch in mini_batches(frames, config.update_frames, seed=seed):
        state = update(state, batch)
    return state


def _first_frames(
    manifest: Manifest,
    source: FrameSource,
    chunks: Sequence[NDArray[np.int64]],
    config: UnitsConfig,
    failed: OnError,
) -> Frames:
    """A seeded sample of the first chunks' frames; the chunks are in random order already."""
    parts: list[Frames] = []
    count = 0
    for rows in chunks[: max(1, len(chunks) // config.num_passes)]:
        parts.append(chunk_frames(manifest, source, rows, failed))
        count += len(parts[-1])
        if count >= config.first_frames:
            break
    frames = np.concatenate(parts)
    if len(frames) < config.num_units:
        raise AudioError(
            f"the recordings give {len(frames)} frames, too few for {config.num_units} units; give more recordings or"
            f" ask for fewer units"
        )
    keep = np.random.default_rng([config.seed, 0]).permutation(len(frames))[: config.first_frames]
    return frames[np.sort(keep)]
