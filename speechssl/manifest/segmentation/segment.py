"""Cut the long recordings of a manifest into clips: rows with an offset and a duration, no copies of audio."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl.audio import UnreachableError, Waveform, read_blocks, read_sample_rate
from speechssl.errors import AudioError, ManifestError
from speechssl.lengths import seconds_to_samples
from speechssl.manifest.jsonl import STRING
from speechssl.manifest.scan import map_in_threads
from speechssl.manifest.segmentation.activity import ModelPool, find_activity
from speechssl.manifest.segmentation.clips import ClipLengths, make_clips
from speechssl.manifest.segmentation.journal import Finished, Journal
from speechssl.manifest.segmentation.rows import Rows, clip_rows, has_column
from speechssl.manifest.segmentation.settings import SegmentConfig
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress

EDGE_SEARCH_SECONDS = 0.2
"""How far beyond the padding a clip's end may move to a quieter place."""


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """The clips, and where all of the audio went.

    `dropped_seconds` has `silence` (nothing heard), `too_short` (below the shortest clip) and `unreadable`; with
    `kept_seconds` they add up to `total_seconds`. `num_whole` labelled rows were short enough and stayed as they were.
    `unreadable` are the rows that could not be read, with the reason in their column `problem`.
    """

    manifest: Manifest
    unreadable: Manifest
    num_rows: int
    num_whole: int
    total_seconds: float
    kept_seconds: float
    dropped_seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Counts for JSON."""
        problems = zip(self.unreadable.column("id").to_pylist(), self._problems(), strict=True)
        return {
            "num_rows": self.num_rows,
            "num_clips": len(self.manifest),
            "num_whole": self.num_whole,
            "total_seconds": self.total_seconds,
            "kept_seconds": self.kept_seconds,
            "dropped_seconds": self.dropped_seconds,
            "unreadable": [{"id": name, "problem": problem} for name, problem in problems],
        }

    def summary(self) -> str:
        """A few lines for people."""
        durations = self.manifest.durations
        lines = [
            f"{len(self.manifest)} clips of {self.num_rows} rows, {self.kept_seconds / 3600:.2f} of"
            f" {self.total_seconds / 3600:.2f} hours; {durations.min():.1f} to {durations.max():.1f} s long, median"
            f" {np.median(durations):.1f} s"
        ]
        names = {"silence": "silence", "too_short": "in clips too short", "unreadable": "unreadable"}
        for reason, seconds in self.dropped_seconds.items():
            if seconds > 0:
                share = seconds / self.total_seconds
                lines.append(f"left out {seconds:.1f} s ({share:.1%}): {names[reason]}")
        if self.num_whole:
            lines.append(f"{self.num_whole} labelled rows were short enough and stay as they were")
        by_reason = Counter(problem.split(": ", 1)[-1].split(";")[0] for problem in self._problems())
        lines += [f"{count} unreadable: {reason}" for reason, count in by_reason.most_common(12)]
        return "\n".join(lines)

    def _problems(self) -> list[str]:
        return list(self.unreadable.column("problem").to_pylist())


def segment_manifest(
    manifest: Manifest,
    config: SegmentConfig | None = None,
    *,
    journal: str | os.PathLike[str] | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> SegmentResult:
    """Cut every row into clips from `min_seconds` to `max_seconds` that lie within it and do not overlap.

    A clip's id is its row's with `@` and the milliseconds at which it starts in the file. Its column `recording` names
    the file by the id of the first row of it, so that `split --by recording` keeps the clips of a recording together.
    A row's text cannot be divided: labelled rows up to `max_seconds` stay as they are, longer ones are refused unless
    `drop_text`. A row that cannot be read is set aside.

    Recordings are decoded once, in blocks, in threads. With `journal`, a file, finished rows are noted there and a
    second call with the same manifest and settings goes on; the caller removes it when the result is saved.

    Args:
        manifest: Rows to cut.
        config: How; the defaults of `SegmentConfig` when None.
        journal: Where finished rows are noted.
        num_workers: Threads; as many as there are processors when None.
        progress: Called with (seconds of audio done, seconds altogether).

    Raises:
        ManifestError: labelled rows are too long, the journal is of another job, or no clip is left.
        AudioError: the storage cannot be reached; a recording that cannot be read raises nothing.
        ConfigError: silero-vad is asked for but not installed.
    """
    config = config or SegmentConfig()
    whole = _rows_to_keep(manifest, config)
    to_cut = np.setdiff1d(np.arange(len(manifest)), whole)
    job = {"manifest": manifest.fingerprint() if journal is not None else "", "settings": asdict(config)}
    notes = Journal(journal, job)
    cutter = _Cutter(manifest, config, notes, progress)
    try:
        remaining = to_cut[~np.isin(to_cut, np.fromiter(notes.finished, dtype=np.int64, count=len(notes.finished)))]
        durations = manifest.durations
        cutter.start(float(durations[to_cut].sum()), float(durations[remaining].sum()))
        for finished in map_in_threads(
            cutter.cut, remaining.tolist(), num_items=len(remaining), num_workers=num_workers
        ):
            notes.finished.setdefault(finished.row, finished)
    finally:
        notes.close()
    return _result(manifest, whole, [notes.finished[int(row)] for row in to_cut])


class _Cutter:
    """Cuts single rows; called from several threads."""

    def __init__(self, manifest: Manifest, config: SegmentConfig, notes: Journal, progress: Progress | None) -> None:
        self._manifest = manifest
        self._config = config
        self._notes = notes
        self._progress = progress
        self._models = ModelPool()
        self._lock = threading.Lock()
        self._done = self._total = 0.0

    def start(self, total_seconds: float, remaining_seconds: float) -> None:
        """How much there is, and how much of it is not done already."""
        self._total = total_seconds
        self._advance(total_seconds - remaining_seconds)

    def cut(self, row: int) -> Finished:
        utterance = self._manifest[row]
        path = utterance.audio_filepath
        try:
            rate = read_sample_rate(path)
            blocks = self._watched(read_blocks(path, offset=utterance.offset, duration=utterance.duration), rate)
            activity = find_activity(blocks, sample_rate=rate, config=self._config, models=self._models)
        except UnreachableError:
            raise
        except AudioError as error:
            finished = Finished(
                row=row, sample_rate=utterance.sample_rate, num_samples=utterance.num_samples, problem=str(error)
            )
        else:
            clips = make_clips(activity, _lengths(self._config, rate))
            first = seconds_to_samples(utterance.offset, rate)
            finished = Finished(
                row=row,
                sample_rate=rate,
                num_samples=activity.num_samples,
                clips=np.stack([clips.kept[:, 0] + first, clips.kept[:, 1] - clips.kept[:, 0]], axis=1),
                too_short_samples=int((clips.too_short[:, 1] - clips.too_short[:, 0]).sum()),
            )
        self._notes.add(finished)
        return finished

    def _watched(self, blocks: Iterator[Waveform], rate: int) -> Iterator[Waveform]:
        for block in blocks:
            yield block
            self._advance(len(block) / rate)

    def _advance(self, seconds: float) -> None:
        with self._lock:
            self._done = min(self._total, self._done + seconds)
            if self._progress is not None:
                self._progress(round(self._done), round(self._total))


def _lengths(config: SegmentConfig, sample_rate: int) -> ClipLengths:
    return ClipLengths(
        shortest=seconds_to_samples(config.min_seconds, sample_rate),
        longest=seconds_to_samples(config.max_seconds, sample_rate),
        padding=seconds_to_samples(config.padding_seconds, sample_rate),
        search=seconds_to_samples(EDGE_SEARCH_SECONDS, sample_rate),
        pause=seconds_to_samples(config.max_pause_seconds, sample_rate),
    )


def _rows_to_keep(manifest: Manifest, config: SegmentConfig) -> Rows:
    """Labelled rows that are short enough; refuses longer ones."""
    if config.drop_text or not has_column(manifest, "text"):
        return np.zeros(0, dtype=np.int64)
    labelled = pc.fill_null(pc.not_equal(manifest.column("text"), ""), False).to_numpy()
    too_long = np.flatnonzero(labelled & (manifest.durations > config.max_seconds))
    if len(too_long):
        name = manifest.column("id")[int(too_long[0])].as_py()
        raise ManifestError(
            f"{len(too_long)} labelled rows are longer than {config.max_seconds:g} s, the first is {name!r}; a text"
            " cannot be divided with its audio: give --drop_text to cut them without their texts, or leave them out"
        )
    return np.flatnonzero(labelled)


def _result(manifest: Manifest, whole: Rows, finished: Sequence[Finished]) -> SegmentResult:
    counts = np.array([len(row.clips) for row in finished], dtype=np.int64)
    parents = np.repeat(np.array([row.row for row in finished], dtype=np.int64), counts)
    rates = np.repeat(np.array([row.sample_rate for row in finished], dtype=np.int64), counts)
    spans = np.concatenate([np.zeros((0, 2), dtype=np.int64), *(row.clips for row in finished)])
    bad = [row for row in finished if row.problem is not None]
    whole_seconds = float(manifest.durations[whole].sum())
    kept = whole_seconds + float((spans[:, 1] / rates).sum())
    heard = sum(row.num_samples / row.sample_rate for row in finished if row.problem is None)
    dropped = {
        "silence": 0.0,
        "too_short": sum(row.too_short_samples / row.sample_rate for row in finished),
        "unreadable": float(manifest.durations[[row.row for row in bad]].sum()) if bad else 0.0,
    }
    dropped["silence"] = max(0.0, whole_seconds + heard - kept - dropped["too_short"])
    unreadable = manifest.take([row.row for row in bad])
    unreadable = unreadable.with_column("problem", pa.array([row.problem for row in bad], STRING))
    if len(parents) + len(whole) == 0:
        reason = f"the first reason: {bad[0].problem}" if bad else "lower --min_seconds, or raise --top_db"
        raise ManifestError(f"no clip is left of {len(manifest)} rows, {len(bad)} of them unreadable; {reason}")
    return SegmentResult(
        manifest=clip_rows(manifest, parents=parents, rates=rates, spans=spans, whole=whole),
        unreadable=unreadable,
        num_rows=len(manifest),
        num_whole=len(whole),
        total_seconds=whole_seconds + heard + dropped["unreadable"],
        kept_seconds=kept,
        dropped_seconds=dropped,
    )
