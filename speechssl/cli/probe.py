"""`speechssl probe`: what a frozen representation knows."""

import logging
from collections.abc import Mapping
from typing import Any

from speechssl.cli.options import stage_config
from speechssl.cli.output import Cell, log_to_stderr, percent, percent_interval, say, table

logger = logging.getLogger(__name__)

PAGE_NAME = "probe.html"


def probe(words: list[str]) -> int:
    """Probe as configured, show a table, and write JSON and a page where an output is named."""
    from speechssl.probe import ProbeConfig, run, run_task

    log_to_stderr()
    config = stage_config(
        "probe",
        ProbeConfig,
        words,
        example="speechssl probe --manifest recordings.jsonl --label speaker\n"
        "speechssl probe --manifest recordings.jsonl --label language --representations log_mel random runs/tiny\n"
        "speechssl probe --manifest recordings.jsonl --task verify --output probes/speakers",
        summary="What a frozen encoder knows, layer by layer, beside hand-made features and a random encoder: labels of"
        " utterances, speakers, labels of frames, recognition by a small CTC head, ABX. With --output it writes"
        f" probe.json and {PAGE_NAME}.",
    )
    if config is None:
        return 0
    stage = run if config.task == "classify" else run_task
    result = stage(config, progress=lambda line: logger.info("%s", line)).to_dict()
    show_probe(result)
    if config.output is not None:
        from speechssl.report import probe_section, write_report

        page = write_report(
            config.output / PAGE_NAME,
            f"Probe: {result['label']}",
            f"{config.task} on {config.manifest}",
            [probe_section(result)],
        )
        say(f"written: {page}")
    return 0


def show_probe(result: Mapping[str, Any]) -> None:
    """Print a probe's values (`ProbeResult.to_dict()` or `TaskResult.to_dict()`)."""
    rows: list[tuple[Cell, ...]] = [
        (score["name"], percent(score.get("value", score.get("accuracy"))), percent_interval(score["interval"]),
         score["layer"] or "")
        for score in result["scores"]
    ]  # fmt: skip
    seeds = f"{result['num_seeds']} seeds"
    if "metric" in result:
        metric, unit = result["metric"], result["unit"]
        what = f"{result['task']} by {result['label']}"
        title = f"{what}: {result['num_train']} {unit} to train on, {result['num_test']} to test on, {seeds}"
        if result["chance"] is not None:
            rows.append(("knowing nothing", percent(result["chance"]), "", ""))
    else:
        metric = "accuracy"
        title = (
            f"probe for {result['label']}: {result['num_classes']} classes, {result['num_train']} labels to train on,"
            f" {result['num_test']} to test on, {seeds}"
        )
        rows.append(("most frequent", percent(result["majority"]), "", ""))
    headers = ("frozen representation", metric, f"{100 * result['confidence']:g} % interval", "layer")
    table(title, headers, rows)
    for note in result.get("notes", ()):
        say(f"note: {note}")
