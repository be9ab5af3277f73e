"""Tar shards (WebDataset's convention): write them from a manifest, make a manifest of those of others, stream them.

A sample is the members of a tar that share a key: `KEY.flac`, `KEY.json`, `KEY.txt`. `write` makes shards and a
manifest whose rows are byte ranges of them, `index` makes such a manifest of shards that are there, `stream` reads
front to back.
"""

from speechssl.manifest.shards.index import build_from_shards
from speechssl.manifest.shards.stream import iterate_shard
from speechssl.manifest.shards.write import ShardOptions, ShardResult, shard_manifest

__all__ = ["ShardOptions", "ShardResult", "build_from_shards", "iterate_shard", "shard_manifest"]
