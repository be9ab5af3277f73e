"""The page of an audit: leaks, recordings and texts, with the worst examples to look at and to listen to."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from speechssl import audio
from speechssl.errors import AudioError
from speechssl.manifest.audit.findings import KINDS, QUALITY_KINDS, TEXT_KINDS, Finding
from speechssl.manifest.audit.measures import MEASURES
from speechssl.manifest.audit.settings import LEAK_KINDS
from speechssl.report.figures import LINE_STYLES, colour, drawing, inline_svg, panels
from speechssl.report.page import (
    Cell,
    Highlight,
    Section,
    details,
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
            rows.append((LEAK_KINDS[leak.kind], name, other, f"{count:,}", f"{share:.1f} %", f"{hours:.2f}", verdict))
    headers = ("Shared", "Rows of", "With", "Utterances", "Share", "Hours", "")
    parts = [table(headers, rows)] if rows else [paragraph("The manifests share nothing that was looked for.")]
    if len(report.rows.names) < 2:
        parts = [paragraph("One manifest was audited, so there was nothing to compare it with.")]
    if report.scanned is None:
        parts.append(note("Recordings were not decoded: shared audio is told by files and offsets alone."))
    examples = [(leak.kind, "; ".join(leak.examples)) for leak in report.leaks if leak.examples]
    if examples:
        parts.append(details("Examples of each kind", table(("Kind", "Examples"), examples)))
    if len(report.pairs):
        parts.append(_pair_table(report))
    variants = [(", ".join(map(repr, names)),) for names in report.speaker_variants]
    if variants:
        parts.append(table(("Speakers that differ in case or spaces alone",), variants))
    return section("Leaks between manifests", *parts, anchor="leaks")


def _pair_table(report: "AuditReport") -> str:
    numbers = report.telling_pairs(MAX_PAIRS)
    rows: list[tuple[Cell, ...]] = []
    for place, (number, pair) in enumerate(zip(numbers.tolist(), report.describe_pairs(numbers), strict=True)):
        first, second = pair["first"], pair["second"]
        start = pair["start_seconds"]
        played: list[Cell] = ["", ""]
        if place < MAX_PLAYED_PAIRS and report.scanned is not None:
            played = [
                _play(report, int(report.pairs.first[number]), start),
                _play(report, int(report.pairs.second[number]), start - pair["offset_seconds"]),
            ]
        rows.append(
            (
                f"{first['manifest']}: {first['id']}",
                f"{second['manifest']}: {second['id']}",
                pair["how"],
                f"{pair['seconds']:.2f}",
                f"{pair['offset_seconds']:.3f}",
                f"{pair['score']:.2f}",
                *played,
            )
        )
    headers = ("Recording", "Shares audio with", "How", "Seconds", "Later by (s)", "Score", "Listen", "")
    return table(headers, rows, caption=f"{len(rows)} of {len(report.pairs):,} pairs; the JSON holds all of them.")


def _finding_section(report: "AuditReport", title: str, kinds: Mapping[str, str]) -> Section:
    findings = [finding for finding in report.findings if finding.kind in kinds]
    if not findings:
        return section(title, paragraph("Nothing found."))
    total = {name: len(manifest) for name, manifest in zip(report.rows.names, report.rows.manifests, strict=True)}
    rows: list[tuple[Cell, ...]] = []
    for finding in findings:
        counts = report.rows.counts(finding.rows)
        shares = [f"{count:,} ({100 * count / max(1, total[name]):.1f} %)" for name, count in counts.items()]
        rows.append((finding.kind, KINDS[finding.kind], *shares))
    parts = [table(("Finding", "What it is", *report.rows.names), rows)]
    parts += [
        details(f"{finding.kind}: the worst of {len(finding):,}", _examples(report, finding)) for finding in findings
    ]
    if title == "Texts":
        repeats = {name: f"{count:,}" for name, count in report.num_repeated_texts.items() if count}
        if repeats:
            parts += [paragraph("Rows whose text an earlier row of the same manifest has too:"), key_values(repeats)]
    return section(title, *parts)


def _examples(report: "AuditReport", finding: Finding) -> str:
    shown = finding.rows[:MAX_EXAMPLES]
    ids = report.rows.ids(shown)
    is_text = finding.kind in TEXT_KINDS
    texts = report.rows.values("text", shown) if is_text else []
    rows: list[tuple[Cell, ...]] = []
    for place, row in enumerate(shown.tolist()):
        cells: list[Cell] = [f"{report.rows.name(row)}: {ids[place]}", finding.said(place)]
        if is_text:
            cells.append(str(texts[place] or ""))
        heard = finding.kind not in TEXT_KINDS or finding.kind in ("speech_rate", "other_language")
        if report.scanned is not None and heard and finding.kind != "unreadable":
            cells.append(_play(report, row, None) if place < MAX_PLAYED else "")
        rows.append(tuple(cells))
    headers = ["Utterance", "Found", *(["Text"] if is_text else [])]
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
