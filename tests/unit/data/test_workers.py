"""Reading ahead in other processes: in order, bounded, and with a clear end when a process dies or hangs."""

import faulthandler
import itertools
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from speechssl.audio.recording import RecordingError
from speechssl.data.slots import Slots, empty
from speechssl.data.workers import MIN_READ_AHEAD, READ_AHEAD, read_ahead
from speechssl.errors import TrainingError


def slow_for_even(number: int) -> int:
    time.sleep(0.02 if number % 2 == 0 else 0)
    return number * number


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 2, 17])
def test_results_come_in_the_order_of_the_requests(num_workers: int, count: int) -> None:
    assert list(read_ahead(slow_for_even, range(count), num_workers=num_workers)) == [n * n for n in range(count)]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_what_is_made_ahead_is_bounded(num_workers: int) -> None:
    asked = 0

    def requests() -> Iterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked

    results = read_ahead(slow_for_even, requests(), num_workers=num_workers)
    ahead = max(READ_AHEAD, MIN_READ_AHEAD * num_workers)
    for taken in range(1, 5):
        next(results)
        assert asked <= taken + ahead
    results.close()


def tensors(number: int) -> tuple[int, Tensor, Tensor]:
    return os.getpid(), torch.full((3,), number), torch.full((300, 300), float(number))


def test_tensors_large_and_small_come_from_another_process() -> None:
    kept = list(read_ahead(tensors, range(20), num_workers=2))
    for number, (pid, small, large) in enumerate(kept):
        assert pid != os.getpid()
        assert small.tolist() == [number] * 3 and small.dtype == torch.int64
        assert large.shape == (300, 300) and large.min() == large.max() == number
    assert len({pid for pid, _, _ in kept}) == 2


def large(number: int) -> dict[str, Tensor]:
    return {"first": torch.full((200, 100), float(number)), "second": torch.full((300, 100), float(number))}


@pytest.mark.parametrize("result_bytes", [0, 80_000, 10_000], ids=["no slots", "slots", "slots too small"])
def test_results_stay_what_they_are_as_long_as_anything_refers_to_them(result_bytes: int) -> None:
    """Also a view of a view, long after its result is gone and its neighbours' memory is in use again."""
    views: dict[int, Tensor] = {}
    held: list[dict[str, Tensor]] = []
    for number, result in enumerate(read_ahead(large, range(120), num_workers=2, result_bytes=result_bytes)):
        assert all(tensor.min() == tensor.max() == number for tensor in result.values())
        if number % 7 == 0:
            views[number] = result["first"][3][10:20]
        held = [*held[-3:], result]
    assert all(view.min() == view.max() == number for number, view in views.items())


def test_memory_is_used_again_and_not_taken_from_what_is_in_use() -> None:
    slots = Slots(2, 80_000)
    worker = Slots(0, 0)
    worker.__dict__.update(slots.__dict__)  # as after a fork, but in one process

    def passed(number: int) -> tuple[int | None, dict[str, Tensor]]:
        slot = slots.take()
        return slot, slots.loads(worker.dumps(large(number), slot), slot)

    (first, one), (second, two) = passed(1), passed(2)
    assert {first, second} == {0, 1}
    assert passed(3)[0] is None  # both are in use: torch's shared memory
    view = one["first"][1:].numpy()
    del one
    assert passed(4)[0] is None  # the view holds it
    del view
    reused, three = passed(5)
    assert reused == first
    assert two["first"].unique().tolist() == [2] and three["first"].unique().tolist() == [5]
    slot = slots.take()
    assert slot is None
    del two
    assert slots.loads(worker.dumps("nothing large", 1), slots.take()) == "nothing large"
    assert slots.take() == second  # given back at once


def made_in_lent_memory(number: int) -> dict[str, Tensor]:
    array = empty((100, 200), np.float32)
    other = empty((100, 200), np.float32)
    array[...], other[...] = number, -number
    return {"second": torch.from_numpy(other), "first": torch.from_numpy(array)} if number % 2 else {
        "first": torch.from_numpy(array), "second": torch.from_numpy(other)
    }  # fmt: skip


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("result_bytes", [0, 50_000, 80_000])
def test_what_is_made_in_lent_memory_arrives_unchanged(num_workers: int, result_bytes: int) -> None:
    results = read_ahead(made_in_lent_memory, range(9), num_workers=num_workers, result_bytes=result_bytes)
    for number, result in enumerate(results):
        assert result["first"].unique().tolist() == [number] and result["second"].unique().tolist() == [-number]


def test_lent_memory_is_passed_on_without_a_copy() -> None:
    slots = Slots(1, 80_000)
    worker = Slots(0, 0)
    worker.__dict__.update(slots.__dict__)  # as after a fork, but in one process
    slot = slots.take()
    with worker.lent(slot):
        made = torch.from_numpy(empty((100, 200), np.float32)).fill_(3)
        message = worker.dumps({"made": made}, slot)
    found = slots.loads(message, slot)["made"]
    made[0, 0] = 4
    assert found[0, 0] == 4 and found[0, 1] == 3, "one and the same memory"
    assert empty((2,), np.float32).base is None, "after the block nothing is lent"


