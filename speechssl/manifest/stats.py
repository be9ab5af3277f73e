"""What a manifest holds, in figures."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from speechssl.manifest.hashing import Hashes, count_distinct, hash_values, offsets_and_bytes
from speechssl.manifest.scan import map_ahead
from speechssl.manifest.table import Manifest

_NUM_BINS = 24
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_MAX_WAITING_ROWS = 1 << 20
_SPACES = np.isin(np.arange(256), list(b" \t\n\v\f\r"))


@dataclass(frozen=True, kw_only=True)
class ManifestStats:
    """Counts of a manifest; dictionaries are by value, the one with most hours first.

    `duration_percentiles` maps "0", "5", "25", "50", "75", "95", "100" to seconds; `histogram_edges` has one entry
    more than `histogram_counts`. Rows whose speaker or language is unknown are counted under "unknown".
    """

    num_utterances: int
    hours: float
    num_recordings: int
    num_speakers: int
    num_with_text: int
    num_words: int
    num_distinct_texts: int
    mean_seconds: float
    duration_percentiles: dict[str, float]
    sample_rates: dict[str, int]
    hours_by_language: dict[str, float]
    hours_by_speaker: dict[str, float]
    hours_by_split: dict[str, float]
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """All figures for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """The figures for people."""
        low, median, high = (self.duration_percentiles[name] for name in ("0", "50", "100"))
        lines = [
            f"{self.num_utterances} utterances in {self.num_recordings} recordings, {self.hours:.2f} hours",
            f"length {low:.2f} to {high:.2f} s, median {median:.2f}, mean {self.mean_seconds:.2f}",
            "sample rates " + ", ".join(f"{rate} Hz: {count}" for rate, count in self.sample_rates.items()),
            f"{self.num_speakers} speakers known",
            f"{self.num_with_text} with text, {self.num_words} words, {self.num_distinct_texts} different texts",
        ]
        for name, hours in (("language", self.hours_by_language), ("split", self.hours_by_split)):
            if list(hours) not in ([], ["unknown"]):
                lines.append(f"hours by {name}: " + ", ".join(f"{value} {time:.2f}" for value, time in hours.items()))
        return "\n".join(lines)


def manifest_stats(manifest: Manifest) -> ManifestStats:
    """Count a manifest, in batches of single columns; distinct recordings and texts are counted by their hashes."""
    durations = manifest.durations
    counts, edges = np.histogram(durations, bins=_NUM_BINS) if len(durations) else (np.zeros(1), np.zeros(2))
    mean = float(durations.mean()) if len(durations) else 0.0
    values = np.percentile(durations, _PERCENTILES, overwrite_input=True) if len(durations) else [0.0] * 7
    del durations
    texts = _count_texts(manifest)
    speakers = _hours_by(manifest, "speaker")
    rates = sorted(_sums_by(manifest, "sample_rate"), key=lambda row: -row["rows"])
    recordings = [hash_values(batch.column(0)) for batch in manifest.batches(["audio_filepath"])]
    return ManifestStats(
        num_utterances=len(manifest),
        hours=manifest.total_seconds / 3600,
        num_recordings=count_distinct(recordings),
        num_speakers=len(speakers.keys() - {"unknown"}),
        num_with_text=texts.num_known,
        num_words=texts.num_words,
        num_distinct_texts=texts.num_distinct,
        mean_seconds=mean,
        duration_percentiles={str(name): float(value) for name, value in zip(_PERCENTILES, values, strict=True)},
        sample_rates={str(row["sample_rate"]): row["rows"] for row in rates},
        hours_by_language=_hours_by(manifest, "language"),
        hours_by_speaker=speakers,
        hours_by_split=_hours_by(manifest, "split"),
        histogram_edges=tuple(float(edge) for edge in edges),
        histogram_counts=tuple(int(count) for count in counts),
    )


@dataclass(frozen=True, kw_only=True)
class _Texts:
    num_known: int = 0
    num_words: int = 0
    num_distinct: int = 0


def _count_texts(manifest: Manifest) -> _Texts:
    if "text" not in manifest.column_names:
        return _Texts()
    hashes = []
    num_words = 0
    for batch_hashes, batch_words in map_ahead(_examine_texts, manifest.batches(["text"])):
        hashes.append(batch_hashes)
        num_words += batch_words
    return _Texts(num_known=sum(map(len, hashes)), num_words=num_words, num_distinct=count_distinct(hashes))


def _examine_texts(batch: pa.RecordBatch) -> tuple[Hashes, int]:
    """Hashes of the texts that there are, and how many words these have."""
    texts = batch.column(0).drop_null()
    starts, data = offsets_and_bytes(texts)
    is_space = _SPACES[data]
    begins = ~is_space
    begins[1:] &= is_space[:-1]
    firsts = starts[:-1][
        np.diff(starts) > 0
    ]  # a text's first byte begins a word also where the text before has no space
    begins[firsts] = ~is_space[firsts]
    return hash_values(texts), int(np.count_nonzero(begins))


def _hours_by(manifest: Manifest, name: str) -> dict[str, float]:
    if name not in manifest.column_names:
        return {}
    hours = {
        "unknown" if row[name] is None else str(row[name]): row["duration"] / 3600 for row in _sums_by(manifest, name)
    }
    return dict(sorted(hours.items(), key=lambda item: (-item[1], item[0])))


def _sums_by(manifest: Manifest, name: str) -> list[dict[str, Any]]:
    """For every value of a column its `rows` and their `duration` in seconds."""
    waiting: list[pa.Table] = []
    for batch in manifest.batches([name, "duration"]):
        ones = np.ones(batch.num_rows, dtype=np.int64)
        waiting.append(_add_up(pa.table({name: batch[name], "duration": batch["duration"], "rows": ones}), name))
        if sum(map(len, waiting)) > _MAX_WAITING_ROWS:
            waiting = [_add_up(pa.concat_tables(waiting), name)]
    return _add_up(pa.concat_tables(waiting), name).to_pylist() if waiting else []


def _add_up(table: pa.Table, name: str) -> pa.Table:
    sums = table.group_by(name, use_threads=False).aggregate([("duration", "sum"), ("rows", "sum")])
    return pa.table({name: sums[name], "duration": sums["duration_sum"], "rows": sums["rows_sum"]})
