"""Compare evaluations of one test set: who is better, by how much, and is that more than chance?"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from speechssl.errors import ConfigError
from speechssl.evaluation import Evaluation, load_evaluation
from speechssl.files import writing
from speechssl.scoring import (
    Breakdown,
    MatchedPairs,
    RateDifference,
    break_down,
    check_same_test,
    holm,
    matched_pairs,
    paired_bootstrap,
)
from speechssl.scoring.groups import Value
from speechssl.types import ErrorReport

COMPARISON_FILE = "comparison.json"
PAIRS_FILE = "pairs.csv"
UTTERANCES_FILE = "utterances.csv"
LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """What to compare.

    Attributes:
        evaluations: folders that `speechssl evaluate --output` wrote, of the same utterances.
        names: of the systems, in the same order; null takes the folders' names.
        output: folder for comparison.json, pairs.csv, utterances.csv; null writes nothing.
        breakdown: columns of the evaluations' utterances.csv, speaker or num_words, to divide the errors by; null
            takes the columns by which the first was divided.
        num_bootstrap: replicates of the paired bootstrap.
        confidence: coverage of its intervals.
        seed: of the bootstrap.
    """

    evaluations: tuple[Path, ...]
    names: tuple[str, ...] | None = None
    output: Path | None = None
    breakdown: tuple[str, ...] | None = None
    num_bootstrap: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.evaluations) < 2:
            raise ConfigError("evaluations: name at least two folders that `speechssl evaluate --output` wrote")
        if self.names is not None and len(self.names) != len(self.evaluations):
            raise ConfigError(f"names: there are {len(self.names)} for {len(self.evaluations)} evaluations")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """System `b` against system `a`: negative differences mean that b is better.

    `p_adjusted` is the p-value of the matched pairs after Holm's correction for the number of pairs compared.
    """

    a: str
    b: str
    difference: RateDifference
    test: MatchedPairs
    p_adjusted: float

    @property
    def reading(self) -> str:
        """In words: a difference counts as clear where both tests say so."""
        low, high = self.difference.wer_interval
        by_interval, by_test = low > 0 or high < 0, self.p_adjusted < LEVEL
        if by_interval and by_test:
            return f"{self.b} is clearly {'better' if high < 0 else 'worse'}"
        return "the two tests disagree" if by_interval != by_test else "no clear difference"


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """Reports by name, every pair, and the groups of every system: column -> name -> breakdown."""

    reports: Mapping[str, ErrorReport]
    pairs: tuple[Pair, ...]
    breakdowns: Mapping[str, Mapping[str, Breakdown]]
    directory: Path | None


def run(config: CompareConfig) -> CompareResult:
    """Compare all evaluations with each other, paired by utterance id.

    Raises:
        ManifestError: a folder holds no evaluation, or they are not of the same utterances, texts and normaliser.
        ConfigError: two systems have the same name, or there is no such column.
    """
    loaded = [load_evaluation(directory) for directory in config.evaluations]
    names = config.names or _names([one.directory for one in loaded])
    if len(set(names)) < len(names):
        raise ConfigError(f"names: every system needs a name of its own, but they are {', '.join(names)}")
    evaluations = dict(zip(names, loaded, strict=True))
    baseline = names[0]
    reports = {baseline: loaded[0].report}
    for name in names[1:]:
        reports[name] = _in_order(evaluations[name].report, loaded[0].report)
        check_same_test(reports[baseline], reports[name], names=(baseline, name))
    pairs = _pairs(reports, config)
    values = _columns(config, loaded[0], reports[baseline])
    breakdowns = {
        column: {
            name: break_down(report, column, found, num_bootstrap=min(config.num_bootstrap, 1000), seed=config.seed)
            for name, report in reports.items()
        }
        for column, found in values.items()
    }
    result = CompareResult(reports=reports, pairs=pairs, breakdowns=breakdowns, directory=config.output)
    if config.output is not None:
        _save(result, evaluations, config)
    return result


def _names(directories: Sequence[Path]) -> tuple[str, ...]:
    """The last part of each path that tells them apart."""
    parts = [path.resolve().parts for path in directories]
    for place in range(1, max(map(len, parts)) + 1):
        names = tuple(part[max(-place, -len(part))] for part in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(str(path) for path in directories)


def _in_order(report: ErrorReport, first: ErrorReport) -> ErrorReport:
    """The report with its utterances in the order of the first, as far as they are the same."""
    place = {utterance.id: row for row, utterance in enumerate(first.utterances)}
    ordered = sorted(report.utterances, key=lambda utterance: place.get(utterance.id, len(place)))
    return replace(report, utterances=tuple(ordered))


def _pairs(reports: Mapping[str, ErrorReport], config: CompareConfig) -> tuple[Pair, ...]:
    chosen = list(combinations(reports, 2))
    tests = [matched_pairs(reports[a], reports[b]) for a, b in chosen]
    adjusted = holm([test.p_value for test in tests])
    return tuple(
        Pair(
            a=a,
            b=b,
            difference=paired_bootstrap(
                reports[a], reports[b],
                num_bootstrap=config.num_bootstrap, confidence=config.confidence, seed=config.seed,
            ),
            test=test,
            p_adjusted=p_value,
        )
        for (a, b), test, p_value in zip(chosen, tests, adjusted, strict=True)
    )  # fmt: skip


def _columns(config: CompareConfig, first: Evaluation, report: ErrorReport) -> dict[str, Mapping[str, Value]]:
    known: dict[str, Mapping[str, Value]] = {
        **first.columns,
        "speaker": {one.id: one.speaker for one in report.utterances},
        "num_words": {one.id: one.num_words for one in report.utterances},
    }
    asked = first.result.get("breakdown", {}) if config.breakdown is None else config.breakdown
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(
            f"breakdown: {first.directory} has no column {unknown[0]!r}, only {', '.join(known)}; evaluate with"
            f" --breakdown {unknown[0]}"
        )
    return {name: known[name] for name in asked}


def _save(result: CompareResult, evaluations: Mapping[str, Evaluation], config: CompareConfig) -> None:
    assert config.output is not None
    config.output.mkdir(parents=True, exist_ok=True)
    first = next(iter(result.reports.values()))
    content = {
        "normalizer": first.normalizer,
        "normalizer_version": first.normalizer_version,
        "alignment": first.alignment,
        "num_utterances": len(first.utterances),
        "num_words": sum(one.num_words for one in first.utterances),
        "num_bootstrap": config.num_bootstrap,
        "seed": config.seed,
        "systems": [_system(name, report, evaluations[name]) for name, report in result.reports.items()],
        "pairs": [{**asdict(pair), "reading": pair.reading} for pair in result.pairs],
        "breakdown": {
            column: {name: [asdict(group) for group in one.groups] for name, one in found.items()}
            for column, found in result.breakdowns.items()
        },
    }
    with writing(config.output / COMPARISON_FILE) as file:
        json.dump(content, file, ensure_ascii=False, indent=2)
        file.write("\n")
    _write_pairs(config.output / PAIRS_FILE, result.pairs)
    _write_utterances(config.output / UTTERANCES_FILE, result.reports)


def _system(name: str, report: ErrorReport, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "name": name,
        "evaluation": str(evaluation.directory),
        "checkpoint": evaluation.result.get("checkpoint"),
        "hypotheses": evaluation.result.get("hypotheses"),
        "wer": report.wer,
        "wer_interval": list(report.wer_interval),
        "cer": report.cer,
        "cer_interval": list(report.cer_interval),
        "substitutions": report.substitutions,
        "deletions": report.deletions,
        "insertions": report.insertions,
    }


def _write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    with writing(path) as file:
        writer = csv.writer(file)
        writer.writerow(
            "a b wer_difference wer_low wer_high cer_difference cer_low cer_high probability_of_improvement"
            " num_segments z p_value p_adjusted reading".split()
        )
        for pair in pairs:
            found, test = pair.difference, pair.test
            writer.writerow(
                [pair.a, pair.b, found.wer_difference, *found.wer_interval, found.cer_difference, *found.cer_interval,
                 found.probability_of_improvement, test.num_segments, test.z, test.p_value, pair.p_adjusted,
                 pair.reading]
            )  # fmt: skip


def _write_utterances(path: Path, reports: Mapping[str, ErrorReport]) -> None:
    """One line an utterance, with every system's text and word errors."""
    with writing(path) as file:
        writer = csv.writer(file)
        writer.writerow(
            ["id", "reference", *(f"{what}: {name}" for name in reports for what in ("errors", "hypothesis"))]
        )
        for row in zip(*(report.utterances for report in reports.values()), strict=True):
            texts = [cell for one in row for cell in (one.word_errors, one.hypothesis)]
            writer.writerow([row[0].id, row[0].reference, *texts])
