"""The stage: recordings searched for in a collection of embeddings.

Shapes: N vectors, D dimensions, Q frames of a query.
"""

import heapq
import json
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from speechssl.embed.stage import model_hash
from speechssl.encoder import SpeechEncoder, resolve_device
from speechssl.errors import ConfigError
from speechssl.files import write_text
from speechssl.frames import CONTEXT
from speechssl.interop import load_encoder
from speechssl.progress import StepProgress
from speechssl.search.approximate import Approximate, open_approximate, usual_parameters, windows
from speechssl.search.collection import Block, Collection, Statistics, unit_length
from speechssl.search.settings import Hit, SearchConfig, SearchResult
from speechssl.search.spans import MIN_QUERY_FRAMES, Recording, SpanSearch, warp, without_overlaps

Chosen = Mapping[int, set[int]] | None  # recordings by block; None for all
Vectors = NDArray[np.float32]


def run(config: SearchConfig, *, progress: StepProgress | None = None) -> SearchResult:
    """Search as configured; writes the hits as JSON Lines where an output is named.

    Memory holds one block of the collection at a time, and the approximate index where one is used.

    Raises:
        ConfigError: the index is none, its encoder is another now, or a setting does not fit it.
        AudioError: a query cannot be read or is too short.
    """
    tell = progress or (lambda what, done, total: None)
    collection = Collection(config.index, layer=None if config.layer == CONTEXT else config.layer)
    statistics = collection.statistics()
    if config.all_pairs:
        result = _pairs(collection, statistics, config)
    else:
        queries = embed_queries(collection, config)
        chosen: dict[str, Chosen] = dict.fromkeys(queries)
        shares = None
        if config.method == "faiss":
            parameters = config.parameters or usual_parameters(config.factory, config.candidates)
            approximate = open_approximate(
                collection, statistics, factory=config.factory, parameters=parameters, progress=tell
            )
            chosen = {
                name: _named(approximate, found, collection, statistics, config) for name, found in queries.items()
            }
        hits, num_recordings = search(collection, statistics, queries, chosen, config, tell)
        if config.recall:
            exact, num_recordings = search(collection, statistics, queries, dict.fromkeys(queries), config, tell)
            shares = {name: recall(hits[name], exact[name]) for name in queries}
        result = SearchResult(
            hits=hits, num_recordings=num_recordings, num_vectors=collection.num_vectors, recall=shares
        )
    if config.output is not None:
        write_text(config.output, "".join(json.dumps(line) + "\n" for line in result.lines()))
    return result


def embed_queries(collection: Collection, config: SearchConfig) -> dict[str, Vectors]:
    """Every query's frames `[Q, D]` or vector `[1, D]`, of the encoder and layer that the collection is of.

    Raises:
        ConfigError: the encoder there has other weights now, or a query is too short to be told from others.
    """
    name = config.checkpoint or str(collection.facts["checkpoint"])
    if model_hash(name) != collection.facts["model_sha256"]:
        raise ConfigError(
            f"{collection.folder}: was made with another encoder than {name} is now; name the right one as --checkpoint"
        )
    encoder: SpeechEncoder = load_encoder(name, device=resolve_device(config.device))
    pool = collection.facts["pool"]
    queries: dict[str, Vectors] = {}
    for path in config.queries:
        found = np.asarray(encoder.embed(path, layer=collection.layer, pool=pool), dtype=np.float32)
        if collection.facts["normalize"] == "l2":
            found = unit_length(found)
        queries[str(path)] = np.atleast_2d(found)
        if pool == "none" and len(found) < MIN_QUERY_FRAMES:
            raise ConfigError(f"{path}: gives {len(found)} frames; a query needs at least {MIN_QUERY_FRAMES}")
    return queries


def search(
    collection: Collection,
    statistics: Statistics,
    queries: Mapping[str, Vectors],
    chosen: Mapping[str, Chosen],
    config: SearchConfig,
    progress: StepProgress,
) -> tuple[dict[str, tuple[Hit, ...]], int]:
    """Hits of every query in one pass over the collection (over the blocks that are chosen), and recordings seen."""
    find = _find_spans if collection.has_frames else _find_utterances
    numbers: set[int] | None = set()
    for blocks in chosen.values():
        numbers = None if numbers is None or blocks is None else numbers | blocks.keys()
    count = 0

    def blocks_of() -> Iterator[Block]:
        nonlocal count
        for block in collection.blocks(numbers):
            yield block
            count += len(block.ids)
            progress("searching", count, count)

    hits = find(blocks_of(), collection, statistics, queries, chosen, config)
    wanted = {
        name: tuple(hit for hit in found if hit.value >= config.min_score)[: config.top_k]
        for name, found in hits.items()
    }
    return wanted, count


