"""Several trainings side by side, one process and one thread each: faster than one after the other on all cores."""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from speechssl.errors import SpeechSSLError, TrainingError

logger = logging.getLogger(__name__)

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_GRACE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One `speechssl` command: its words, where its output goes, and what to say of it while it runs."""

    name: str
    words: Sequence[str]
    log: Path
    status: Callable[[], str]


def run_jobs(
    jobs: Sequence[Job],
    *,
    num_parallel: int,
    num_threads: int = 1,
    report_seconds: float = 15.0,
    gpus: Sequence[str] = (),
    on_end: Callable[[int, int], None] = lambda index, code: None,
) -> list[int]:
    """Run all jobs, at most `num_parallel` at a time, and return their exit codes in order.

    Where `gpus` names devices, each job sees one of them alone (`CUDA_VISIBLE_DEVICES`), and a device has as few jobs
    at a time as can be. `on_end` is called with the number of a job and its exit code when it has ended. Progress is
    logged every `report_seconds`. When this process is interrupted the jobs get SIGTERM, on which a
    training saves and ends; they also end when this process is killed.

    Raises:
        TrainingError: a job ended with the exit code 2 or in an unforeseen way; the message has its last words.
    """
    waiting = list(enumerate(jobs))
    running: dict[int, subprocess.Popen[bytes]] = {}
    device: dict[int, str] = {}
    codes = [0] * len(jobs)
    reported = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < max(1, num_parallel):
                index, job = waiting.pop(0)
                logger.info("%s: started", job.name)
                if gpus:
                    busy = [device[other] for other in running]
                    device[index] = min(gpus, key=busy.count)
                running[index] = _start(job, num_threads, device.get(index))
            time.sleep(0.2)
            for index in [index for index, process in running.items() if process.poll() is not None]:
                codes[index] = running.pop(index).returncode
                _check(jobs[index], codes[index])
                logger.info("%s: %s", jobs[index].name, "done" if codes[index] == 0 else "stopped: it failed")
                on_end(index, codes[index])
            if time.monotonic() - reported >= report_seconds:
                reported = time.monotonic()
                for index in running:
                    logger.info("%s: %s", jobs[index].name, jobs[index].status())
    finally:
        _stop(list(running.values()))
    return codes


class Interrupted(SpeechSSLError):
    """The user or the system asked to stop; everything done so far is kept."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("stopped as asked; the same command goes on from here")
        self.exit_code = 128 + signal_number


@contextmanager
def raise_on_sigterm() -> Iterator[None]:
    """SIGTERM raises `Interrupted` inside, so that running jobs are ended properly; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_words(log: Path, num_lines: int = 3) -> str:
    """The end of a log file, in one line."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it left no log"
    return " / ".join(lines[-num_lines:]) or "it wrote nothing"


def _start(job: Job, num_threads: int, gpu: str | None) -> "subprocess.Popen[bytes]":
    job.log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(num_threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    with job.log.open("ab") as log:
        # A session of its own: Ctrl-C reaches the jobs through `_stop` only, once.
        return subprocess.Popen(
            [sys.executable, "-m", "speechssl", *job.words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _check(job: Job, code: int) -> None:
    """A run that the data or the learning rate ended (1) is a result; anything else is an error of ours."""
    if code not in (0, 1):
        raise TrainingError(f"{job.name}: ended with exit code {code}: {last_words(job.log)}; its log is {job.log}")


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
