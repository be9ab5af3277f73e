"""NeMo's JSON Lines: audio_filepath, duration, and optionally offset, text, speaker, lang and free fields."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.formats.base import (
    ExportResult,
    ImportResult,
    ReadOptions,
    WriteOptions,
    combined,
    extra_names,
    integers,
    optional,
)
from speechssl.manifest.formats.headers import make_manifest
from speechssl.manifest.formats.lines import staged
from speechssl.manifest.jsonl import read_jsonl, write_jsonl
from speechssl.manifest.table import Manifest

_THEIR_NAMES = {"lang": "language", "sampling_rate": "sample_rate"}
_LONGEST_RELATIVE_PATH = 254
_TARRED = "tarred_audio_manifest.json"


def read(path: Path, options: ReadOptions) -> ImportResult:
    """Import; ids come from a field `id` where there is one, else they are made of path and offset.

    Raises:
        ManifestError: not such a file, or a recording whose header is needed and cannot be read.
    """
    table = read_jsonl(path)
    for theirs, ours in _THEIR_NAMES.items():
        if theirs in table.column_names and ours not in table.column_names:
            table = table.rename_columns([ours if name == theirs else name for name in table.column_names])
    if "text" not in table.column_names and "normalized_text" in table.column_names:
        table = table.append_column("text", table["normalized_text"])
    if "audio_filepath" not in table.column_names:
        raise ManifestError(f"{path}: no row has audio_filepath; it has {', '.join(table.column_names)}")
    folder = options.audio_root or path.parent
    manifest = make_manifest(table, folder, path, None, options)
    return ImportResult(manifest=manifest, format="nemo")


def write(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export with paths relative to the file's folder.

    `sample_rate` is left to the headers: where a row has it, NeMo's Lhotse loader takes `duration` for that of the
    whole recording, and then fails on spans.
    """
    if path.name == _TARRED or (path.parent.name == "sharded_manifests" and path.name.startswith("manifest_")):
        raise ManifestError(f"{path}: NeMo takes this name for that of a list of tarred audio; choose another")
    moved = _names_for_nemo(manifest.rebased(path.parent))
    with staged() as files:
        write_jsonl(moved, files(path))
    samples = np.floor(manifest.durations * integers(manifest, "sample_rate") + 0.5)
    differing = int(np.count_nonzero(samples != integers(manifest, "num_samples")))
    left_out = {"num_samples that disagrees with the duration": differing} if differing else {}
    return ExportResult(
        format="nemo",
        files=files.files,
        num_utterances=len(manifest),
        seconds=manifest.total_seconds,
        carried=tuple(moved.column_names),
        left_out=left_out,
        notes=("id is a free field, which NeMo passes by; rates are left to the headers",),
    )


def _names_for_nemo(manifest: Manifest) -> pa.Table:
    """The manifest's columns under NeMo's names, in its order; nulls are what is left out of a line."""
    starts = pc.greater(manifest.column("offset"), 0.0)
    columns = {
        "audio_filepath": _openable(manifest),
        "duration": manifest.column("duration"),
        "offset": pc.if_else(starts, manifest.column("offset"), pa.scalar(None, pa.float64())),
    }
    for name, theirs in (("text", "text"), ("speaker", "speaker"), ("language", "lang")):
        column = optional(manifest, name)
        if column is not None:
            columns[theirs] = column
    columns["id"] = manifest.column("id")
    for name in extra_names(manifest):
        if name in columns or name in _THEIR_NAMES:
            raise ManifestError(f"the column {name} means something else to NeMo; rename it")
        columns[name] = manifest.column(name)
    return pa.table(columns)


def _openable(manifest: Manifest) -> pa.Array:
    """Paths as NeMo resolves them: it does not look for relative ones of more than 254 characters in the folder."""
    files = combined(manifest.column("audio_filepath"))
    long = pc.and_(
        pc.greater(pc.utf8_length(files), _LONGEST_RELATIVE_PATH),
        pc.invert(pc.match_substring_regex(files, r"\A/|://")),
    )
    if not pc.any(long).as_py():
        return files
    whole = [str((manifest.folder or Path()).absolute() / path) for path in files.filter(long).to_pylist()]
    return pc.replace_with_mask(files, long, pa.array(whole, files.type))


def looks_like(names: set[str]) -> bool:
    """Whether a JSON object's fields are those of a NeMo manifest rather than of ours."""
    return "audio_filepath" in names and not {"id", "sample_rate", "num_samples"} <= names
