"""Find everything that is wrong with a manifest and its recordings, at once and with line numbers."""

import hashlib
import json
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechssl import audio as audio_files
from speechssl.audio import SPAN_TOLERANCE_SECONDS, RecordingError
from speechssl.errors import ManifestError
from speechssl.files import writing
from speechssl.manifest import paths
from speechssl.manifest.complete import complete, make_ids
from speechssl.manifest.hashing import codes_of, first_rows, hash_values
from speechssl.manifest.jsonl import STRING, LineProblem, read_rows
from speechssl.manifest.loading import read_table
from speechssl.manifest.scan import map_in_threads
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress

KINDS = {
    "line": "the line is not UTF-8 or not JSON",
    "type": "a field is absent or of the wrong type",
    "missing": "there is no such recording",
    "unreadable": "the recording cannot be opened or decoded",
    "truncated": "the recording ends before its header or the manifest says",
    "empty": "the recording holds no samples",
    "too_short": "the recording is too short for one frame",
    "silent": "the recording holds nothing audible",
    "non_finite": "the recording holds NaN or infinity",
    "duration": "offset, duration, num_samples or sample_rate disagree with each other or with the recording",
    "duplicate_id": "the id occurs before",
    "duplicate_audio": "the same samples occur before",
}
"""All kinds of problems, in the order in which a report lists them."""

SILENT_PEAK = 1e-3
"""A recording that never leaves its mean by more (-60 dB of full scale) is silent."""

MIN_SECONDS = 0.025
"""What one frame of the encoder sees."""

