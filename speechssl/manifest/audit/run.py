"""`audit_manifests`: everything that an audit looks at, in order."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from speechssl.audio import RecordingError
from speechssl.errors import ManifestError
from speechssl.manifest.audit.content import group_equal, join, match_columns, match_content
from speechssl.manifest.audit.findings import KINDS, Finding
from speechssl.manifest.audit.quality import quality_findings
from speechssl.manifest.audit.report import AuditReport
from speechssl.manifest.audit.rows import Rows, column_overlaps
from speechssl.manifest.audit.scan import scan
from speechssl.manifest.audit.settings import LEAK_KINDS, AuditConfig
from speechssl.manifest.audit.shared import (
    Shared,
    near_texts,
    repeated,
    shared_files,
    shared_ids,
    shared_speakers,
    shared_texts,
    speaker_variants,
    text_hashes,
)
from speechssl.manifest.audit.sharing import Pairs, Sharing
from speechssl.manifest.audit.store import Scanned, Store
from speechssl.manifest.audit.texts import audit_texts
from speechssl.manifest.table import Manifest
from speechssl.progress import StepProgress


def audit_manifests(
    manifests: Mapping[str, Manifest],
    config: AuditConfig | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    num_workers: int | None = None,
    progress: StepProgress | None = None,
) -> AuditReport:
    """Find what manifests share that should not be shared, and what is wrong with their recordings and texts.

    Args:
        manifests: one or more, by name, such as `{"train": ..., "test": ...}`.
        config: what to look at, and what counts as a finding.
        cache: folder that keeps what decoding told: an audit that is stopped goes on there, and a later one of the
            same recordings need not decode them. Without, a temporary folder serves.
        num_workers: threads; as many as there are cores by default.
        progress: called as work goes on.

    Raises:
        ManifestError: there is nothing to audit, or the cache cannot be used.
    """
    config = config or AuditConfig()
    if not manifests or not any(len(manifest) for manifest in manifests.values()):
        raise ManifestError("there is nothing to audit: name one manifest or more that hold utterances")
    rows = Rows(manifests)
    matches = match_columns(column_overlaps(rows, config.min_overlap_seconds))
    group_of = np.arange(rows.num_spans)
    scanned, findings, num_candidates = None, [], 0
    if config.audio:
        with _folders(cache) as (kept, scratch):
            step = None if progress is None else lambda done, total: progress("decoding", done, total)
            scanned, failures = scan(rows, Store(kept), scratch, num_workers=num_workers, progress=step)
            group_of = group_equal(scanned)
            found, num_candidates = match_content(
                rows, scanned, group_of, min_seconds=config.min_overlap_seconds, num_workers=num_workers,
                progress=progress,
            )  # fmt: skip
            scanned = scanned.without_frames()
        matches = join(matches, found)
        findings += [*_unreadable(rows, failures), *quality_findings(rows, scanned, config.thresholds)]
    sharing = Sharing(rows, group_of, matches)
    findings += [finding for finding in [sharing.repeated()] if len(finding)]
    findings += _texts(rows, config, scanned)
    repeats = repeated(text_hashes(rows), rows.manifest_of)
    return AuditReport(
        rows=rows,
        config=config,
        leaks=_leaks(rows, sharing, config),
        findings=tuple(sorted(findings, key=lambda finding: list(KINDS).index(finding.kind))),
        pairs=_longest_first(sharing.pairs()),
        scanned=scanned,
        num_candidates=num_candidates,
        num_repeated_texts=rows.counts(repeats),
        speaker_variants=tuple(speaker_variants(rows)),
    )


def _leaks(rows: Rows, sharing: Sharing, config: AuditConfig) -> tuple[Shared, ...]:
    """What manifests share, in the order of `LEAK_KINDS`; nothing where there is one manifest."""
    if len(rows.names) < 2:
        return ()
    audio, files = sharing.leak(), shared_files(rows)
    apart = files.rows & ~audio.rows  # cuts that overlap are told already
    files = Shared(
        kind="file", rows=apart, num_values=files.num_values if apart.any() else 0,
        examples=files.examples if apart.any() else (),
    )  # fmt: skip
    found = [audio, files, shared_ids(rows), shared_speakers(rows), shared_texts(rows)]
    found.append(near_texts(rows, config.thresholds.near_text))
    return tuple(sorted(found, key=lambda leak: list(LEAK_KINDS).index(leak.kind)))


def _unreadable(rows: Rows, failures: Mapping[int, RecordingError]) -> list[Finding]:
    if not failures:
        return []
    found = np.flatnonzero(np.isin(rows.span_of, np.fromiter(failures, np.int64, len(failures))))
    texts = [str(failures[int(span)]) for span in rows.span_of[found]]
    return [Finding(kind="unreadable", rows=found, texts=texts)]


def _texts(rows: Rows, config: AuditConfig, scanned: Scanned | None) -> list[Finding]:
    """Findings about the texts of all manifests, each kind as one."""
    by_kind: dict[str, list[tuple[npt.NDArray[np.int64], list[str]]]] = {}
    for number, manifest in enumerate(rows.manifests):
        here = slice(int(rows.starts[number]), int(rows.starts[number + 1]))
        active = None
        if scanned is not None:
            shares = (scanned.measure(name)[rows.span_of[here]] for name in ("seconds", "silence_share"))
            seconds, silent = (np.nan_to_num(share.astype(np.float64)) for share in shares)
            active = seconds * (1 - silent)
        for finding in audit_texts(manifest, config.thresholds, active):
            by_kind.setdefault(finding.kind, []).append((finding.rows + here.start, finding.values))
    return [
        Finding(
            kind=kind,
            rows=np.concatenate([found for found, _ in parts]),
            texts=[text for _, texts in parts for text in texts],
        )
        for kind, parts in by_kind.items()
    ]


def _longest_first(pairs: Pairs) -> Pairs:
    order = np.lexsort((pairs.second, pairs.first, -pairs.score, -pairs.seconds))
    return Pairs(**{name: getattr(pairs, name)[order] for name in Pairs.__dataclass_fields__})


@contextmanager
def _folders(cache: str | os.PathLike[str] | None) -> Iterator[tuple[Path, Path]]:
    """Where what decoding told is kept, and where large files may lie meanwhile."""
    with tempfile.TemporaryDirectory(prefix="speechssl-audit-") as scratch:
        yield (Path(scratch) / "records" if cache is None else Path(cache)), Path(scratch)
