"""Units of recordings as files, and the counts that scores are made of.

`units.tsv` has a line an utterance: its id, its units with repeats merged, and how many frames each lasts, so the
second column alone is a text of units. `units.parquet` has the unit of every frame.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from speechssl.alignments import Alignments, frame_labels
from speechssl.errors import AudioError
from speechssl.files import replacing
from speechssl.frames import FrameSource
from speechssl.manifest import Manifest
from speechssl.progress import Progress
from speechssl.types import Utterance
from speechssl.units.kmeans import nearest
from speechssl.units.model import UnitModel

TEXT_NAME = "units.tsv"
TABLE_NAME = "units.parquet"
METADATA_KEY = b"speechssl"
_ROWS = 256  # utterances encoded before their units are written in the manifest's order

Labels = Callable[[str, NDArray[np.float64]], NDArray[np.str_]]  # id, times [T] -> a label or "" for every frame


@dataclass
class Tally:
    """Counts over all frames: of labels with units for each seed, of the seeds' units with each other, of the units."""

    num_units: int
    num_seeds: int
    used: NDArray[np.int64] = field(init=False)
    labels: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # label -> [seeds, K]
    pairs: dict[tuple[int, int], NDArray[np.int64]] = field(init=False)
    num_utterances: int = 0
    num_frames: int = 0
    num_runs: int = 0
    num_unlabelled: int = 0

    def __post_init__(self) -> None:
        """Begin with nothing counted."""
        size = self.num_units
        self.used = np.zeros(size, dtype=np.int64)
        self.pairs = {pair: np.zeros((size, size), np.int64) for pair in combinations(range(self.num_seeds), 2)}

    def add(self, units: Sequence[NDArray[np.int64]], labels: NDArray[np.str_] | None) -> None:
        """Count an utterance: its units `[T]` of every seed, and its frames' labels."""
        self.num_utterances += 1
        self.num_frames += len(units[0])
        self.num_runs += len(run_lengths(units[0])[0])
        self.used += np.bincount(units[0], minlength=self.num_units)
        for (first, second), table in self.pairs.items():
            np.add.at(table, (units[first], units[second]), 1)
        if labels is None:
            return
        self.num_unlabelled += int((labels == "").sum())
        for label in set(labels.tolist()) - {""}:
            mine = labels == label
            counts = np.stack([np.bincount(row[mine], minlength=self.num_units) for row in units])
            self.labels[label] = self.labels.get(label, np.zeros_like(counts)) + counts


def run_lengths(units: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Units `[T]` -> units with repeats merged, and how many frames each lasts."""
    if not len(units):
        return units, units
    starts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    return units[starts], np.diff(np.append(starts, len(units)))


def column_labels(manifest: Manifest, name: str) -> Labels:
    """Every frame of an utterance has its value of a column."""
    values = zip(manifest.column("id").to_pylist(), manifest.column(name).to_pylist(), strict=True)
    found = {key: "" if value is None else str(value) for key, value in values}
    return lambda utterance_id, times: np.full(len(times), found[utterance_id])


def aligned_labels(alignments: Alignments) -> Labels:
    """Frames have the labels of an alignment; utterances that it does not hold have none."""
    return lambda utterance_id, times: frame_labels(alignments.get(utterance_id, ()), times)


def write_manifest_units(
    manifest: Manifest,
    source: FrameSource,
    model: UnitModel,
    folder: Path,
    *,
    labels: Labels | None,
    progress: Progress,
    skipped: dict[str, str],
) -> Tally:
    """Write the units of every usable recording in the manifest's order, and count.

    Raises:
        AudioError: not one recording can be used.
    """
    tally = Tally(num_units=len(model.states[0].counts), num_seeds=len(model.states))
    schema = pa.schema([("id", pa.string()), ("units", pa.list_(pa.int32()))])
    stored = {METADATA_KEY: json.dumps(dict(model.facts)).encode()}
    with replacing(folder / TEXT_NAME) as text_path, replacing(folder / TABLE_NAME) as table_path:
        with (
            text_path.open("w", encoding="utf-8") as text,
            pq.ParquetWriter(table_path, schema.with_metadata(stored), compression="zstd") as table,
        ):
            text.write("id\tunits\tlengths\n")
            for rows in _groups(len(manifest)):
                progress(int(rows[0]), len(manifest))
                ids, units = _encode(manifest.take(rows), source, model, labels, tally, skipped)
                for name, found in zip(ids, units, strict=True):
                    merged, lengths = (" ".join(map(str, part.tolist())) for part in run_lengths(found))
                    text.write(f"{name}\t{merged}\t{lengths}\n")
                arrays = [
                    pa.array(ids, pa.string()),
                    pa.array([found.astype(np.int32) for found in units], schema[1].type),
                ]
                table.write_batch(pa.record_batch(arrays, schema=schema))
        if tally.num_utterances == 0:
            raise AudioError(
                f"none of the {len(skipped)} recordings can be used; the first: {next(iter(skipped.values()), '')}"
            )
    return tally


def _groups(count: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, count, _ROWS):
        yield np.arange(first, min(first + _ROWS, count))


def _encode(
    rows: Manifest,
    source: FrameSource,
    model: UnitModel,
    labels: Labels | None,
    tally: Tally,
    skipped: dict[str, str],
) -> tuple[list[str], list[NDArray[np.int64]]]:
    """Ids and the first seed's units `[T]` of the usable rows."""

    def failed(utterance: Utterance, error: AudioError) -> None:
        skipped.setdefault(utterance.id, str(error))

    found: dict[str, NDArray[np.int64]] = {}
    for name, frames in source.stream(rows, on_error=failed):
        units = [nearest(frames[0], state.centers) for state in model.states]
        tally.add(units, None if labels is None else labels(name, source.times(len(units[0]))))
        found[name] = units[0]
    ids = [name for name in rows.column("id").to_pylist() if name in found]
    return ids, [found[name] for name in ids]
