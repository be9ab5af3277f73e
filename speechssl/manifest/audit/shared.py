"""What several manifests have in common by their columns: ids, files, speakers, texts, and texts that are almost equal.

Shapes: R rows of all manifests, M manifests, V values.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.manifest.audit.near_texts import near_pairs
from speechssl.manifest.audit.rows import Integers, Rows
from speechssl.manifest.hashing import Hashes, hash_values
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.split import normalize_keys

Mask = npt.NDArray[np.bool_]

_NONE = np.uint64(0)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What is shared, of one kind: `rows` bool `[M, R]` tells for every manifest m which rows of the others share
    something with it; `examples` are values, with the manifests that have them.
    """

    kind: str
    rows: Mask
    num_values: int
    examples: tuple[str, ...]


def shared_ids(rows: Rows) -> Shared:
    """Ids that are in more than one manifest."""
    return _shared(rows, "id", _hashes(_strings(rows, "id")))


def shared_files(rows: Rows) -> Shared:
    """Files that rows of more than one manifest are cut from, as long as the spans themselves are not one."""
    return _shared(rows, "file", rows.file_hash)


def shared_speakers(rows: Rows) -> Shared:
    """Speakers that are in more than one manifest, whatever their case and spaces."""
    return _shared(rows, "speaker", _hashes([_folded(column) for column in _strings(rows, "speaker")]))


def speaker_variants(rows: Rows) -> list[tuple[str, ...]]:
    """Names of speakers that differ in nothing but case and spaces, each set of them."""
    chunks = [chunk for column in _strings(rows, "speaker") for chunk in column.chunks]
    names = pc.drop_null(pc.unique(pa.chunked_array(chunks, STRING)))
    folded = _folded(pa.chunked_array([names]))
    table = (
        pa.table({"name": names, "folded": folded.combine_chunks()}).group_by("folded").aggregate([("name", "list")])
    )
    return sorted(tuple(sorted(several)) for several in table["name_list"].to_pylist() if len(several) > 1)


def shared_texts(rows: Rows) -> Shared:
    """Texts that are in more than one manifest, as `normalize_keys` compares them."""
    return _shared(rows, "text", _hashes(_spelled(rows)))


def near_texts(rows: Rows, similarity: float) -> Shared:
    """Texts that are almost the same as one of another manifest, and not the same."""
    spelled = _spelled(rows)
    hashes = _hashes(spelled)
    values, first, code = np.unique(hashes, return_index=True, return_inverse=True)
    has = np.zeros((len(rows.names), len(values)), dtype=bool)
    has[rows.manifest_of, code] = True
    has[:, values == _NONE] = False
    chunks = [chunk for column in spelled for chunk in column.chunks]
    texts = pc.fill_null(pa.chunked_array(chunks, STRING).take(pa.array(first)).combine_chunks(), "")
    one, other, alike = near_pairs(texts, similarity)
    near = np.zeros_like(has)
    for left, right in ((one, other), (other, one)):
        for number in range(len(rows.names)):
            near[number, left[has[number, right]]] = True
    near &= ~has
    crossing = [place for place in np.argsort(-alike).tolist() if _crosses(has, int(one[place]), int(other[place]))]
    marked = near[:, code] & (hashes != _NONE)
    marked[rows.manifest_of, np.arange(len(rows))] = False
    examples = tuple(f"{texts[one[p]].as_py()!r} and {texts[other[p]].as_py()!r}" for p in crossing[:5])
    return Shared(kind="near_text", rows=marked, num_values=len(crossing), examples=examples)


def repeated(hashes: Hashes, manifest_of: Integers) -> Integers:
    """Rows whose value occurs before in the same manifest."""
    keys = hashes ^ (manifest_of.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    again = np.ones(len(keys), dtype=bool)
    again[np.unique(keys, return_index=True)[1]] = False
    return np.flatnonzero(again & (hashes != _NONE))


def text_hashes(rows: Rows) -> Hashes:
    """A number for every row's text as it is compared; 0 where there is none."""
    return _hashes(_spelled(rows))


def _shared(rows: Rows, kind: str, hashes: Hashes) -> Shared:
    values, first, code = np.unique(hashes, return_index=True, return_inverse=True)
    has = np.zeros((len(rows.names), len(values)), dtype=bool)
    has[rows.manifest_of, code] = True
    has[:, values == _NONE] = False
    common = np.flatnonzero(has.sum(axis=0) > 1)
    marked = has[:, code]
    marked[rows.manifest_of, np.arange(len(rows))] = False
    column = {"file": "audio_filepath"}.get(kind, kind)
    shown = common[np.argsort(first[common])][:5]
    examples = tuple(repr(value) for value in rows.values(column, first[shown]))
    return Shared(kind=kind, rows=marked, num_values=len(common), examples=examples)


def _crosses(has: Mask, one: int, other: int) -> bool:
    """Whether some manifest has one of two texts, and another manifest the other."""
    left, right = np.flatnonzero(has[:, one]), np.flatnonzero(has[:, other])
    return len(left) > 0 and len(right) > 0 and len(np.union1d(left, right)) > 1


def _hashes(columns: list[pa.ChunkedArray]) -> Hashes:
    """A number for every value, 0 where it is null or empty."""
    parts = []
    for column in columns:
        present = pc.fill_null(pc.not_equal(column, ""), False).to_numpy(zero_copy_only=False)
        parts.append(np.where(present.astype(bool), hash_values(column), _NONE))
    return np.concatenate(parts)


def _strings(rows: Rows, name: str) -> list[pa.ChunkedArray]:
    """A column of every manifest as text; nulls where a manifest has none."""
    columns = zip(rows.columns(name), rows.manifests, strict=True)
    return [
        pa.chunked_array([pa.nulls(len(manifest), STRING)]) if column is None else column.cast(STRING)
        for column, manifest in columns
    ]


def _folded(names: pa.ChunkedArray) -> pa.ChunkedArray:
    """Names as they are compared: without case and needless spaces."""
    names = pc.utf8_lower(pc.utf8_normalize(names, form="NFKC"))
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(names, r"[\s_]+", " "))


def _spelled(rows: Rows) -> list[pa.ChunkedArray]:
    return [normalize_keys(column) for column in _strings(rows, "text")]
