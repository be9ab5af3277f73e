"""Curves of error rate against hours of labels, their intervals, and what pre-training saved.

Letters: R bootstrap replicates, E seeds, U units that are resampled (speakers, or utterances where there are few).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from speechssl.errors import ManifestError
from speechssl.scoring import MIN_SPEAKERS
from speechssl.scoring.bootstrap import Interval
from speechssl.scoring.bootstrap import interval as percentile_interval

Floats = npt.NDArray[np.float64]
Metric = Literal["wer", "cer"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Errors of one run on a test manifest: `errors` and `totals` `[U]` of words (or characters), by unit."""

    errors: Floats
    totals: Floats


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """An encoder at an amount of labels; rates are fractions.

    `rate` is the mean over seeds, `seed_rates` each of them. `seed_interval` is Student's interval of the mean over
    seeds on this very test set; `interval` is wider: a bootstrap over both seeds and test speakers (or utterances).
    """

    encoder: str
    labels: str
    hours: float
    rate: float
    seed_rates: tuple[float, ...]
    seed_interval: Interval | None
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An encoder minus the first one at an amount of labels; negative means better than the first.

    `interval` and `p_value` (two-sided) come from a bootstrap over test units, the same for both, and seeds, drawn
    apart for each. `intervals_apart` tells whether the two Student's intervals over seeds do not overlap.
    """

    encoder: str
    baseline: str
    labels: str
    hours: float
    difference: float
    interval: Interval
    p_value: float
    intervals_apart: bool | None


@dataclass(frozen=True, kw_only=True)
class Saving:
    """Hours of labels that the first encoder needs for what another reaches with `hours`.

    Read off the first encoder's curve, straight between its points over the logarithm of hours and never rising.
    `math.inf` stands where it does not get there with all labels tried, `None` where its smallest amount does already.
    """

    encoder: str
    baseline: str
    labels: str
    hours: float
    equivalent_hours: float | None
    interval: tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All of a test manifest; `interval_over` is what the bootstrap resampled beside seeds."""

    metric: Metric
    interval_over: str
    points: tuple[CurvePoint, ...]
    comparisons: tuple[Comparison, ...]
    savings: tuple[Saving, ...]


def counts_by_unit(rows: Sequence[Mapping[str, str]], metric: Metric) -> tuple[str, Counts]:
    """What is resampled, and the counts, from the lines of `utterances.csv`.

    Raises:
        ManifestError: a line lacks a count.
    """
    names = ("substitutions", "deletions", "insertions")
    speakers = [row.get("speaker") or "" for row in rows]
    by_speaker = "" not in speakers and len(set(speakers)) >= MIN_SPEAKERS
    units = {name: index for index, name in enumerate(sorted(set(speakers)))} if by_speaker else {}
    errors, totals = np.zeros(len(units) or len(rows)), np.zeros(len(units) or len(rows))
    for index, row in enumerate(rows):
        unit = units[speakers[index]] if by_speaker else index
        try:
            if metric == "wer":
                errors[unit] += sum(int(row[name]) for name in names)
                totals[unit] += int(row["num_words"])
            else:
                errors[unit] += int(row["char_errors"])
                totals[unit] += int(row["num_chars"])
        except KeyError as missing:
            raise ManifestError(f"utterances.csv: no column {missing}; evaluate again with this version") from None
    return ("speakers" if by_speaker else "utterances"), Counts(errors=errors, totals=totals)


def analyse(
    runs: Mapping[tuple[str, str], Sequence[Counts]],
    hours: Mapping[str, float],
    *,
    metric: Metric = "wer",
    interval_over: str = "utterances",
    num_bootstrap: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Analysis:
    """Points, comparisons with the first encoder, and savings.

    Args:
        runs: (encoder, label set) -> counts of every seed's run, all on the same test manifest.
        hours: of labelled audio in every label set.
        metric: which rate the counts are of.
        interval_over: what a unit of the counts is, for people.
        num_bootstrap: R.
        confidence: coverage of the intervals.
        seed: of the bootstrap.
    """
    encoders = list(dict.fromkeys(encoder for encoder, _ in runs))
    labels = sorted({name for _, name in runs}, key=lambda name: hours[name])
    random = np.random.default_rng(seed)
    num_units = len(next(iter(runs.values()))[0].errors)
    weights = random.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_bootstrap).astype(np.float64)
    replicates = {key: _replicates(counts, weights, random) for key, counts in runs.items()}
    points = {
        (encoder, name): _point(encoder, name, hours[name], runs[encoder, name], replicates[encoder, name], confidence)
        for encoder in encoders
        for name in labels
        if (encoder, name) in runs
    }
    base = encoders[0]
    comparisons = tuple(
        _compare(
            points[base, name], points[encoder, name], replicates[encoder, name] - replicates[base, name], confidence
        )
        for encoder in encoders[1:]
        for name in labels
        if (encoder, name) in points and (base, name) in points
    )
    base_labels = [name for name in labels if (base, name) in points]
    base_hours = np.array([hours[name] for name in base_labels])
    base_curve = np.stack([replicates[base, name] for name in base_labels], axis=1)  # [R, amounts]
    base_rates = np.array([points[base, name].rate for name in base_labels])
    savings = tuple(
        _saving(points[encoder, name], base, replicates[encoder, name], base_hours, base_rates, base_curve, confidence)
        for encoder in encoders[1:]
        for name in labels
        if (encoder, name) in points
    )
    return Analysis(
        metric=metric,
        interval_over=interval_over,
        points=tuple(points.values()),
        comparisons=comparisons,
        savings=savings,
    )


