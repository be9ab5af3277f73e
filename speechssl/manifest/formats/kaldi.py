"""Kaldi's data directory.

`wav.scp` maps recordings to files or to commands, `segments` utterances to `recording start end`; without it every
recording is an utterance. `text`, `utt2spk`, `spk2utt`, `utt2lang`, `spk2gender`, `utt2dur`, `utt2num_samples` and
`reco2dur` say more. All are sorted by their first field in byte order (`LC_ALL=C`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.formats.base import ImportResult, ReadOptions, combined, shown
from speechssl.manifest.formats.commands import CommandError, file_of_command
from speechssl.manifest.formats.headers import choose_folder, make_manifest
from speechssl.manifest.formats.lines import parse_numbers, read_lines
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.table import Manifest

FILES = frozenset("wav.scp segments text utt2spk spk2utt utt2lang spk2gender utt2dur utt2num_samples reco2dur".split())
"""What is read and written here."""
_FIELD = r"[^ \t]+"


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """A file of `key value` lines: line n has `keys[n - 1]`."""

    path: Path
    keys: pa.Array
    values: pa.Array

    def find(self, wanted: pa.Array) -> pa.Array:
        """The values of the wanted keys, null where there is none."""
        return self.values.take(pc.index_in(wanted, value_set=self.keys))

    def num_unused(self, wanted: pa.Array) -> int:
        """How many keys nobody wants."""
        return int(pc.sum(pc.is_null(pc.index_in(self.keys, value_set=wanted))).as_py() or 0)


def read(path: Path, options: ReadOptions) -> ImportResult:
    """Import a data directory; commands in `wav.scp` are never run, only understood.

    The sample rate of every recording, which Kaldi does not tell, comes from its header. A speaker that is the
    utterance itself counts as unknown.

    Raises:
        ManifestError: a file, line or command that cannot be used; names file and line.
    """
    folder = path if path.is_dir() else path.parent
    recordings = _read_mapping(folder / "wav.scp", what="recording and path")
    files = _files(recordings)
    source, table, lines = _spans(folder, recordings, files, options)
    ids = combined(table["id"])
    left_out: dict[str, int] = {}
    for name, column in (("text", "text"), ("utt2spk", "speaker"), ("utt2lang", "language")):
        if (folder / name).is_file():
            mapping = _read_mapping(folder / name, what="utterance and value", allow_empty=name == "text")
            table = table.append_column(column, mapping.find(ids))
            unused = mapping.num_unused(ids)
            if unused:
                left_out[f"line of {name} for an utterance that is not in {source.name}"] = unused
    table = _speakers(folder, table)
    manifest = make_manifest(table, choose_folder(files, folder / "wav.scp", options), source, lines, options)
    if source.name == "segments":
        manifest = _on_samples(manifest)
        unused = len(files) - int(pc.count_distinct(table["audio_filepath"]).as_py())
        if unused:
            left_out["recording without a segment"] = unused
    others = sorted(other.name for other in folder.iterdir() if other.is_file() and other.name not in FILES)
    notes = (f"not read: {shown(others)}",) if others else ()
    return ImportResult(manifest=manifest, format="kaldi", left_out=left_out, notes=notes)


def _read_mapping(path: Path, *, what: str, allow_empty: bool = False) -> Mapping:
    lines = pc.utf8_trim(read_lines(path), " \t")
    parts = pc.extract_regex(lines, rf"\A(?P<key>{_FIELD})[ \t]{'*' if allow_empty else '+'}(?P<value>.*)\z")
    bad = pc.indices_nonzero(pc.is_null(parts))
    if len(bad):
        row = bad[0].as_py()
        text = lines[row].as_py()[:80]
        raise ManifestError(f"{path}:{row + 1}: must be {what} with a space between them, is {text!r}")
    keys = parts.field("key").cast(STRING)
    if pc.count_distinct(keys).as_py() < len(keys):
        first = pc.index_in(keys, value_set=keys)
        row = int(np.flatnonzero(first.to_numpy() != np.arange(len(keys)))[0])
        before = first[row].as_py() + 1
        raise ManifestError(f"{path}:{row + 1}: {keys[row].as_py()!r} stands in line {before} too; keep one")
    return Mapping(path=path, keys=keys, values=parts.field("value").cast(STRING))


def _files(recordings: Mapping) -> pa.Array:
    """The file of every recording; commands are replaced by what they decode."""
    values = recordings.values
    refused = pc.indices_nonzero(pc.match_substring_regex(values, r"\A[|-]|\.ark:\d+(\[.*\])?\z"))
    if len(refused):
        row = refused[0].as_py()
        raise ManifestError(
            f"{recordings.path}:{row + 1}: {values[row].as_py()[:80]!r} is no file; write the archive's recordings as"
            " files (Kaldi's wav-copy, or kaldiio) and name these"
        )
    is_command = pc.match_substring_regex(values, r"\|\s*\z")
    rows = pc.indices_nonzero(is_command).to_pylist()
    if not rows:
        return values
    decoded = []
    bad = []
    for row in rows:
        command = values[row].as_py().rstrip()[:-1]
        try:
            decoded.append(file_of_command(command))
        except CommandError as error:
            bad.append(f"{recordings.path}:{row + 1}: the command {error}")
    if bad:
        raise ManifestError(
            f"{len(bad)} commands in wav.scp do not stand for a file; commands are never run here: write their output"
            f" as files, and name these\n{shown(bad, separator=chr(10))}"
        )
    return pc.replace_with_mask(values, is_command, pa.array(decoded, STRING))


def _spans(
    folder: Path, recordings: Mapping, files: pa.Array, options: ReadOptions
) -> tuple[Path, pa.Table, npt.NDArray[np.int64]]:
    """What lists the utterances, the columns id, audio_filepath, offset and duration, and their lines."""
    lines = np.arange(1, len(files) + 1)
    if (folder / "segments").is_file():
        return _read_segments(folder / "segments", recordings, files)
    table = pa.table({"id": recordings.keys, "audio_filepath": files})
    exact = folder / "utt2num_samples"
    if exact.is_file():
        mapping = _read_mapping(exact, what="utterance and number of samples")
        parse_numbers(mapping.values, exact, first_line=1, what="the number of samples", whole=True)
        num_samples = mapping.find(recordings.keys).cast(pa.int64())
        return recordings.path, table.append_column("num_samples", num_samples), lines
    rounded = next((folder / name for name in ("utt2dur", "reco2dur") if (folder / name).is_file()), None)
    if rounded is not None and options.sample_rate is not None:  # else the headers, which are opened, tell it exactly
        mapping = _read_mapping(rounded, what="name and seconds")
        parse_numbers(mapping.values, rounded, first_line=1, what="the duration")
        table = table.append_column("duration", mapping.find(recordings.keys).cast(pa.float64()))
    return recordings.path, table, lines


def _read_segments(path: Path, recordings: Mapping, files: pa.Array) -> tuple[Path, pa.Table, npt.NDArray[np.int64]]:
    lines = pc.utf8_trim(read_lines(path), " \t")
    names = ("id", "recording", "start", "end")
    parts = pc.extract_regex(lines, r"\A" + r"[ \t]+".join(rf"(?P<{name}>{_FIELD})" for name in names) + r"\z")
    bad = pc.indices_nonzero(pc.is_null(parts))
    if len(bad):
        row = bad[0].as_py()
        text = lines[row].as_py()
        raise ManifestError(
            f"{path}:{row + 1}: must be utterance, recording, start and end with spaces between them, is {text[:80]!r}"
        )
    found = pc.index_in(parts.field("recording").cast(STRING), value_set=recordings.keys)
    if found.null_count:
        row = pc.indices_nonzero(pc.is_null(found))[0].as_py()
        name = parts.field("recording")[row].as_py()
        raise ManifestError(f"{path}:{row + 1}: there is no recording {name!r} in {recordings.path}")
    start = parse_numbers(parts.field("start").cast(STRING), path, first_line=1, what="the start")
    end = parse_numbers(parts.field("end").cast(STRING), path, first_line=1, what="the end")
    to_the_end = pc.equal(end, -1.0)
    duration = pc.if_else(to_the_end, pa.scalar(None, pa.float64()), pc.subtract(end, start))
    table = pa.table(
        {
            "id": parts.field("id").cast(STRING),
            "audio_filepath": files.take(found),
            "offset": start,
            "duration": duration,
        }
    )
    return path, table, np.arange(1, len(lines) + 1)


def _speakers(folder: Path, table: pa.Table) -> pa.Table:
    """Add the column gender by speaker; then take a speaker that is the utterance itself as unknown."""
    if "speaker" not in table.column_names:
        return table
    speaker = combined(table["speaker"])
    if (folder / "spk2gender").is_file():
        mapping = _read_mapping(folder / "spk2gender", what="speaker and gender")
        table = table.append_column("gender", mapping.find(speaker))
    known = pc.if_else(pc.equal(speaker, combined(table["id"])), pa.scalar(None, STRING), speaker)
    return table.set_column(table.column_names.index("speaker"), "speaker", known)


def _on_samples(manifest: Manifest) -> Manifest:
    """Spans moved to whole samples, as any reader does: segments are written with few decimals."""
    rate = np.asarray(manifest.column("sample_rate").to_numpy())
    offset = np.asarray(manifest.column("offset").to_numpy())
    first = np.floor(offset * rate + 0.5)
    num_samples = np.maximum(np.floor((offset + manifest.durations) * rate + 0.5) - first, 1).astype(np.int64)
    moved = manifest.with_column("offset", first / rate).with_column("num_samples", num_samples)
    return moved.with_column("duration", num_samples / rate)
