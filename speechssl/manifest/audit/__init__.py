"""Audit: what manifests share that they should not, and what is wrong with recordings and texts.

`run` does it all: `rows` numbers the rows of several manifests, `scan` decodes them once, into `store`, with
`fingerprint` and `measures`; `matching` and `waveforms` find shared audio, `content` and `sharing` turn that into rows;
`shared` and `near_texts` compare columns; `quality`, `texts`, `characters` and `language` judge; `drop` acts on it.
"""

from speechssl.manifest.audit.drop import Cleaned, load_named, write_cleaned
from speechssl.manifest.audit.findings import KINDS, Finding
from speechssl.manifest.audit.report import AuditReport
from speechssl.manifest.audit.run import audit_manifests
from speechssl.manifest.audit.settings import LEAK_KINDS, AuditConfig, Thresholds
from speechssl.manifest.audit.shared import Shared

__all__ = [
    "KINDS",
    "LEAK_KINDS",
    "AuditConfig",
    "AuditReport",
    "Cleaned",
    "Finding",
    "Shared",
    "Thresholds",
    "audit_manifests",
    "load_named",
    "write_cleaned",
]
