"""How much a frozen representation tells a linear classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speechssl.report.figures import INK, LINE_STYLES, MARKERS, colour, drawing, inline_png, inline_svg, panels
from speechssl.report.page import Cell, Section, details, escape, note, paragraph, section, table
from speechssl.report.word_errors import interval_bars, interval_text, percent

TASKS = {
    "verify": "Are two utterances of one speaker? Cosines of utterance vectors, standardised by the training part; no "
    "speaker is in both parts.",
    "frames": "A linear classifier labels single frames of an alignment. Regularisation and layer are chosen on "
    "training utterances that are held out.",
    "ctc": "A small recurrent head with CTC on frozen frames of all layers, weighed as it learns. Learning rate and "
    "step are chosen on training utterances that are held out.",
    "abx": "Is a third recording nearer to the one of its own kind? Cosine distances along a warping path, without any "
    "training; the layer is chosen on triples of the training part.",
}
CLASSIFY = (
    "A linear classifier is trained on frozen utterance vectors. Its strength of regularisation, and the layer "
    "where several were open, are chosen inside the training part; the test part serves these figures alone."
)


def probe_section(results: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, title: str = "Probe") -> Section:
    """A table and bars for each probe, and where layers were measured one by one, a picture of them.

    Args:
        results: `ProbeResult.to_dict()` or `TaskResult.to_dict()`, or several of them.
        title: of the section.
    """
    every = [results] if isinstance(results, Mapping) else list(results)
    parts = []
    for text in dict.fromkeys(TASKS.get(result.get("task", ""), CLASSIFY) for result in every):
        parts.append(paragraph(text))
    for result in every:
        parts += _one(result, heading=len(every) > 1)
    return section(title, *parts)


def layers_section(results: Sequence[Mapping[str, Any]], name: str, *, title: str = "Layer by layer") -> Section:
    """A heat map: probes down, layers across, for one encoder. Each row is shaded from its worst to its best layer.

    Args:
        results: as for `probe_section`; those without values by layer for `name` are left out.
        name: of the encoder, as its scores call it.
        title: of the section.
    """
    rows, labels = [], []
    layers: list[str] = []
    for result in results:
        score = next((one for one in result["scores"] if one["name"] == name), None)
        if score is None or not score.get("layerwise"):
            continue
        layers = layers or [one["layer"] for one in score["layerwise"]]
        if [one["layer"] for one in score["layerwise"]] == layers:
            rows.append([one["value"] for one in score["layerwise"]])
            labels.append((f"{result['label']}, {_metric(result)}", _is_lower_better(result)))
    if not rows:
        return section(title, paragraph(f"No probe of {name} has values by layer."))
    return section(title, _heat_map(rows, labels, layers, name))


def _metric(result: Mapping[str, Any]) -> str:
    return str(result.get("metric", "accuracy"))


def _is_lower_better(result: Mapping[str, Any]) -> bool:
    return bool(result.get("better") == "lower")


def _value(score: Mapping[str, Any]) -> float:
    return float(score.get("value", score.get("accuracy", float("nan"))))


def _one(result: Mapping[str, Any], *, heading: bool) -> list[str]:
    rows: list[list[Cell]] = []
    values: dict[str, tuple[float, tuple[float, float]]] = {}
    for score in result["scores"]:
        low, high = score["interval"]
        rows.append(
            [
                score["name"],
                percent(_value(score)),
                interval_text((low, high)),
                percent(score["seed_std"]) if score["num_seeds"] > 1 else None,
                score["layer"],
                f"{score['dimension']:,}",
            ]
        )
        values[score["name"]] = (_value(score), (low, high))
    lower = _is_lower_better(result)
    pick = min if lower else max
    best = pick(range(len(rows)), key=lambda index: _value(result["scores"][index])) if len(rows) > 1 else None
    metric = _metric(result)
    headers = ["Representation", metric.capitalize(), "interval", "spread over seeds", "Layer", "Dimensions"]
    guess = result.get("chance", result.get("majority"))
    guess_words = "knowing nothing" if "chance" in result else "always the most frequent"
    line = f"% (line: interval{f'; dotted: {guess_words}' if guess is not None else ''}"
    line += "; lower is better)" if lower else ")"
    bars = interval_bars(values, title=f"Test {metric}", xlabel=line, guess=guess)
    head = [f"<h3>By {escape(result['label'])}</h3>"] if heading else []
    skipped = len(result["skipped"])
    left_out = [note(f"{skipped} recordings could not be used and were left out for all.")] if skipped else []
    remarks = [note(text) for text in result.get("notes", ())]
    figures = [bars, *_layer_curves(result)]
    table_html = table(headers, rows, caption=_caption(result), best_row=best)
    drawn = panels(figures) if len(figures) > 1 else bars
    return [*head, table_html, *left_out, *remarks, drawn, _differences(result)]


def _caption(result: Mapping[str, Any]) -> str:
    drawn = (
        f"{result['num_seeds']} seeds; intervals at {100 * result['confidence']:.0f} % by bootstrap over seeds and "
        f"{result['interval_over']}"
    )
    if "metric" in result:
        kinds = "" if result["num_classes"] is None else f", {result['num_classes']} kinds"
        guess = "" if result["chance"] is None else f"; knowing nothing would give {percent(result['chance'])}"
        return (
            f"“{result['label']}”: {result['num_train']:,} training and {result['num_test']:,} test "
            f"{result['unit']}{kinds}, {drawn}{guess}."
        )
    return (
        f"Telling {result['num_classes']} values of “{result['label']}” apart: {result['num_train']:,} training and "
        f"{result['num_test']:,} test utterances, {drawn}; "
        f"always the most frequent value would give {percent(result['majority'])}."
    )


def _layer_curves(result: Mapping[str, Any]) -> list[str]:
    """Value against layer for every encoder, hand-made features as level lines; nothing where layers were not told."""
    encoders = [score for score in result["scores"] if score.get("layerwise")]
    if not encoders:
        return []
    with drawing(5.6, 3.2) as figure:
        axes = figure.add_subplot()
        for index, score in enumerate(encoders):
            found = score["layerwise"]
            places = range(len(found))
            axes.fill_between(
                places,
                [100 * one["interval"][0] for one in found],
                [100 * one["interval"][1] for one in found],
                color=colour(index), alpha=0.15, linewidth=0,
            )  # fmt: skip
            axes.plot(places, [100 * one["value"] for one in found], color=colour(index), marker=MARKERS[index],
                      markersize=4, label=score["name"])  # fmt: skip
        for index, score in enumerate(score for score in result["scores"] if not score.get("layerwise")):
            axes.axhline(100 * _value(score), color=INK, linestyle=LINE_STYLES[1 + index % 3], linewidth=1,
                         label=score["name"])  # fmt: skip
        longest = max((score["layerwise"] for score in encoders), key=len)
        axes.set_xticks(range(len(longest)), [one["layer"] for one in longest])
        axes.set(title=f"{_metric(result).capitalize()} by layer", xlabel="layer", ylabel="%")
        axes.legend(loc="best")
    spoken = "; ".join(
        f"{score['name']} " + ", ".join(f"{one['layer']}: {100 * one['value']:.1f}" for one in score["layerwise"])
        for score in encoders
    )
    return [inline_svg(figure, label=f"{_metric(result)} by layer: {spoken}", caption="Nothing was chosen by this.")]


def _heat_map(
    rows: Sequence[Sequence[float]], labels: Sequence[tuple[str, bool]], layers: Sequence[str], name: str
) -> str:
    matrix = np.array(rows)
    shades = np.zeros_like(matrix)
    for index, (row, (_, lower)) in enumerate(zip(matrix, labels, strict=True)):
        spread = row.max() - row.min()
        shades[index] = (row.max() - row if lower else row - row.min()) / spread if spread else 0.5
    with drawing(2.6 + 0.62 * len(layers), 0.9 + 0.36 * len(rows)) as figure:
        axes = figure.add_subplot()
        axes.imshow(shades, cmap="Blues", vmin=0, vmax=1.35, aspect="auto")
        for (row, column), value in np.ndenumerate(matrix):
            axes.text(column, row, f"{100 * value:.1f}", ha="center", va="center", fontsize=8, color="#101418",
                      fontweight="bold" if shades[row, column] == 1 else "normal")  # fmt: skip
        axes.set_xticks(range(len(layers)), layers)
        axes.set_yticks(range(len(rows)), [label + (" (lower is better)" if lower else "") for label, lower in labels])
        axes.grid(visible=False)
        axes.set(xlabel="layer", title=f"{name}: test values in %")
    spoken = "; ".join(
        f"{label} " + ", ".join(f"{layer} {100 * value:.1f}" for layer, value in zip(layers, row, strict=True))
        for (label, _), row in zip(labels, rows, strict=True)
    )
    caption = "Each row is shaded by itself: the darkest is its best layer, in bold."
    return inline_png(figure, label=f"{name}, test values by layer: {spoken}", caption=caption, wide=True)


def _differences(result: Mapping[str, Any]) -> str:
    rows: list[list[Cell]] = []
    for found in result["differences"]:
        low, high = found["interval"]
        if _is_lower_better(result):
            low, high = -high, -low  # only for the reading
        verdict = "clearly better" if low > 0 else "clearly worse" if high < 0 else "no clear difference"
        low, high = found["interval"]
        points = f"{100 * found['difference']:+.1f}".replace("-", "−")
        rows.append([found["name"], found["baseline"], points, interval_text((low, high), signed=True), verdict])
    if not rows:
        return ""
    headers = ["Encoder", "Against", "Points", "interval", "Reading"]
    caption = f"Differences in {_metric(result)}, resampled together."
    return details("Differences from the baselines", table(headers, rows, caption=caption))
