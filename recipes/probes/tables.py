"""The results of `run.sh` as Markdown tables and as JSON, and a page with all pictures and a heat map of layers."""

import json
import sys
from pathlib import Path
from typing import Any

from speechssl.report import layers_section, probe_section, write_report

ENCODER = "speechssl-tiny"


def percent(value: float) -> str:
    """Of a fraction."""
    return f"{100 * value:.1f} %"


def probe_table(name: str, result: dict) -> list[str]:
    """One probe."""
    metric, unit = result.get("metric", "accuracy"), result.get("unit", "utterances")
    lines = [
        f"### {name}: {metric}",
        "",
        f"{result['num_train']} {unit} to train on, {result['num_test']} to test on, {result['num_seeds']} seeds,"
        f" intervals at {100 * result['confidence']:.0f} % over seeds and {result['interval_over']}.",
        "",
        "| representation | value | interval | layer |",
        "|---|---|---|---|",
    ]
    for score in result["scores"]:
        value = score.get("value", score.get("accuracy"))
        low, high = score["interval"]
        lines.append(
            f"| {score['name']} | {percent(value)} | {percent(low)} to {percent(high)} | {score['layer'] or ''} |"
        )
    guess = result.get("chance", result.get("majority"))
    if guess is not None:
        lines.append(f"| knowing nothing | {percent(guess)} | | |")
    by_layer = next((score.get("layerwise") for score in result["scores"] if score["name"] == ENCODER), None)
    if by_layer:
        lines += ["", "By layer: " + ", ".join(f"{one['layer']} {percent(one['value'])}" for one in by_layer) + "."]
    return [*lines, *(f"\nNote: {note}." for note in result.get("notes", ())), ""]


def search_table(rows: list[dict]) -> list[str]:
    """Precision of the first and of the first ten hits, with standard errors over queries."""
    lines = [
        "| representation | among | layer | spans, P@1 | spans, P@10 | warped, P@1 | warped, P@10 |",
        "|" + "---|" * 7,
    ]
    keys = ("p_at_1", "p_at_10", "warped_p_at_1", "warped_p_at_10")
    for row in rows:
        cells = [f"{100 * row[key][0]:.0f} ± {100 * row[key][1]:.0f} %" for key in keys]
        lines.append(f"| {row['representation']} | {row['among']} | {row['layer']} | {' | '.join(cells)} |")
    return [*lines, ""]


def rounded(value: Any) -> Any:
    """The same values with four digits after the point."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Print tables; write OUTPUT/results.json and OUTPUT/probes.html."""
    folder = Path(sys.argv[1])
    results = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("*/probe.json"))}
    for name, result in results.items():
        print("\n".join(probe_table(name, result)))
    kept: dict[str, Any] = {"probes": results}
    if (folder / "search.json").exists():
        kept["search"] = json.loads((folder / "search.json").read_text())
        print("\n".join(search_table(kept["search"])))
    units = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("units-*/result.json"))}
    kept["units"] = {name: {key: one[key] for key in ("scores", "stability")} for name, one in units.items()}
    (folder / "results.json").write_text(json.dumps(rounded(kept)) + "\n")
    for name, found in units.items():
        scores, stable = found["scores"], found["stability"]
        print(
            f"{name}: purity {percent(scores['purity'])} (one unit {percent(scores['chance_purity'])}),"
            f" information / labels {percent(scores['pnmi'])}, NMI {percent(scores['nmi'])}; between seeds NMI"
            f" {percent(stable['nmi'])}, {percent(stable['matched'])} of frames agree"
        )
    every = [{**result, "label": name} for name, result in results.items()]  # two of them may be of one column
    if every:
        write_report(folder / "probes.html", "Probes", ENCODER, [layers_section(every, ENCODER), probe_section(every)])


if __name__ == "__main__":
    main()
