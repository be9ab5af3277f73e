"""`speechssl manifest audit`."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import Cell, percent, progress_bar, say, table
from speechssl.errors import ConfigError
from speechssl.files import write_text
from speechssl.manifest import AuditConfig, AuditReport, audit_manifests
from speechssl.manifest.audit import KINDS, LEAK_KINDS, Thresholds, load_named, write_cleaned
from speechssl.progress import Progress, StepProgress

_MAX_COLUMNS = 4


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Options of `speechssl manifest audit`.

    Attributes:
        manifests: the manifests to compare and to check; one alone is checked for quality and repetitions.
        audio: decode the recordings: compare them by content and measure their quality. With false only columns are
            compared, which takes seconds.
        allow: leaks that are expected: audio, file, id, speaker, text, near_text.
        strict: exit with 1 for findings of any kind, not for leaks alone.
        json: write everything that was found here, with the id of every row.
        html: write a page with tables, pictures and a few recordings to listen to.
        output: write the manifests without the rows that leak into this folder, and those rows with the reasons beside
            them. A leak's rows are taken from the manifest named first: name test sets last.
        drop: kinds of leaks and findings that --output acts on; by default all leaks that are not allowed.
        cache: folder that keeps what decoding told, so that an audit that was stopped goes on and a later one is quick.
        min_overlap_seconds: cuts that share less are not reported.
        num_workers: threads; as many as there are cores by default.
        limit: pairs of recordings to print; JSON holds all of them.
        thresholds: what counts as a finding, e.g. --thresholds.snr_db 15.
    """

    manifests: tuple[Path, ...]
    audio: bool = True
    allow: tuple[str, ...] = ()
    strict: bool = False
    json: Path | None = None
    html: Path | None = None
    output: Path | None = None
    drop: tuple[str, ...] | None = None
    cache: Path | None = None
    min_overlap_seconds: float = 0.5
    num_workers: int | None = None
    limit: int = 10
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if not self.manifests:
            raise ConfigError("name one manifest or more: speechssl manifest audit train.jsonl test.jsonl")
        if self.drop is not None and self.output is None:
            raise ConfigError("--drop names what --output leaves out; give --output FOLDER too")


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: AuditOptions | None = parse("audit", AuditOptions, words, ("manifests",))
    if options is None:
        return 0
    config = AuditConfig(
        audio=options.audio,
        min_overlap_seconds=options.min_overlap_seconds,
        allow=options.allow,
        thresholds=options.thresholds,
    )
    with _steps() as progress:
        report = audit_manifests(
            load_named(options.manifests),
            config,
            cache=options.cache,
            num_workers=options.num_workers,
            progress=progress,
        )
    _print(report, options.limit)
    if options.json is not None:
        write_text(options.json, json.dumps(report.to_dict(), indent=1, ensure_ascii=False, default=str) + "\n")
        say(f"everything: {options.json}")
    if options.html is not None:
        from speechssl.report import write_audit_page

        say(f"page: {write_audit_page(report, options.html)}")
    if options.output is not None:
        for part in write_cleaned(report, options.output, drop=options.drop):
            where = "" if part.dropped_path is None else f", {part.num_dropped} dropped: {part.dropped_path}"
            say(f"{part.name}: {part.num_kept} kept: {part.path}{where}")
    return 1 if not report.is_clean or (options.strict and report.findings) else 0


def _print(report: AuditReport, limit: int) -> None:
    _print_leaks(report)
    _print_pairs(report, limit)
    _print_findings(report)
    for name, count in report.num_repeated_texts.items():
        if count:
            say(f"{name}: {count} texts are also those of an earlier row")
    for names in report.speaker_variants:
        say(f"speakers that differ in case or spaces alone: {', '.join(map(repr, names))}")
    if len(report.rows.names) > 1:
        allowed = f" (allowed: {', '.join(report.config.allow)})" if report.config.allow else ""
        say(f"{'no leaks' if report.is_clean else 'LEAKS'} between {', '.join(report.rows.names)}{allowed}")


def _print_leaks(report: AuditReport) -> None:
    lines: list[tuple[Cell, ...]] = []
    for leak in report.leaks:
        for name, other, count, hours in report.leak_counts(leak):
            share = count / max(1, len(report.rows.manifests[report.rows.names.index(name)]))
            verdict = "allowed" if leak.kind in report.config.allow else "LEAK"
            lines.append((leak.kind, name, other, count, percent(share), hours, verdict))
    if lines:
        headers = ("shared", "rows of", "with", "utterances", "share", "hours", "")
        table("shared between manifests", headers, lines)
        for leak in report.leaks:
            if leak.rows.any():
                say(f"{leak.kind}: {LEAK_KINDS[leak.kind]}; e.g. {'; '.join(leak.examples[:2])}")


def _print_pairs(report: AuditReport, limit: int) -> None:
    shown = report.describe_pairs(report.telling_pairs(limit))
    if not shown:
        return
    lines: list[tuple[Cell, ...]] = [
        (
            f"{pair['first']['manifest']}: {pair['first']['id']}",
            f"{pair['second']['manifest']}: {pair['second']['id']}",
            pair["how"],
            pair["seconds"],
            pair["offset_seconds"],
            pair["score"],
        )
        for pair in shown
    ]
    headers = ("recording", "shares audio with", "how", "seconds", "later by (s)", "score")
    table(f"recordings in common, {len(shown)} of {len(report.pairs)} pairs", headers, lines)


def _print_findings(report: AuditReport) -> None:
    lines: list[tuple[Cell, ...]] = []
    for finding in report.findings:
        counts = report.rows.counts(finding.rows).values()
        total = len(finding)
        lines.append((finding.kind, *(counts if len(counts) <= _MAX_COLUMNS else ()), total))
    if not lines:
        return
    names = report.rows.names if len(report.rows.names) <= _MAX_COLUMNS else ()
    table("findings, in utterances", ("kind", *names, "all"), lines)
    for finding in report.findings:
        worst = f"{report.rows.ids(finding.rows[:1])[0]}: {finding.said(0)}".rstrip(": ")
        say(f"{finding.kind}: {KINDS[finding.kind]}; {worst if len(worst) < 150 else worst[:147] + '...'}")


@contextmanager
def _steps() -> Iterator[StepProgress]:
    """A progress bar for each of the audit's steps, one after the other."""
    with ExitStack() as stack:
        bars: dict[str, Progress] = {}

        def step(name: str, done: int, total: int) -> None:
            if name not in bars:
                stack.close()
                bars[name] = stack.enter_context(progress_bar(name))
            bars[name](done, total)

        yield step
