"""The result of an audit: leaks between manifests and findings about rows.

Shapes: R rows of all manifests, M manifests, N spans, P pairs.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from speechssl.manifest.audit.content import HOW
from speechssl.manifest.audit.findings import KINDS, Finding
from speechssl.manifest.audit.measures import MEASURES
from speechssl.manifest.audit.rows import Integers, Rows
from speechssl.manifest.audit.settings import LEAK_KINDS, AuditConfig
from speechssl.manifest.audit.shared import Shared
from speechssl.manifest.audit.sharing import Pairs
from speechssl.manifest.audit.store import Scanned

PERCENTILES = (0, 1, 5, 50, 95, 99, 100)


@dataclass(frozen=True, kw_only=True)
class AuditReport:
    """What `audit_manifests` found.

    Attributes:
        rows: all rows, numbered through.
        config: what was asked for.
        leaks: what manifests share, of all kinds, also of those that are allowed.
        findings: what is wrong with rows, in the order of `KINDS`.
        pairs: rows of two manifests that share audio, the longest shared first.
        scanned: what decoding told; None without it.
        num_candidates: pairs that fingerprints proposed and whose waveforms were compared.
        num_repeated_texts: rows of each manifest whose text an earlier row of it has too.
        speaker_variants: names of speakers that differ in case and spaces alone.
    """

    rows: Rows = field(repr=False)
    config: AuditConfig
    leaks: tuple[Shared, ...]
    findings: tuple[Finding, ...]
    pairs: Pairs = field(repr=False)
    scanned: Scanned | None = field(repr=False, default=None)
    num_candidates: int = 0
    num_repeated_texts: Mapping[str, int] = field(default_factory=dict)
    speaker_variants: tuple[tuple[str, ...], ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether the manifests share nothing that is not allowed."""
        return not any(leak.rows.any() for leak in self.leaks if leak.kind not in self.config.allow)

    @cached_property
    def hours(self) -> dict[str, float]:
        """Hours of every manifest."""
        seconds = np.bincount(self.rows.manifest_of, weights=self.rows.duration, minlength=len(self.rows.names))
        return {name: float(value) / 3600 for name, value in zip(self.rows.names, seconds, strict=True)}

    def leak_counts(self, leak: Shared) -> list[tuple[str, str, int, float]]:
        """(manifest, other manifest, how many of its rows share something with the other, their hours)."""
        counts = []
        for place, name in enumerate(self.rows.names):
            here = slice(int(self.rows.starts[place]), int(self.rows.starts[place + 1]))
            for number, other in enumerate(self.rows.names):
                marked = leak.rows[number, here]
                if marked.any():
                    hours = float(self.rows.duration[here][marked].sum()) / 3600
                    counts.append((name, other, int(marked.sum()), hours))
        return counts

    def measure(self, name: str) -> npt.NDArray[np.float32] | None:
        """One of `MEASURES` for every row `[R]`, NaN where a recording could not be decoded; None without decoding."""
        return None if self.scanned is None else self.scanned.measure(name)[self.rows.span_of]

    def to_dict(self) -> dict[str, Any]:
        """Everything for JSON, with the id of every row that was found."""
        return {
            "clean": self.is_clean,
            "manifests": [
                {"name": name, "utterances": len(manifest), "hours": self.hours[name]}
                for name, manifest in zip(self.rows.names, self.rows.manifests, strict=True)
            ],
            "settings": asdict(self.config),
            "leaks": [self._leak(leak) for leak in self.leaks if leak.rows.any()],
            "pairs": self.describe_pairs(np.arange(len(self.pairs))),
            "num_candidates": self.num_candidates,
            "findings": [self._finding(finding) for finding in self.findings],
            "repeated_texts": dict(self.num_repeated_texts),
            "speaker_variants": [list(names) for names in self.speaker_variants],
            "measures": self._measures(),
        }

    def _leak(self, leak: Shared) -> dict[str, Any]:
        between = [
            {
                "manifest": name,
                "other": other,
                "utterances": count,
                "hours": hours,
                "ids": self.rows.ids(self.leaking(leak, name, other)),
            }
            for name, other, count, hours in self.leak_counts(leak)
        ]
        return {
            "kind": leak.kind,
            "means": LEAK_KINDS[leak.kind],
            "allowed": leak.kind in self.config.allow,
            "values": leak.num_values,
            "examples": list(leak.examples),
            "between": between,
        }

    def leaking(self, leak: Shared, name: str, other: str) -> Integers:
        """Rows of a manifest that share something with another."""
        place = self.rows.names.index(name)
        start, end = self.rows.starts[place], self.rows.starts[place + 1]
        return np.asarray(np.flatnonzero(leak.rows[self.rows.names.index(other), start:end]) + start)

    def telling_pairs(self, limit: int) -> Integers:
        """Numbers of at most `limit` pairs for a short list: those first that files and samples do not tell at once."""
        obvious = np.isin(self.pairs.how, [list(HOW).index("span"), list(HOW).index("samples")])
        return np.asarray(np.argsort(obvious, kind="stable")[:limit])

    def describe_pairs(self, numbers: Integers) -> list[dict[str, Any]]:
        """Pairs in words and numbers, as JSON holds them."""
        pairs, names = self.pairs, list(HOW)
        first, second = self.rows.ids(pairs.first[numbers]), self.rows.ids(pairs.second[numbers])
        return [
            {
                "first": {"manifest": self.rows.name(int(pairs.first[k])), "id": one},
                "second": {"manifest": self.rows.name(int(pairs.second[k])), "id": other},
                "how": names[int(pairs.how[k])],
                "score": _rounded(pairs.score[k]),
                "start_seconds": _rounded(pairs.start[k]),
                "offset_seconds": _rounded(pairs.offset[k]),
                "seconds": _rounded(pairs.seconds[k]),
            }
            for k, one, other in zip(numbers.tolist(), first, second, strict=True)
        ]

    def _finding(self, finding: Finding) -> dict[str, Any]:
        ids = self.rows.ids(finding.rows)
        return {
            "kind": finding.kind,
            "means": KINDS[finding.kind],
            "utterances": len(finding),
            "by_manifest": self.rows.counts(finding.rows),
            "rows": [
                {"manifest": self.rows.name(row), "id": ids[k], "found": finding.said(k)}
                for k, row in enumerate(finding.rows.tolist())
            ],
        }

    def _measures(self) -> dict[str, dict[str, Any]]:
        """Percentiles of every measure, over rows."""
        found = {}
        for name, (unit, method) in MEASURES.items():
            values = self.measure(name)
            if values is None or not np.isfinite(values).any():
                continue
            percentiles = np.percentile(values[np.isfinite(values)], PERCENTILES)
            shown = {str(p): float(v) for p, v in zip(PERCENTILES, percentiles, strict=True)}
            found[name] = {"unit": unit, "method": method, "percentiles": shown}
        return found


def _rounded(value: float) -> float:
    return round(float(value), 4) + 0.0  # -0 becomes 0
