"""Kaldi's data directory.

`wav.scp` maps recordings to files or to commands, `segments` utterances to `recording start end`; without it every
recording is an utterance. `text`, `utt2spk`, `spk2utt`, `utt2lang`, `spk2gender`, `utt2dur`, `utt2num_samples` and
`reco2dur` say more. All are sorted by their first field in byte order (`LC_ALL=C`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.formats import pieces
from speechssl.manifest.formats.base import MAX_SHOWN, ImportResult, ReadOptions, combined, shown
from speechssl.manifest.formats.commands import CommandError, file_of_command
from speechssl.manifest.formats.headers import choose_folder, first_relative
from speechssl.manifest.formats.join import JoinedPieces
from speechssl.manifest.formats.lines import parse_numbers, scan_lines
from speechssl.manifest.formats.pieces import Piece, import_pieces
from speechssl.manifest.formats.spool import KeptPieces, Pieces
from speechssl.manifest.hashing import Hashes, hash_values, repeated_rows
from speechssl.manifest.jsonl import STRING

FILES = frozenset("wav.scp segments text utt2spk spk2utt utt2lang spk2gender utt2dur utt2num_samples reco2dur".split())
"""What is read and written here."""
_FIELD = r"[^ \t]+"


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """Some of the `key value` lines of a file."""

    path: Path
    keys: pa.Array
    values: pa.Array
    first_line: int


def read(path: Path, options: ReadOptions) -> ImportResult:
    """Import a data directory; commands in `wav.scp` are never run, only understood.

    The sample rate of every recording, which Kaldi does not tell, comes from its header. A speaker that is the
    utterance itself counts as unknown.

    Raises:
        ManifestError: a file, line or command that cannot be used; names file and line.
    """
    folder = path if path.is_dir() else path.parent
    recordings = KeptPieces(_recordings(folder / "wav.scp"))
    first = None
    for piece in recordings():
        first = first or first_relative(combined(piece.table["audio_filepath"]))
    left_out: dict[str, int] = {}
    has_segments = (folder / "segments").is_file()
    source = folder / ("segments" if has_segments else "wav.scp")
    rows: Pieces = recordings
    unused = 0
    if has_segments:
        rows, unused = _segments(source, recordings)
    utterances = JoinedPieces(rows, "id")
    if not has_segments:
        _add_lengths(utterances, folder, options)
    for name, column in (("text", "text"), ("utt2spk", "speaker"), ("utt2lang", "language")):
        if (folder / name).is_file():
            mapping = _scan_mapping(folder / name, what="utterance and value", allow_empty=name == "text")
            num_others = utterances.add(pa.table({"key": part.keys, column: part.values}) for part in mapping)
            if num_others:
                left_out[f"line of {name} for an utterance that is not in {source.name}"] = num_others
    if unused:
        left_out["recording without a segment"] = unused
    manifest = import_pieces(
        KeptPieces(_without_speakers_of_one(_with_genders(utterances, folder))),
        choose_folder(first, folder / "wav.scp", options),
        source,
        options,
        finished=_on_samples if has_segments else lambda table: table,
    )
    others = sorted(other.name for other in folder.iterdir() if other.is_file() and other.name not in FILES)
    notes = (f"not read: {shown(others)}",) if others else ()
    return ImportResult(manifest=manifest, format="kaldi", left_out=left_out, notes=notes)


def _scan_mapping(path: Path, *, what: str, allow_empty: bool = False) -> Iterator[Mapping]:
    """All lines in pieces.

    Raises:
        ManifestError: a line that is none, or, at the end, a key that stands in two of them.
    """
    hashes: list[Hashes] = []
    for mapping in _parse_mapping(path, what=what, allow_empty=allow_empty):
        hashes.append(hash_values(mapping.keys))
        yield mapping
    suspects = repeated_rows(hashes)
    if not len(suspects):
        return
    keys = []
    for mapping in _parse_mapping(path, what=what, allow_empty=allow_empty):
        places = suspects - (mapping.first_line - 1)
        keys.append(mapping.keys.take(pa.array(places[(places >= 0) & (places < len(mapping.keys))])))
    found = pa.concat_arrays(keys)
    first = pc.index_in(found, value_set=found).to_numpy()
    again = np.flatnonzero(first != np.arange(len(found)))
    if len(again):
        row = int(again[0])
        line, before = suspects[row] + 1, suspects[first[row]] + 1
        raise ManifestError(f"{path}:{line}: {found[row].as_py()!r} stands in line {before} too; keep one")


def _parse_mapping(path: Path, *, what: str, allow_empty: bool) -> Iterator[Mapping]:
    first_line = 1
    for part in scan_lines(path, pieces.PIECE_ROWS):
        lines = pc.utf8_trim(part, " \t")
        parts = pc.extract_regex(lines, rf"\A(?P<key>{_FIELD})[ \t]{'*' if allow_empty else '+'}(?P<value>.*)\z")
        bad = pc.indices_nonzero(pc.is_null(parts))
        if len(bad):
            row = bad[0].as_py()
            text = lines[row].as_py()[:80]
            raise ManifestError(f"{path}:{first_line + row}: must be {what} with a space between them, is {text!r}")
        keys, values = (parts.field(name).cast(STRING) for name in ("key", "value"))
        yield Mapping(path=path, keys=keys, values=values, first_line=first_line)
        first_line += len(lines)
    if first_line == 1:
        raise ManifestError(f"{path}: is empty; write it again")


def _recordings(path: Path) -> Iterator[Piece]:
    """The columns id and audio_filepath; commands are replaced by what they decode.

    Raises:
        ManifestError: at the end, for all commands that do not stand for a file.
    """
    bad: list[str] = []
    num_bad = 0
    for mapping in _scan_mapping(path, what="recording and path"):
        files, problems = _files(mapping)
        num_bad += len(problems)
        bad += problems[: MAX_SHOWN - len(bad)]
        lines = np.arange(mapping.first_line, mapping.first_line + len(files))
        yield Piece(table=pa.table({"id": mapping.keys, "audio_filepath": files}), lines=lines)
    if bad:
        bad += [f"and {num_bad - len(bad)} more"] if num_bad > len(bad) else []
        raise ManifestError(
            f"{num_bad} commands in wav.scp do not stand for a file; commands are never run here: write their output"
            " as files, and name these\n" + "\n".join(bad)
        )


def _files(recordings: Mapping) -> tuple[pa.Array, list[str]]:
    """The file of every recording, and what is wrong with commands."""
    values = recordings.values
    refused = pc.indices_nonzero(pc.match_substring_regex(values, r"\A[|-]|\.ark:\d+(\[.*\])?\z"))
    if len(refused):
        row = refused[0].as_py()
        raise ManifestError(
            f"{recordings.path}:{recordings.first_line + row}: {values[row].as_py()[:80]!r} is no file; write the"
            " archive's recordings as files (Kaldi's wav-copy, or kaldiio) and name these"
        )
    is_command = pc.match_substring_regex(values, r"\|\s*\z")
    rows = pc.indices_nonzero(is_command).to_pylist()
    decoded = []
    bad = []
    for row in rows:
        try:
            decoded.append(file_of_command(values[row].as_py().rstrip()[:-1]))
        except CommandError as error:
            bad.append(f"{recordings.path}:{recordings.first_line + row}: the command {error}")
            decoded.append("")
    return pc.replace_with_mask(values, is_command, pa.array(decoded, STRING)) if rows else values, bad


def _add_lengths(utterances: JoinedPieces, folder: Path, options: ReadOptions) -> None:
    """The column num_samples or duration where a file tells it, and it is wanted."""
    exact = folder / "utt2num_samples"
    rounded = next((folder / name for name in ("utt2dur", "reco2dur") if (folder / name).is_file()), None)
    if exact.is_file():
        path, name, what, first = exact, "num_samples", "the number of samples", "utterance and number of samples"
    elif rounded is not None and options.sample_rate is not None:  # else the headers, which are opened, tell it exactly
        path, name, what, first = rounded, "duration", "the duration", "name and seconds"
    else:
        return

    def tables() -> Iterator[pa.Table]:
        for part in _scan_mapping(path, what=first):
            whole = name == "num_samples"
            numbers = parse_numbers(part.values, path, first_line=part.first_line, what=what, whole=whole)
            yield pa.table({"key": part.keys, name: numbers})

    utterances.add(tables())


def _segments(path: Path, recordings: KeptPieces) -> tuple[KeptPieces, int]:
    """The columns id, audio_filepath, offset and duration; and how many recordings have no segment."""
    joined = JoinedPieces(KeptPieces(_scan_segments(path)), "recording")
    unused = joined.add(piece.table for piece in recordings())

    def spans() -> Iterator[Piece]:
        for piece in joined():
            table, first_line = piece.table, int(piece.lines[0])
            unknown = pc.indices_nonzero(combined(pc.is_null(table["audio_filepath"])))
            if len(unknown):
                row = unknown[0].as_py()
                name = table["recording"][row].as_py()
                raise ManifestError(
                    f"{path}:{first_line + row}: there is no recording {name!r} in {path.parent / 'wav.scp'}"
                )
            start = parse_numbers(combined(table["start"]), path, first_line=first_line, what="the start")
            end = parse_numbers(combined(table["end"]), path, first_line=first_line, what="the end")
            duration = pc.if_else(pc.equal(end, -1.0), pa.scalar(None, pa.float64()), pc.subtract(end, start))
            columns = {"id": table["id"], "audio_filepath": table["audio_filepath"], "offset": start}
            yield Piece(table=pa.table(columns | {"duration": duration}), lines=piece.lines)

    return KeptPieces(spans()), unused


def _scan_segments(path: Path) -> Iterator[Piece]:
    """The columns id, recording, start and end as text."""
    names = ("id", "recording", "start", "end")
    pattern = r"\A" + r"[ \t]+".join(rf"(?P<{name}>{_FIELD})" for name in names) + r"\z"
    first_line = 1
    for part in scan_lines(path, pieces.PIECE_ROWS):
        lines = pc.utf8_trim(part, " \t")
        parts = pc.extract_regex(lines, pattern)
        bad = pc.indices_nonzero(pc.is_null(parts))
        if len(bad):
            row = bad[0].as_py()
            raise ManifestError(
                f"{path}:{first_line + row}: must be utterance, recording, start and end with spaces between them, is"
                f" {lines[row].as_py()[:80]!r}"
            )
        table = pa.table({name: parts.field(name).cast(STRING) for name in names})
        yield Piece(table=table, lines=np.arange(first_line, first_line + len(lines)))
        first_line += len(lines)
    if first_line == 1:
        raise ManifestError(f"{path}: is empty; write it again")


def _with_genders(utterances: JoinedPieces, folder: Path) -> Pieces:
    """Utterances with the column gender where there are speakers and a file that tells it."""
    has_speakers = (folder / "utt2spk").is_file()
    if not has_speakers or not (folder / "spk2gender").is_file():
        return utterances
    joined = JoinedPieces(KeptPieces(utterances()), "speaker")
    mapping = _scan_mapping(folder / "spk2gender", what="speaker and gender")
    joined.add(pa.table({"key": part.keys, "gender": part.values}) for part in mapping)
    return joined


def _without_speakers_of_one(rows: Pieces) -> Iterator[Piece]:
    """A speaker that is the utterance itself is unknown."""
    for piece in rows():
        table = piece.table
        if "speaker" in table.column_names:
            speaker = combined(table["speaker"])
            known = pc.if_else(pc.equal(speaker, combined(table["id"])), pa.scalar(None, STRING), speaker)
            table = table.set_column(table.column_names.index("speaker"), "speaker", known)
        yield Piece(table=table, lines=piece.lines)


def _on_samples(table: pa.Table) -> pa.Table:
    """Spans moved to whole samples, as any reader does: segments are written with few decimals."""
    rate, offset, duration = (np.asarray(table[name].to_numpy()) for name in ("sample_rate", "offset", "duration"))
    first = np.floor(offset * rate + 0.5)
    num_samples = np.maximum(np.floor((offset + duration) * rate + 0.5) - first, 1).astype(np.int64)
    moved = {"offset": first / rate, "num_samples": num_samples, "duration": num_samples / rate}
    return pa.table({name: moved.get(name, table[name]) for name in table.column_names})
