"""What a manifest holds, in figures."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.manifest.table import Manifest

_NUM_BINS = 24


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
    """Count a manifest, by columns."""
    table = manifest.table
    durations = manifest.durations
    percentiles = (0, 5, 25, 50, 75, 95, 100)
    values = np.percentile(durations, percentiles) if len(durations) else np.zeros(len(percentiles))
    counts, edges = np.histogram(durations, bins=_NUM_BINS) if len(durations) else (np.zeros(1), np.zeros(2))
    texts = table["text"] if "text" in table.column_names else None
    rates = pc.value_counts(table["sample_rate"]).to_pylist()
    speakers = _hours_by(table, "speaker")
    return ManifestStats(
        num_utterances=len(manifest),
        hours=manifest.total_seconds / 3600,
        num_recordings=pc.count_distinct(table["audio_filepath"]).as_py(),
        num_speakers=len(speakers.keys() - {"unknown"}),
        num_with_text=0 if texts is None else len(texts) - texts.null_count,
        num_words=0 if texts is None else pc.sum(pc.count_substring_regex(texts, r"\S+")).as_py() or 0,
        num_distinct_texts=0 if texts is None else pc.count_distinct(texts).as_py(),
        mean_seconds=float(durations.mean()) if len(durations) else 0.0,
        duration_percentiles={str(name): float(value) for name, value in zip(percentiles, values, strict=True)},
        sample_rates={str(entry["values"]): entry["counts"] for entry in sorted(rates, key=lambda e: -e["counts"])},
        hours_by_language=_hours_by(table, "language"),
        hours_by_speaker=speakers,
        hours_by_split=_hours_by(table, "split"),
        histogram_edges=tuple(float(edge) for edge in edges),
        histogram_counts=tuple(int(count) for count in counts),
    )


def _hours_by(table: pa.Table, name: str) -> dict[str, float]:
    if name not in table.column_names:
        return {}
    groups = table.select([name, "duration"]).group_by(name).aggregate([("duration", "sum")])
    hours = {
        "unknown" if row[name] is None else str(row[name]): row["duration_sum"] / 3600 for row in groups.to_pylist()
    }
    return dict(sorted(hours.items(), key=lambda item: (-item[1], item[0])))