_FILES_AT_ONCE = 2048


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: `line` counts from 1 (rows of a Parquet file likewise), `kind` is one of `KINDS`."""

    line: int
    id: str
    kind: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Fields for JSON."""
        return {"line": self.line, "id": self.id, "kind": self.kind, "message": self.message}


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """All problems of a manifest, by line. `num_rows` counts every line, `num_bad` those with a problem."""

    path: Path
    problems: tuple[Problem, ...]
    num_rows: int
    num_bad: int
    checked_audio: bool
    table: pa.Table = field(repr=False)
    lines: npt.NDArray[np.int64] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The whole report for JSON."""
        return {
            "manifest": str(self.path),
            "ok": self.ok,
            "checked_audio": self.checked_audio,
            "num_rows": self.num_rows,
            "num_bad": self.num_bad,
            "counts": self.counts(),
            "problems": [problem.to_dict() for problem in self.problems],
        }

    def counts(self) -> dict[str, int]:
        """Number of problems by kind."""
        counts = Counter(problem.kind for problem in self.problems)
        return {kind: counts[kind] for kind in KINDS if counts[kind]}

    def summary(self, *, max_problems: int = 50) -> str:
        """The problems, one a line, and how many rows have one."""
        shown = [f"{self.path}:{p.line}: {p.kind}: {p.message}" for p in self.problems[:max_problems]]
        if len(self.problems) > max_problems:
            shown.append(f"... and {len(self.problems) - max_problems} more problems")
        shown += [f"{count} {kind}: {KINDS[kind]}" for kind, count in self.counts().items()]
        what = "fields and recordings" if self.checked_audio else "fields (--audio also decodes the recordings)"
        shown.append(f"{self.path}: {self.num_bad} of {self.num_rows} rows have a problem; checked {what}")
        return "\n".join(shown)

    def write_quarantine(self, clean_path: str | os.PathLike[str], bad_path: str | os.PathLike[str]) -> tuple[int, int]:
        """Write the good rows as a manifest, and the bad ones as JSON Lines with a field `problems`.

        Of duplicates the first row stays among the good ones. A line that could not be read is kept as `raw`.

        Returns:
            How many rows went to each.
        """
        by_line: dict[int, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            by_line[problem.line].append(problem)
        good = ~np.isin(self.lines, np.fromiter(by_line, dtype=np.int64, count=len(by_line)))
        clean = self.table.filter(pa.array(good))
        Path(clean_path).parent.mkdir(parents=True, exist_ok=True)
        if clean.num_rows:
            Manifest(complete(clean, self.path), self.path.parent).save(clean_path)
        else:
            Path(clean_path).write_bytes(b"")
        bad = Path(bad_path)
        with writing(bad) as file:
            for line, row in self._bad_rows(by_line, bad.parent):
                found = [{"kind": p.kind, "message": p.message} for p in by_line[line]]
                file.write(json.dumps({"line": line, **row, "problems": found}, ensure_ascii=False) + "\n")
        return clean.num_rows, len(by_line)

    def _bad_rows(self, by_line: dict[int, list[Problem]], folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        rows: dict[int, dict[str, Any]] = {}
        positions = np.flatnonzero(np.isin(self.lines, np.fromiter(by_line, dtype=np.int64, count=len(by_line))))
        table = self.table.take(pa.array(positions))
        if table.num_rows:
            moved = paths.rebase(pc.fill_null(table["audio_filepath"], ""), self.path.parent, folder)
            table = table.set_column(table.column_names.index("audio_filepath"), "audio_filepath", moved)
            for position, row in zip(positions.tolist(), table.to_pylist(), strict=True):
                rows[int(self.lines[position])] = {name: value for name, value in row.items() if value is not None}
        unread = set(by_line) - set(rows)
        if unread and self.path.suffix.lower() != ".parquet":
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    if number in unread:
                        rows[number] = {"raw": line.decode("utf-8", errors="backslashreplace").rstrip("\r\n")}
        for number in sorted(rows):
            yield number, rows[number]


def require_valid(*paths: str | os.PathLike[str]) -> None:
    """Check manifests without decoding audio, as a run does before it starts.

    Raises:
        ManifestError: the first problem of the first manifest that has any.
    """
    for path in paths:
        report = validate_manifest(path)
        if report.problems:
            first = report.problems[0]
            raise ManifestError(
                f"{path}: {len(report.problems)} problems, the first is {first.id}: {first.message}; see"
                f" `speechssl manifest validate {path}`"
            )


def validate_manifest(
    path: str | os.PathLike[str],
    *,
    audio: bool = False,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Check a manifest; with `audio` every recording is decoded as well, in threads.

    Without `audio`: lines, types, fields that contradict each other, duplicate ids, recordings that are not there.

    Raises:
        ManifestError: there is no such manifest, or it has no rows at all.
    """
    path = Path(path)
    table, lines, line_problems = _read(path)
    problems = [
        Problem(line=p.line, id=str(p.row.get("id", "")), kind=p.kind, message=p.message) for p in line_problems
    ]
    num_rows = len(lines) + len({p.line for p in line_problems})
    if num_rows == 0:
        raise ManifestError(f"{path}: holds no utterance; build it again with `speechssl manifest build`")
    if len(lines):
        rows = _Rows(table, lines, path.parent)
        problems += _check_fields(rows)
        problems += _check_ids(rows)
        problems += _check_audio(rows, num_workers, progress) if audio else _check_files(rows, num_workers, progress)
    order = list(KINDS)
    problems.sort(key=lambda problem: (problem.line, order.index(problem.kind)))
    return ValidationReport(
        path=path,
        problems=tuple(problems),
        num_rows=num_rows,
        num_bad=len({problem.line for problem in problems}),
        checked_audio=audio,
        table=table,
        lines=lines,
    )


