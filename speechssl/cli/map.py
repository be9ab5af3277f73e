"""`speechssl map`: a picture of embeddings to point at and listen to."""

from speechssl.cli.options import stage_config
from speechssl.cli.output import log_to_stderr, progress_bar, say
from speechssl.embedding_map import MapConfig, run


def embedding_map(words: list[str]) -> int:
    """Write the page of a map."""
    log_to_stderr()
    config = stage_config(
        "map",
        MapConfig,
        words,
        example="speechssl map embeddings/ --output map.html\n"
        "speechssl map embeddings/ --output map.html --method umap --colours speaker digit",
        summary="An interactive map of utterances in one self-contained HTML page: point to see one, click to hear it.",
        positionals=("embeddings",),
    )
    if config is None:
        return 0
    with progress_bar("map") as bar:
        path = run(config, progress=bar)
    say(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
