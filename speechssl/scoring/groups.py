"""Error rates of groups of utterances: by speaker, language, length, or anything that is known of each utterance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechssl.scoring.bootstrap import Interval, Unit, rate_intervals, resampling_groups, sums
from speechssl.types import ErrorReport, UtteranceErrors

NUM_BINS = 5
"""Numbers are divided into so many bins of about as many utterances each..."""
MAX_VALUES = 10
"""...unless they are whole numbers of at most so many different values: those are groups themselves."""
UNKNOWN = "unknown"

Value = str | float | int | bool | None


@dataclass(frozen=True, kw_only=True)
class GroupErrors:
    """Errors of the utterances that share a value, or whose numbers lie in a bin.

    `wer` and `cer` are None, and so are the intervals, where the references of the group hold no word.
    """

    name: str
    num_utterances: int
    num_words: int
    substitutions: int
    deletions: int
    insertions: int
    wer: float | None
    cer: float | None
    wer_interval: Interval | None
    cer_interval: Interval | None
    interval_over: Unit


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """A report divided by `column`; every utterance is in one of the groups, those without a value in `unknown`."""

    column: str
    groups: tuple[GroupErrors, ...]


def break_down(
    report: ErrorReport, column: str, values: Mapping[str, Value], *, num_bootstrap: int = 1000, seed: int = 0
) -> Breakdown:
    """Divide a report by a value of each utterance (id -> value).

    Numbers are binned at round limits near their quantiles. Groups of numbers are in their order, others in that of
    their words, most first. Intervals are by bootstrap within the group.
    """
    names, order = _name_groups([values.get(utterance.id) for utterance in report.utterances])
    members: dict[str, list[UtteranceErrors]] = {}
    for utterance, name in zip(report.utterances, names, strict=True):
        members.setdefault(name, []).append(utterance)
    groups = [
        _group(name, found, num_bootstrap=num_bootstrap, confidence=report.confidence, seed=seed)
        for name, found in members.items()
    ]
    if order is None:
        groups.sort(key=lambda group: (group.name == UNKNOWN, -group.num_words, group.name))
    else:
        groups.sort(key=lambda group: order.get(group.name, len(order)))
    return Breakdown(column=column, groups=tuple(groups))


def _group(
    name: str, utterances: Sequence[UtteranceErrors], *, num_bootstrap: int, confidence: float, seed: int
) -> GroupErrors:
    unit, speakers = resampling_groups(utterances)
    rows = sums(utterances, speakers)
    word_errors, num_words, char_errors, num_chars = rows.sum(axis=0).tolist()
    intervals: tuple[Interval | None, Interval | None] = (None, None)
    if num_words:
        intervals = rate_intervals(rows, num_bootstrap=num_bootstrap, confidence=confidence, seed=seed)
    return GroupErrors(
        name=name,
        num_utterances=len(utterances),
        num_words=int(num_words),
        substitutions=sum(one.substitutions for one in utterances),
        deletions=sum(one.deletions for one in utterances),
        insertions=sum(one.insertions for one in utterances),
        wer=word_errors / num_words if num_words else None,
        cer=char_errors / num_chars if num_words else None,
        wer_interval=intervals[0],
        cer_interval=intervals[1],
        interval_over=unit,
    )


def _name_groups(values: Sequence[Value]) -> tuple[list[str], dict[str, int] | None]:
    """The group of each value; and, for numbers, the place of each group."""
    known = [value for value in values if not _is_absent(value)]
    is_numeric = bool(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    if not is_numeric:
        return [UNKNOWN if _is_absent(value) else _written(value) for value in values], None
    numbers = np.array([float(value) for value in known])  # type: ignore[arg-type]
    distinct = np.unique(numbers)
    if len(distinct) <= MAX_VALUES and bool((distinct == np.round(distinct)).all()):
        names = {float(value): f"{value:g}" for value in distinct}
        order = {names[float(value)]: place for place, value in enumerate(distinct)}
        return [UNKNOWN if _is_absent(value) else names[float(value)] for value in values], order  # type: ignore[arg-type]
    edges = bin_edges(numbers)
    labels = [_range(low, high) for low, high in zip([None, *edges], [*edges, None], strict=True)]
    order = {label: place for place, label in enumerate(labels)}
    places = {value: int(np.searchsorted(edges, value, side="right")) for value in numbers.tolist()}
    return [UNKNOWN if _is_absent(value) else labels[places[float(value)]] for value in values], order  # type: ignore[arg-type]


def bin_edges(numbers: npt.NDArray[np.float64], num_bins: int = NUM_BINS) -> list[float]:
    """Limits between bins: quantiles, rounded to two digits where they stay apart; no bin is empty."""
    quantiles = np.quantile(numbers, np.arange(1, num_bins) / num_bins).tolist()
    low, high = float(numbers.min()), float(numbers.max())
    edges: list[float] = []
    for exact in quantiles:
        rounded = float(f"{exact:.2g}")
        edge = rounded if low < rounded <= high else exact
        taken = numbers[(numbers < edge) & (numbers >= (edges[-1] if edges else -math.inf))]
        if len(taken) and edge <= high and (not edges or edge > edges[-1]):
            edges.append(edge)
    return edges


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return "all" if high is None else f"below {high:g}"
    return f"{low:g} and more" if high is None else f"{low:g} to {high:g}"


def _is_absent(value: Value) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _written(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
