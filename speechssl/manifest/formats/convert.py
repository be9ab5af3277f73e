"""Import and export by a format's name."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from speechssl.audio import SPAN_TOLERANCE_SECONDS
from speechssl.errors import ManifestError
from speechssl.manifest.formats import (
    audiofolder,
    delimited,
    fairseq,
    kaldi,
    kaldi_export,
    lhotse,
    lhotse_export,
    nemo,
)
from speechssl.manifest.formats.base import (
    ExportResult,
    ImportResult,
    Placement,
    ReadOptions,
    WriteOptions,
    floats,
    is_archive_range,
    is_span,
    is_url,
    open_headers,
    recordings_of,
)
from speechssl.manifest.formats.clips import cut_clips
from speechssl.manifest.formats.detect import detect_source, detect_target
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format: how to read and write it, and what its rows can name besides whole files."""

    title: str
    read: Callable[[Path, ReadOptions], ImportResult]
    write: Callable[[Manifest, Path, WriteOptions], ExportResult]
    spans: bool = True
    archives: bool = False
    urls: bool = False
    clip_extension: str = ".flac"


def _read_ours(path: Path, options: ReadOptions) -> ImportResult:
    return ImportResult(manifest=Manifest.load(path), format=path.suffix.lower().lstrip("."))


def _write_ours(manifest: Manifest, path: Path, options: WriteOptions) -> ExportResult:
    manifest.save(path)
    return ExportResult(
        format=path.suffix.lower().lstrip("."),
        files=(path,),
        num_utterances=len(manifest),
        seconds=manifest.total_seconds,
        carried=tuple(manifest.column_names),
    )


FORMATS = {
    "jsonl": Format(title="our JSON Lines", read=_read_ours, write=_write_ours, archives=True, urls=True),
    "parquet": Format(
        title="the same columns as Parquet", read=_read_ours, write=_write_ours, archives=True, urls=True
    ),
    "nemo": Format(title="NeMo's JSON Lines", read=nemo.read, write=nemo.write, urls=True),
    "fairseq": Format(
        title="fairseq's .tsv with .wrd, .ltr and dictionary",
        read=fairseq.read,
        write=fairseq.write,
        spans=False,
        archives=True,
    ),
    "fairseq2": Format(
        title="fairseq2's .tsv with .wrd",
        read=fairseq.read,
        write=fairseq.write_fairseq2,
        spans=False,
        archives=True,
    ),
    "kaldi": Format(title="Kaldi's data directory", read=kaldi.read, write=kaldi_export.write, clip_extension=".wav"),
    "lhotse": Format(title="lhotse's manifests", read=lhotse.read, write=lhotse_export.write, urls=True),
    "audiofolder": Format(
        title="Hugging Face audiofolder", read=audiofolder.read, write=audiofolder.write, spans=False
    ),
    "csv": Format(
        title="CSV with a header", read=delimited.read_csv, write=delimited.write_csv, archives=True, urls=True
    ),
    "tsv": Format(
        title="TSV with a header", read=delimited.read_tsv, write=delimited.write_tsv, archives=True, urls=True
    ),
}
"""All formats by name."""


def read_format(
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    sample_rate: int | None = None,
    audio_root: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ImportResult:
    """Make a manifest of another tool's.

    Args:
        path: a file or folder.
        format: one of `FORMATS`, or "auto" to tell it by what lies there.
        sample_rate: rate in Hz of all recordings whose rate the format does not tell; None opens their headers.
        audio_root: what relative paths are relative to, where that is not the format's own rule.
        progress: called with (recordings opened, recordings to open).

    Raises:
        ManifestError: unknown format, or something in it that cannot be used; names file and line.
    """
    path = Path(path)
    chosen = _format(detect_source(path) if format == "auto" else format)
    if not path.exists():
        raise ManifestError(f"{path}: no such file or folder; check the path")
    root = None if audio_root is None else Path(audio_root)
    return chosen.read(path, ReadOptions(sample_rate=sample_rate, audio_root=root, progress=progress))


def write_format(
    manifest: Manifest,
    path: str | os.PathLike[str],
    format: str = "auto",
    *,
    clips: str | os.PathLike[str] | None = None,
    place: Placement = "keep",
    open_recordings: bool = True,
    progress: Progress | None = None,
) -> ExportResult:
    """Write a manifest as another tool's.

    Args:
        manifest: what to write.
        path: the file or folder to write.
        format: one of `FORMATS`, or "auto" to tell it by the name.
        clips: a folder for rows that the format cannot name (spans where it knows whole files only, members of
            archives, URLs): each is written there as a recording of its own. None refuses such rows.
        place: how recordings come into an audiofolder: they are there already, or are to be linked or copied.
        open_recordings: open the recordings' headers to see which rows are whole recordings and how long these are.
            When False, rows that begin with their recording and share it with no other count as whole.
        progress: called with (recordings done, recordings altogether).

    Raises:
        ManifestError: rows or values that the format cannot hold, with the way out.
    """
    path = Path(path)
    name = detect_target(path) if format == "auto" else format
    chosen = _format(name)
    options = WriteOptions(
        clips=None if clips is None else Path(clips), open_recordings=open_recordings, place=place, progress=progress
    )
    if place not in get_args(Placement):
        raise ManifestError(f"place must be one of {', '.join(get_args(Placement))}, is {place!r}")
    if len(manifest) == 0:
        raise ManifestError(f"{path}: there is no utterance to write")
    return chosen.write(_with_clips(manifest, name, chosen, options), path, options)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise ManifestError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def _with_clips(manifest: Manifest, name: str, format: Format, options: WriteOptions) -> Manifest:
    """The manifest with a clip for every row that the format cannot name."""
    reasons: dict[str, npt.NDArray[np.bool_]] = {}
    if not format.archives:
        reasons["members of archives"] = is_archive_range(manifest)
    if not format.urls:
        reasons["URLs"] = is_url(manifest)
    if not format.spans:
        reasons["parts of recordings"] = _find_spans(manifest, reasons, options)
    unfit = np.zeros(len(manifest), dtype=bool)
    for rows in reasons.values():
        unfit |= rows
    if not unfit.any():
        return manifest
    if options.clips is None:
        counts = ", ".join(f"{int(rows.sum())} {reason}" for reason, rows in reasons.items() if rows.any())
        first = manifest.column("id")[int(np.flatnonzero(unfit)[0])].as_py()
        raise ManifestError(
            f"{name} cannot name {counts} (the first is {first!r}); --clips FOLDER writes a recording of its own"
            " for each of them"
        )
    return cut_clips(manifest, unfit, options.clips, extension=format.clip_extension, progress=options.progress)


def _find_spans(
    manifest: Manifest, reasons: dict[str, npt.NDArray[np.bool_]], options: WriteOptions
) -> npt.NDArray[np.bool_]:
    """Rows that are a part of their recording; headers are opened of those alone of which it is not clear."""
    recordings = recordings_of(manifest)
    if not options.open_recordings:
        return is_span(manifest, recordings, None)
    settled = floats(manifest, "offset") > 0
    for rows in reasons.values():
        settled = settled | rows
    wanted = np.zeros(len(recordings.paths), dtype=bool)
    wanted[recordings.rows[~settled]] = True
    headers = open_headers(recordings, wanted, options.progress)
    return is_span(manifest, recordings, headers, tolerance_seconds=SPAN_TOLERANCE_SECONDS)
