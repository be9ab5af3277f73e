"""Representations out of an encoder: which layers, pooled how; of batches, and of recordings of any length.

`representation` says what is wanted, `frames` has it for batches, `long` for recordings that are cut into chunks,
`audio_blocks` reads those piece by piece.
"""

from speechssl.extraction.frames import encode_batch
from speechssl.extraction.long import ChunkSettings, collect, encode_long, open_long
from speechssl.extraction.representation import Extractor, Pool, Representation

__all__ = [
    "ChunkSettings",
    "Extractor",
    "Pool",
    "Representation",
    "collect",
    "encode_batch",
    "encode_long",
    "open_long",
]
