"""Make things ahead of time in other processes, in order; a process that dies ends the stream with the reason.

The requests are dealt out in turn. Each worker has a few of them waiting, so what lies ready is bounded, and the order
of the results is that of the requests, whoever is faster.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, TypeVar

import torch

from speechssl.data.slots import Slots
from speechssl.errors import SpeechSSLError, TrainingError

Request = TypeVar("Request")
Result = TypeVar("Result")

READ_AHEAD = 4
"""So many results all workers together make ahead ..."""
MIN_READ_AHEAD = 2
"""... but each worker at least so many, so that it does not wait while others are being read."""

SPARE_SLOTS = 2
"""Results of each worker that may be in use while as many as are made ahead lie ready."""
GRACE_SECONDS = 0.2
"""Workers that are still reading so long after the end are killed."""


def read_ahead(
    make: Callable[[Request], Result], requests: Iterable[Request], *, num_workers: int, result_bytes: int = 0
) -> Generator[Result, None, None]:
    """`make(request)` for every request in order, made by `num_workers` processes, or here where there are none.

    Closing the iterator ends the processes at once, whatever they are doing. Results whose largest tensor is up to
    `result_bytes` come without a copy.

    Raises:
        TrainingError: a process died (killed, out of memory, a crash within a decoder).
        Exception: what `make` raised, when its result is due.
    """
    if num_workers == 0:
        yield from map(make, requests)
        return
    pending = iter(requests)
    waiting: deque[_Worker] = deque()
    workers: list[_Worker] = []

    def ask(worker: _Worker, request: Request) -> None:
        worker.send(request)
        waiting.append(worker)

    ahead = max(MIN_READ_AHEAD, READ_AHEAD // num_workers)
    try:
        for request in islice(pending, num_workers):  # each begins to work before the next is started
            slots = Slots(ahead + SPARE_SLOTS, result_bytes)
            workers.append(_Worker(make, slots, siblings=[worker.connection for worker in workers]))
            ask(workers[-1], request)
        for worker, request in zip((ahead - 1) * workers, pending, strict=False):
            ask(worker, request)
        while waiting:
            worker = waiting.popleft()
            result = worker.receive()
            for request in islice(pending, 1):
                ask(worker, request)
            yield result
    finally:
        _stop(workers)


def _stop(workers: "list[_Worker]") -> None:
    """End the processes: those that wait for work see their pipe close, the others are killed."""
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.process.join(timeout=max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
    for worker in workers:
        worker.process.join()
        worker.process.close()


class _Worker:
    """One process, the pipe to it, and the shared memory for what it makes."""

    def __init__(self, make: Callable[[Any], Any], slots: Slots, *, siblings: list[Connection]) -> None:
        # A fork takes milliseconds and shares the manifest; a fresh interpreter takes seconds to import torch.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self.connection, theirs = context.Pipe()
        forks = context.get_start_method() == "fork"
        # A fork inherits our ends of all pipes so far, and would keep them open when this process is gone.
        inherited = [*siblings, self.connection] if forks else []
        self._slots = slots if forks else Slots(0, 0)
        self._taken: deque[int | None] = deque()
        arguments = (make, theirs, slots if forks else None, inherited)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def send(self, request: Any) -> None:
        self._taken.append(self._slots.take())
        try:
            self.connection.send((self._taken[-1], request))
        except (BrokenPipeError, ConnectionResetError):
            raise self._fault() from None

    def receive(self) -> Any:
        # What a process finished before it died is still in the pipe, so the pipe comes first.
        wait([self.connection, self.process.sentinel])
        try:
            if not self.connection.poll():
                raise EOFError
            answer: _Answer = self._slots.loads(self.connection.recv_bytes(), self._taken.popleft())
        except (EOFError, OSError):
            raise self._fault() from None
        for record in answer.log:
            logging.getLogger(record.name).handle(record)
        if isinstance(answer.result, _Failure):
            raise answer.result.error
        return answer.result

    def _fault(self) -> TrainingError:
        self.process.join(timeout=1)
        code = self.process.exitcode
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        hint = "a recording may have crashed its decoder: run `speechssl manifest validate --audio`"
        if code == -signal.SIGKILL:
            hint = "the system may have run out of memory: lower num_workers, cache_megabytes or batch_seconds"
        elif code == -signal.SIGBUS:
            hint = "shared memory may be full: make /dev/shm larger, or lower num_workers or batch_seconds"
        return TrainingError(
            f"a process that reads recordings (pid {self.process.pid}) {how}; {hint}, then start the same command again"
        )


@dataclass(frozen=True)
class _Answer:
    """What `make` returned, or a `_Failure`, and what was logged meanwhile."""

    result: Any
    log: tuple[logging.LogRecord, ...]


@dataclass(frozen=True)
class _Failure:
    """What `make` raised, on its way to the process that asked."""

    error: Exception


def _serve(
    make: Callable[[Any], Any], connection: Connection, slots: Slots | None, inherited: list[Connection]
) -> None:
    """The life of a worker: until its pipe is closed or its parent is gone."""
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent alone decides what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    slots = slots or Slots(0, 0)
    logged = _collect_log()
    try:
        while True:
            slot, request = connection.recv()
            try:
                with slots.lent(slot):
                    message = slots.dumps(_Answer(make(request), tuple(_drained(logged))), slot)
            except SpeechSSLError as error:
                message = slots.dumps(_Answer(_Failure(error), tuple(_drained(logged))), None)
            except Exception:
                what = f"in a process that reads recordings:\n{traceback.format_exc()}"
                message = slots.dumps(_Answer(_Failure(RuntimeError(what)), tuple(_drained(logged))), None)
            connection.send_bytes(message)
    except (EOFError, OSError):
        os._exit(0)


def _collect_log() -> "SimpleQueue[logging.LogRecord]":
    """Where all that is logged from now on goes: the parent's handlers may hold locks that a fork left shut."""
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    for logger in loggers:
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger().addHandler(QueueHandler(records))
    return records


def _drained(records: "SimpleQueue[logging.LogRecord]") -> Iterator[logging.LogRecord]:
    """All that has come, taken out."""
    while not records.empty():
        yield records.get()


def _end_with_parent() -> None:
    """A parent that is killed cannot end its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
