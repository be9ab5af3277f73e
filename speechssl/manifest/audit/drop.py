"""Act on an audit: manifests without the rows that leak or are at fault, and those rows with the reasons."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechssl.errors import ConfigError, ManifestError
from speechssl.manifest.audit.findings import KINDS
from speechssl.manifest.audit.report import AuditReport
from speechssl.manifest.audit.settings import LEAK_KINDS
from speechssl.manifest.table import Manifest

REASON_COLUMN = "audit"
"""Column of a dropped row that says why."""


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """One manifest after the audit: how many rows stayed, `path` of those, and how many went to `dropped_path`, None
    where nothing was dropped.
    """

    name: str
    num_kept: int
    num_dropped: int
    path: Path
    dropped_path: Path | None


def write_cleaned(
    report: AuditReport, folder: str | os.PathLike[str], *, drop: Sequence[str] | None = None
) -> list[Cleaned]:
    """Write every manifest without its bad rows as `NAME.jsonl`, and these as `NAME.dropped.jsonl` with a reason.

    Of a leak, the manifest that was named first loses its rows: name those that must stay whole, such as test sets,
    last. Of repeated audio the first row stays.

    Args:
        report: what the audit found.
        folder: where to write.
        drop: kinds of leaks and findings to act on; by default all leaks that are not allowed.

    Raises:
        ConfigError: there is no such kind.
        ManifestError: nothing would be left of a manifest, or a manifest would be overwritten by its clean copy.
    """
    folder = Path(folder)
    rows = report.rows
    reasons = drop_reasons(report, drop)
    marked = np.zeros(len(rows), dtype=bool)
    marked[np.fromiter(reasons, np.int64, len(reasons))] = True
    parts = [marked[rows.starts[number] : rows.starts[number + 1]] for number in range(len(rows.names))]
    for name, bad in zip(rows.names, parts, strict=True):
        if bad.all():
            raise ManifestError(
                f"{name}: all of its {len(bad)} rows would be dropped; allow what is meant to be shared (--allow), or"
                " name the kinds to act on with --drop"
            )
    for name, manifest in zip(rows.names, rows.manifests, strict=True):
        path = folder / f"{name}.jsonl"
        if manifest.folder is not None and folder.resolve() == manifest.folder.resolve() and path.exists():
            raise ManifestError(f"{path}: would be overwritten by its clean copy; give another folder as --output")
    written = []
    for number, (name, manifest, bad) in enumerate(zip(rows.names, rows.manifests, parts, strict=True)):
        path = folder / f"{name}.jsonl"
        manifest.filter(~bad).save(path)
        dropped_path = None
        if bad.any():
            dropped_path = folder / f"{name}.dropped.jsonl"
            why = [reasons[int(rows.starts[number]) + row] for row in np.flatnonzero(bad).tolist()]
            manifest.filter(bad).with_column(REASON_COLUMN, pa.array(why, pa.large_string())).save(dropped_path)
        count = int(np.count_nonzero(bad))
        written.append(
            Cleaned(name=name, num_kept=len(bad) - count, num_dropped=count, path=path, dropped_path=dropped_path)
        )
    return written


def drop_reasons(report: AuditReport, drop: Sequence[str] | None = None) -> dict[int, str]:
    """Why each row is dropped, by its number; rows that stay are left out."""
    known = {**LEAK_KINDS, **KINDS}
    for kind in drop or ():
        if kind not in known:
            raise ConfigError(f"drop: there is no kind {kind!r}; there are {', '.join(known)}")
    wanted = [kind for kind in LEAK_KINDS if kind not in report.config.allow] if drop is None else list(drop)
    rows = report.rows
    reasons: dict[int, list[str]] = {}
    for leak in report.leaks:
        if leak.kind not in wanted:
            continue
        for place, other in enumerate(rows.names):
            for row in _earlier(leak.rows[place], rows.manifest_of, place).tolist():
                reasons.setdefault(row, []).append(f"{leak.kind} in {other}")
    for finding in report.findings:
        if finding.kind in wanted:
            for index, row in enumerate(finding.rows.tolist()):
                said = finding.said(index)
                reasons.setdefault(row, []).append(f"{finding.kind}: {said}" if said else finding.kind)
    return {row: "; ".join(several) for row, several in reasons.items()}


def _earlier(marked: npt.NDArray[np.bool_], manifest_of: npt.NDArray[np.int64], place: int) -> npt.NDArray[np.int64]:
    """Marked rows of the manifests that were named before the one at `place`."""
    return np.flatnonzero(marked & (manifest_of < place))


def names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """A short name for every manifest's path: its stem, with so many folders before it as tell them apart.

    Raises:
        ManifestError: a manifest is named twice.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in paths if resolved.count(path.resolve()) > 1)
        raise ManifestError(f"{twice}: is named twice; an audit compares different manifests")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["-".join([*path.parts[-depth:-1], path.stem]) for path in resolved]
        if len(set(names)) == len(names):
            return dict(zip(names, paths, strict=True))
    names = [path.name for path in resolved]  # they differ in their extension alone
    return dict(zip(names, paths, strict=True))


def load_named(paths: Sequence[Path]) -> dict[str, Manifest]:
    """The manifests of some paths, by the names of `names_of`."""
    return {name: Manifest.load(path) for name, path in names_of(paths).items()}
