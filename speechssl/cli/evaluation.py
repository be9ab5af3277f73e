"""What `speechssl evaluate` shows and writes beyond the rates."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli.output import Cell, percent, percent_interval, say, table

if TYPE_CHECKING:
    from speechssl.evaluate import EvaluateConfig, EvaluateResult
    from speechssl.scoring import Breakdown

PAGE = "report.html"
MAX_ROWS = 12


def show_breakdowns(breakdowns: "Sequence[Breakdown]") -> None:
    """A table for each column."""
    for one in breakdowns:
        rows: list[tuple[Cell, ...]] = [
            (group.name, percent(group.wer), percent_interval(group.wer_interval), percent(group.cer),
             group.num_utterances, group.num_words)
            for group in one.groups[:MAX_ROWS]
        ]  # fmt: skip
        table(f"by {one.column}", ("", "WER", "", "CER", "utterances", "words"), rows)
        if len(one.groups) > MAX_ROWS:
            say(f"{len(one.groups) - MAX_ROWS} further groups are in breakdown.csv of --output")


def write_page(config: "EvaluateConfig", result: "EvaluateResult", system: str) -> Path:
    """`report.html` in the output folder."""
    from speechssl.config import flatten, to_dict
    from speechssl.manifest import Manifest
    from speechssl.report.evaluation import write_evaluation_page

    assert result.directory is not None
    return write_evaluation_page(
        result.directory / PAGE,
        result.report,
        title=f"Evaluation: {Path(system).name}",
        subtitle=f"{system} on {config.manifest}",
        breakdowns=result.breakdowns,
        manifest=Manifest.load(config.manifest),
        facts=flatten(to_dict(config)),
    )
