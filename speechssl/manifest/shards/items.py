"""What is packed: rows one by one, or with `copy` files, each with all the rows that are spans of it."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechssl.audio import RecordingError, UnreachableError
from speechssl.audio.recording import locate_span
from speechssl.errors import AudioError
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.shards.encode import AudioFormat, Stored, copy_recording, encode_span
from speechssl.manifest.shards.keys import make_key
from speechssl.manifest.shards.tar import BLOCK, padded
from speechssl.manifest.table import Manifest
from speechssl.types import Utterance


class Items:
    """The things to store, numbered in the order in which they are stored, and the manifest's rows of each."""

    def __init__(self, manifest: Manifest, *, by_file: bool, order: str, seed: int) -> None:
        self.manifest = manifest
        count = len(manifest)
        if by_file:
            codes = manifest.column("audio_filepath").cast(STRING).combine_chunks().dictionary_encode().indices
            file_of_row = codes.to_numpy().astype(np.int64)  # numbered by first appearance
            self._rows: npt.NDArray[np.int64] = np.argsort(file_of_row, kind="stable")
            self._starts = np.concatenate([[0], np.cumsum(np.bincount(file_of_row))])
        else:
            self._rows = np.arange(count)
            self._starts = np.arange(count + 1)
        num_items = len(self._starts) - 1
        self._order = np.arange(num_items)
        if order == "shuffled":
            self._order = np.random.default_rng(seed).permutation(num_items)

    def __len__(self) -> int:
        return len(self._order)

    def rows(self, number: int) -> list[int]:
        """Row numbers of item `number`, ascending."""
        item = self._order[number]
        return [int(row) for row in self._rows[self._starts[item] : self._starts[item + 1]]]


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """Rows that are not stored: `(row, id, audio_filepath, kind, reason)`."""

    rows: tuple[tuple[int, str, str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A recording's members, the first of which is the audio, and the rows that lie in it; `rejected` ones do not.

    `rows` holds `(row, num_samples, offset, duration)`.
    """

    members: tuple[tuple[str, bytes], ...]
    stored: Stored
    rows: tuple[tuple[int, int, float, float], ...]
    rejected: Rejected

    @property
    def num_bytes(self) -> int:
        """What the members take up in a tar."""
        return sum(BLOCK + padded(len(content)) for _, content in self.members)

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return self.stored.num_samples / self.stored.sample_rate


def pack(
    items: Items,
    number: int,
    *,
    audio_format: AudioFormat,
    sample_rate: int | None,
    opus_kilobits: float | None,
    decode_copies: bool,
) -> Packed | Rejected:
    """Read and encode an item; a recording that cannot be read is rejected with its rows, never raised.

    Raises:
        UnreachableError: the storage cannot be reached, which says nothing about the recording.
    """
    numbers = items.rows(number)
    utterances = [items.manifest[row] for row in numbers]
    try:
        if audio_format == "copy":
            stored = copy_recording(utterances[0].audio_filepath, decode=decode_copies)
        else:
            stored = encode_span(utterances[0], audio_format, sample_rate=sample_rate, opus_kilobits=opus_kilobits)
    except UnreachableError:
        raise
    except AudioError as error:
        pairs = zip(numbers, utterances, strict=True)
        return Rejected(rows=tuple(_rejection(row, utterance, error) for row, utterance in pairs))
    rows: list[tuple[int, int, float, float]] = []
    told: list[dict[str, Any]] = []
    rejected = []
    for row, utterance in zip(numbers, utterances, strict=True):
        try:
            span = _span(utterance, stored) if audio_format == "copy" else (stored.num_samples, 0.0)
        except RecordingError as error:
            rejected.append(_rejection(row, utterance, error))
            continue
        num_samples, offset = span
        duration = num_samples / stored.sample_rate
        rows.append((row, num_samples, offset, duration))
        told.append(_fields(utterance, stored, num_samples, offset, duration))
    if not rows:
        return Rejected(rows=tuple(rejected))
    members = _members(make_key(str(told[0]["id"])), stored, told)
    return Packed(members=members, stored=stored, rows=tuple(rows), rejected=Rejected(rows=tuple(rejected)))


def _span(utterance: Utterance, stored: Stored) -> tuple[int, float]:
    """Number of samples and offset of a row within a copied recording, checked."""
    _, num_samples = locate_span(
        utterance.audio_filepath,
        utterance.offset,
        utterance.duration if utterance.duration > 0 else None,
        num_samples=stored.num_samples,
        sample_rate=stored.sample_rate,
    )
    return num_samples, utterance.offset


def _fields(utterance: Utterance, stored: Stored, num_samples: int, offset: float, duration: float) -> dict[str, Any]:
    """All columns of a row but the path, as they are in the new manifest."""
    known = {"text": utterance.text, "speaker": utterance.speaker, "language": utterance.language}
    return {
        "id": utterance.id,
        "sample_rate": stored.sample_rate,
        "num_samples": num_samples,
        "offset": offset,
        "duration": duration,
        **{name: value for name, value in known.items() if value is not None},
        **utterance.extra,
    }


def _members(key: str, stored: Stored, rows: list[dict[str, Any]]) -> tuple[tuple[str, bytes], ...]:
    """Audio, JSON and text. Where rows are spans of the recording the JSON lists them as `spans`."""
    whole = len(rows) == 1 and rows[0]["offset"] == 0 and rows[0]["num_samples"] == stored.num_samples
    told: dict[str, Any] = rows[0] if whole else {"spans": rows}
    content = json.dumps(told, ensure_ascii=False, sort_keys=True, default=str).encode()
    members = [(f"{key}.{stored.extension}", stored.content), (f"{key}.json", content)]
    if whole and rows[0].get("text") is not None:
        members.append((f"{key}.txt", rows[0]["text"].encode()))
    return tuple(members)


def _rejection(row: int, utterance: Utterance, error: AudioError) -> tuple[int, str, str, str, str]:
    kind = error.kind if isinstance(error, RecordingError) else "unreadable"
    return row, utterance.id, utterance.audio_filepath, kind, str(error)


ROW_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("shard", pa.int32()),
        ("start", pa.int64()),
        ("num_bytes", pa.int64()),
        ("sample_rate", pa.int64()),
        ("num_samples", pa.int64()),
        ("offset", pa.float64()),
        ("duration", pa.float64()),
    ]
)
"""What is noted of every stored row: its number in the manifest, its place, and the facts of the stored recording."""
