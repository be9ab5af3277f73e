"""Nested subsets by amount of audio, as for label-efficiency curves: ten minutes within one hour within ten."""

from collections.abc import Sequence

import numpy as np

from speechssl.errors import ManifestError
from speechssl.manifest.hashing import pieces
from speechssl.manifest.table import Manifest


def subset_manifest(manifest: Manifest, seconds: Sequence[float], *, seed: int) -> list[Manifest]:
    """Random subsets of about the given seconds; each smaller one lies within every larger one.

    Rows are drawn in one random order; a subset is the beginning of it whose length comes nearest to what was asked
    for (at least one row), in the order of the manifest.

    Returns:
        One manifest for each of `seconds`, in their order.

    Raises:
        ManifestError: a length that is not positive, or more than there is.
    """
    for wanted in seconds:
        if not wanted > 0:
            raise ManifestError(f"a subset must be longer than 0 seconds, not {wanted:g}")
        if wanted > manifest.total_seconds * (1 + 1e-9):
            raise ManifestError(
                f"a subset of {wanted:g} s cannot be drawn from {manifest.total_seconds:.1f} s of audio; ask for less"
            )
    order = np.random.default_rng(seed).permutation(np.arange(len(manifest), dtype=np.int32))
    durations = manifest.durations
    ends = np.cumsum(np.concatenate([durations[order[piece]] for piece in pieces(len(order))]))
    subsets = []
    for wanted in seconds:
        above = int(np.searchsorted(ends, wanted))  # rows order[: above + 1] are the first to reach it
        above = min(above, len(order) - 1)
        below = ends[above - 1] if above else 0.0
        count = above if above and wanted - below < ends[above] - wanted else above + 1
        subsets.append(manifest.take(np.sort(order[:count])))
    return subsets
