"""Embeddings of a manifest as a table of shards with an index: vectors or frames, of any layers.

Writing is `run(EmbedConfig(...))`, the command `speechssl embed`. Reading:

    index = open_index("embeddings/")              # reads the index alone
    index.clips                                    # Arrow table, one row a recording: id, audio_filepath, ...
    index.layers, index.dimension, index.has_frames, index.facts["pool"], index.facts["model_sha256"]
    index.read(layer=3)                            # Embeddings: .vectors f32 [rows, E], .table with the other columns
    for part in index.batches(layer=3): ...        # the same, a shard in memory at a time
    index.vectors("utterance-7", layer=3)          # the rows of one recording: [T, E] of frames, [1, E] pooled
    index.seconds(120)                             # the time of frame number 120 in its recording
    load_table("embeddings/", layer=3)             # open_index(...).read(...)

`layer` may be left out where the table holds one; None stands for the context. Of frames, `.table` has the columns id,
frame, time (seconds) and layer; pooled it has id, layer and all columns of the manifest. `speechssl.embed.layout` says
which files there are.
"""

from speechssl.embed.index import EmbeddingIndex, Embeddings, load_table, open_index, read_embeddings
from speechssl.embed.settings import EmbedConfig
from speechssl.embed.stage import EmbedResult, run

__all__ = [
    "EmbedConfig",
    "EmbedResult",
    "EmbeddingIndex",
    "Embeddings",
    "load_table",
    "open_index",
    "read_embeddings",
    "run",
]
