"""lhotse's recordings, supervisions and cuts as JSON Lines, plain or gzipped.

A cut with one supervision or none is an utterance; of a cut with several, every supervision is one. A recording's
channels are read as their mean here, so a cut must take all channels of a file, or a file of one channel.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.formats.base import MAX_SHOWN, ImportResult, ReadOptions, combined, shown
from speechssl.manifest.formats.commands import CommandError, file_of_command
from speechssl.manifest.formats.headers import choose_folder, first_relative
from speechssl.manifest.formats.join import JoinedPieces
from speechssl.manifest.formats.pieces import import_pieces
from speechssl.manifest.formats.rows import gather, read_objects
from speechssl.manifest.formats.spool import KeptPieces, Pieces
from speechssl.manifest.jsonl import CORE_TYPES, STRING

KINDS = ("cuts", "recordings", "supervisions")
_KEY, _RECORDING = "\nkey", "\nrecording"  # unlike any free field's name
_SUPERVISION = {"text": "text", "speaker": "speaker", "language": "language", "gender": "gender"}
_WRITE_AGAIN = "write it again with lhotse, whose `validate` names such lines too"

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of a recording and the channels that it holds."""

    path: str
    channels: frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A recording; `sample_rate` is None where the file's own may be another."""

    id: str
    duration: float
    sample_rate: int | None
    sources: tuple[Source, ...]


class _Problem(Exception):
    """What is wrong with a line, without its place."""


def kind_of(names: set[str]) -> str | None:
    """Which of lhotse's manifests a line with these fields is from, or None."""
    if "sources" in names and "sampling_rate" in names:
        return "recordings"
    if "recording_id" in names and "start" in names:
        return "supervisions"
    return "cuts" if {"start", "recording"} <= names or "tracks" in names else None


def read(path: Path, options: ReadOptions) -> ImportResult:
    """Import a file of cuts, or one of recordings or supervisions together with its partner, or a folder of these.

    Raises:
        ManifestError: a line that cannot be read or has no counterpart in a manifest; names file and line.
    """
    path = _choose(path) if path.is_dir() else path
    left_out: dict[str, int] = {}
    notes: list[str] = []
    kind = _kind_of_file(path)
    pieces: Pieces
    if kind == "cuts":
        found = _read_cuts(path, left_out, notes)
        pieces, filled = found, found.filled
    else:
        recordings, supervisions = _pair(path, kind)
        found = _some(KeptPieces(gather(_rows_of_recordings(recordings))), recordings)
        pieces, filled = found, found.filled
        if supervisions is not None:
            said = _some(KeptPieces(gather(_rows_of_supervisions(supervisions, left_out))), supervisions)
            pieces = _with_recordings(said, supervisions, found, recordings, left_out)
            filled = said.filled | found.filled
        path = supervisions or recordings
    first = None
    for piece in pieces():
        first = first or first_relative(combined(piece.table["audio_filepath"]))

    def named(table: pa.Table) -> pa.Table:
        kept = [name for name in table.column_names if name in filled or name == "sample_rate"]
        return table.select([name for name in kept if name not in (_KEY, _RECORDING)])

    manifest = import_pieces(pieces, choose_folder(first, path, options), path, options, named=named)
    return ImportResult(manifest=manifest, format="lhotse", left_out=left_out, notes=tuple(notes))


def _choose(folder: Path) -> Path:
    """The cuts of a folder, else its supervisions or recordings."""
    for kind in ("cuts", "supervisions", "recordings"):
        found = sorted(path for path in folder.glob(f"*{kind}*") if path.name.endswith((".jsonl", ".jsonl.gz")))
        if len(found) == 1:
            return found[0]
        if found:
            names = shown([path.name for path in found])
            raise ManifestError(f"{folder}: holds several {kind} ({names}); name one of the files")
    raise ManifestError(f"{folder}: holds no *cuts*, *recordings* or *supervisions* .jsonl or .jsonl.gz of lhotse")


def _kind_of_file(path: Path) -> str:
    for line, row in read_objects(path):
        kind = kind_of(set(row))
        if kind is None:
            raise ManifestError(f"{path}:{line}: is neither a cut, a recording nor a supervision of lhotse")
        return kind
    raise _no_line(path)


def _some(pieces: KeptPieces, path: Path) -> KeptPieces:
    if _KEY not in pieces.filled:
        raise _no_line(path)
    return pieces


def _no_line(path: Path) -> ManifestError:
    return ManifestError(f"{path}: holds no line that names a recording; write it again")


