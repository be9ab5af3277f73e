"""How training went, from the lines of `metrics.jsonl`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechssl.report.figures import INK, LINE_STYLES, colour, drawing, inline_svg, panels
from speechssl.report.page import Section, note, paragraph, section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = tuple[NDArray[np.float64], NDArray[np.float64]]  # steps, values


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of axes: `train` metrics are drawn solid, `valid` ones dashed with markers, where they were logged."""

    title: str
    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    label: str = ""
    percent: bool = False
    logarithmic: bool = False
    bounded_by_codes: bool = False


PANELS = (
    Panel(title="Loss", train=("loss",), valid=("valid_loss",)),
    Panel(title="Accuracy on masked frames", train=("accuracy",), valid=("valid_accuracy",), label="%", percent=True),
    Panel(title="Code perplexity", train=("code_perplexity",), valid=("valid_code_perplexity",), bounded_by_codes=True),
    Panel(title="Perplexity of targets", train=("target_perplexity",), valid=("valid_target_perplexity",)),
    Panel(title="Perplexity of predictions", train=("predicted_perplexity",), valid=("valid_predicted_perplexity",)),
    Panel(title="Word error rate", valid=("valid_wer",), label="%", percent=True),
    Panel(title="Character error rate", valid=("valid_cer",), label="%", percent=True),
    Panel(title="Learning rate", train=("learning_rate",)),
    Panel(title="Gradient norm", train=("gradient_norm",), logarithmic=True),
    Panel(title="Spread of latents", train=("latent_std",)),
)


def read_series(run_directory: str | Path) -> dict[str, Series]:
    """Every metric of a run's `metrics.jsonl` as (steps, values).

    Values that are no numbers are left out; NaN and infinities stay, as gaps in the curves.
    """
    from speechssl.training.records import read_metrics  # with torch, which other pages do without

    collected: dict[str, tuple[list[float], list[float]]] = {}
    for record in read_metrics(Path(run_directory)):
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = collected.setdefault(name, ([], []))
                steps.append(float(record["step"]))
                values.append(float(value))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in collected.items()}


def curves_section(
    runs: str | Path | Mapping[str, str | Path],
    *,
    title: str = "Training",
    num_entries: int | None = None,
    text: str = "",
) -> Section:
    """Curves of one run directory, or of several by name in the same axes.

    Args:
        runs: a run directory, or name -> run directory.
        title: of the section.
        num_entries: entries V of a codebook, drawn as the greatest possible code perplexity.
        text: a sentence of explanation put above the curves.
    """
    named = {"": runs} if isinstance(runs, str | Path) else runs
    metrics = {name: read_series(directory) for name, directory in named.items()}
    parts = [paragraph(text)] if text else []
    missing = [name or str(named[name]) for name, values in metrics.items() if not values]
    if missing:
        parts.append(note(f"No metrics were logged by: {', '.join(missing)}."))
    drawn = [_draw_panel(panel, metrics, num_entries) for panel in PANELS]
    parts.append(panels([figure for figure in drawn if figure]))
    return section(title, *parts)


def smooth(values: NDArray[np.float64], span: int) -> NDArray[np.float64]:
    """Mean over a centred window of up to `span` points, shorter at the ends; NaN is passed over."""
    known = np.isfinite(values)
    window = np.ones(min(span, len(values)))
    sums = np.convolve(np.where(known, values, 0.0), window, mode="same")
    counts = np.convolve(known.astype(np.float64), window, mode="same")
    return np.asarray(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0.5))


def _draw_panel(panel: Panel, metrics: Mapping[str, Mapping[str, Series]], num_entries: int | None) -> str:
    names = (*panel.train, *panel.valid)
    if not any(name in values for values in metrics.values() for name in names):
        return ""
    from matplotlib.ticker import LogLocator, NullFormatter

    with drawing() as figure:
        axes = figure.add_subplot()
        last = _draw_runs(axes, panel, metrics)
        axes.set(title=panel.title, xlabel="step", ylabel=panel.label)
        axes.yaxis.set_major_formatter("{x:g}")
        if panel.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        elif panel.title != "Loss":
            axes.set_ylim(bottom=0)
        if panel.bounded_by_codes and num_entries:
            axes.axhline(num_entries, color=INK, linestyle=":", linewidth=1)
            axes.text(0.99, num_entries, f"greatest possible: {num_entries} ", ha="right", va="bottom", fontsize=8,
                      transform=axes.get_yaxis_transform())  # fmt: skip
            axes.set_ylim(0, num_entries * 1.12)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            figure.legend(loc="outside lower center", ncols=2)
    return inline_svg(figure, label=f"{panel.title} over training steps. Last values: {', '.join(last)}")


def _draw_runs(axes: "Axes", panel: Panel, metrics: Mapping[str, Mapping[str, Series]]) -> list[str]:
    """Draw the panel's metrics of every run; return the last values in words."""
    scale = 100.0 if panel.percent else 1.0
    last = []
    for index, (run, values) in enumerate(metrics.items()):
        for kind, names in (("train", panel.train), ("valid", panel.valid)):
            for name in names:
                if name not in values:
                    continue
                steps, points = values[name][0], np.where(np.isfinite(values[name][1]), values[name][1], np.nan) * scale
                label = f"{run} ({kind})" if run and panel.train and panel.valid else run or kind
                _draw_series(axes, (steps, points), index, label=label, valid=kind == "valid", single=len(metrics) == 1)
                last.append(f"{label} {points[-1]:.4g}")
    return last


def _draw_series(axes: "Axes", series: Series, index: int, *, label: str, valid: bool, single: bool) -> None:
    steps, points = _thin(*series)
    shade = colour(1 if single and valid else index)
    if valid:
        few = len(steps) <= 40
        axes.plot(steps, points, color=shade, linestyle="--", marker="o" if few else None, markersize=3.5, label=label)
        return
    line = "-" if single else LINE_STYLES[index % len(LINE_STYLES)]
    if _is_noisy(points):
        axes.plot(steps, points, color=shade, linewidth=0.8, alpha=0.3)
        points = smooth(points, max(5, len(points) // 40))
    axes.plot(steps, points, color=shade, linestyle=line, label=label)


def _is_noisy(points: NDArray[np.float64]) -> bool:
    """Whether neighbours differ so much that a smoothed curve helps."""
    known = points[np.isfinite(points)]
    return len(known) > 60 and float(np.std(np.diff(known))) > 0.02 * float(np.ptp(known))


def _thin(steps: NDArray[np.float64], points: NDArray[np.float64], most: int = 600) -> Series:
    """At most `most` points, each the mean of its neighbours, so that a long run does not make a heavy page."""
    if len(steps) <= most:
        return steps, points
    groups = np.array_split(np.arange(len(steps)), most)
    return np.array([steps[group].mean() for group in groups]), np.array([points[group].mean() for group in groups])
