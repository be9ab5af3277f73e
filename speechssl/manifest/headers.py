"""Read the headers of many recordings, in processes side by side, or from the journal of an earlier build."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import wait

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechssl import audio
from speechssl.audio.location import is_url
from speechssl.audio.recording import UnreachableError
from speechssl.errors import AudioError
from speechssl.manifest.header_journal import Files, HeaderJournal, Numbers
from speechssl.manifest.scan import default_num_workers, map_in_threads, try_probe
from speechssl.progress import Progress

_CHUNK = 128
_FEW = 256  # not worth the start of processes

Chunk = Sequence[str]
Probed = tuple[Numbers, Numbers, dict[int, AudioError]]
"""Sample rates and numbers of samples, 0 where there is a problem, and the problems by position."""


@dataclass(kw_only=True)
class Headers:
    """What the recordings' headers say, by position: Hz, samples a channel, and why a recording cannot be used.

    Where there is a problem the numbers are 0. `num_probed` were opened, `num_reused` were known from an earlier build,
    `num_removed` were known and are no longer there.
    """

    sample_rate: Numbers
    num_samples: Numbers
    problems: dict[int, AudioError] = field(default_factory=dict)
    num_probed: int = 0
    num_reused: int = 0
    num_removed: int = 0


def read_headers(
    paths: pa.LargeStringArray,
    *,
    journal: HeaderJournal | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> Headers:
    """Headers of recordings, by absolute paths or URLs.

    With a journal, files of unchanged size and time of change are not opened, and what is read is noted at once, so
    that an interrupted call goes on where it was. What could not be used is tried again next time. A recording that
    crashes the decoder has a problem and ends nothing.

    Raises:
        UnreachableError: storage behind a URL could not be reached.
    """
    num_workers = num_workers or default_num_workers()
    found = Headers(sample_rate=np.zeros(len(paths), dtype=np.int64), num_samples=np.zeros(len(paths), dtype=np.int64))
    files = None
    if journal is not None:
        files = look_at_files(paths, num_workers)
        found.sample_rate, found.num_samples = journal.find(files)
        found.num_removed = journal.num_removed
    unknown = np.flatnonzero(found.sample_rate == 0)
    found.num_reused = len(paths) - len(unknown)
    found.num_probed = len(unknown)
    done = found.num_reused
    if progress is not None and done:
        progress(done, len(paths))
    for chunk, (rates, num_samples, problems) in _probe_all(paths, unknown, num_workers):
        found.sample_rate[chunk], found.num_samples[chunk] = rates, num_samples
        found.problems |= {int(chunk[place]): problem for place, problem in problems.items()}
        if journal is not None and files is not None:
            good = chunk[(rates > 0) & (files.num_bytes[chunk] >= 0)]
            journal.add(files.take(good), found.sample_rate[good], found.num_samples[good])
        done += len(chunk)
        if progress is not None:
            progress(done, len(paths))
    if journal is not None and files is not None:
        good = np.flatnonzero((found.sample_rate > 0) & (files.num_bytes >= 0))
        journal.finish(files.take(good), found.sample_rate[good], found.num_samples[good])
    return found


def look_at_files(paths: pa.LargeStringArray, num_workers: int | None = None) -> Files:
    """Sizes and times of change; URLs and what is not there have the size -1."""
    chunks = (paths.slice(start, 4096).to_pylist() for start in range(0, len(paths), 4096))
    stamps = list(map_in_threads(_stamps, chunks, num_items=len(paths), num_workers=num_workers))
    joined = np.concatenate(stamps) if stamps else np.zeros((0, 2), dtype=np.int64)
    return Files(path=paths, num_bytes=joined[:, 0].copy(), mtime_ns=joined[:, 1].copy())


def _stamps(paths: Chunk) -> Numbers:
    stamps = np.full((len(paths), 2), -1, dtype=np.int64)
    for place, path in enumerate(paths):
        if is_url(path):
            continue
        try:
            status = os.stat(path)
        except OSError:
            continue
        stamps[place] = status.st_size, status.st_mtime_ns
    return stamps


def _probe_all(paths: pa.LargeStringArray, rows: Numbers, num_workers: int) -> Iterator[tuple[Numbers, Probed]]:
    """Headers of some of the recordings, chunk by chunk: processes, or threads for few files and for URLs."""
    remote = bool(pc.any(pc.match_substring(paths, "://")).as_py())
    if num_workers > 1 and len(rows) >= _FEW and not remote and "fork" in multiprocessing.get_all_start_methods():
        yield from _probe_in_processes(paths, _cut(rows, _CHUNK), num_workers)
        return
    chunks = _cut(rows, 1 if remote else _CHUNK // 8)
    names = (paths.take(pa.array(chunk)).to_pylist() for chunk in chunks)
    probed = map_in_threads(_probe_chunk, names, num_items=len(chunks), num_workers=num_workers)
    yield from zip(chunks, probed, strict=True)


def _cut(rows: Numbers, size: int) -> list[Numbers]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _gather(infos: Sequence[audio.AudioInfo | AudioError]) -> Probed:
    rates = np.zeros(len(infos), dtype=np.int64)
    num_samples = np.zeros(len(infos), dtype=np.int64)
    problems: dict[int, AudioError] = {}
    for place, info in enumerate(infos):
        if isinstance(info, UnreachableError):
            raise info
        if isinstance(info, AudioError):
            problems[place] = info
        else:
            rates[place], num_samples[place] = info.sample_rate, info.num_samples
    return rates, num_samples, problems


def _probe_chunk(paths: Chunk) -> Probed:
    return _gather([try_probe(path) for path in paths])


def _probe_in_processes(
    paths: pa.LargeStringArray, chunks: Sequence[Numbers], num_workers: int
) -> Iterator[tuple[Numbers, Probed]]:
    """Python's own work on a header takes as long as libsndfile's, so threads would wait for each other."""
    remaining = deque(chunks)
    while remaining:
        pool = _start_pool(num_workers)
        running: deque[tuple[Numbers, Future[Probed]]] = deque()
        try:
            while remaining or running:
                while remaining and len(running) < 4 * num_workers:
                    chunk = remaining.popleft()
                    running.append((chunk, pool.submit(_probe_chunk, paths.take(pa.array(chunk)).to_pylist())))
                chunk, future = running[0]
                probed = future.result()
                running.popleft()
                yield chunk, probed
        except BrokenProcessPool:  # find out which recording it was among those that were being read
            for chunk, _ in running:
                yield chunk, _probe_apart(paths.take(pa.array(chunk)).to_pylist())
        finally:
            pool.shutdown(cancel_futures=True)


def _probe_apart(paths: Chunk) -> Probed:
    """One recording after the other, in a process that may die of it."""
    infos: list[audio.AudioInfo | AudioError] = []
    pool = _start_pool(1)
    for path in paths:
        try:
            infos.append(pool.submit(try_probe, path).result())
        except BrokenProcessPool:
            infos.append(AudioError(f"{path}: the decoder crashed on it; convert it to wav or flac, or remove it"))
            pool.shutdown()
            pool = _start_pool(1)
    pool.shutdown()
    return _gather(infos)


def _start_pool(num_workers: int) -> ProcessPoolExecutor:
    """Forked processes: they start at once, and need no import guard in the user's script. All they do is probe."""
    import_module("soundfile")  # once here, not in every process
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork.*", category=DeprecationWarning)
        pool = ProcessPoolExecutor(
            num_workers, mp_context=multiprocessing.get_context("fork"), initializer=_end_with_parent
        )
        pool.submit(os.getpid).result()  # the processes are forked here, before any thread of the pool's
    return pool


def _end_with_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and do not live on where that one was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch(sentinel: int = parent.sentinel) -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
