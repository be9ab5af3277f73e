"""Which spans share audio: by columns, by equal samples, by fingerprint and waveform.

Shapes: N spans, P matches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt

from speechssl import audio
from speechssl.audio import Waveform
from speechssl.manifest.audit.fingerprint import SAMPLE_RATE
from speechssl.manifest.audit.matching import Candidate, find_candidates
from speechssl.manifest.audit.measures import FLOOR_DB
from speechssl.manifest.audit.rows import Integers, Overlaps, Rows
from speechssl.manifest.audit.store import Scanned
from speechssl.manifest.audit.waveforms import Agreement, compare, speech_band
from speechssl.manifest.scan import map_in_threads
from speechssl.progress import Progress, StepProgress

HOW = {
    "span": "the same span of the same file",
    "overlap": "cuts of one file that overlap, as their offsets say",
    "samples": "equal samples",
    "content": "the same recording by its waveform, whatever codec, rate or level",
}
"""How a match was found."""

_WAVEFORMS_KEPT = 64
_FIRSTS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Pairs of spans that share audio, each `[P]`: `how` is a place in `HOW`; `score` the waveforms' correlation;
    `bit_errors` the fingerprints' (0 where samples are equal); the shared audio begins `start` seconds into the first
    span, and `offset` seconds later in the first than in the second; `seconds` is its length.
    """

    first: Integers
    second: Integers
    how: Integers
    score: npt.NDArray[np.float64]
    bit_errors: npt.NDArray[np.float64]
    start: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)


def match_columns(overlaps: Overlaps) -> Matches:
    """What offsets and durations tell."""
    count = len(overlaps.first)
    return Matches(
        first=overlaps.first,
        second=overlaps.second,
        how=np.full(count, list(HOW).index("overlap")),
        score=np.ones(count),
        bit_errors=np.zeros(count),
        start=overlaps.offset,
        offset=overlaps.offset,
        seconds=overlaps.seconds,
    )


def group_equal(scanned: Scanned) -> Integers:
    """A number for every span, the same for those of equal samples; spans that are silent or unread stand alone."""
    keys = scanned.digest.copy()
    alone = np.flatnonzero(~(scanned.measure("level_dbfs") > FLOOR_DB))
    keys[alone] = np.arange(len(alone), dtype=np.uint64)  # a digest below that is one in 2^64 / N
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def match_content(
    rows: Rows,
    scanned: Scanned,
    group_of: Integers,
    *,
    min_seconds: float,
    num_workers: int | None = None,
    progress: StepProgress | None = None,
) -> tuple[Matches, int]:
    """Pairs of spans with the same recording in them, and how many pairs the fingerprints proposed.

    One span stands for all of equal samples. Spans of one file are not compared: their columns tell.
    """
    one = np.zeros(rows.num_spans, dtype=bool)
    one[np.unique(group_of, return_index=True)[1]] = True
    frames = _without(scanned, one)
    step = _step(progress, "matching fingerprints")
    candidates = find_candidates(frames, scanned.starts, rows.file_of, progress=step)
    step = _step(progress, "comparing waveforms")
    found = _confirm(rows, candidates, num_workers, step)
    kept = [(c, a) for c, a in found if a.is_same and a.overlap_seconds >= _least(rows, c, min_seconds)]
    return _as_matches(kept), len(candidates)


def _without(scanned: Scanned, kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """The frames, with those of spans that are not kept set to 0 in place: the file is a scratch file."""
    for span in np.flatnonzero(~kept).tolist():
        scanned.frames[scanned.starts[span] : scanned.starts[span + 1]] = 0
    return scanned.frames


def _least(rows: Rows, candidate: Candidate, min_seconds: float) -> float:
    shorter = min(rows.duration[rows.first_row[[candidate.first, candidate.second]]].tolist())
    return float(min(min_seconds, 0.8 * shorter))


def _confirm(
    rows: Rows, candidates: Sequence[Candidate], num_workers: int | None, progress: Progress | None
) -> list[tuple[Candidate, Agreement]]:
    """Compare the waveforms of every candidate; both of its recordings are read again for that."""

    @lru_cache(_WAVEFORMS_KEPT)
    def band(span: int) -> Waveform:
        utterance = rows.utterance(int(rows.first_row[span]))
        return speech_band(audio.read_utterance(utterance, SAMPLE_RATE))

    def confirm(several: list[Candidate]) -> list[tuple[Candidate, Agreement]]:
        first = band(several[0].first)
        return [(candidate, compare(first, band(candidate.second), candidate)) for candidate in several]

    by_first = [list(group) for _, group in groupby(candidates, key=lambda candidate: candidate.first)]
    done = 0
    confirmed: list[tuple[Candidate, Agreement]] = []
    for start in range(0, len(by_first), _FIRSTS_AT_ONCE):
        part = by_first[start : start + _FIRSTS_AT_ONCE]
        for found in map_in_threads(confirm, part, num_items=len(part), num_workers=num_workers):
            confirmed += found
            done += len(found)
            if progress is not None:
                progress(done, len(candidates))
    return confirmed


def _as_matches(found: Sequence[tuple[Candidate, Agreement]]) -> Matches:
    count = len(found)

    def numbers(values: list[float]) -> npt.NDArray[np.float64]:
        return np.array(values, dtype=np.float64)

    return Matches(
        first=np.array([candidate.first for candidate, _ in found], dtype=np.int64),
        second=np.array([candidate.second for candidate, _ in found], dtype=np.int64),
        how=np.full(count, list(HOW).index("content")),
        score=numbers([agreement.score for _, agreement in found]),
        bit_errors=numbers([candidate.bit_errors for candidate, _ in found]),
        start=numbers([agreement.start_seconds for _, agreement in found]),
        offset=numbers([agreement.offset_seconds for _, agreement in found]),
        seconds=numbers([agreement.overlap_seconds for _, agreement in found]),
    )


def join(*parts: Matches) -> Matches:
    """Several kinds of matches as one."""
    names = ("first", "second", "how", "score", "bit_errors", "start", "offset", "seconds")
    return Matches(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _step(progress: StepProgress | None, name: str) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)