class _Rows:
    """The readable rows of a manifest as columns; numbers absent are NaN."""

    def __init__(self, table: pa.Table, lines: npt.NDArray[np.int64], folder: Path) -> None:
        self.lines = lines
        self.folder = folder
        self.offset = np.nan_to_num(_numbers(table, "offset"), nan=0.0)
        self.duration = _numbers(table, "duration")
        self.sample_rate = _numbers(table, "sample_rate")
        self.num_samples = _numbers(table, "num_samples")
        self.ids = make_ids(table, self.offset)
        self.paths = pc.fill_null(table["audio_filepath"].cast(STRING), "").combine_chunks()
        self.file = codes_of(hash_values(self.paths))  # number of each row's file
        self.rows_of_file = np.bincount(self.file)

    def files(self) -> Iterator[list[str]]:
        """The files by number, some thousand at a time, ready to open; empty where a row has no path."""
        distinct = self.paths.take(pa.array(first_rows(self.file)))
        for start in range(0, len(distinct), _FILES_AT_ONCE):
            yield [self._resolve(path) for path in distinct.slice(start, _FILES_AT_ONCE).to_pylist()]

    def path(self, row: int) -> str:
        """The row's file, ready to open."""
        return self._resolve(self.paths[row].as_py())

    def _resolve(self, path: str) -> str:
        return paths.resolve(path, self.folder) if path else ""

    def problem(self, row: int, kind: str, message: str) -> Problem:
        return Problem(line=int(self.lines[row]), id=str(self.ids[row].as_py() or ""), kind=kind, message=message)


def _read(path: Path) -> tuple[pa.Table, npt.NDArray[np.int64], list[LineProblem]]:
    """The table, the line number of each row, and the lines that are no rows."""
    if path.suffix.lower() == ".parquet":
        table = read_table(path)
        return table, np.arange(1, len(table) + 1), []
    try:
        table = read_table(path)
    except ManifestError:
        if not path.is_file() or path.suffix.lower() not in (".jsonl", ".json") or not os.access(path, os.R_OK):
            raise
    else:
        if _num_lines(path) == len(table) and table["audio_filepath"].null_count == 0:
            return table, np.arange(1, len(table) + 1), []
    return read_rows(path)


