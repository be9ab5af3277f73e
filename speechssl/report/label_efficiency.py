"""Error rate against hours of labels: the curve, and what pre-training saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl.report.figures import MARKERS, colour, drawing, inline_svg
from speechssl.report.page import Section, paragraph, section, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curve_section(points: Sequence[Mapping[str, Any]], *, test: str, metric: str, interval_over: str) -> Section:
    """The curve of a test manifest.

    Args:
        points: `encoder`, `labels`, `hours`, `rate`, `interval`, `seed_rates` of every point, rates as fractions.
        test: name of the test manifest.
        metric: `wer` or `cer`.
        interval_over: what the intervals were resampled over, beside seeds.
    """
    with drawing(6.4, 3.6) as figure:
        draw_curve(figure, points, metric=metric)
    picture = inline_svg(
        figure,
        label=f"{metric.upper()} against hours of labelled audio for each encoder",
        caption=f"Mean over seeds; bars: interval over seeds and {interval_over}; small dots: single seeds.",
        wide=True,
    )
    headers = ("Labels", "Encoder", metric.upper(), "interval", "seeds")
    rows = [
        (
            point["labels"],
            point["encoder"],
            f"{100 * point['rate']:.1f} %",
            f"{100 * point['interval'][0]:.1f} – {100 * point['interval'][1]:.1f}",
            len(point["seed_rates"]),
        )
        for point in sorted(points, key=lambda point: float(point["hours"]))
    ]
    return section(f"{metric.upper()} on {test}", picture, table(headers, rows))


def difference_section(
    comparisons: Sequence[Mapping[str, Any]], savings: Sequence[Sequence[str]], *, baseline: str
) -> Section:
    """Differences from the first encoder, and the hours that it would need.

    Args:
        comparisons: `encoder`, `labels`, `difference`, `interval`, `p_value` of word error rates, as fractions.
        savings: labels, encoder, hours, equivalent hours, interval, as texts.
        baseline: the first encoder's name.
    """
    rows = [
        (
            one["labels"],
            one["encoder"],
            f"{100 * one['difference']:+.1f}",
            f"{100 * one['interval'][0]:+.1f} to {100 * one['interval'][1]:+.1f}",
            f"{one['p_value']:.3f}",
        )
        for one in comparisons
    ]
    parts = [
        paragraph(
            f"Points of WER minus those of {baseline}, by a bootstrap over seeds and test units; p is two-sided. "
            f"Below: hours of labels that {baseline} would need for the same WER, read off its curve."
        ),
        table(("Labels", "Encoder", "Points", "interval", "p"), rows),
        table(("Labels", "Encoder", "With", f"{baseline} needs", "interval"), [tuple(row) for row in savings]),
    ]
    return section("What pre-training saved", *parts)


def save_curve(path: Path, points: Sequence[Mapping[str, Any]], *, metric: str) -> Path:
    """The curve as a PNG, for a README."""
    with drawing(6.4, 3.6) as figure:
        draw_curve(figure, points, metric=metric, ink="black")
        figure.savefig(path, dpi=130, facecolor="white")
    return path


def draw_curve(figure: "Figure", points: Sequence[Mapping[str, Any]], *, metric: str, ink: str | None = None) -> None:
    """Rates over hours, one line an encoder, hours on a logarithmic axis."""
    axes = figure.subplots()
    encoders = list(dict.fromkeys(point["encoder"] for point in points))
    for index, encoder in enumerate(encoders):
        own = sorted((point for point in points if point["encoder"] == encoder), key=lambda p: float(p["hours"]))
        hours = [float(point["hours"]) * 1.03 ** (index - (len(encoders) - 1) / 2) for point in own]  # side by side
        rates = [100 * point["rate"] for point in own]
        low = [rate - 100 * point["interval"][0] for rate, point in zip(rates, own, strict=True)]
        high = [100 * point["interval"][1] - rate for rate, point in zip(rates, own, strict=True)]
        axes.errorbar(
            hours,
            rates,
            yerr=[low, high],
            label=encoder,
            color=colour(index),
            marker=MARKERS[index % len(MARKERS)],
            capsize=3,
        )
        for x, point in zip(hours, own, strict=True):
            seeds = [100 * rate for rate in point["seed_rates"]]
            axes.plot([x] * len(seeds), seeds, ".", color=colour(index), markersize=3, alpha=0.6)
    axes.set_xscale("log")
    ticks = {float(point["hours"]): str(point["labels"]) for point in points}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlabel("labelled audio")
    axes.set_ylabel(f"{metric.upper()}, %")
    axes.set_ylim(bottom=0)
    legend = axes.legend()
    if ink is not None:
        axes.tick_params(colors=ink)
        axes.xaxis.label.set_color(ink)
        axes.yaxis.label.set_color(ink)
        for text in legend.get_texts():
            text.set_color(ink)
        axes.grid(color="#cccccc")
        for spine in axes.spines.values():
            spine.set_color(ink)