def _pair(path: Path, kind: str) -> tuple[Path, Path | None]:
    """The recordings and, where there are, the supervisions: names differ in that word alone."""
    if kind == "recordings":
        partner = path.with_name(path.name.replace("recordings", "supervisions"))
        return path, partner if partner != path and partner.is_file() else None
    recordings = path.with_name(path.name.replace("supervisions", "recordings"))
    if recordings == path or not recordings.is_file():
        raise ManifestError(f"{path}: supervisions need their recordings beside them, as {recordings.name}")
    return recordings, path


def _read_cuts(path: Path, left_out: dict[str, int], notes: list[str]) -> KeptPieces:
    num_divided = 0

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal num_divided
        for line, found in _parsed(path, lambda cut: list(_rows_of_cut(cut, left_out))):
            num_divided += len(found) > 1
            for row in found:
                yield line, row

    pieces = KeptPieces(gather(rows()))
    if num_divided:
        notes.append(f"{num_divided} cuts have several supervisions, each of which is a row")
    return pieces


def _rows_of_cut(cut: Mapping[str, Any], left_out: dict[str, int]) -> Iterator[dict[str, Any]]:
    kind = cut.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut", "Cut"):
        raise _Problem(f"a {kind} mixes or pads; write its audio with `CutSet.save_audios` first")
    if not isinstance(cut.get("recording"), Mapping):
        raise _Problem(f"the cut {cut.get('id')!r} has no recording")
    recording = _recording(cut["recording"])
    supervisions = cut.get("supervisions") or []
    _count(left_out, "features of a cut", "features" in cut)
    start, duration = float(cut["start"]), float(cut["duration"])
    if len(supervisions) > 1:
        for supervision in supervisions:
            first = max(0.0, float(supervision["start"]))
            last = min(duration, float(supervision["start"]) + float(supervision["duration"]))
            row = _span(recording, supervision.get("channel", cut.get("channel", 0)), start + first, last - first)
            yield _fields(cut, left_out) | _fields(supervision, left_out) | row | {"id": supervision["id"]}
        return
    row = _span(recording, cut.get("channel", 0), start, duration)
    supervised = _fields(supervisions[0], left_out) if supervisions else {}
    yield _fields(cut, left_out) | supervised | row | {"id": cut["id"]}


