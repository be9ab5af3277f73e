"""Embeddings of a manifest as Parquet: utterance vectors or frames, of any layer.

The manifest is worked off in parts. A finished part is kept, so an interrupted run goes on where it stopped, and memory
holds one part at a time; at the end the parts become one file with a row group for each.
"""

from speechssl.embed.encode import embed_manifest
from speechssl.embed.stage import EmbedConfig, EmbedResult, run
from speechssl.embed.table import Embeddings, read_embeddings

__all__ = ["EmbedConfig", "EmbedResult", "Embeddings", "embed_manifest", "read_embeddings", "run"]
