"""Manifests: which recordings there are and what is known of them, as Arrow columns.

`table` holds the type, `build` makes one from a folder or a corpus, `validate` finds what is wrong, `split` and
`subset` divide it without leaks, `filter` and `sample` choose from it, `stats` counts it; `shards` packs it into tars
and reads those of others; `corpora` knows the layouts of public corpora, `formats` the manifests of other tools.
"""

from speechssl.manifest.audit import AuditConfig, AuditReport, audit_manifests
from speechssl.manifest.build import BuildResult, build_manifest
from speechssl.manifest.corpora.card import CorpusCard, list_cards, load_card
from speechssl.manifest.corpora.prepare import prepare_corpus
from speechssl.manifest.filter import FilterResult, filter_manifest
from speechssl.manifest.formats import ExportResult, ImportResult, read_format, write_format
from speechssl.manifest.sample import sample_manifest
from speechssl.manifest.segmentation import SegmentConfig, SegmentResult, segment_manifest
from speechssl.manifest.shards import ShardOptions, ShardResult, build_from_shards, iterate_shard, shard_manifest
from speechssl.manifest.split import split_manifest
from speechssl.manifest.stats import ManifestStats, manifest_stats
from speechssl.manifest.subset import subset_manifest
from speechssl.manifest.table import Manifest
from speechssl.manifest.validate import Problem, ValidationReport, require_valid, validate_manifest

__all__ = [
    "AuditConfig",
    "AuditReport",
    "BuildResult",
    "CorpusCard",
    "ExportResult",
    "FilterResult",
    "ImportResult",
    "Manifest",
    "ManifestStats",
    "Problem",
    "SegmentConfig",
    "SegmentResult",
    "ShardOptions",
    "ShardResult",
    "ValidationReport",
    "audit_manifests",
    "build_from_shards",
    "build_manifest",
    "filter_manifest",
    "iterate_shard",
    "list_cards",
    "load_card",
    "manifest_stats",
    "prepare_corpus",
    "read_format",
    "require_valid",
    "sample_manifest",
    "segment_manifest",
    "shard_manifest",
    "split_manifest",
    "subset_manifest",
    "validate_manifest",
    "write_format",
]