def _find_spans(
    blocks: Iterator[Block],
    collection: Collection,
    statistics: Statistics,
    queries: Mapping[str, Vectors],
    chosen: Mapping[str, Chosen],
    config: SearchConfig,
) -> dict[str, list[Hit]]:
    searches = {
        name: SpanSearch(
            name,
            frames,
            statistics,
            keep=max(config.rerank, config.top_k),
            per_recording=config.per_recording,
            frame_seconds=collection.frame_seconds,
        )
        for name, frames in queries.items()
    }
    for block in blocks:
        assert block.times is not None, "a block of frames"
        wanted = {name: None if mine is None else mine.get(block.number, set()) for name, mine in chosen.items()}
        for number, utterance_id in enumerate(block.ids):
            looking = [one for name, one in searches.items() if (only := wanted[name]) is None or number in only]
            if looking:
                rows = block.rows(number)
                recording = Recording.of(statistics.standardise(block.vectors[rows]), block.times[rows])
                for one in looking:
                    one.look(utterance_id, recording)
    found = {}
    for name, one in searches.items():
        candidates = one.candidates()
        warped = [warp(one.frames, candidate, frame_seconds=collection.frame_seconds)
                  for candidate in candidates[: config.rerank]]  # fmt: skip
        found[name] = without_overlaps(
            warped if config.rerank else [candidate.hit for candidate in candidates],
            per_recording=config.per_recording,
        )
    return found


def _find_utterances(
    blocks: Iterator[Block],
    collection: Collection,
    statistics: Statistics,
    queries: Mapping[str, Vectors],
    chosen: Mapping[str, Chosen],
    config: SearchConfig,
) -> dict[str, list[Hit]]:
    names = list(queries)
    matrix = unit_length(np.concatenate([statistics.standardise(queries[name]) for name in names]))
    heaps: dict[str, list[tuple[float, str]]] = {name: [] for name in names}
    for block in blocks:
        scores = matrix @ unit_length(statistics.standardise(block.vectors)).T  # [queries, N]
        for name, row in zip(names, scores, strict=True):
            mine = chosen[name]
            rows = np.arange(len(row)) if mine is None else np.array(sorted(mine.get(block.number, ())), dtype=np.int64)
            best = rows[np.argsort(-row[rows], kind="stable")[: config.top_k]]
            heaps[name] = heapq.nlargest(
                config.top_k, heaps[name] + [(float(row[place]), block.ids[place]) for place in best]
            )
    return {
        name: [Hit(query=name, id=utterance_id, score=score) for score, utterance_id in heap]
        for name, heap in heaps.items()
    }


def _named(
    approximate: Approximate,
    frames: Vectors,
    collection: Collection,
    statistics: Statistics,
    config: SearchConfig,
) -> dict[int, set[int]]:
    """Recordings, by block, that the approximate index holds for worth an exact look."""
    standard = statistics.standardise(frames)
    vectors = windows(standard, collection.frame_seconds) if collection.has_frames else unit_length(standard)
    return approximate.nearest(vectors, max(config.candidates, config.top_k))


def recall(found: tuple[Hit, ...], exact: tuple[Hit, ...]) -> float:
    """Share of the exact hits that were found: the same recording, and where there are times, an overlapping span."""

    def same(one: Hit, other: Hit) -> bool:
        if one.id != other.id:
            return False
        if one.start is None or other.start is None or one.end is None or other.end is None:
            return True
        return min(one.end, other.end) > max(one.start, other.start)

    return sum(any(same(hit, one) for one in found) for hit in exact) / max(1, len(exact))


def _pairs(collection: Collection, statistics: Statistics, config: SearchConfig) -> SearchResult:
    """All pairs above the least score, block against block."""
    if collection.has_frames:
        raise ConfigError(f"{collection.folder}: all_pairs needs utterance vectors; embed with --pool mean")
    pairs: list[tuple[str, str, float]] = []
    count = 0
    for block in collection.blocks():
        mine = unit_length(statistics.standardise(block.vectors))
        count += len(block.ids)
        for other in collection.blocks(range(block.number + 1)):
            scores = mine @ unit_length(statistics.standardise(other.vectors)).T
            if other.number == block.number:
                scores = np.tril(scores, k=-1) + np.triu(np.full_like(scores, -np.inf))
            for first, second in zip(*np.nonzero(scores >= config.min_score), strict=True):
                pairs.append((other.ids[second], block.ids[first], float(scores[first, second])))
    ordered = sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))
    return SearchResult(hits={}, num_recordings=count, num_vectors=collection.num_vectors, pairs=tuple(ordered))
