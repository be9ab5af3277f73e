"""How units go with labels, and units of two seeds with each other: all from a table of counts, so in bounded memory.

Shapes: Y labels (or units of another seed), K units.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class UnitScores:
    """Agreement of units with labels over frames (HuBERT, section 4.3 and its metrics).

    `purity` is the share of frames whose label is the most frequent one of their unit (what naming every unit would get
    right), `cluster_purity` the share whose unit is the most frequent one of their label, `pnmi` the mutual information
    as a share of the labels' entropy, `nmi` that of the mean of both entropies. `chance_purity` is what a single unit
    would reach.
    """

    purity: float
    cluster_purity: float
    pnmi: float
    nmi: float
    chance_purity: float
    num_frames: int
    num_labels: int


def score_units(counts: Counts) -> UnitScores:
    """Scores of a table `[Y, K]` of how many frames have both."""
    counts = counts[counts.sum(axis=1) > 0]
    total = int(counts.sum())
    information, of_labels, of_units = _information(counts)
    return UnitScores(
        purity=float(counts.max(axis=0).sum() / total),
        cluster_purity=float(counts.max(axis=1).sum() / total),
        pnmi=information / of_labels if of_labels else 0.0,
        nmi=_normalised(information, of_labels, of_units),
        chance_purity=float(counts.sum(axis=1).max() / total),
        num_frames=total,
        num_labels=len(counts),
    )


def normalised_information(counts: Counts) -> float:
    """Mutual information over the mean of both entropies; 1 for equal partitions, whatever their names."""
    return _normalised(*_information(counts))


def matched_share(counts: Counts) -> float:
    """Share of frames that agree under the best one-to-one naming of the units of two seeds, table `[K, K]`."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / max(int(counts.sum()), 1))


def perplexity(counts: Counts) -> float:
    """2 to the entropy of how often each unit is used, `[K]`: between 1 and K."""
    return float(np.exp(_entropy(counts)))


def _normalised(information: float, first: float, second: float) -> float:
    return 2 * information / (first + second) if first + second else 1.0


def _information(counts: Counts) -> tuple[float, float, float]:
    """Mutual information and the entropies of rows and of columns, in nats."""
    of_rows, of_columns = _entropy(counts.sum(axis=1)), _entropy(counts.sum(axis=0))
    return max(0.0, of_rows + of_columns - _entropy(counts.ravel())), of_rows, of_columns


def _entropy(counts: Counts) -> float:
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(shares * np.log(shares)).sum())
