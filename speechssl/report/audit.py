"""The page of an audit: leaks, recordings and texts, with the worst examples to look at and to listen to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from speechssl import audio
from speechssl.errors import AudioError
from speechssl.manifest.audit.content import HOW
from speechssl.manifest.audit.findings import KINDS, QUALITY_KINDS, TEXT_KINDS, Finding
from speechssl.manifest.audit.measures import MEASURES
from speechssl.manifest.audit.settings import LEAK_KINDS
from speechssl.report.figures import LINE_STYLES, colour, drawing, inline_svg, panels
from speechssl.report.page import (
    Cell,
    Highlight,
    Markup,
    Section,
    details,
    escape,
    key_values,
    note,
    paragraph,
    section,
    table,
    write_report,
)
from speechssl.report.player import MAX_SECONDS, SAMPLE_RATE, player

if TYPE_CHECKING:
    from speechssl.manifest.audit.report import AuditReport

MAX_PAIRS = 40
MAX_PLAYED_PAIRS = 6
MAX_EXAMPLES = 8
MAX_PLAYED = 2

# Measure -> (title, axis, lower and upper end, threshold in `Thresholds`)
_HISTOGRAMS: Mapping[str, tuple[str, str, float | None, float | None]] = {
    "level_dbfs": ("Speech level", "dBFS", -80, 0),
    "snr_db": ("Signal-to-noise ratio, estimated", "dB", 0, 80),
    "bandwidth_hz": ("Effective bandwidth", "Hz", 0, None),
    "longest_silence": ("Longest silence", "seconds", 0, None),
}
_THRESHOLDS = {"level_dbfs": "level_dbfs", "snr_db": "snr_db", "longest_silence": "silence_seconds"}


def write_audit_page(report: "AuditReport", path: str | Path) -> Path:
    """Write the page of an audit as one HTML file that needs nothing else; recordings are read again to be heard."""
    names = ", ".join(report.rows.names)
    return write_report(path, "Audit", names, audit_sections(report), highlights=_highlights(report))


def audit_sections(report: "AuditReport") -> list[Section]:
    """The sections of an audit's page."""
    return [
        _leak_section(report),
        _finding_section(report, "Recordings", QUALITY_KINDS),
        _distribution_section(report),
        _finding_section(report, "Texts", TEXT_KINDS),
        section(
            "How it was measured",
            key_values(_settings(report)),
            details(
                "Measures of a recording",
                table(("Measure", "Unit", "Method"), [(name, *what) for name, what in MEASURES.items()]),
            ),
        ),
    ]


def _highlights(report: "AuditReport") -> list[Highlight]:
    hours = sum(report.hours.values())
    leaking = [leak for leak in report.leaks if leak.rows.any() and leak.kind not in report.config.allow]
    found = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(finding.rows for finding in report.findings)]))
    compared = len(report.rows.names) > 1
    return [
        Highlight(
            label="Leaks between manifests",
            value=("none" if report.is_clean else ", ".join(leak.kind for leak in leaking)) if compared else "–",
            note="kinds that are not allowed" if compared else "one manifest alone",
        ),
        Highlight(label="Pairs of rows that share audio", value=f"{len(report.pairs):,}"),
        Highlight(label="Audited", value=f"{hours:,.1f} h", note=f"{len(report.rows):,} utterances"),
        Highlight(label="Utterances with a finding", value=f"{len(found):,}"),
    ]


def _leak_section(report: "AuditReport") -> Section:
    rows: list[tuple[Cell, ...]] = []
    for leak in report.leaks:
        verdict = "allowed" if leak.kind in report.config.allow else "leak"
        for name, other, count, hours in report.leak_counts(leak):
            share = 100 * count / max(1, len(report.rows.manifests[report.rows.names.index(name)]))
            rows.append((leak.kind, name, other, f"{count:,}", f"{share:.1f} %", f"{hours:.2f}", verdict))
    headers = ("Shared", "Rows of", "With", "Utterances", "Share", "Hours", "")
    parts = [table(headers, rows)] if rows else [paragraph("The manifests share nothing that was looked for.")]
    if len(report.rows.names) < 2:
        parts = [paragraph("One manifest was audited, so there was nothing to compare it with.")]
    if report.scanned is None:
        parts.append(note("Recordings were not decoded: shared audio is told by files and offsets alone."))
    examples = [(leak.kind, LEAK_KINDS[leak.kind], _short("; ".join(leak.examples), 300)) for leak in report.leaks]
    examples = [example for example, leak in zip(examples, report.leaks, strict=True) if leak.rows.any()]
    if examples:
        parts.append(details("What each kind is, with examples", table(("Kind", "What it is", "Examples"), examples)))
    if len(report.pairs):
        parts += _pairs(report)
    variants = [(", ".join(map(repr, names)),) for names in report.speaker_variants]
    if variants:
        parts.append(table(("Speakers that differ in case or spaces alone",), variants))
    return section("Leaks between manifests", *parts, anchor="leaks")