def _rows_of_recordings(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """A row for every file of every recording; `_KEY` names recording and channels."""

    def files_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
        recording = _recording(row)
        several = len(recording.sources) > 1
        return [
            {
                "id": f"{recording.id}-{min(source.channels)}" if several else recording.id,
                "audio_filepath": source.path,
                "sample_rate": recording.sample_rate,
                "duration": recording.duration,
                _KEY: _key(recording.id, source.channels),
                _RECORDING: str(recording.id),
            }
            for source in recording.sources
        ]

    for line, found in _parsed(path, files_of):
        for file in found:
            yield line, file


def _rows_of_supervisions(path: Path, left_out: dict[str, int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """A row for every supervision, without the file of its recording."""

    def understood(row: Mapping[str, Any]) -> dict[str, Any]:
        channel = row.get("channel", 0)
        times = {"offset": float(row["start"]), "duration": float(row["duration"])}
        key = _key(row["recording_id"], [channel] if isinstance(channel, int) else channel)
        return _fields(row, left_out) | times | {"id": row["id"], _KEY: key}

    return _parsed(path, understood)


def _with_recordings(
    supervisions: KeptPieces, path: Path, recordings: KeptPieces, home: Path, left_out: dict[str, int]
) -> Pieces:
    """Supervisions with the files of their recordings."""
    joined = JoinedPieces(supervisions, _KEY)
    columns = [_KEY, "audio_filepath", "sample_rate"]
    unused = joined.add(piece.table.select(columns) for piece in recordings())
    _count(left_out, "file of a recording without a supervision", unused)
    bad: list[tuple[str, int]] = []
    num_bad = 0
    for piece in joined():
        rows = pc.indices_nonzero(combined(pc.is_null(piece.table["audio_filepath"])))
        num_bad += len(rows)
        for row in rows.to_pylist()[: MAX_SHOWN - len(bad)]:
            bad.append((piece.table[_KEY][row].as_py(), int(piece.lines[row])))
    if bad:
        names = pa.array([key.rpartition("\n")[0] for key, _ in bad], STRING)
        known: set[str] = set()
        for piece in recordings():
            known |= set(names.filter(pc.is_in(names, value_set=combined(piece.table[_RECORDING]))).to_pylist())
        problems = []
        for key, line in bad:
            name, _, channels = key.rpartition("\n")
            what = _not_a_file(name, channels) if name in known else f"there is no recording {name!r} in {home}"
            problems.append(f"{path}:{line}: {what}")
        raise _unreadable(path, problems, num_bad)
    return joined


def _key(recording: str, channels: Iterable[int]) -> str:
    return f"{recording}\n{', '.join(map(str, sorted(channels)))}"


def _not_a_file(recording: str, channels: str) -> str:
    return (
        f"takes channel {channels} of {recording!r}, which is not all that one of its files holds, and channels are"
        " read as their mean here; write that channel as a file of its own"
    )


def _recording(row: Mapping[str, Any]) -> Recorded:
    """A recording's files; channels are numbered as lhotse does."""
    transforms = [transform.get("name") for transform in row.get("transforms") or []]
    if set(transforms) - {"Resample"}:
        raise _Problem(f"the recording {row['id']!r} is changed by {', '.join(map(str, transforms))} when it is read")
    sources = []
    own_rate = not transforms
    for source in row["sources"]:
        path = str(source.get("source"))
        if source.get("type") == "command":
            own_rate = False
            try:
                path = file_of_command(path)
            except CommandError as error:
                raise _Problem(f"the command of {row['id']!r} {error}; commands are never run here") from None
        elif source.get("type") not in ("file", "url"):
            raise _Problem(
                f"the recording {row['id']!r} lies in {source.get('type')!r}; only files and URLs can be read"
            )
        own_rate = own_rate and not path.lower().endswith(".opus")  # lhotse resamples these as it reads
        sources.append(Source(path=path, channels=frozenset(source["channels"])))
    rate = int(row["sampling_rate"])
    if not 0 < rate < 1 << 31:
        raise _Problem(f"the sampling rate of {row['id']!r} is {row['sampling_rate']}, which is none")
    known = rate if own_rate else None
    return Recorded(id=row["id"], duration=float(row["duration"]), sample_rate=known, sources=tuple(sources))


def _span(recording: Recorded, channels: int | Sequence[int], start: float, duration: float) -> dict[str, Any]:
    wanted = frozenset([channels] if isinstance(channels, int) else channels)
    path = next((source.path for source in recording.sources if source.channels == wanted), None)
    if path is None:
        raise _Problem(_not_a_file(recording.id, ", ".join(map(str, sorted(wanted)))))
    return {
        "audio_filepath": path,
        "sample_rate": recording.sample_rate,
        "offset": start,
        "duration": duration,
    }


def _fields(row: Mapping[str, Any], left_out: dict[str, int]) -> dict[str, Any]:
    """What a cut or supervision says of its utterance; a free field that is called like one of ours is renamed."""
    _count(left_out, "alignment of a supervision", "alignment" in row)
    found = {ours: row[theirs] for theirs, ours in _SUPERVISION.items() if row.get(theirs) is not None}
    for name, value in (row.get("custom") or {}).items():
        found[f"custom_{name}" if name in CORE_TYPES else name] = value
    return found


def _count(left_out: dict[str, int], reason: str, count: int) -> None:
    if count:
        left_out[reason] = left_out.get(reason, 0) + int(count)


def _parsed(path: Path, parse: Callable[[dict[str, Any]], Parsed]) -> Iterator[tuple[int, Parsed]]:
    """Every line and what `parse` makes of it.

    Raises:
        ManifestError: at the end, for all lines of which it makes nothing.
    """
    problems: list[str] = []
    num_bad = 0
    for line, row in read_objects(path):
        try:
            found = parse(row)
        except _Problem as problem:
            what = str(problem)
        except KeyError as error:
            what = f"lacks {error.args[0]!r}; {_WRITE_AGAIN}"
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"holds something else than is wanted ({error}); {_WRITE_AGAIN}"
        else:
            if not num_bad:
                yield line, found
            continue
        num_bad += 1
        problems += [f"{path}:{line}: {what}"] if len(problems) < MAX_SHOWN else []
    if num_bad:
        raise _unreadable(path, problems, num_bad)


def _unreadable(path: Path, problems: Sequence[str], num_bad: int) -> ManifestError:
    """The first problems, at most `MAX_SHOWN`, of all."""
    more = [f"and {num_bad - len(problems)} more"] if num_bad > len(problems) else []
    return ManifestError("\n".join([f"{path}: {num_bad} lines cannot be read", *problems, *more]))
