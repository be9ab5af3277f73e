"""Percentile bootstrap of error rates (Bisani and Ney 2004): whole speakers, or utterances, are drawn anew.

Sums are f64 `[units, columns]`: word errors, words, character errors, characters.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from speechssl.errors import ConfigError
from speechssl.types import UtteranceErrors

MIN_SPEAKERS = 5
"""From this many speakers on, the bootstrap resamples speakers: errors of one voice are not independent."""

_MAX_CELLS = 4_000_000  # of one block of the [replicates, units] count matrix: 32 MB
Floats = npt.NDArray[np.float64]
Unit = Literal["speakers", "utterances"]
Interval = tuple[float, float]


def check_options(num_bootstrap: int, confidence: float) -> None:
    """Refuse what gives no interval."""
    if num_bootstrap < 1:
        raise ConfigError(f"num_bootstrap: must be at least 1, but is {num_bootstrap}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence: must lie between 0 and 1, but is {confidence}")


def resampling_groups(utterances: Sequence[UtteranceErrors]) -> tuple[Unit, npt.NDArray[np.int64] | None]:
    """What to resample, and the speaker number of every utterance where that is speakers."""
    speakers = [utterance.speaker for utterance in utterances]
    names = sorted({speaker for speaker in speakers if speaker})
    if None in speakers or "" in speakers or len(names) < MIN_SPEAKERS:
        return "utterances", None
    number = {name: index for index, name in enumerate(names)}
    return "speakers", np.array([number[speaker] for speaker in speakers if speaker], dtype=np.int64)


def sums(utterances: Sequence[UtteranceErrors], groups: npt.NDArray[np.int64] | None) -> Floats:
    """`[units, 4]` of every utterance or every group."""
    rows = np.array(
        [[u.word_errors, u.num_words, u.char_errors, u.num_chars] for u in utterances], dtype=np.float64
    ).reshape(-1, 4)
    if groups is None:
        return rows
    found = np.zeros((int(groups.max()) + 1, 4))
    np.add.at(found, groups, rows)
    return found


def resample(rows: Floats, num_bootstrap: int, seed: int) -> Floats:
    """`[num_bootstrap, columns]`: column sums over as many units as there are, drawn with replacement."""
    generator = np.random.default_rng(seed)
    num_units = len(rows)
    block = max(1, _MAX_CELLS // num_units)
    blocks = []
    for start in range(0, num_bootstrap, block):
        size = min(block, num_bootstrap - start)
        blocks.append(generator.multinomial(num_units, np.full(num_units, 1 / num_units), size=size) @ rows)
    return np.concatenate(blocks)


def rate_intervals(rows: Floats, *, num_bootstrap: int, confidence: float, seed: int) -> tuple[Interval, Interval]:
    """Intervals of the word and of the character error rate."""
    samples = resample(rows, num_bootstrap, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            interval(samples[:, 0] / samples[:, 1], confidence),
            interval(samples[:, 2] / samples[:, 3], confidence),
        )


def interval(rates: Floats, confidence: float) -> Interval:
    """Percentile interval: the middle part of replicates; those that drew no word at all have no rate."""
    rates = rates[np.isfinite(rates)]
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
