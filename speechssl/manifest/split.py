"""Divide a manifest so that nothing that would make a test easy lies on both sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from speechssl.errors import ManifestError
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.table import Manifest

_NUM_ORDERS = 64
_LARGE_SHARE = 0.005
_GOOD_ENOUGH = 0.005

Codes = npt.NDArray[np.int64]


def split_manifest(
    manifest: Manifest,
    fractions: Mapping[str, float],
    *,
    by: str | Sequence[str],
    seed: int,
    tolerance: float = 0.1,
) -> dict[str, Manifest]:
    """Divide by duration into named parts that share no speaker, recording, text or other key.

    Rows that share a key are tied together, through chains of rows if need be (connected components), and each such
    group goes to one part as a whole. Texts are compared without case and punctuation.

    Args:
        manifest: What to divide; every row goes to exactly one part, in the order it had.
        fractions: Share of the audio of each part; they add up to 1.
        by: "speaker", "recording" (the audio file), "text" or any other column, or several of them. Rows without a
            text are tied by nothing; every other key must be known in all rows.
        seed: The same seed gives the same parts.
        tolerance: How far a part's share of the audio may be from the one asked for.

    Raises:
        ManifestError: fractions that are none, an absent key, or groups so large that a part would be empty or further
            off than `tolerance`; says by how much.
    """
    _check_fractions(fractions)
    names = list(fractions)
    keys = (by,) if isinstance(by, str) else tuple(by)
    if not keys:
        raise ManifestError("split by what? name speaker, recording, text or another column")
    if len(manifest) == 0:
        raise ManifestError("a manifest without utterances cannot be split")
    groups = group_rows(manifest, keys)
    seconds = np.asarray(np.bincount(groups, weights=manifest.durations), dtype=np.float64)
    wanted = np.array([fractions[name] for name in names])
    part_of_group = _assign(seconds, wanted, np.random.default_rng(seed))
    reached = np.bincount(part_of_group, weights=seconds, minlength=len(names)) / seconds.sum()
    counts = np.bincount(part_of_group, minlength=len(names))
    if counts.min() == 0 or np.abs(reached - wanted).max() > tolerance:
        raise ManifestError(
            _explain(manifest, keys, groups, seconds, dict(zip(names, reached, strict=True)), fractions)
        )
    part_of_row = part_of_group[groups]
    return {name: manifest.filter(part_of_row == number) for number, name in enumerate(names)}


def group_rows(manifest: Manifest, keys: Sequence[str]) -> Codes:
    """Number of each row's group: rows are in one group when a chain of shared keys leads from one to the other."""
    columns = [_key_codes(manifest, key) for key in keys]
    if len(columns) == 1:
        return np.unique(columns[0], return_inverse=True)[1].astype(np.int64)
    # A graph with a node for every row and one for every value of every key.
    num_rows = len(manifest)
    rows = np.arange(num_rows)
    starts = np.cumsum([num_rows, *(int(codes.max()) + 1 for codes in columns)])
    ends = np.concatenate([codes + start for codes, start in zip(columns, starts[:-1], strict=True)])
    edges = (np.ones(len(ends), dtype=np.int8), (np.tile(rows, len(columns)), ends))
    graph = coo_matrix(edges, shape=(int(starts[-1]), int(starts[-1])))
    labels = connected_components(graph, directed=False)[1][:num_rows]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def normalize_keys(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts as they are compared: lower case, letters and digits only, single spaces."""
    texts = pc.utf8_lower(pc.utf8_normalize(texts.cast(STRING), form="NFKC"))
    texts = pc.replace_substring(texts, "ß", "ss")
    texts = pc.replace_substring_regex(texts, r"['’`´]", "")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(texts, r"[^\pL\pN\pM]+", " "))


def _key_codes(manifest: Manifest, key: str) -> Codes:
    """A number for every distinct value of a key; rows without a text get one of their own."""
    name = "audio_filepath" if key == "recording" and "recording" not in manifest.table.column_names else key
    if name == "text" and "text" not in manifest.table.column_names:
        column = pa.chunked_array([pa.nulls(len(manifest), STRING)])
    else:
        column = manifest.column(name)
    if key == "text":
        column = normalize_keys(column)
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, STRING), column)
    elif column.null_count:
        raise ManifestError(
            f"{column.null_count} of {len(manifest)} rows have no {key}, so parts cannot be kept apart by it; fill it"
            " in, leave those rows out, or split by another key"
        )
    indices = column.combine_chunks().dictionary_encode().indices
    codes = np.asarray(indices.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int64)
    alone = np.flatnonzero(codes < 0)
    codes[alone] = codes.max(initial=-1) + 1 + np.arange(len(alone))
    return codes


def _check_fractions(fractions: Mapping[str, float]) -> None:
    if not fractions or any(not 0 < share <= 1 for share in fractions.values()):
        raise ManifestError(f"fractions must each be between 0 and 1, are {dict(fractions)}")
    total = sum(fractions.values())
    if abs(total - 1) > 1e-6:
        raise ManifestError(
            f"fractions must add up to 1 so that nothing is lost, but {dict(fractions)} add up to {total:g}; give the"
            " rest a name of its own"
        )


def _assign(seconds: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], generator: np.random.Generator) -> Codes:
    """A part for every group: the large ones one by one in the best of several random orders, the rest in one cut."""
    total = float(seconds.sum())
    large = np.flatnonzero(seconds > _LARGE_SHARE * total)
    small = np.flatnonzero(seconds <= _LARGE_SHARE * total)
    filling = float(seconds[small].sum())
    best = _place(seconds[large], wanted * total, filling, generator)
    for _ in range(_NUM_ORDERS - 1):
        if best.badness <= _GOOD_ENOUGH * total:
            break
        other = _place(seconds[large], wanted * total, filling, generator)
        best = other if other.badness < best.badness else best
    part = np.zeros(len(seconds), dtype=np.int64)
    part[large] = best.part
    if len(small):
        room = np.clip(best.room, 0, None)
        room = room if room.sum() > 0 else wanted
        order = generator.permutation(small)
        middles = np.cumsum(seconds[order]) - seconds[order] / 2
        cuts = np.cumsum(room) / room.sum() * filling
        part[order] = np.minimum(np.searchsorted(cuts, middles, side="right"), len(wanted) - 1)
    return part


@dataclass(frozen=True, kw_only=True)
class _Placement:
    """`part` of each group, the `room` left in each part in seconds, and how bad that is in seconds."""

    part: Codes
    room: npt.NDArray[np.float64]
    badness: float


def _place(
    seconds: npt.NDArray[np.float64],
    target: npt.NDArray[np.float64],
    filling: float,
    generator: np.random.Generator,
) -> _Placement:
    """Put groups into parts in a random order, then move single ones for as long as that helps.

    `filling` is how many seconds of small groups there are to fill gaps with.
    """
    part = np.zeros(len(seconds), dtype=np.int64)
    room = target.copy()
    for group in generator.permutation(len(seconds)):
        fits = np.flatnonzero(room >= seconds[group])  # in proportion to the room; else where it overflows least
        chosen = generator.choice(fits, p=room[fits] / room[fits].sum()) if len(fits) else int(np.argmax(room))
        part[group] = chosen
        room[chosen] -= seconds[group]

    def badness() -> float:
        overflow = float(np.clip(-room, 0, None).sum())
        gaps = max(0.0, float(np.clip(room, 0, None).sum()) - filling)
        num_empty = 0 if filling else len(target) - len(np.unique(part))
        return overflow + gaps + num_empty * float(target.sum())

    current = badness()
    improved = True
    while improved:
        improved = False
        for group in range(len(seconds)):
            for other in range(len(target)):
                before = part[group]
                if other == before:
                    continue
                part[group] = other
                room[before] += seconds[group]
                room[other] -= seconds[group]
                changed = badness()
                if changed < current * (1 - 1e-9):
                    current, improved = changed, True
                else:
                    part[group] = before
                    room[before] -= seconds[group]
                    room[other] += seconds[group]
    return _Placement(part=part, room=room, badness=current)


def _explain(
    manifest: Manifest,
    keys: Sequence[str],
    groups: Codes,
    seconds: npt.NDArray[np.float64],
    reached: Mapping[str, float],
    fractions: Mapping[str, float],
) -> str:
    """Why the fractions cannot be had."""
    largest = int(np.argmax(seconds))
    share = seconds[largest] / seconds.sum()
    row = int(np.flatnonzero(groups == largest)[0])
    count = int((groups == largest).sum())
    shares = ", ".join(f"{name} {reached[name]:.1%} instead of {fractions[name]:.1%}" for name in fractions)
    return (
        f"split by {', '.join(keys)}: the {len(seconds)} groups that must stay whole do not give these fractions; the"
        f" nearest found is {shares}. The largest group holds {share:.1%} of the audio ({count} of {len(manifest)}"
        f" rows, among them {manifest.table['id'][row].as_py()!r}). Ask for other fractions, fewer keys or a larger"
        " tolerance"
    )
