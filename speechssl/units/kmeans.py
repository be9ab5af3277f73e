"""Mini-batch k-means over a stream of frames (Sculley 2010), whose whole state can be stored and taken up again.

The update is that of scikit-learn's `MiniBatchKMeans.partial_fit` without its random reassignments; a test holds both
against each other. It is our own because scikit-learn keeps the counts, without which a restart is not the same run,
in private fields that only a pickle stores.

Shapes: N frames, K units, D dimensions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class UnitState:
    """`centers` f32 `[K, D]`, and how many frames each has been given so far, `counts` i64 `[K]`."""

    centers: Frames
    counts: NDArray[np.int64]


def first_centers(frames: Frames, num_units: int, *, seed: int) -> UnitState:
    """K centers spread over the first frames by k-means++ (Arthur and Vassilvitskii 2007)."""
    from sklearn.cluster import kmeans_plusplus

    centers, _ = kmeans_plusplus(frames, num_units, random_state=seed)
    return UnitState(centers=np.asarray(centers, dtype=np.float32), counts=np.zeros(num_units, dtype=np.int64))


def nearest(frames: Frames, centers: Frames) -> NDArray[np.int64]:
    """The nearest center of every frame, `[N]`; of equally near ones the first."""
    norms = (centers.astype(np.float64) ** 2).sum(axis=1).astype(np.float32)
    return np.asarray((norms - 2 * (frames @ centers.T)).argmin(axis=1), dtype=np.int64)


def update(state: UnitState, frames: Frames) -> UnitState:
    """Move every center to the mean of all frames it has been given, those of this mini-batch included."""
    units = nearest(frames, state.centers)
    new = np.bincount(units, minlength=len(state.counts))
    sums = np.zeros(state.centers.shape, dtype=np.float64)
    order = np.argsort(units, kind="stable")
    hit = np.flatnonzero(new)
    if len(hit):
        starts = np.concatenate([[0], np.cumsum(new[hit])[:-1]])
        sums[hit] = np.add.reduceat(frames[order].astype(np.float64), starts, axis=0)
    counts = state.counts + new
    centers = state.centers.copy()
    moved = state.centers[hit].astype(np.float64) * state.counts[hit, None] + sums[hit]
    centers[hit] = (moved / counts[hit, None]).astype(np.float32)
    return UnitState(centers=centers, counts=counts)
