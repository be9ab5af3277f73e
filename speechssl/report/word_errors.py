"""Error rates of recognisers side by side, and the utterances that went worst, aligned word by word."""

from collections.abc import Mapping, Sequence

from speechssl.errors import ConfigError, ManifestError
from speechssl.report.figures import INK, colour, drawing, inline_svg
from speechssl.report.page import Cell, Section, details, escape, note, paragraph, section, table
from speechssl.scoring import paired_bootstrap
from speechssl.types import ErrorReport, UtteranceErrors

NUM_OPEN = 4  # of the worst utterances are shown at once, the others are folded away
KINDS = {"substitute": "wrong", "delete": "missing", "insert": "extra"}


def wer_section(
    reports: Mapping[str, ErrorReport],
    *,
    title: str = "Word errors",
    baseline: str | None = None,
    num_worst: int = 10,
    text: str = "",
) -> Section:
    """A table of arms with intervals, differences from a baseline, and the worst utterances of all arms aligned.

    Args:
        reports: name of the arm -> its report; all on the same test utterances.
        title: of the section.
        baseline: the arm that differences are taken from; the first unless named.
        num_worst: how many utterances to show in full.
        text: a sentence of explanation put first.
    """
    if not reports:
        return section(title, paragraph("Nothing was evaluated."))
    names = list(reports)
    if baseline is not None and baseline not in reports:
        raise ConfigError(f"baseline {baseline!r} is not among the evaluated arms: {', '.join(names)}")
    base = baseline or names[0]
    best = min(range(len(names)), key=lambda index: reports[names[index]].wer) if len(names) > 1 else None
    first = reports[names[0]]
    caption = (
        f"{len(first.utterances)} utterances, normaliser “{first.normalizer}”; intervals at "
        f"{100 * first.confidence:.0f} % by bootstrap over {first.interval_over}."
    )
    parts = [paragraph(text)] if text else []
    normalizers = {report.normalizer for report in reports.values()}
    if len(normalizers) > 1:
        parts.append(
            note(f"The arms were normalised differently ({', '.join(sorted(normalizers))}): do not compare them.")
        )
    headers = ["Arm", "WER", "interval", "CER", "interval", "Wrong", "Missing", "Extra"]
    parts.append(
        table(headers, [_row(name, report) for name, report in reports.items()], caption=caption, best_row=best)
    )
    if len(names) > 1:
        parts += [_differences(reports, base), _bars(reports)]
    parts.append(_worst(reports, num_worst))
    return section(title, *parts)


def percent(fraction: float, digits: int = 1) -> str:
    """A fraction as per cent: 0.254 -> `25.4 %`."""
    return f"{100 * fraction:.{digits}f} %"


def interval_text(interval: tuple[float, float], *, signed: bool = False) -> str:
    """An interval of fractions in per cent: `21.0 – 29.8`, with signs where it is one of differences."""
    low, high = (f"{100 * bound:{'+' if signed else ''}.1f}".replace("-", "−") for bound in interval)
    return f"{low} {'to' if signed else '–'} {high}"


def _row(name: str, report: ErrorReport) -> list[Cell]:
    return [
        name,
        percent(report.wer),
        interval_text(report.wer_interval),
        percent(report.cer),
        interval_text(report.cer_interval),
        f"{report.substitutions:,}",
        f"{report.deletions:,}",
        f"{report.insertions:,}",
    ]


def _differences(reports: Mapping[str, ErrorReport], base: str) -> str:
    rows: list[list[Cell]] = []
    units = set()
    for name, report in reports.items():
        if name == base:
            continue
        try:
            found = paired_bootstrap(reports[base], report)
        except ManifestError as error:
            rows.append([name, None, None, f"not comparable: {error}"])
            continue
        units.add(found.interval_over)
        low, high = found.wer_interval
        verdict = "clearly lower" if high < 0 else "clearly higher" if low > 0 else "no clear difference"
        points = f"{100 * found.wer_difference:+.1f}".replace("-", "−")
        rows.append([name, points, interval_text(found.wer_interval, signed=True), verdict])
    over = " and ".join(sorted(units)) or "utterances"
    caption = (
        f"Points of WER against “{base}” on the same utterances; 95 % intervals by paired bootstrap over {over}. They "
        "hold what this much test data can show, not what another training seed would change."
    )
    return "<h3>Differences</h3>" + table(["Arm", "Difference", "Interval", "Reading"], rows, caption=caption)


