"""Divide a manifest so that nothing that would make a test easy lies on both sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.hashing import Codes, Hashes, codes_of, hash_values, in_order_of_appearance, pieces
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import map_ahead
from speechssl.manifest.table import Manifest

_NUM_ORDERS = 64
_LARGE_SHARE = 0.005
_GOOD_ENOUGH = 0.005


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
    seconds = np.zeros(int(groups.max()) + 1)
    np.add.at(seconds, groups, manifest.durations)
    wanted = np.array([fractions[name] for name in names])
    part_of_group = _assign(seconds, wanted, np.random.default_rng(seed))
    reached = np.bincount(part_of_group, weights=seconds, minlength=len(names)) / seconds.sum()
    counts = np.bincount(part_of_group, minlength=len(names))
    if counts.min() == 0 or np.abs(reached - wanted).max() > tolerance:
        raise ManifestError(
            _explain(manifest, keys, groups, seconds, dict(zip(names, reached, strict=True)), fractions)
        )
    part_of_row = np.concatenate([part_of_group[groups[piece]] for piece in pieces(len(groups))])
    return {name: manifest.filter(part_of_row == number) for number, name in enumerate(names)}


def group_rows(manifest: Manifest, keys: Sequence[str]) -> Codes:
    """Number of each row's group: rows are in one group when a chain of shared keys leads from one to the other.

    Values are told apart by 64-bit hashes: should two different ones share a
    hash (below one chance in 100,000 for ten million values), their rows are in one group, which no split minds.
    """
    groups = _key_codes(manifest, keys[0])
    for key in keys[1:]:
        groups = _join_groups(groups, _key_codes(manifest, key))
    return groups


def _join_groups(groups: Codes, values: Codes) -> Codes:
    """Unite the groups that share a value. Only rows whose value occurs again can tie groups together."""
    from scipy.sparse import coo_matrix  # more to load than all of a manifest's other commands need
    from scipy.sparse.csgraph import connected_components

    num_groups = int(groups.max()) + 1
    rows = np.flatnonzero(np.bincount(values)[values] > 1)
    tied, num_values = _renumbered(values[rows])
    ties = np.unique(groups[rows].astype(np.int64) * max(1, num_values) + tied)  # a pair of group and value each
    ends = (ties // max(1, num_values)).astype(np.int32), (ties % max(1, num_values) + num_groups).astype(np.int32)
    size = num_groups + num_values
    graph = coo_matrix((np.ones(len(ties), dtype=np.int8), ends), shape=(size, size))
    labels = connected_components(graph, directed=False)[1][:num_groups]
    joined = labels[groups]
    return in_order_of_appearance(*_renumbered(joined))


def _renumbered(codes: Codes) -> tuple[Codes, int]:
    """Codes as 0, 1, ... without gaps, and how many there are."""
    present = np.bincount(codes) > 0 if len(codes) else np.zeros(0, dtype=bool)
    names = np.cumsum(present, dtype=np.int32) - np.int32(1)
    return (names[codes] if len(codes) else codes), int(present.sum())


def normalize_keys(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Texts as they are compared: lower case, letters and digits only, single spaces."""
    if isinstance(texts, pa.ChunkedArray):
        return pa.chunked_array([normalize_keys(chunk) for chunk in texts.chunks], STRING)
    texts = texts.cast(STRING)
    is_ascii = pc.fill_null(pc.string_is_ascii(texts), True)
    plain = pc.ascii_lower(texts)
    if not pc.all(is_ascii).as_py():  # the others, a few in most languages, are the expensive ones
        other = pc.utf8_lower(pc.utf8_normalize(texts.filter(pc.invert(is_ascii)), form="NFKC"))
        plain = pc.replace_with_mask(plain, pc.invert(is_ascii), pc.replace_substring(other, "ß", "ss"))
    plain = pc.replace_substring_regex(plain, r"['’`´]", "")
    spaced = pc.replace_substring_regex(plain, r" *[^\pL\pN\pM ][^\pL\pN\pM]*|  +", " ")  # all but single spaces
    return pc.utf8_trim_whitespace(spaced)