def _pairs(report: "AuditReport") -> list[str]:
    """The first pairs of recordings to listen to, and more of them as a table."""
    numbers = report.telling_pairs(MAX_PAIRS)
    pairs = report.describe_pairs(numbers)
    cards = []
    for number, pair in zip(numbers[:MAX_PLAYED_PAIRS].tolist(), pairs, strict=False):
        start = pair["start_seconds"]
        sides = (
            ("first", int(report.pairs.first[number]), start),
            ("second", int(report.pairs.second[number]), start - pair["offset_seconds"]),
        )
        lines = "".join(
            f'<div class="arm"><b>{escape(pair[side]["manifest"])}</b><div class="scroll">'
            f"{escape(pair[side]['id'])}{_heard(report, row, begin)}</div></div>"
            for side, row, begin in sides
        )
        said = f"{HOW[pair['how']]}: {pair['seconds']:.2f} s, score {pair['score']:.2f}"
        cards.append(f'<div class="utterance"><h4>{escape(said)}</h4>{lines}</div>')
    headers = ("Seconds", "Later by (s)", "Score", "How", "Recording", "Shares audio with")
    rows: list[tuple[Cell, ...]] = [
        (
            f"{pair['seconds']:.2f}",
            f"{pair['offset_seconds']:.3f}",
            f"{pair['score']:.2f}",
            pair["how"],
            _short(f"{pair['first']['manifest']}: {pair['first']['id']}"),
            _short(f"{pair['second']['manifest']}: {pair['second']['id']}"),
        )
        for pair in pairs
    ]
    caption = f"{len(rows):,} of {len(report.pairs):,} pairs; the JSON holds all of them."
    return ["<h3>Recordings in common</h3>", *cards, details("More pairs", table(headers, rows, caption=caption))]


def _heard(report: "AuditReport", row: int, start: float) -> str:
    cell = _play(report, row, start) if report.scanned is not None else None
    return cell.html if isinstance(cell, Markup) else ""


def _short(text: str, length: int = 60) -> Markup:
    """A text that may be broken anywhere and is cut in its middle when long; the whole is its tool tip."""
    shown = text if len(text) <= length else f"{text[: length // 2]}…{text[-length // 2 :]}"
    return Markup(f'<span class="breakable" title="{escape(text)}">{escape(shown)}</span>')


def _finding_section(report: "AuditReport", title: str, kinds: Mapping[str, str]) -> Section:
    findings = [finding for finding in report.findings if finding.kind in kinds]
    if not findings:
        return section(title, paragraph("Nothing found."))
    total = {name: len(manifest) for name, manifest in zip(report.rows.names, report.rows.manifests, strict=True)}
    rows: list[tuple[Cell, ...]] = []
    for finding in findings:
        counts = report.rows.counts(finding.rows)
        shares = [f"{count:,} ({100 * count / max(1, total[name]):.1f} %)" for name, count in counts.items()]
        rows.append((finding.kind, *shares, KINDS[finding.kind]))
    parts = [table(("Finding", *report.rows.names, "What it is"), rows)]
    parts += [
        details(f"{finding.kind}: the worst of {len(finding):,}", _examples(report, finding)) for finding in findings
    ]
    if title == "Texts":
        repeats = {name: f"{count:,}" for name, count in report.num_repeated_texts.items() if count}
        if repeats:
            parts += [paragraph("Rows whose text an earlier row of the same manifest has too:"), key_values(repeats)]
    return section(title, *parts)


