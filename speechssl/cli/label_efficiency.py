"""`speechssl label-efficiency`: error rate against hours of labels, from scratch and pre-trained."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli.options import stage_config
from speechssl.cli.output import clock, log_to_stderr, say, table

if TYPE_CHECKING:
    from speechssl.label_efficiency import DryRun, LabelEfficiencyResult

DRY_RUN = "--dry_run"
EXAMPLE = """speechssl label-efficiency --config recipes/digits/label_efficiency.yaml
speechssl label-efficiency --config recipes/digits/label_efficiency.yaml --dry_run
speechssl label-efficiency --finetune finetune.yaml --encoders scratch tiny=speechssl-tiny --train_manifest train.jsonl
    --minutes 5 15 60 --valid_manifest dev.jsonl --test_manifests.test test.jsonl --output runs/label-efficiency"""
SUMMARY = (
    "Word error rate against hours of labelled audio, with the same candidates for the learning rate and the same seeds"
    f" for every encoder; an interrupted experiment goes on. {DRY_RUN} checks data, memory and every path without"
    " training."
)

logger = logging.getLogger(__name__)


def label_efficiency(words: list[str]) -> int:
    """Run the experiment, or only check it."""
    from speechssl.label_efficiency import LabelEfficiencyConfig, dry_run, run

    log_to_stderr()
    only_checks = DRY_RUN in words
    words = [word for word in words if word != DRY_RUN]
    config = stage_config("label-efficiency", LabelEfficiencyConfig, words, example=EXAMPLE, summary=SUMMARY)
    if config is None:
        return 0
    if only_checks:
        return _show_dry_run(dry_run(config))
    result = run(config)
    page = _write_page(result)
    print((result.output / "results.md").read_text(encoding="utf-8"), end="")
    say(f"written: {page}, {result.output / 'results.json'}, {result.output / 'results.md'}")
    return 0


def _show_dry_run(found: "DryRun") -> int:
    rows = [
        (
            encoder,
            f"{cost.num_parameters / 1e6:.1f} M",
            f"{cost.batch_seconds:.0f} s",
            f"{cost.seconds:.2f} s",
            f"{cost.memory_bytes / 1e9:.2f} GB",
            found.max_steps[encoder],
        )
        for encoder, cost in found.costs.items()
    ]
    table("one update", ("encoder", "weights", "audio", "time", "memory", "updates a run"), rows)
    say(
        f"{len(found.sets)} label sets ({', '.join(f'{s.name}: {s.num_utterances} clips' for s in found.sets)});"
        f" {found.num_runs} runs, {found.num_sweep_runs} of them to choose learning rates: about"
        f" {clock(3600 * found.hours)} of training one after the other"
    )
    for warning in found.warnings:
        say(f"note: {warning}")
    say("nothing was trained; every manifest, recording and encoder is there, and a batch of each encoder runs")
    return 0


def _write_page(result: "LabelEfficiencyResult") -> Path:
    from speechssl.label_efficiency.tables import amount, saving_interval
    from speechssl.report import write_report
    from speechssl.report.label_efficiency import curve_section, difference_section, save_curve

    sections = []
    for test, by_metric in result.analyses.items():
        for metric, found in by_metric.items():
            points = [asdict(point) for point in found.points]
            sections.append(curve_section(points, test=test, metric=metric, interval_over=found.interval_over))
            save_curve(result.output / f"{test}-{metric}.png", points, metric=metric)
        wer = by_metric["wer"]
        if wer.comparisons:
            savings = [
                (one.labels, one.encoder, amount(one.hours), amount(one.equivalent_hours), saving_interval(one))
                for one in wer.savings
            ]
            comparisons = [asdict(one) for one in wer.comparisons]
            sections.append(difference_section(comparisons, savings, baseline=wer.points[0].encoder))
    return write_report(
        result.output / "report.html",
        "Label efficiency",
        "Error rates against hours of labelled audio; every encoder had the same candidates, seeds and updates.",
        sections,
        environment={**result.to_dict["environment"]["versions"], "commit": result.to_dict["environment"]["commit"]},
    )