def _key_codes(manifest: Manifest, key: str) -> Codes:
    """A number for every distinct value of a key; rows without a text get one of their own."""
    name = "audio_filepath" if key == "recording" and "recording" not in manifest.column_names else key
    if name == "text" and "text" not in manifest.column_names:
        return np.arange(len(manifest), dtype=np.int32)
    hashes = np.empty(len(manifest), dtype=np.uint64)
    unknown = np.zeros(len(manifest), dtype=bool)
    done = 0
    hash_batch = _hash_texts if key == "text" else _hash_batch
    for part, nulls in map_ahead(hash_batch, manifest.batches([name])):
        hashes[done : done + len(part)] = part
        unknown[done : done + len(part)] = nulls
        done += len(part)
    if key != "text" and unknown.any():
        raise ManifestError(
            f"{int(unknown.sum())} of {len(manifest)} rows have no {key}, so parts cannot be kept apart by it; fill it"
            " in, leave those rows out, or split by another key"
        )
    if not unknown.any():
        return codes_of(hashes)
    codes = np.empty(len(manifest), dtype=np.int32)
    codes[~unknown] = codes_of(hashes[~unknown])
    num_alone = int(unknown.sum())
    codes[unknown] = np.arange(num_alone, dtype=np.int32) + codes[~unknown].max(initial=-1) + 1
    return codes


Hashed = tuple[Hashes, npt.NDArray[np.bool_]]


def _hash_batch(batch: pa.RecordBatch) -> Hashed:
    """Hashes of a column, and where it is null."""
    values = batch.column(0)
    return hash_values(values), values.is_null().to_numpy(zero_copy_only=False)


def _hash_texts(batch: pa.RecordBatch) -> Hashed:
    """Hashes of texts as they are compared, and where there is none."""
    texts = normalize_keys(batch.column(0))
    unknown = pc.fill_null(pc.equal(pc.binary_length(texts), 0), True)
    return hash_values(texts), unknown.to_numpy(zero_copy_only=False)


def _check_fractions(fractions: Mapping[str, float]) -> None:
    if not fractions or any(not 0 < share <= 1 for share in fractions.values()):
        raise ManifestError(f"fractions must each be between 0 and 1, are {dict(fractions)}")
    total = sum(fractions.values())
    if abs(total - 1) > 1e-6:
        raise ManifestError(
            f"fractions must add up to 1 so that nothing is lost, but {dict(fractions)} add up to {total:g}; give the"
            " rest a name of its own"
        )


def _assign(
    seconds: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], generator: np.random.Generator
) -> npt.NDArray[np.int16]:
    """A part for every group: the large ones one by one in the best of several random orders, the rest in one cut."""
    total = float(seconds.sum())
    is_large = seconds > _LARGE_SHARE * total
    large = np.flatnonzero(is_large)
    small = np.flatnonzero(~is_large).astype(np.int32)
    filling = float(seconds[small].sum())
    best = _place(seconds[large], wanted * total, filling, generator)
    for _ in range(_NUM_ORDERS - 1):
        if best.badness <= _GOOD_ENOUGH * total:
            break
        other = _place(seconds[large], wanted * total, filling, generator)
        best = other if other.badness < best.badness else best
    part = np.zeros(len(seconds), dtype=np.int16)
    part[large] = best.part
    if len(small):
        room = np.clip(best.room, 0, None)
        room = room if room.sum() > 0 else wanted
        cuts = np.cumsum(room) / room.sum() * filling
        order = generator.permutation(small)
        middles = seconds[order]
        halves = middles / 2
        middles = np.cumsum(middles, out=middles)
        middles -= halves
        for piece in pieces(len(order)):
            part[order[piece]] = np.minimum(np.searchsorted(cuts, middles[piece], side="right"), len(wanted) - 1)
    return part


@dataclass(frozen=True, kw_only=True)
class _Placement:
    """`part` of each group, the `room` left in each part in seconds, and how bad that is in seconds."""

    part: npt.NDArray[np.int64]
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
        f" rows, among them {manifest.take([row])[0].id!r}). Ask for other fractions, fewer keys or a larger"
        " tolerance"
    )