def _examples(report: "AuditReport", finding: Finding) -> str:
    _, first = np.unique(report.rows.span_of[finding.rows], return_index=True)  # a recording in two manifests: once
    places = np.sort(first)[:MAX_EXAMPLES]
    shown = finding.rows[places]
    ids = report.rows.ids(shown)
    is_text = finding.kind in TEXT_KINDS
    texts = report.rows.values("text", shown) if is_text else []
    rows: list[tuple[Cell, ...]] = []
    for place, row in enumerate(shown.tolist()):
        cells: list[Cell] = [report.rows.name(row), _short(ids[place]), _short(finding.said(int(places[place])))]
        if is_text:
            cells.append(_short(str(texts[place] or ""), 200))
        heard = finding.kind not in TEXT_KINDS or finding.kind in ("speech_rate", "other_language")
        if report.scanned is not None and heard and finding.kind != "unreadable":
            cells.append(_play(report, row, None) if place < MAX_PLAYED else "")
        rows.append(tuple(cells))
    headers = ["Manifest", "Utterance", "Found", *(["Text"] if is_text else [])]
    return table([*headers, *["Listen"] * (len(rows[0]) - len(headers))], rows)


def _play(report: "AuditReport", row: int, start: float | None) -> Cell:
    """A few seconds of a row from `start` on, or around its loudest moment; a dash where it cannot be read."""
    utterance = report.rows.utterance(row)
    try:
        waveform = audio.read_utterance(utterance, SAMPLE_RATE)
    except AudioError:
        return None
    if start is None:
        start = int(np.abs(waveform).argmax()) / SAMPLE_RATE - MAX_SECONDS / 2
    latest = max(0, len(waveform) - round(MAX_SECONDS * SAMPLE_RATE)) if start > 0 else 0
    first = min(max(0, round(start * SAMPLE_RATE)), max(latest, 0))
    return player(waveform[first:], sample_rate=SAMPLE_RATE, label=utterance.id)


def _distribution_section(report: "AuditReport") -> Section:
    if report.scanned is None:
        return section("Distributions", paragraph("Recordings were not decoded."))
    figures = [_histogram(report, name) for name in _HISTOGRAMS]
    return section(
        "Distributions",
        paragraph("Share of each manifest's utterances. A dashed line is the threshold of a finding."),
        panels(figures),
    )


def _histogram(report: "AuditReport", name: str) -> str:
    title, unit, low, high = _HISTOGRAMS[name]
    values = report.measure(name)
    assert values is not None
    finite = values[np.isfinite(values)]
    low = float(finite.min(initial=0.0)) if low is None else low
    high = float(np.percentile(finite, 99.5) if len(finite) else 1.0) if high is None else high
    edges = np.linspace(low, max(high, low + 1e-6) * 1.001 if high > 0 else high, 41)
    medians = []
    with drawing() as figure:
        axes = figure.add_subplot()
        for number, part in enumerate(report.rows.names):
            mine = values[report.rows.starts[number] : report.rows.starts[number + 1]]
            mine = mine[np.isfinite(mine)]
            if not len(mine):
                continue
            counts, _ = np.histogram(np.clip(mine, edges[0], edges[-1]), bins=edges)
            style = LINE_STYLES[number % len(LINE_STYLES)]
            axes.stairs(100 * counts / len(mine), edges, color=colour(number), linestyle=style, label=part)
            medians.append(f"{part} {np.median(mine):.1f}")
        if name in _THRESHOLDS:
            axes.axvline(getattr(report.config.thresholds, _THRESHOLDS[name]), color=colour(7), linestyle="--")
        axes.set(title=title, xlabel=unit, ylabel="% of utterances", ylim=(0, None))
        if len(report.rows.names) > 1:
            axes.legend()
    return inline_svg(figure, label=f"Histogram of {title.lower()} in {unit}; medians: {', '.join(medians)}")


def _settings(report: "AuditReport") -> dict[str, object]:
    config = report.config
    settings: dict[str, object] = {
        "recordings decoded": config.audio,
        "allowed": ", ".join(config.allow) or "nothing",
        "least overlap": f"{config.min_overlap_seconds:g} s",
        "pairs whose waveforms were compared": report.num_candidates,
    }
    return settings | {
        f"threshold {name}": getattr(config.thresholds, name) for name in type(config.thresholds).__dataclass_fields__
    }
