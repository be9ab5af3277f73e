"""NeMo's JSON Lines: audio_filepath, duration, and optionally offset, text, speaker, lang and free fields."""

from collections.abc import Iterator
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
    extra_names,
)
from speechssl.manifest.formats.lines import staged
from speechssl.manifest.formats.pieces import Piece, import_pieces
from speechssl.manifest.jsonl import scan_jsonl, write_json_lines
from speechssl.manifest.table import Manifest

_THEIR_NAMES = {"lang": "language", "sampling_rate": "sample_rate"}
_LONGEST_RELATIVE_PATH = 254
_TARRED = "tarred_audio_manifest.json"


def read(path: Path, options: ReadOptions) -> ImportResult:
    """Import; ids come from a field `id` where there is one, else they are made of path and offset.

    Raises:
        ManifestError: not such a file, or a recording whose header is needed and cannot be read.
    """
    folder = options.audio_root or path.parent
    manifest = import_pieces(lambda: _pieces(path), folder, path, options, named=lambda table: _our_names(table, path))
    return ImportResult(manifest=manifest, format="nemo")


def _pieces(path: Path) -> Iterator[Piece]:
    num_rows = 0
    for table in scan_jsonl(path):
        yield Piece(table=table, lines=np.arange(num_rows + 1, num_rows + len(table) + 1))
        num_rows += len(table)


def _our_names(table: pa.Table, path: Path) -> pa.Table:
    for theirs, ours in _THEIR_NAMES.items():
        if theirs in table.column_names and ours not in table.column_names:
            table = table.rename_columns([ours if name == theirs else name for name in table.column_names])
    if "text" not in table.column_names and "normalized_text" in table.column_names:
        table = table.append_column("text", table["normalized_text"])
    if "audio_filepath" not in table.column_names:
        raise ManifestError(f"{path}: no row has audio_filepath; it has {', '.join(table.column_names)}")
    if "shard_id" in table.column_names:
        raise ManifestError(
            f"{path}: is a list of NeMo's tarred audio, which does not name the tars (the field shard_id numbers them);"
            " unpack them and drop that field, or have `speechssl manifest build` make a manifest of the tars"
        )
    return table


def write(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    """Export with paths relative to the file's folder.

    `sample_rate` is left to the headers: where a row has it, NeMo's Lhotse loader takes `duration` for that of the
    whole recording, and then fails on spans.
    """
    if path.name == _TARRED or (path.parent.name == "sharded_manifests" and path.name.startswith("manifest_")):
        raise ManifestError(f"{path}: NeMo takes this name for that of a list of tarred audio; choose another")
    names = _their_names(manifest)
    left_out: dict[str, int] = {}
    with staged() as files:
        write_json_lines(_batches(manifest.rebased(path.parent), names, left_out), files(path))
    return ExportResult(
        format="nemo",
        files=files.files,
        num_utterances=len(manifest),
        seconds=manifest.total_seconds,
        carried=tuple(names),
        left_out=left_out,
        notes=("id is a free field, which NeMo passes by; rates are left to the headers",),
    )


def _their_names(manifest: Manifest) -> dict[str, str]:
    """Our column for every field, in NeMo's order."""
    known = ("audio_filepath", "duration", "offset", "text", "speaker", "language", "id")
    extra = extra_names(manifest)
    clash = [name for name in extra if name in _THEIR_NAMES]
    if clash:
        raise ManifestError(f"the column {clash[0]} means something else to NeMo; rename it")
    names = {name: name for name in (*known, *extra) if name in manifest.column_names}
    return {"lang" if name == "language" else name: name for name in names}


def _batches(manifest: Manifest, names: dict[str, str], left_out: dict[str, int]) -> Iterator[pa.RecordBatch]:
    """The rows under NeMo's names; an offset of 0 is left out, as nulls are."""
    for batch in manifest.batches([*names.values(), "sample_rate", "num_samples"]):
        duration, rate, num_samples = (batch[name].to_numpy() for name in ("duration", "sample_rate", "num_samples"))
        differing = int(np.count_nonzero(np.floor(duration * rate + 0.5) != num_samples))
        if differing:
            reason = "num_samples that disagrees with the duration"
            left_out[reason] = left_out.get(reason, 0) + differing
        columns = {theirs: batch[ours] for theirs, ours in names.items()}
        columns["audio_filepath"] = _openable(columns["audio_filepath"], manifest.folder)
        starts = pc.greater(batch["offset"], 0.0)
        columns["offset"] = pc.if_else(starts, batch["offset"], pa.scalar(None, pa.float64()))
        yield pa.RecordBatch.from_pydict(columns)


def _openable(files: pa.Array, folder: Path | None) -> pa.Array:
    """Paths as NeMo resolves them: it does not look for relative ones of more than 254 characters in the folder."""
    long = pc.and_(
        pc.greater(pc.utf8_length(files), _LONGEST_RELATIVE_PATH),
        pc.invert(pc.match_substring_regex(files, r"\A/|://")),
    )
    if not pc.any(long).as_py():
        return files
    whole = [str((folder or Path()).absolute() / path) for path in files.filter(long).to_pylist()]
    return pc.replace_with_mask(files, long, pa.array(whole, files.type))


def looks_like(names: set[str]) -> bool:
    """Whether a JSON object's fields are those of a NeMo manifest rather than of ours."""
    return "audio_filepath" in names and not {"id", "sample_rate", "num_samples"} <= names
