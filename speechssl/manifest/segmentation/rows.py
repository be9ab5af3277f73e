"""Rows of clips, made by columns from the rows that they were cut from."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.table import Manifest

Rows = npt.NDArray[np.int64]


def has_column(manifest: Manifest, name: str) -> bool:
    """Whether there is a column of that name."""
    return name in manifest.column_names


def clip_rows(manifest: Manifest, *, parents: Rows, rates: Rows, spans: Rows, whole: Rows) -> Manifest:
    """Rows of the clips, and those that stay whole, in the order of the rows they come from.

    Args:
        manifest: What was cut.
        parents: The row of each clip.
        rates: The sampling rate in Hz of each clip's file.
        spans: First sample and number of samples of each clip, `[K, 2]`.
        whole: Rows that stay as they are.

    Raises:
        ManifestError: two clips would have one id.
    """
    recordings = _recordings(manifest)
    rows = np.concatenate([parents, whole])
    order = np.argsort(rows, kind="stable")
    is_clip = np.concatenate([np.ones(len(parents), bool), np.zeros(len(whole), bool)])[order]
    taken = manifest.take(rows[order])

    def put(name: str, clip_values: npt.NDArray[Any]) -> None:
        nonlocal taken
        values = np.array(taken.column(name).to_numpy(), copy=True)
        values[is_clip] = clip_values
        taken = taken.with_column(name, pa.array(values))

    ids = _clip_ids(taken, is_clip, spans[:, 0] / rates)
    put("sample_rate", rates)
    put("num_samples", spans[:, 1])
    put("offset", spans[:, 0] / rates)
    put("duration", spans[:, 1] / rates)
    taken = taken.with_column("id", ids)
    if has_column(taken, "text"):
        mask = pa.array(is_clip)
        taken = taken.with_column("text", pc.if_else(mask, pa.scalar(None, STRING), taken.column("text")))
    taken = taken.with_column("recording", recordings.take(pa.array(rows[order])))
    repeated = len(taken) - pc.count_distinct(taken.column("id")).as_py()
    if repeated:
        raise ManifestError(
            f"{repeated} clips would have the id of another, since rows of the manifest overlap in their recordings;"
            " leave out rows that are spans of others"
        )
    return taken


def _clip_ids(taken: Manifest, is_clip: npt.NDArray[np.bool_], offsets: npt.NDArray[np.float64]) -> pa.ChunkedArray:
    """The row's id, without the `@milliseconds` of its own start, and those of the clip's."""
    ids = taken.column("id").cast(STRING).combine_chunks()
    own = _milliseconds(np.asarray(taken.column("offset").to_numpy(), dtype=np.float64))
    has_own = pc.and_(pc.greater(taken.column("offset"), 0), _ends_with(ids, own))
    stems = pc.if_else(has_own.combine_chunks(), pc.replace_substring_regex(ids, r"@\d+\z", ""), ids)
    starts = np.zeros(len(taken))
    starts[is_clip] = offsets
    clip_ids = pc.binary_join_element_wise(stems, _milliseconds(starts), pa.scalar("", STRING))
    return pa.chunked_array([pc.if_else(pa.array(is_clip), clip_ids, ids)])


def _milliseconds(seconds: npt.NDArray[np.float64]) -> pa.Array:
    numbers = pa.array(np.round(seconds * 1000).astype(np.int64)).cast(STRING)
    return pc.binary_join_element_wise(pa.scalar("", STRING), numbers, pa.scalar("@", STRING))


def _ends_with(ids: pa.Array, endings: pa.Array) -> pa.Array:
    """Element by element; Arrow's own takes one ending for all."""
    found = pc.replace_substring_regex(ids, r"(?s)^.*(@\d+)\z", r"\1")
    return pc.equal(found, endings)


def _recordings(manifest: Manifest) -> pa.ChunkedArray:
    """A name for each row's file: a column `recording` that is there, else the id of the first row of that file."""
    if has_column(manifest, "recording"):
        return manifest.column("recording")
    files = manifest.column("audio_filepath").combine_chunks().dictionary_encode()
    codes = np.asarray(files.indices.to_numpy(), dtype=np.int64)
    _, first = np.unique(codes, return_index=True)
    return manifest.column("id").take(pa.array(first[codes]))
