"""Manifests of other tools, both ways: `read_format` imports, `write_format` exports.

One file a format (`fairseq` for fairseq and fairseq2, `nemo`, `kaldi`, `lhotse`, `audiofolder`, `delimited`), `convert`
chooses among them, `detect` tells them apart, `clips` cuts spans out for those that know whole files only.
"""

from speechssl.manifest.formats.base import ExportResult, ImportResult
from speechssl.manifest.formats.convert import FORMATS, Format, read_format, write_format
from speechssl.manifest.formats.detect import detect_source, detect_target

__all__ = [
    "FORMATS",
    "ExportResult",
    "Format",
    "ImportResult",
    "detect_source",
    "detect_target",
    "read_format",
    "write_format",
]