def _bars(reports: Mapping[str, ErrorReport]) -> str:
    values = {name: (report.wer, report.wer_interval) for name, report in reports.items()}
    return interval_bars(values, title="Word error rate", xlabel="% (line: interval)")


def interval_bars(
    values: Mapping[str, tuple[float, tuple[float, float]]], *, title: str, xlabel: str, guess: float | None = None
) -> str:
    """Horizontal bars of fractions in per cent with their intervals; `guess` draws a line at a value of chance."""
    with drawing(5.6, 0.9 + 0.36 * len(values)) as figure:
        axes = figure.add_subplot()
        for index, (value, (low, high)) in enumerate(values.values()):
            axes.barh(index, 100 * value, color=colour(0), alpha=0.8, height=0.62)
            axes.plot([100 * low, 100 * high], [index, index], color=INK, linewidth=1.6, solid_capstyle="butt")
            place = (100 * max(high, value), index)
            axes.annotate(f"{100 * value:.1f}", place, (5, 0), textcoords="offset points", va="center", fontsize=8)
        if guess is not None:
            axes.axvline(100 * guess, color=INK, linestyle=":", linewidth=1.2)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.set(title=title, xlabel=xlabel)
    spoken = ", ".join(f"{name} {100 * value:.1f} %" for name, (value, _) in values.items())
    return inline_svg(figure, label=f"{title}: {spoken}")


def _worst(reports: Mapping[str, ErrorReport], num_worst: int) -> str:
    """The utterances with the most word errors over all arms, each with every arm's alignment."""
    by_id: dict[str, dict[str, UtteranceErrors]] = {}
    for name, report in reports.items():
        for utterance in report.utterances:
            by_id.setdefault(utterance.id, {})[name] = utterance
    totals = {key: sum(one.word_errors for one in arms.values()) for key, arms in by_id.items()}
    worst = [key for key in sorted(totals, key=lambda key: (-totals[key], key)) if totals[key]][:num_worst]
    if not worst:
        return paragraph("Every utterance was recognised without an error.")
    key = "".join(f'<span class="word {kind}"><span>{name}</span></span>' for kind, name in KINDS.items())
    items = []
    for utterance_id in worst:
        arms = by_id[utterance_id]
        lines = "".join(
            f'<div class="arm"><b>{escape(name)}<br>{one.word_errors} of {one.num_words} words</b>'
            f"{aligned(one.alignment)}</div>"
            for name, one in arms.items()
        )
        items.append(f'<div class="utterance"><h4>{escape(utterance_id)}</h4>{lines}</div>')
    first, rest = "".join(items[:NUM_OPEN]), "".join(items[NUM_OPEN:])
    return (
        f"<h3>The {len(worst)} worst utterances</h3>"
        f'<p class="key words">Reference above, hypothesis below: {key}</p>{first}'
        f"{details(f'{len(items) - NUM_OPEN} more', rest) if rest else ''}"
    )


def aligned(alignment: Sequence[tuple[str, str, str]]) -> str:
    """Markup of an alignment of `(kind, reference words, hypothesis words)` chunks, one small column a word."""
    columns = []
    for kind, reference, hypothesis in alignment:
        said, heard = reference.split(), hypothesis.split()
        for index in range(max(len(said), len(heard))):
            above = escape(said[index]) if index < len(said) else "&nbsp;"
            below = escape(heard[index]) if index < len(heard) else "&nbsp;"
            if kind == "equal":
                columns.append(f'<span class="word"><span>{above}</span><span>{below}</span></span>')
            else:
                label = KINDS.get(kind, "")
                style = f"word {kind}" if label else "word"
                mark = f'<span class="kind">{label}</span>'
                columns.append(f'<span class="{style}"><span>{above}</span><span>{below}</span>{mark}</span>')
    return f'<div class="words">{"".join(columns) or "<i>nothing said, nothing heard</i>"}</div>'