def equivalent_hours(rate: float, hours: Floats, rates: Floats) -> float:
    """Hours at which a curve reaches `rate`: `inf` where never, `nan` where its first point is as low already."""
    falling = np.minimum.accumulate(rates)
    if rate >= falling[0]:
        return math.nan
    if rate < falling[-1]:
        return math.inf
    right = int(np.argmax(falling <= rate))
    share = (falling[right - 1] - rate) / (falling[right - 1] - falling[right])
    return float(np.exp(np.log(hours[right - 1]) + share * np.log(hours[right] / hours[right - 1])))


def _replicates(counts: Sequence[Counts], weights: Floats, random: np.random.Generator) -> Floats:
    """`[R]`: mean rate over seeds drawn with replacement, on units drawn with replacement."""
    rates = np.stack([(weights @ one.errors) / np.maximum(weights @ one.totals, 1e-12) for one in counts], axis=1)
    num_seeds = rates.shape[1]  # [R, E]
    drawn = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=len(rates))
    return np.asarray((rates * drawn).sum(axis=1) / num_seeds)


def _point(
    encoder: str, labels: str, hours: float, counts: Sequence[Counts], replicates: Floats, confidence: float
) -> CurvePoint:
    rates = np.array([one.errors.sum() / one.totals.sum() for one in counts])
    return CurvePoint(
        encoder=encoder,
        labels=labels,
        hours=hours,
        rate=float(rates.mean()),
        seed_rates=tuple(float(rate) for rate in rates),
        seed_interval=_student(rates, confidence),
        interval=percentile_interval(replicates, confidence),
    )


def _student(rates: Floats, confidence: float) -> Interval | None:
    if len(rates) < 2:
        return None
    from scipy import stats

    half = float(stats.t.ppf((1 + confidence) / 2, len(rates) - 1)) * rates.std(ddof=1) / math.sqrt(len(rates))
    return float(rates.mean() - half), float(rates.mean() + half)


def _compare(base: CurvePoint, other: CurvePoint, differences: Floats, confidence: float) -> Comparison:
    apart = None
    if base.seed_interval is not None and other.seed_interval is not None:
        apart = base.seed_interval[0] > other.seed_interval[1] or other.seed_interval[0] > base.seed_interval[1]
    below, above = float((differences < 0).mean()), float((differences > 0).mean())
    return Comparison(
        encoder=other.encoder,
        baseline=base.encoder,
        labels=other.labels,
        hours=other.hours,
        difference=other.rate - base.rate,
        interval=percentile_interval(differences, confidence),
        p_value=min(1.0, max(2 * (1 - max(below, above)), 1 / len(differences))),
        intervals_apart=apart,
    )


def _saving(
    point: CurvePoint, base: str, replicates: Floats, hours: Floats, rates: Floats, curves: Floats, confidence: float
) -> Saving:
    drawn = np.array([equivalent_hours(float(r), hours, curve) for r, curve in zip(replicates, curves, strict=True)])
    ordered = np.sort(np.where(np.isnan(drawn), -math.inf, drawn))  # before the curve's first point
    tail = (1 - confidence) / 2
    low, high = (float(ordered[min(int(q * len(ordered)), len(ordered) - 1)]) for q in (tail, 1 - tail))
    found = equivalent_hours(point.rate, hours, rates)
    return Saving(
        encoder=point.encoder,
        baseline=base,
        labels=point.labels,
        hours=point.hours,
        equivalent_hours=None if math.isnan(found) else found,
        interval=(None if low == -math.inf else low, None if high == -math.inf else high),
    )