def fails_at_three(number: int) -> int:
    if number == 3:
        raise RecordingError("clip.wav: is empty; replace it", "empty")
    if number == 4:
        raise KeyError("a bug")
    return number


@pytest.mark.parametrize("num_workers", [0, 2])
def test_errors_of_ours_come_as_they_are_when_their_turn_comes(num_workers: int) -> None:
    results = read_ahead(fails_at_three, range(10), num_workers=num_workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(RecordingError, match=r"clip\.wav: is empty") as error:
        next(results)
    assert error.value.kind == "empty"


def test_other_errors_bring_their_traceback() -> None:
    with pytest.raises(
        RuntimeError, match=r"(?s)in a process that reads recordings:.*fails_at_three.*KeyError: 'a bug'"
    ):
        list(read_ahead(fails_at_three, [4], num_workers=1))


def logs(number: int) -> int:
    logging.getLogger("speechssl.somewhere").warning("number %d", number)
    if number == 2:
        raise RecordingError("gone", "missing")
    return number


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_workers_log_comes_in_the_parent_in_order(num_workers: int, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RecordingError):
        list(read_ahead(logs, range(5), num_workers=num_workers))
    assert [record.getMessage() for record in caplog.records] == ["number 0", "number 1", "number 2"]
    assert {record.name for record in caplog.records} == {"speechssl.somewhere"}


def test_what_workers_log_reaches_the_handlers_of_the_command_line() -> None:
    """They sit on the logger of the project, which hands nothing on to others."""
    seen: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    project = logging.getLogger("speechssl")
    handler = Handler()
    before = project.propagate, list(project.handlers)
    project.propagate, project.handlers = False, [handler]
    try:
        with pytest.raises(RecordingError):
            list(read_ahead(logs, range(5), num_workers=1))
    finally:
        project.propagate, project.handlers = before
    assert seen == ["number 0", "number 1", "number 2"]


def killed_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def crashed(number: int) -> int:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)
    return number


def ended(number: int) -> int:
    os._exit(7)


def test_a_worker_killed_for_memory_ends_the_stream_at_once_with_advice() -> None:
    results = read_ahead(killed_at_five, range(100), num_workers=2)
    started = time.monotonic()
    with pytest.raises(
        TrainingError, match=r"\(pid \d+\) was killed by SIGKILL; .* out of memory: lower num_workers, cache_megabytes"
    ) as error:
        for number, result in enumerate(results):
            assert number == result < 5
    assert time.monotonic() - started < 5
    assert error.value.exit_code == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [(crashed, "was killed by SIGSEGV; a recording may have crashed its decoder"), (ended, "ended with exit code 7")],
)
def test_a_worker_that_crashes_is_named(make: Callable[[int], int], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        next(read_ahead(make, range(3), num_workers=1))


def hangs_at_two(number: int) -> int:
    time.sleep(1000 if number >= 2 else 0)
    return os.getpid()


def test_closing_ends_workers_that_hang() -> None:
    results = read_ahead(hangs_at_two, range(10), num_workers=2)
    pids = [next(results), next(results)]
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 3
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_until_stopped(connection: Connection, hang_from: int) -> None:
    """A program with two workers, in a process group of its own."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    results = read_ahead(lambda number: hangs_from(number, hang_from), itertools.count(), num_workers=2)
    try:
        connection.send([next(results), next(results)])
        for _ in results:
            time.sleep(0.01)
    except KeyboardInterrupt:
        results.close()
        connection.send("stopped")


def hangs_from(number: int, hang_from: int) -> int:
    time.sleep(1000 if number >= hang_from else 0)
    return os.getpid()


@pytest.fixture(params=[2, 10**9], ids=["waiting for a worker that hangs", "busy"])
def program(request: pytest.FixtureRequest) -> Iterator[tuple[BaseProcess, Connection]]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=run_until_stopped, args=(theirs, request.param))
    process.start()
    theirs.close()
    yield process, ours
    process.kill()
    process.join()


def test_ctrl_c_stops_quickly(program: tuple[BaseProcess, Connection]) -> None:
    """The signal reaches the whole group, as from a terminal; only the main process acts on it."""
    process, connection = program
    pids = connection.recv()
    started = time.monotonic()
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGINT)
    assert connection.poll(60) and connection.recv() == "stopped"
    process.join()
    assert time.monotonic() - started < 5
    assert not any(alive(pid) for pid in pids)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_do_not_outlive_a_parent_that_is_killed(program: tuple[BaseProcess, Connection]) -> None:
    process, connection = program
    pids = connection.recv()
    assert all(alive(pid) for pid in pids)
    process.kill()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(alive(pid) for pid in pids)
