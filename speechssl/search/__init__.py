"""Search by example in embeddings: where something is said, who speaks, what is there twice."""

from speechssl.search.settings import Hit, SearchConfig, SearchResult
from speechssl.search.stage import run

__all__ = ["Hit", "SearchConfig", "SearchResult", "run"]
