"""The samples of one shard as rows of a manifest: members grouped by key, headers read, sidecars made columns."""

import json
import os
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from speechssl.audio import AUDIO_EXTENSIONS, AudioInfo, RecordingError, UnreachableError, probe_source
from speechssl.audio.recording import locate_span
from speechssl.errors import AudioError, ManifestError
from speechssl.manifest.jsonl import CORE_TYPES, STRING
from speechssl.manifest.shards.keys import split_name
from speechssl.manifest.shards.storage import StoredFile, open_stored
from speechssl.manifest.shards.tar import Member, scan

TEXT_EXTENSIONS = ("txt", "text", "transcript")
CLASS_EXTENSION = "cls"
MAX_SIDECAR_BYTES = 4 << 20
_RAW = ("g722",)
_SKIPPED_FIELDS = frozenset({"audio_filepath", "offset", "duration", "num_samples", "sample_rate", "spans"})


@dataclass
class FoundInShard:
    """What a shard holds: rows as dictionaries, and what is left out."""

    shard: StoredFile
    path: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    is_whole: bool = True
    """Whether the scan came to the shard's end; if not, another one may find more."""

    def leave_out(self, member: str, reason: str) -> None:
        """Count a member, or the whole shard where `member` is empty, with the reason."""
        self.skipped.append((f"{self.shard.name}/{member}" if member else self.shard.name, reason))

    def table(self) -> pa.Table:
        """The rows as columns; `_shard` is the shard's name, to tell equal ids apart."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        columns = {name: column_of(name, [row.get(name) for row in self.rows]) for name in names}
        columns["_shard"] = pa.array([os.path.splitext(self.shard.name)[0]] * len(self.rows), STRING)
        return pa.table(columns)


@dataclass
class _Sample:
    """The members of one key while a shard is scanned."""

    key: str
    audio: list[tuple[str, Member, AudioInfo]] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    extensions: set[str] = field(default_factory=set)
    has_bad_audio: bool = False


def index_shard(shard: StoredFile, *, is_remote: bool) -> FoundInShard:
    """Scan a shard; only an outage of the storage is raised, all else is told in `skipped`."""
    found = FoundInShard(shard, shard.path if is_remote else shard.name)
    try:
        with open_stored(shard) as file:
            _read_samples(file, found)
    except UnreachableError:
        raise
    except (AudioError, ManifestError) as error:
        found.is_whole = False
        found.leave_out("", str(error).removeprefix(f"{shard.path}: "))
    return found


def _read_samples(file: BinaryIO, found: FoundInShard) -> None:
    sample: _Sample | None = None
    for member in scan(file, found.shard.num_bytes, found.shard.path):
        if member.fault is not None:
            found.leave_out(member.name, member.fault)
            continue
        name = split_name(member.name)
        if name is None:
            found.leave_out(member.name, "has no extension and belongs to no sample")
            continue
        key, extension = name
        if sample is None or key != sample.key or extension in sample.extensions:
            _end(sample, found)
            sample = _Sample(key)
        sample.extensions.add(extension)
        _take(member, extension, sample, found)
    _end(sample, found)


def _take(member: Member, extension: str, sample: _Sample, found: FoundInShard) -> None:
    """Read a member: the header of a recording, or a sidecar."""
    last = extension.rpartition(".")[2]
    if last in _RAW:
        sample.has_bad_audio = True
        found.leave_out(member.name, "is raw g722 without a header, unknown within a tar; encode it as flac")
    elif f".{last}" in AUDIO_EXTENSIONS:
        try:
            with member.open() as content:
                info = probe_source(f"{found.path}/{member.name}", content)
        except AudioError as error:
            reason = str(error).removeprefix(f"{found.path}/{member.name}: ")
            found.leave_out(member.name, reason)
            sample.has_bad_audio = True
        else:
            sample.audio.append((extension, member, info))
    elif extension == "json" or extension in TEXT_EXTENSIONS or extension == CLASS_EXTENSION:
        try:
            sample.columns = {**sample.columns, **_read_sidecar(member, extension)}
        except ValueError as error:
            found.leave_out(member.name, f"cannot be read ({error}); its recording is kept without it")


def _read_sidecar(member: Member, extension: str) -> dict[str, Any]:
    """Columns of a sidecar; raises `ValueError` for what is none."""
    if member.num_bytes > MAX_SIDECAR_BYTES:
        raise ValueError(f"{member.num_bytes} bytes are too many")
    with member.open() as content:
        text = content.read().decode("utf-8-sig")
    if extension == CLASS_EXTENSION:
        stripped = text.strip()
        return {"label": int(stripped) if stripped.lstrip("-").isdigit() else stripped}
    if extension != "json":
        return {"text": " ".join(text.split())} if text.strip() else {}
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("must be a JSON object")
    return {name: value for name, value in fields.items() if value is not None}


def _end(sample: _Sample | None, found: FoundInShard) -> None:
    """Make rows of a complete sample."""
    if sample is None:
        return
    if not sample.audio:
        if not sample.has_bad_audio:
            held = ", ".join(sorted(sample.extensions)) or "nothing"
            found.leave_out(sample.key, f"holds no audio, only {held}")
        return
    for extension, member, info in sample.audio:
        stem = extension.rpartition(".")[0]
        id = f"{sample.key}.{stem}" if stem else sample.key if len(sample.audio) == 1 else f"{sample.key}.{extension}"
        place = {"audio_filepath": f"{found.path}:{member.start}:{member.num_bytes}", "sample_rate": info.sample_rate}
        for fields in sample.columns.get("spans") or [sample.columns]:
            row = _row(id, fields, place, info, found, is_span="spans" in sample.columns)
            if row is not None:
                found.rows.append(row)


def _row(
    id: str, fields: dict[str, Any], place: dict[str, Any], info: AudioInfo, found: FoundInShard, *, is_span: bool
) -> dict[str, Any] | None:
    offset, num_samples = 0.0, info.num_samples
    try:
        if is_span:
            offset = float(fields["offset"])
            duration = float(fields["duration"])
            _, num_samples = locate_span(
                str(place["audio_filepath"]),
                offset,
                duration,
                num_samples=info.num_samples,
                sample_rate=info.sample_rate,
            )
    except (KeyError, TypeError, ValueError, RecordingError) as error:
        found.leave_out(str(fields.get("id", id)) if isinstance(fields, dict) else id, f"is no span: {error}")
        return None
    given = fields.get("id")
    known = {
        **place,
        "id": str(given) if isinstance(given, (str, int)) and str(given) else id,
        "num_samples": num_samples,
        "offset": offset,
        "duration": num_samples / info.sample_rate,
    }
    for name, value in fields.items():
        if name not in known and name not in _SKIPPED_FIELDS:
            known[name] = str(value) if CORE_TYPES.get(name) == STRING else value
    return known


def column_of(name: str, values: list[Any]) -> pa.Array:
    """A column; values of several kinds are kept as text."""
    if name in CORE_TYPES:
        return pa.array(values, CORE_TYPES[name])
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([as_text(value) for value in values], STRING)
    return array.cast(STRING) if pa.types.is_string(array.type) else array


def as_text(value: Any) -> str | None:
    """A value of any JSON type as text; text and null stay."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
