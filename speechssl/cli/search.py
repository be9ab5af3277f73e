"""`speechssl search`: query by example."""

from speechssl.cli.options import stage_config
from speechssl.cli.output import Cell, log_to_stderr, progress_bar, say, table
from speechssl.search import SearchConfig, SearchResult, run

SHOWN_PAIRS = 20


def search(words: list[str]) -> int:
    """Search a collection of embeddings by recordings."""
    log_to_stderr()
    config = stage_config(
        "search",
        SearchConfig,
        words,
        example="speechssl search embeddings/ word.wav\n"
        "speechssl search embeddings/ word.wav other.wav --method faiss --recall true --output hits.jsonl\n"
        "speechssl search vectors/ --all_pairs true --min_score 0.99",
        summary="Find where something like a recording is said, or recordings that are alike, in what `speechssl embed`"
        " wrote.",
        positionals=("index", "queries"),
    )
    if config is None:
        return 0
    with progress_bar("search") as bar:
        result = run(config, progress=lambda what, done, total: bar(done, total))
    _show(result, config)
    return 0


def _show(result: SearchResult, config: SearchConfig) -> None:
    for name, hits in result.hits.items():
        timed = any(hit.start is not None for hit in hits)
        rows: list[tuple[Cell, ...]] = []
        for rank, hit in enumerate(hits, start=1):
            span = (f"{hit.start:.2f}", f"{hit.end:.2f}") if hit.start is not None and hit.end is not None else ()
            warped = () if hit.warped is None else (f"{hit.warped:.3f}",)
            rows.append((str(rank), hit.id, *span, f"{hit.score:.3f}", *warped))
        headers = ["", "recording", *(["from (s)", "to (s)"] if timed else []), "cosine"]
        table(
            f"{name} in {config.index}", headers + (["warped"] if any(h.warped is not None for h in hits) else []), rows
        )
    if config.all_pairs:
        shown = [(one, two, f"{score:.4f}") for one, two, score in result.pairs[:SHOWN_PAIRS]]
        table(f"{len(result.pairs)} pairs with a cosine of {config.min_score:g} or more", ("", "", "cosine"), shown)
    say(f"{result.num_recordings} recordings looked at, {result.num_vectors} vectors in the index")
    if result.recall is not None:
        mean = sum(result.recall.values()) / max(1, len(result.recall))
        say(f"recall of faiss against the exact search, top {config.top_k}: {mean:.3f} (mean of {len(result.recall)})")
    if config.output is not None:
        say(f"written: {config.output}")
