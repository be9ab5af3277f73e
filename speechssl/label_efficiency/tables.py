"""The results as Markdown, for a recipe's README."""

from collections.abc import Mapping, Sequence
from typing import Any

from speechssl.label_efficiency.analysis import Analysis, Comparison, CurvePoint, Saving
from speechssl.scoring.bootstrap import Interval


def markdown(record: Mapping[str, Any], analyses: Mapping[str, Mapping[str, Analysis]]) -> str:
    """Every table of an experiment: curve, differences, savings by test manifest, and the sweep."""
    parts = []
    for test, by_metric in analyses.items():
        parts += [f"## {test}", curve_table(by_metric), difference_table(by_metric), saving_table(by_metric["wer"])]
    parts += ["## Sweep on the validation manifest", sweep_table(record)]
    if record["decoders"]:
        parts += ["## Weights of the beam search, tuned on the validation manifest", decoder_table(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def curve_table(by_metric: Mapping[str, Analysis]) -> str:
    """Rates of every encoder at every amount of labels."""
    wer, cer = by_metric["wer"], by_metric["cer"]
    rows = [
        [
            point.labels,
            point.encoder,
            len(point.seed_rates),
            percent(point.rate),
            spread(point),
            interval(point.interval),
        ]
        + [percent(other.rate), interval(other.interval)]
        for point, other in zip(wer.points, cer.points, strict=True)
    ]
    over = f"over seeds and {wer.interval_over}"
    titles = ["labels", "encoder", "seeds", "WER", "over seeds", over, "CER", over]
    return table(titles, sorted(rows, key=lambda row: _place(wer, row[0])))


def difference_table(by_metric: Mapping[str, Analysis]) -> str:
    """Every encoder minus the first."""
    rows = [
        [one.labels, f"{one.encoder} minus {one.baseline}", metric.upper(), points(one), p_value(one), apart(one)]
        for metric, analysis in by_metric.items()
        for one in analysis.comparisons
    ]
    return table(["labels", "", "", "points", "p", "intervals over seeds"], rows) if rows else ""


def saving_table(analysis: Analysis) -> str:
    """Hours of labels that the first encoder would need for the same word error rate."""
    rows = [
        [one.labels, one.encoder, amount(one.hours), amount(one.equivalent_hours), saving_interval(one)]
        for one in analysis.savings
    ]
    baseline = analysis.savings[0].baseline if analysis.savings else ""
    titles = ["labels", "encoder", "hours", f"{baseline} needs", "interval"]
    return table(titles, rows) if rows else ""


def sweep_table(record: Mapping[str, Any]) -> str:
    """Every candidate for the learning rate."""
    chosen = {(row["encoder"], row["labels"]): row["rate"] for row in record["chosen"]}
    rows = []
    for row in record["sweep"]:
        best = row.get("best")
        mark = "chosen" if chosen[row["encoder"], row["labels"]] == row["rate"] else ""
        figures = (
            ["failed", "", ""]
            if best is None
            else [best["step"], percent(best["valid_cer"]), percent(best["valid_wer"])]
        )
        rows.append([row["labels"], row["encoder"], f"{row['rate']:g}", *figures, mark])
    return table(["labels", "encoder", "learning rate", "best update", "dev CER", "dev WER", ""], rows)


def decoder_table(record: Mapping[str, Any]) -> str:
    """The weights of every decoder, and the rates that they were chosen by."""
    titles = ["decoder", "labels", "encoder", "language model", "word score", "dev WER", "dev CER"]
    rows = [
        [decoder, row["labels"], row["encoder"], f"{row['lm_weight']:g}", f"{row['word_score']:g}"]
        + [percent(row["valid_wer"]), percent(row["valid_cer"])]
        for decoder, found in record["decoders"].items()
        for row in found
    ]
    return table(titles, rows)


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(str(cell) for cell in row)} |" for row in (titles, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(titles), *lines[1:]])


def percent(rate: float) -> str:
    """`12.3 %`."""
    return f"{100 * rate:.1f} %"


def interval(bounds: Interval) -> str:
    """`10.1 to 14.2`, in per cent."""
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def spread(point: CurvePoint) -> str:
    """Student's interval over seeds."""
    return "–" if point.seed_interval is None else interval(point.seed_interval)


def points(one: Comparison) -> str:
    """Difference in points with its interval."""
    low, high = one.interval
    return f"{100 * one.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def p_value(one: Comparison) -> str:
    """Two-sided, to the bootstrap's resolution."""
    return f"{one.p_value:.3f}" if one.p_value >= 0.0015 else "< 0.002"


def apart(one: Comparison) -> str:
    """Whether the intervals over seeds overlap."""
    return {None: "–", True: "apart", False: "overlap"}[one.intervals_apart]


def amount(hours: float | None) -> str:
    """Hours or minutes; `never` for infinity, `less than the least tried` for None."""
    if hours is None:
        return "less than the least tried"
    if hours == float("inf"):
        return "more than all tried"
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:.1f} h"


def saving_interval(one: Saving) -> str:
    """Both ends."""
    return f"{amount(one.interval[0])} to {amount(one.interval[1])}"


def _place(analysis: Analysis, labels: object) -> float:
    return next(point.hours for point in analysis.points if point.labels == labels)
