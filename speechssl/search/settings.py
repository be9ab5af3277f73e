"""What a search can be told, and what it finds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Where to search, for what, and how.

    Attributes:
        index: a folder that `speechssl embed` wrote: frames (`--pool none`) to find where something is said, utterance
            vectors (`--pool mean`) to find recordings that are alike.
        queries: recordings to search by.
        layer: which, where the index holds several: a number, or `context` for the encoder's output.
        top_k: hits of each query.
        method: exact, or faiss: an approximate index first (made at the first search, extra `search`), exact scores on
            what it names.
        rerank: how many of the best spans are compared again by dynamic time warping; 0 for none. Frames only.
        per_recording: hits of one recording at most; they never overlap by half. Frames only.
        min_score: hits below are not listed.
        recall: with faiss, search exactly too and tell how many of the hits were found.
        all_pairs: list all pairs of the index with at least `min_score` instead of searching (near-duplicates).
            Utterance vectors only.
        factory: the kind of approximate index, in FAISS's own words.
        parameters: how carefully it is searched, in FAISS's own words: nprobe=16 for IVF, efSearch=64 for HNSW; more
            finds more and takes longer. Nothing: efSearch is `candidates`, nprobe the square root of the cells.
        candidates: neighbours that the approximate index names for each part of a query.
        checkpoint: the encoder, where it is no longer where the index was made; its weights must be the same.
        device: auto, cpu, cuda, cuda:1, ...
        output: a JSON Lines file of all hits; none when null.
    """

    index: Path
    queries: tuple[Path, ...] = ()
    layer: int | Literal["only", "context"] = "only"
    top_k: int = 10
    method: Literal["exact", "faiss"] = "exact"
    rerank: int = 50
    per_recording: int = 3
    min_score: float = -1.0
    recall: bool = False
    all_pairs: bool = False
    factory: str = "HNSW32"
    parameters: str = ""
    candidates: int = 1000
    checkpoint: str | None = None
    device: str = "cpu"
    output: Path | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("top_k", "per_recording", "candidates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.rerank < 0:
            raise ConfigError(f"rerank must be at least 0, but is {self.rerank}")
        if self.method not in ("exact", "faiss"):
            raise ConfigError(f"method must be exact or faiss, but is {self.method!r}")
        if self.all_pairs == bool(self.queries):
            raise ConfigError("give recordings to search by, or all_pairs=true; not both")
        if self.recall and self.method != "faiss":
            raise ConfigError("recall compares faiss with the exact search; set method=faiss")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A span of a recording that is like the query; `score` is a cosine, 1 for the same.

    `end` is None where the index holds no times (utterance vectors). `warped` is 1 minus the mean cosine distance along
    the warping path, where there was one; hits are then ordered by it.
    """

    query: str
    id: str
    score: float
    start: float | None = None
    end: float | None = None
    warped: float | None = None

    @property
    def value(self) -> float:
        """What hits are ordered by."""
        return self.score if self.warped is None else self.warped


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Hits of every query, best first; `recall` is the share of the exact search's hits that were found, by query.

    `pairs` are (id, id, score) of `all_pairs`.
    """

    hits: Mapping[str, tuple[Hit, ...]]
    num_recordings: int
    num_vectors: int
    recall: Mapping[str, float] | None = None
    pairs: tuple[tuple[str, str, float], ...] = ()

    def lines(self) -> list[dict[str, Any]]:
        """Plain values for JSON, one for each hit or pair."""
        rows = [{"rank": rank, **vars(hit)} for hits in self.hits.values() for rank, hit in enumerate(hits, start=1)]
        return rows + [{"first": one, "second": two, "score": score} for one, two, score in self.pairs]
