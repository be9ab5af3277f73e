"""A hash of what a manifest holds, the same however and wherever it is stored."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.manifest import paths
from speechssl.manifest.hashing import offsets_and_bytes
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.storage import Storage


def fingerprint(rows: Storage) -> str:
    """Hex SHA-256 of all columns in all rows, of paths only the last part."""
    digest = hashlib.sha256()
    for name in sorted(rows.schema.names):
        digest.update(f"\n{name}\n".encode())
        _hash_column(rows, name, digest)
    return digest.hexdigest()


def _hash_column(rows: Storage, name: str, digest: Any) -> None:
    """Hash where the nulls are, then the values; independently of batches and of the width of the type."""
    kind = rows.schema.field(name).type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    nulls, lengths = [], []
    for values in _values(rows, name):
        nulls.append(values.is_null().to_numpy(zero_copy_only=False))
        if is_text:
            lengths.append(pc.binary_length(pc.fill_null(values, "")).to_numpy())
    is_null = np.concatenate(nulls) if nulls else np.zeros(0, dtype=bool)
    digest.update(np.packbits(is_null).tobytes() if is_null.any() else b"")
    for part in lengths:
        digest.update(part.astype("<i8").tobytes())
    for values in _values(rows, name):
        if is_text:
            digest.update(offsets_and_bytes(pc.fill_null(values, "").cast(STRING))[1].data)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            digest.update(pc.fill_null(values.cast(pa.float64(), safe=False), 0.0).to_numpy().astype("<f8").tobytes())
        else:
            for value in values.to_pylist():
                digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")


def _values(rows: Storage, name: str) -> Iterator[pa.Array]:
    for batch in rows.scan([name]):
        values = batch.column(0)
        yield paths.basenames(values) if name == "audio_filepath" else values
