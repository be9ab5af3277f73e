"""An evaluation as a folder: result.json, utterances.csv, breakdown.csv and confusions.csv."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from speechssl.errors import ManifestError
from speechssl.files import writing
from speechssl.scoring import Breakdown, Confusions, count_confusions, count_errors, report_of
from speechssl.scoring.groups import Value
from speechssl.types import ErrorReport

RESULT_FILE = "result.json"
UTTERANCES_FILE = "utterances.csv"
BREAKDOWN_FILE = "breakdown.csv"
CONFUSIONS_FILE = "confusions.csv"
NUM_SHOWN = 20
"""Confusions of each kind in result.json; confusions.csv has all."""

COLUMNS = (
    "id speaker reference hypothesis num_words hits substitutions deletions insertions num_chars char_errors"
).split()
Values = Mapping[str, Mapping[str, Value]]
"""Column -> utterance id -> value."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `load_evaluation` found: the report, `result` as it was written, and the further columns of its table."""

    directory: Path
    report: ErrorReport
    result: Mapping[str, Any]
    columns: Values


def save_report(
    report: ErrorReport,
    directory: str | Path,
    *,
    details: Mapping[str, Any] | None = None,
    breakdowns: Sequence[Breakdown] = (),
    columns: Values | None = None,
) -> None:
    """Write an evaluation into `directory`, each file complete or not at all.

    `result.json` has rates, counts, normaliser, groups, the most frequent confusions, and `details`; `utterances.csv` a
    line for each utterance, with `columns` of the manifest; `breakdown.csv` and `confusions.csv` all groups and words.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    confusions = count_confusions(report)
    columns = {name: values for name, values in (columns or {}).items() if name not in COLUMNS}
    with writing(directory / UTTERANCES_FILE) as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, *columns])
        for u in report.utterances:
            counts = (u.num_words, u.hits, u.substitutions, u.deletions, u.insertions, u.num_chars, u.char_errors)
            more = [_cell(values.get(u.id)) for values in columns.values()]
            writer.writerow([u.id, u.speaker or "", u.reference, u.hypothesis, *counts, *more])
    _write_confusions(directory / CONFUSIONS_FILE, confusions)
    if breakdowns:
        _write_breakdowns(directory / BREAKDOWN_FILE, breakdowns)
    result = {
        **_rates(report),
        "confusions": _most_frequent(confusions),
        "breakdown": {one.column: [asdict(group) for group in one.groups] for one in breakdowns},
        "columns": {name: "number" if _is_numeric(values) else "text" for name, values in columns.items()},
        **(details or {}),
    }
    with writing(directory / RESULT_FILE) as file:
        json.dump(result, file, ensure_ascii=False, indent=2)
        file.write("\n")


def load_evaluation(directory: str | Path) -> Evaluation:
    """Read what `save_report` wrote; the alignments are made anew, and must give the counts that were written.

    Raises:
        ManifestError: the folder holds no evaluation, or its files do not belong together.
    """
    directory = Path(directory)
    try:
        result = json.loads((directory / RESULT_FILE).read_text(encoding="utf-8"))
        with (directory / UTTERANCES_FILE).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (FileNotFoundError, NotADirectoryError):
        raise ManifestError(
            f"{directory}: is no evaluation ({RESULT_FILE} and {UTTERANCES_FILE}); name a folder that"
            " `speechssl evaluate --output` wrote"
        ) from None
    except ValueError as error:
        raise ManifestError(f"{directory}: its files cannot be read: {error}; evaluate again") from None
    try:
        alignment = result.get("alignment", "levenshtein")
        utterances = count_errors(
            {row["id"]: row["reference"] for row in rows},
            {row["id"]: row["hypothesis"] for row in rows},
            normalizer="none",  # the texts are normalised already
            speakers={row["id"]: row["speaker"] or None for row in rows},
            alignment=alignment,
        )
        report = report_of(
            utterances,
            normalizer=result["normalizer"], normalizer_version=result["normalizer_version"], alignment=alignment,
            num_bootstrap=result.get("num_bootstrap", 1000), confidence=result["confidence"],
            seed=result.get("seed", 0),
        )  # fmt: skip
        written = (result["substitutions"], result["deletions"], result["insertions"], result["num_utterances"])
    except KeyError as error:
        raise ManifestError(f"{directory}: its files lack {error}; evaluate again") from None
    if written != (report.substitutions, report.deletions, report.insertions, len(utterances)):
        raise ManifestError(
            f"{directory}: {UTTERANCES_FILE} does not give the counts in {RESULT_FILE}; one of them was changed, so"
            " evaluate again"
        )
    names = [name for name in rows[0] if name not in COLUMNS]
    numeric = {name for name, kind in result.get("columns", {}).items() if kind == "number"}
    columns = {name: {row["id"]: _value(row[name], name in numeric) for row in rows} for name in names}
    return Evaluation(directory=directory, report=report, result=result, columns=columns)


def _rates(report: ErrorReport) -> dict[str, Any]:
    utterances = report.utterances
    return {
        "wer": report.wer,
        "cer": report.cer,
        "wer_interval": list(report.wer_interval),
        "cer_interval": list(report.cer_interval),
        "confidence": report.confidence,
        "interval_over": report.interval_over,
        "normalizer": report.normalizer,
        "normalizer_version": report.normalizer_version,
        "alignment": report.alignment,
        "num_utterances": len(utterances),
        "num_words": sum(utterance.num_words for utterance in utterances),
        "hits": report.hits,
        "substitutions": report.substitutions,
        "deletions": report.deletions,
        "insertions": report.insertions,
        "num_chars": sum(utterance.num_chars for utterance in utterances),
        "char_errors": sum(utterance.char_errors for utterance in utterances),
        "num_wrong_utterances": sum(utterance.word_errors > 0 for utterance in utterances),
        "num_empty_hypotheses": sum(not utterance.hypothesis for utterance in utterances),
        "num_empty_references": sum(not utterance.reference for utterance in utterances),
    }


def _most_frequent(confusions: Confusions) -> dict[str, list[dict[str, Any]]]:
    return {
        "substitutions": [
            {"reference": said, "hypothesis": heard, "count": count}
            for (said, heard), count in islice(confusions.substitutions.items(), NUM_SHOWN)
        ],
        "deletions": [
            {"reference": said, "count": count} for said, count in islice(confusions.deletions.items(), NUM_SHOWN)
        ],
        "insertions": [
            {"hypothesis": heard, "count": count} for heard, count in islice(confusions.insertions.items(), NUM_SHOWN)
        ],
    }


def _write_confusions(path: Path, confusions: Confusions) -> None:
    said = confusions.num_said
    with writing(path) as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "reference", "hypothesis", "count", "times_said"])
        for (reference, hypothesis), count in confusions.substitutions.items():
            writer.writerow(["substitution", reference, hypothesis, count, said[reference]])
        for word, count in confusions.deletions.items():
            writer.writerow(["deletion", word, "", count, said[word]])
        for word, count in confusions.insertions.items():
            writer.writerow(["insertion", "", word, count, said.get(word, 0)])


def _write_breakdowns(path: Path, breakdowns: Sequence[Breakdown]) -> None:
    with writing(path) as file:
        writer = csv.writer(file)
        names = "num_utterances num_words substitutions deletions insertions wer cer".split()
        writer.writerow(["column", "group", *names, "wer_low", "wer_high", "cer_low", "cer_high", "interval_over"])
        for one in breakdowns:
            for group in one.groups:
                intervals = [*(group.wer_interval or ("", "")), *(group.cer_interval or ("", ""))]
                counts = [getattr(group, name) for name in names]
                writer.writerow([one.column, group.name, *counts, *intervals, group.interval_over])


def _is_numeric(values: Mapping[str, Value]) -> bool:
    return all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values.values()
    )


def _cell(value: Value) -> Value:
    return str(value).lower() if isinstance(value, bool) else value


def _value(text: str, is_number: bool) -> Value:
    """What a cell held; None where it is empty."""
    return (float(text) if is_number else text) if text else None
