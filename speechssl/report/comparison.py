"""The page of a comparison: systems, every pair with its tests, groups, and where the systems differ most."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from speechssl.report.evaluation import how_measured
from speechssl.report.page import Cell, Section, escape, paragraph, section, table, write_report
from speechssl.report.sorting import SCRIPT
from speechssl.report.word_errors import aligned, interval_bars, interval_text, percent
from speechssl.scoring import Breakdown, MatchedPairs, RateDifference
from speechssl.types import ErrorReport

NUM_DIFFERING = 60


class ComparedPair(Protocol):
    """What the page shows of a pair; see `speechssl.compare.Pair`."""

    @property
    def a(self) -> str: ...  # noqa: D102
    @property
    def b(self) -> str: ...  # noqa: D102
    @property
    def difference(self) -> RateDifference: ...  # noqa: D102
    @property
    def test(self) -> MatchedPairs: ...  # noqa: D102
    @property
    def p_adjusted(self) -> float: ...  # noqa: D102
    @property
    def reading(self) -> str: ...  # noqa: D102


def write_comparison_page(
    path: str | Path,
    reports: Mapping[str, ErrorReport],
    pairs: Sequence[ComparedPair],
    *,
    breakdowns: Mapping[str, Mapping[str, Breakdown]] | None = None,
) -> Path:
    """Write the page as one HTML file that needs nothing else; arguments as `speechssl.compare.CompareResult`."""
    sections = [_systems(reports), _pairs(pairs)]
    sections += [_groups(column, found) for column, found in (breakdowns or {}).items()]
    sections.append(_differing(reports))
    return write_report(path, "Comparison", ", ".join(reports), sections, script=SCRIPT)


def _systems(reports: Mapping[str, ErrorReport]) -> Section:
    rows: list[list[Cell]] = [
        [
            name,
            percent(report.wer, 2),
            interval_text(report.wer_interval),
            percent(report.cer, 2),
            interval_text(report.cer_interval),
            report.substitutions,
            report.deletions,
            report.insertions,
        ]
        for name, report in reports.items()
    ]
    best = min(range(len(rows)), key=lambda place: list(reports.values())[place].wer)
    headers = ["system", "WER", "interval", "CER", "interval", "wrong", "missing", "extra"]
    caption = how_measured(next(iter(reports.values())))
    bars = {name: (report.wer, report.wer_interval) for name, report in reports.items()}
    return section(
        "Systems",
        table(headers, rows, caption=caption, best_row=best, sortable=True),
        interval_bars(bars, title="Word error rate", xlabel="% (line: interval)"),
    )


def _pairs(pairs: Sequence[ComparedPair]) -> Section:
    rows = [_pair_row(pair) for pair in pairs]
    headers = [
        "pair",
        "WER difference",
        "interval",
        "chance of being better",
        "segments",
        "z",
        "p",
        "p (Holm)",
        "reading",
    ]
    caption = (
        "Points of WER of the second system minus the first. Interval and chance: paired bootstrap. Segments, z and p:"
        " matched pairs sentence-segment word error test, two-sided. What another training seed would change is in"
        " neither."
    )
    return section("Differences", table(headers, rows, caption=caption, sortable=True))


def _pair_row(pair: ComparedPair) -> list[Cell]:
    found, test = pair.difference, pair.test
    return [
        f"{pair.b} against {pair.a}",
        f"{100 * found.wer_difference:+.2f}".replace("-", "−"),
        interval_text(found.wer_interval, signed=True),
        percent(found.probability_of_improvement),
        test.num_segments,
        None if test.z is None else f"{test.z:+.2f}".replace("-", "−"),
        f"{test.p_value:.2g}",
        f"{pair.p_adjusted:.2g}",
        pair.reading,
    ]


def _groups(column: str, found: Mapping[str, Breakdown]) -> Section:
    first = next(iter(found.values()))
    by_name = {name: {group.name: group for group in one.groups} for name, one in found.items()}
    rows: list[list[Cell]] = []
    for group in first.groups:
        rates = [by_name[name][group.name].wer for name in found]
        rows.append(
            [group.name, group.num_utterances, group.num_words, *(None if r is None else percent(r) for r in rates)]
        )
    headers = [column, "utterances", "words", *(f"WER {name}" for name in found)]
    return section(f"By {column}", table(headers, rows, sortable=True))


def _differing(reports: Mapping[str, ErrorReport]) -> Section:
    """The utterances whose word errors differ most between systems."""
    rows = list(zip(*(report.utterances for report in reports.values()), strict=True))
    spread = [max(one.word_errors for one in row) - min(one.word_errors for one in row) for row in rows]
    order = sorted(range(len(rows)), key=lambda place: (-spread[place], place))
    shown = [place for place in order if spread[place]][:NUM_DIFFERING]
    if not shown:
        return section("Where they differ", paragraph("All systems have as many errors in every utterance."))
    cards = []
    for place in shown:
        arms = "".join(
            f'<div class="arm"><b>{escape(name)}<br>{one.word_errors} of {one.num_words} words</b>'
            f"{aligned(one.alignment)}</div>"
            for name, one in zip(reports, rows[place], strict=True)
        )
        cards.append(f'<div class="utterance"><h4>{escape(rows[place][0].id)}</h4>{arms}</div>')
    differing = sum(value > 0 for value in spread)
    text = f"{differing} of {len(rows)} utterances have not as many errors everywhere; first the largest differences."
    return section("Where they differ", paragraph(text), *cards)
