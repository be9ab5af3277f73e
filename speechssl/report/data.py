"""What a run was trained and tested on: counts, hours, speakers, languages and lengths."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from speechssl.report.figures import LINE_STYLES, colour, drawing, inline_svg, panels
from speechssl.report.page import Cell, Section, note, section, table

if TYPE_CHECKING:
    from speechssl.manifest import Manifest

MAX_BARS = 12


def data_section(manifests: Mapping[str, "Manifest"], *, title: str = "Data") -> Section:
    """Tables and histograms of named manifests, such as `{"train": ..., "test": ...}`."""
    rows: list[list[Cell]] = [_row(name, manifest) for name, manifest in manifests.items()]
    headers = ["Part", "Utterances", "Hours", "Speakers", "Languages", "Shortest", "Median", "Longest", "With text"]
    parts = [table(headers, rows)]
    lengths = {name: manifest.durations for name, manifest in manifests.items() if len(manifest)}
    if len(lengths) < len(manifests):
        parts.append(note("Empty: " + ", ".join(name for name in manifests if name not in lengths) + "."))
    if lengths:
        figures = [_length_histogram(lengths)]
        figures += [_hours_by(manifests, column) for column in ("language", "speaker")]
        parts.append(panels([figure for figure in figures if figure]))
    return section(title, *parts)


def _row(name: str, manifest: "Manifest") -> list[Cell]:
    lengths = manifest.durations
    if not len(lengths):
        return [name, "0", "0.00", "0", "", None, None, None, "0"]
    languages = sorted(_hours(manifest, "language"))
    shown = ", ".join(languages[:6]) + (" …" if len(languages) > 6 else "")
    return [
        name,
        f"{len(manifest):,}",
        f"{lengths.sum() / 3600:.2f}",
        f"{len(_hours(manifest, 'speaker')):,}" if _hours(manifest, "speaker") else None,
        shown or "–",
        f"{lengths.min():.1f} s",
        f"{np.median(lengths):.1f} s",
        f"{lengths.max():.1f} s",
        f"{_num_known(manifest, 'text'):,}",
    ]


def _num_known(manifest: "Manifest", name: str) -> int:
    """Rows whose value is neither null nor empty."""
    return sum(value not in (None, "") for value in _values(manifest, name))


def _values(manifest: "Manifest", name: str) -> list[object]:
    if name not in manifest.table.column_names:
        return []
    return list(manifest.column(name).to_pylist())


def _hours(manifest: "Manifest", name: str) -> dict[str, float]:
    """Hours for each known value of a column, most first."""
    hours: dict[str, float] = {}
    for value, seconds in zip(_values(manifest, name), manifest.durations, strict=False):
        if value not in (None, ""):
            hours[str(value)] = hours.get(str(value), 0.0) + float(seconds) / 3600
    return dict(sorted(hours.items(), key=lambda item: -item[1]))


def _length_histogram(lengths: Mapping[str, NDArray[np.float64]]) -> str:
    longest = max(float(values.max()) for values in lengths.values())
    edges = np.linspace(0, longest * 1.001, 31)
    with drawing() as figure:
        axes = figure.add_subplot()
        for index, (name, values) in enumerate(lengths.items()):
            counts, _ = np.histogram(values, bins=edges)
            axes.stairs(
                counts / counts.sum() * 100,
                edges,
                label=name,
                color=colour(index),
                linestyle=LINE_STYLES[index % len(LINE_STYLES)],
                linewidth=1.6,
            )
        axes.set(title="Length of utterances", xlabel="seconds", ylabel="% of utterances", ylim=(0, None))
        if len(lengths) > 1:
            axes.legend()
    return inline_svg(figure, label=f"Histogram of utterance lengths of {', '.join(lengths)}, up to {longest:.1f} s")


def _hours_by(manifests: Mapping[str, "Manifest"], name: str) -> str:
    """Stacked bars of hours by language or speaker; empty text where there is nothing to compare."""
    hours = {part: _hours(manifest, name) for part, manifest in manifests.items()}
    total: dict[str, float] = {}
    for by_value in hours.values():
        for value, amount in by_value.items():
            total[value] = total.get(value, 0.0) + amount
    if len(total) < 2:
        return ""
    values = sorted(total, key=lambda value: -total[value])[:MAX_BARS]
    with drawing(4.6, max(2.9, 0.9 + 0.2 * len(values))) as figure:
        axes = figure.add_subplot()
        left = np.zeros(len(values))
        for index, (part, by_value) in enumerate(hours.items()):
            widths = np.array([by_value.get(value, 0.0) for value in values])
            if widths.any():
                axes.barh(values, widths, left=left, color=colour(index), label=part, height=0.7)
                left += widths
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(title=f"Hours by {name}", xlabel="hours")
        if len(hours) > 1:
            axes.legend(loc="lower right")
    hidden = len(total) - len(values)
    caption = f"The {len(values)} with most audio; {hidden} more are not drawn." if hidden else ""
    spoken = ", ".join(f"{value} {total[value]:.2f} h" for value in values)
    return inline_svg(figure, label=f"Hours of audio by {name}: {spoken}", caption=caption)