def _num_lines(path: Path) -> int:
    count = 0
    last = b"\n"
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            count += chunk.count(b"\n")
            last = chunk[-1:]
    return count + (last != b"\n")


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return np.array(table[name].cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _check_fields(rows: _Rows) -> list[Problem]:
    """Numbers that cannot be, or contradict each other."""
    problems = []

    def report(bad: npt.NDArray[np.bool_], message: str, values: npt.NDArray[np.float64]) -> None:
        for row in np.flatnonzero(bad).tolist():
            problems.append(rows.problem(row, "duration", message.format(values[row])))

    with np.errstate(invalid="ignore"):
        known = ~np.isnan(rows.duration)
        impossible = known & ~((rows.duration > 0) & np.isfinite(rows.duration))
        report(impossible, "duration must be above 0 seconds, is {:g}", rows.duration)
        report(~((rows.offset >= 0) & np.isfinite(rows.offset)), "offset must be at least 0, is {:g}", rows.offset)
        has_rate = ~np.isnan(rows.sample_rate)
        report(has_rate & ~(rows.sample_rate > 0), "sample_rate must be above 0 Hz, is {:g}", rows.sample_rate)
        counted = rows.num_samples / rows.sample_rate
        differs = np.abs(counted - rows.duration) > SPAN_TOLERANCE_SECONDS
        report(
            known & ~impossible & (rows.sample_rate > 0) & differs,
            "num_samples at sample_rate make {:.3f} s, which is not the duration",
            counted,
        )
    for row in np.flatnonzero(pc.equal(rows.paths, "").to_numpy(zero_copy_only=False)).tolist():
        problems.append(rows.problem(row, "type", "audio_filepath is missing; it must be the path of a recording"))
    return problems


def _check_ids(rows: _Rows) -> list[Problem]:
    codes = codes_of(hash_values(rows.ids))
    first = first_rows(codes)[codes]
    repeated = np.flatnonzero(first != np.arange(len(codes)))
    same = pc.equal(rows.ids.take(pa.array(repeated)), rows.ids.take(pa.array(first[repeated])))
    return [
        rows.problem(row, "duplicate_id", f"the id {rows.ids[row].as_py()!r} is also on line {rows.lines[first[row]]}")
        for row in repeated[same.to_numpy().astype(bool)].tolist()
    ]


def _check_files(rows: _Rows, num_workers: int | None, progress: Progress | None) -> list[Problem]:
    """Only whether each recording is there and may be read."""
    num_files = len(rows.rows_of_file)
    faults: dict[int, tuple[str, str]] = {}
    done = 0
    for found, count in map_in_threads(_find_faults, rows.files(), num_items=num_files, num_workers=num_workers):
        faults |= {done + place: fault for place, fault in found.items()}
        done += count
        if progress is not None:
            progress(done, num_files)
    affected = np.flatnonzero(np.isin(rows.file, np.fromiter(faults, dtype=np.int64, count=len(faults))))
    return [rows.problem(row, *faults[int(rows.file[row])]) for row in affected.tolist()]


def _find_faults(files: Sequence[str]) -> tuple[dict[int, tuple[str, str]], int]:
    """What can be seen to be wrong with files from outside, by place; and how many files these are."""
    faults: dict[int, tuple[str, str]] = {}
    for place, path in enumerate(files):
        if not path or audio_files.is_url(path) or _is_readable(path):
            continue
        try:
            audio_files.check_openable(path)  # says what it is; knows members of archives
        except RecordingError as error:
            faults[place] = (error.kind, str(error))
    return faults, len(files)


def _is_readable(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0 and os.access(path, os.R_OK)


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    faults: tuple[tuple[str, str], ...] = ()
    digest: bytes | None = None


def _check_audio(rows: _Rows, num_workers: int | None, progress: Progress | None) -> list[Problem]:
    """Decode every row's span; compare with the fields, and with each other."""

    def decode(row: int) -> _Decoded:
        return _decode_row(rows, row)

    problems = []
    first_with: dict[bytes, int] = {}
    num_rows = len(rows.lines)
    results = map_in_threads(decode, range(num_rows), num_items=num_rows, num_workers=num_workers, progress=progress)
    for row, decoded in enumerate(results):
        problems += [rows.problem(row, kind, message) for kind, message in decoded.faults]
        if decoded.digest is None:
            continue
        first = first_with.setdefault(decoded.digest, row)
        if first != row:
            message = f"has the same samples as line {rows.lines[first]} ({rows.ids[first].as_py()})"
            problems.append(rows.problem(row, "duplicate_audio", message))
    return problems


def _decode_row(rows: _Rows, row: int) -> _Decoded:
    path = rows.path(row)
    if not path:
        return _Decoded()
    offset, duration = float(rows.offset[row]), float(rows.duration[row])
    whole = rows.rows_of_file[rows.file[row]] == 1 and offset == 0  # else the row is a span of a longer recording
    faults: list[tuple[str, str]] = []
    try:
        info = audio_files.probe(path)
        usable = not whole and duration > 0 and np.isfinite(duration) and offset >= 0
        waveform = audio_files.read(path, offset=offset if usable else 0.0, duration=duration if usable else None)
    except RecordingError as error:
        kind = "duration" if error.kind == "span" else error.kind
        return _Decoded(faults=((kind, str(error)),))
    found = len(waveform) / info.sample_rate
    if whole and np.isfinite(duration) and abs(found - duration) > SPAN_TOLERANCE_SECONDS:
        kind = "truncated" if found < duration else "duration"
        faults.append((kind, f"{path}: holds {found:.3f} s, but the manifest says {duration:.3f} s"))
    if rows.sample_rate[row] > 0 and int(rows.sample_rate[row]) != info.sample_rate:
        message = f"{path}: is at {info.sample_rate} Hz, but the manifest says {int(rows.sample_rate[row])} Hz"
        faults.append(("duration", message))
    if found < MIN_SECONDS:
        message = f"{path}: {len(waveform)} samples ({found * 1000:.1f} ms), need {MIN_SECONDS * 1000:g} ms"
        faults.append(("too_short", message))
    elif float(np.abs(waveform - waveform.mean()).max()) < SILENT_PEAK:
        peak = float(np.abs(waveform).max())
        return _Decoded(faults=(*faults, ("silent", f"{path}: nothing audible, its peak is {peak:.1e} of full scale")))
    digest = hashlib.blake2b(waveform.tobytes(), digest_size=16).digest()
    return _Decoded(faults=tuple(faults), digest=digest)
