"""Curves, differences and savings, by hand where a hand can do it."""

import math

import numpy as np
import pytest

from speechssl.errors import ManifestError
from speechssl.label_efficiency.analysis import Counts, analyse, counts_by_unit, equivalent_hours


def counts(rates: list[float], words: int = 100) -> Counts:
    """One run: error counts of test units with so many words each."""
    return Counts(errors=np.array(rates) * words, totals=np.full(len(rates), float(words)))


HOURS = {"5min": 5 / 60, "15min": 0.25, "1h": 1.0}


def test_rates_are_means_over_seeds_of_sums_over_sums() -> None:
    uneven = Counts(errors=np.array([10.0, 0.0]), totals=np.array([10.0, 90.0]))
    found = analyse({("scratch", "1h"): [uneven, counts([0.2, 0.4])]}, HOURS)
    (point,) = found.points
    assert point.seed_rates == (0.1, pytest.approx(0.3))
    assert point.rate == pytest.approx(0.2)
    # Student's t of two values: mean 0.2, standard error 0.1, t(0.975, 1) = 12.706
    assert point.seed_interval is not None
    assert point.seed_interval[1] - point.rate == pytest.approx(1.2706, rel=1e-4)


def test_one_seed_has_no_interval_over_seeds() -> None:
    (point,) = analyse({("scratch", "1h"): [counts([0.1, 0.3])]}, HOURS).points
    assert point.seed_interval is None
    assert point.interval[0] == pytest.approx(0.1) and point.interval[1] == pytest.approx(0.3)


def test_a_clear_gain_is_apart_and_significant_and_a_tie_is_neither() -> None:
    random = np.random.default_rng(0)
    hard = random.uniform(0.2, 0.8, 40)  # what is hard for one is hard for the other

    def runs(level: float) -> list[Counts]:
        return [counts(list(hard * level + random.normal(0, 0.01, 40))) for _ in range(5)]

    found = analyse({("scratch", "1h"): runs(1.0), ("good", "1h"): runs(0.7), ("same", "1h"): runs(1.0)}, HOURS)
    good, same = found.comparisons
    assert (good.encoder, good.baseline, good.intervals_apart) == ("good", "scratch", True)
    assert good.interval[1] < 0 and good.p_value <= 0.002
    assert good.difference == pytest.approx(-0.3 * hard.mean(), abs=0.01)
    assert same.interval[0] < 0 < same.interval[1] and same.p_value > 0.05


def test_seeds_widen_the_interval() -> None:
    steady = analyse({("a", "1h"): [counts([0.3] * 50) for _ in range(5)]}, HOURS).points[0]
    jumpy = analyse({("a", "1h"): [counts([0.1 * seed] * 50) for seed in range(1, 6)]}, HOURS).points[0]
    assert steady.interval == pytest.approx((0.3, 0.3))
    assert jumpy.rate == pytest.approx(0.3) and jumpy.interval[1] - jumpy.interval[0] > 0.1


def test_equivalent_hours_are_read_off_the_baselines_curve() -> None:
    hours, rates = np.array([1.0, 10.0, 100.0]), np.array([0.5, 0.3, 0.1])
    assert equivalent_hours(0.4, hours, rates) == pytest.approx(math.sqrt(10))
    assert equivalent_hours(0.3, hours, rates) == pytest.approx(10)
    assert equivalent_hours(0.1, hours, rates) == pytest.approx(100)
    assert equivalent_hours(0.05, hours, rates) == math.inf
    assert math.isnan(equivalent_hours(0.6, hours, rates))
    # a curve that rises again is taken at the best that fewer hours gave
    assert equivalent_hours(0.25, hours, np.array([0.5, 0.3, 0.4])) == math.inf


def test_savings_say_never_and_before_the_first() -> None:
    runs = {
        **{("scratch", name): [counts([rate] * 10)] for name, rate in zip(HOURS, (0.5, 0.4, 0.3), strict=True)},
        **{("good", name): [counts([rate] * 10)] for name, rate in zip(HOURS, (0.4, 0.2, 0.1), strict=True)},
        ("bad", "5min"): [counts([0.9] * 10)],
    }
    savings = {(one.encoder, one.labels): one for one in analyse(runs, HOURS).savings}
    assert savings["good", "5min"].equivalent_hours == pytest.approx(0.25)
    assert savings["good", "15min"].equivalent_hours == math.inf
    assert savings["bad", "5min"].equivalent_hours is None and savings["bad", "5min"].interval == (None, None)


def row(speaker: str, *, errors: int = 1, words: int = 4) -> dict[str, str]:
    return {
        "speaker": speaker,
        "num_words": str(words),
        "substitutions": str(errors),
        "deletions": "0",
        "insertions": "0",
        "num_chars": "20",
        "char_errors": "2",
    }


def test_speakers_are_the_units_where_there_are_five() -> None:
    over, found = counts_by_unit([row(name) for name in "abcdea"], "wer")
    assert over == "speakers" and found.errors.tolist() == [2, 1, 1, 1, 1] and found.totals.tolist() == [8, 4, 4, 4, 4]
    over, found = counts_by_unit([row(name) for name in "abcda"], "cer")
    assert over == "utterances" and found.errors.tolist() == [2] * 5


def test_a_table_without_counts_is_refused() -> None:
    with pytest.raises(ManifestError, match="no column 'num_words'; evaluate again"):
        counts_by_unit([{"speaker": "a", "substitutions": "0", "deletions": "0", "insertions": "0"}], "wer")
