"""Draw utterances at random, evenly over speakers or languages if so wished."""

import numpy as np
import numpy.typing as npt

from speechssl.errors import ManifestError
from speechssl.manifest.hashing import Codes, codes_of, hash_values, pieces
from speechssl.manifest.table import Manifest

Amounts = npt.NDArray[np.float64]


def sample_manifest(
    manifest: Manifest,
    *,
    count: int | None = None,
    seconds: float | None = None,
    balance_by: str | None = None,
    seed: int,
) -> Manifest:
    """Random rows without repetition, `count` of them or about `seconds` of audio, in their order.

    With `balance_by` every value of that column gives the same share, to the nearest row; one that has less gives all
    of its rows, and what is lacking is shared by the others.

    Args:
        manifest: What to draw from.
        count: Number of rows; either this or `seconds`.
        seconds: Amount of audio, met to the nearest row.
        balance_by: speaker, language or any other column that is known in all rows.
        seed: The same seed draws the same rows.

    Raises:
        ManifestError: neither or both of the amounts, more than there is, or rows without a value to balance by.
    """
    if (count is None) == (seconds is None):
        raise ManifestError("sample how much? give either a count of utterances or an amount of audio")
    wanted = float(count if seconds is None else seconds)  # type: ignore[arg-type]
    total = float(len(manifest)) if seconds is None else manifest.total_seconds
    unit = "utterances" if seconds is None else "s of audio"
    if not wanted > 0:
        raise ManifestError(f"a sample must hold more than {wanted:g} {unit}")
    if wanted > total * (1 + 1e-9):
        raise ManifestError(f"a sample of {wanted:g} {unit} cannot be drawn from {total:.10g} {unit}; ask for less")
    generator = np.random.default_rng(seed)
    order = generator.permutation(np.arange(len(manifest), dtype=np.int32))
    sizes = np.array([len(order)])
    if balance_by is not None:
        groups = _groups(manifest, balance_by)
        sizes = np.bincount(groups)
        order = order[np.argsort(groups[order], kind="stable")]
        del groups
    if seconds is None:
        depths = _depths(np.ones(len(order)), sizes, generator)
        chosen = depths <= np.partition(depths, int(wanted) - 1)[int(wanted) - 1]
    else:
        amounts = manifest.durations
        amounts = np.concatenate([amounts[order[piece]] for piece in pieces(len(order))])
        chosen = _up_to(wanted, _depths(amounts, sizes, generator), amounts)
    return manifest.take(np.sort(order[chosen]))


def _depths(amounts: Amounts, sizes: npt.NDArray[np.integer], generator: np.random.Generator) -> Amounts:
    """How deep into its group each row lies, for groups of the given sizes after each other: at a random place of it.

    Were a group cut off at some depth, it would give rows of that amount on average, whatever their lengths; so the
    groups' shares are equal when all are cut off at the same.
    """
    depths = np.cumsum(amounts)
    starts = np.cumsum(sizes) - sizes
    before = (depths - amounts)[starts[sizes > 0]]
    depths -= np.repeat(before, sizes[sizes > 0])
    for piece in pieces(len(depths)):
        depths[piece] -= amounts[piece] * generator.random(len(amounts[piece]))
    return depths


def _up_to(wanted: float, depths: Amounts, amounts: Amounts) -> npt.NDArray[np.bool_]:
    """The least deep rows that come nearest to the amount wanted together; at least one."""
    low, high = 0.0, float(depths.max())
    while True:  # rows down to `low` are less than wanted, those down to `high` are enough
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if np.sum(amounts, where=depths <= middle) < wanted:
            low = middle
        else:
            high = middle
    fewer, more = depths <= low, depths <= high
    below, above = np.sum(amounts, where=fewer), np.sum(amounts, where=more)
    return fewer if fewer.any() and wanted - below < above - wanted else more


def _groups(manifest: Manifest, column: str) -> Codes:
    """A number for every distinct value of a column."""
    hashes = []
    num_unknown = 0
    for batch in manifest.batches([column]):
        num_unknown += batch.column(0).null_count
        hashes.append(hash_values(batch.column(0)))
    if num_unknown:
        raise ManifestError(
            f"{num_unknown} of {len(manifest)} rows have no {column}, so a sample cannot be balanced by it; fill it in,"
            " leave those rows out, or balance by another column"
        )
    return codes_of(np.concatenate(hashes))
