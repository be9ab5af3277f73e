"""lhotse's recordings, supervisions and cuts as JSON Lines, plain or gzipped.

A cut with one supervision or none is an utterance; of a cut with several, every supervision is one. A recording's
channels are read as their mean here, so a cut must take all channels of a file, or a file of one channel.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.formats.base import ImportResult, ReadOptions, combined, shown
from speechssl.manifest.formats.commands import CommandError, file_of_command
from speechssl.manifest.formats.headers import choose_folder, make_manifest
from speechssl.manifest.formats.rows import RowGatherer, read_objects
from speechssl.manifest.jsonl import CORE_TYPES

KINDS = ("cuts", "recordings", "supervisions")
_OURS = ("_line", "_key", "_recording")
_SUPERVISION = {"text": "text", "speaker": "speaker", "language": "language", "gender": "gender"}


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
    if kind == "cuts":
        table = _read_cuts(path, left_out, notes)
    else:
        recordings, supervisions = _pair(path, kind)
        table = _read_recordings(recordings)
        if supervisions is not None:
            table = _read_supervisions(supervisions, recordings, table, left_out)
        path = supervisions or recordings
    lines = table["_line"].to_numpy()
    table = table.drop_columns([name for name in table.column_names if name in _OURS])
    empty = [name for name in table.column_names if table[name].null_count == len(table) and name != "sample_rate"]
    table = table.drop_columns(empty)
    folder = choose_folder(combined(table["audio_filepath"]), path, options)
    manifest = make_manifest(table, folder, path, lines, options)
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
    raise ManifestError(f"{path}: holds no line; write it again")


def _pair(path: Path, kind: str) -> tuple[Path, Path | None]:
    """The recordings and, where there are, the supervisions: names differ in that word alone."""
    if kind == "recordings":
        partner = path.with_name(path.name.replace("recordings", "supervisions"))
        return path, partner if partner != path and partner.is_file() else None
    recordings = path.with_name(path.name.replace("supervisions", "recordings"))
    if recordings == path or not recordings.is_file():
        raise ManifestError(f"{path}: supervisions need their recordings beside them, as {recordings.name}")
    return recordings, path


def _read_cuts(path: Path, left_out: dict[str, int], notes: list[str]) -> pa.Table:
    rows = RowGatherer()
    num_divided = 0
    with _problems(path) as problems:
        for line, cut in read_objects(path):
            try:
                found = list(_rows_of_cut(cut, left_out))
            except _Problem as problem:
                problems.append(f"{path}:{line}: {problem}")
                continue
            num_divided += len(found) > 1
            for row in found:
                rows.append(row | {"_line": line})
    if num_divided:
        notes.append(f"{num_divided} cuts have several supervisions, each of which is a row")
    return rows.table()


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


def _read_recordings(path: Path) -> pa.Table:
    """A row for every file of every recording; `_key` names recording and channels."""
    rows = RowGatherer()
    with _problems(path) as problems:
        for line, row in read_objects(path):
            try:
                recording = _recording(row)
            except _Problem as problem:
                problems.append(f"{path}:{line}: {problem}")
                continue
            for source in recording.sources:
                several = len(recording.sources) > 1
                rows.append(
                    {
                        "id": f"{recording.id}-{min(source.channels)}" if several else recording.id,
                        "audio_filepath": source.path,
                        "sample_rate": recording.sample_rate,
                        "duration": recording.duration,
                        "_key": _key(recording.id, source.channels),
                        "_recording": recording.id,
                        "_line": line,
                    }
                )
    return rows.table()


def _read_supervisions(path: Path, home: Path, recordings: pa.Table, left_out: dict[str, int]) -> pa.Table:
    """A row for every supervision, with the file of its recording."""
    rows = RowGatherer()
    for line, row in read_objects(path):
        channel = row.get("channel", 0)
        times = {"offset": float(row["start"]), "duration": float(row["duration"])}
        key = _key(row["recording_id"], [channel] if isinstance(channel, int) else channel)
        rows.append(_fields(row, left_out) | times | {"id": row["id"], "_key": key, "_line": line})
    table = rows.table()
    found = pc.index_in(combined(table["_key"]), value_set=combined(recordings["_key"]))
    if found.null_count:
        bad = table.filter(pc.is_null(found)).select(["_key", "_line"]).to_pylist()
        known = set(recordings["_recording"].to_pylist())
        problems = []
        for row in bad:
            name, _, channels = row["_key"].rpartition("\n")
            what = _not_a_file(name, channels) if name in known else f"there is no recording {name!r} in {home}"
            problems.append(f"{path}:{row['_line']}: {what}")
        raise ManifestError(f"{path}: {len(bad)} lines cannot be read\n{shown(problems, separator=chr(10))}")
    unused = pc.is_in(recordings["_key"], value_set=combined(table["_key"]))
    _count(left_out, "file of a recording without a supervision", len(unused) - pc.sum(unused).as_py())
    for name in ("audio_filepath", "sample_rate"):
        table = table.append_column(name, recordings[name].take(found))
    return table


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
    rate = int(row["sampling_rate"]) if own_rate else None
    return Recorded(id=row["id"], duration=float(row["duration"]), sample_rate=rate, sources=tuple(sources))


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


@contextmanager
def _problems(path: Path) -> Iterator[list[str]]:
    """Gather what is wrong with lines, and raise it together at the end."""
    found: list[str] = []
    yield found
    if found:
        raise ManifestError(f"{path}: {len(found)} lines cannot be read\n{shown(found, separator=chr(10))}")
