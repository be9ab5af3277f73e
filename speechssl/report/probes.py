"""How much a frozen representation tells a linear classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

from speechssl.report.page import Cell, Section, details, escape, note, paragraph, section, table
from speechssl.report.word_errors import interval_bars, interval_text, percent


def probe_section(results: Mapping[str, Any] | Sequence[Mapping[str, Any]], *, title: str = "Probe") -> Section:
    """A table and bars of accuracy for each probe.

    Args:
        results: `ProbeResult.to_dict()`, or several of them (one for each label column).
        title: of the section.
    """
    every = [results] if isinstance(results, Mapping) else list(results)
    parts = [
        paragraph(
            "A linear classifier is trained on frozen utterance vectors. Its strength of regularisation, and the layer "
            "where several were open, are chosen inside the training part; the test part serves these figures alone."
        )
    ]
    for result in every:
        parts += _one(result, heading=len(every) > 1)
    return section(title, *parts)


def _one(result: Mapping[str, Any], *, heading: bool) -> list[str]:
    rows: list[list[Cell]] = []
    values: dict[str, tuple[float, tuple[float, float]]] = {}
    for score in result["scores"]:
        low, high = score["interval"]
        layer = score["layer"]
        rows.append(
            [
                score["name"],
                percent(score["accuracy"]),
                interval_text((low, high)),
                percent(score["seed_std"]) if score["num_seeds"] > 1 else None,
                layer,
                f"{score['dimension']:,}",
            ]
        )
        values[score["name"]] = (score["accuracy"], (low, high))
    best = max(range(len(rows)), key=lambda index: result["scores"][index]["accuracy"]) if len(rows) > 1 else None
    caption = (
        f"Telling {result['num_classes']} values of “{result['label']}” apart: {result['num_train']:,} training and "
        f"{result['num_test']:,} test utterances, {result['num_seeds']} seeds; intervals at "
        f"{100 * result['confidence']:.0f} % by bootstrap over seeds and {result['interval_over']}; "
        f"always the most frequent value would give {percent(result['majority'])}."
    )
    headers = ["Representation", "Accuracy", "interval", "spread over seeds", "Layer", "Dimensions"]
    bars = interval_bars(
        values,
        title="Test accuracy",
        xlabel="% (line: interval; dotted: always the most frequent)",
        guess=result["majority"],
    )
    head = [f"<h3>By {escape(result['label'])}</h3>"] if heading else []
    skipped = len(result["skipped"])
    left_out = [note(f"{skipped} recordings could not be used and were left out for all.")] if skipped else []
    return [*head, table(headers, rows, caption=caption, best_row=best), *left_out, bars, _differences(result)]


def _differences(result: Mapping[str, Any]) -> str:
    rows: list[list[Cell]] = []
    for found in result["differences"]:
        low, high = found["interval"]
        verdict = "clearly better" if low > 0 else "clearly worse" if high < 0 else "no clear difference"
        points = f"{100 * found['difference']:+.1f}".replace("-", "−")
        rows.append([found["name"], found["baseline"], points, interval_text((low, high), signed=True), verdict])
    if not rows:
        return ""
    headers = ["Encoder", "Against", "Points", "interval", "Reading"]
    caption = "Differences in accuracy, resampled together."
    return details("Differences from the baselines", table(headers, rows, caption=caption))
