"""A run killed at any moment and started again is, bit for bit, the run that was never killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import speechssl.training.tensors
from speechssl.training.records import read_metrics

TIMES = {"seconds_left", "audio_seconds_per_second", "data_wait", "seconds"}


def traces(directory: Path) -> tuple[dict[str, bytes], list[dict[str, Any]], dict[str, Any]]:
    """Every tensor file of the last checkpoint, all metrics without times, and the state without times."""
    last = directory / "checkpoints" / "last"
    files = {path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))}
    metrics = [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(directory)]
    state = json.loads((last / "state.json").read_text())
    state = {name: value for name, value in state.items() if name not in TIMES | {"metrics"}}
    return files, metrics, state


def assert_same_run(directory: Path, reference: Path) -> None:
    got, expected = traces(directory), traces(reference)
    assert got[1] == expected[1]
    assert got[2] == expected[2]
    assert got[0] == expected[0]
    assert names(directory) == names(reference)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def reference(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference") / "run"
    result = toy.run(directory)
    assert result.steps == 40
    return directory


def test_killed_at_random_moments(
    toy: ModuleType, reference: Path, tmp_path: Path, in_child: Callable[..., int]
) -> None:
    clock = random.Random(1)
    kills = 0
    for attempt in range(30):
        latest = 0.05 + 0.02 * attempt  # at first too soon for a fast machine, later late enough for a slow one
        code = in_child(toy.run, tmp_path, kill_after_seconds=clock.uniform(0.02, latest) if attempt < 29 else None)
        if code == 0:
            break
        kills += code == -signal.SIGKILL
    assert code == 0
    assert kills >= 2
    assert_same_run(tmp_path, reference)


DANGEROUS = [
    (os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "mkdir"), (Path, "symlink_to"), (Path, "unlink"),
    (Path, "write_text"), (shutil, "rmtree"), (speechssl.training.tensors, "write_tensors"),
]  # fmt: skip


def run_and_die(toy: ModuleType, directory: Path, calls: int, **overrides: Any) -> None:
    """Train, and SIGKILL itself at call number `calls` of anything that changes the disk: half of them before it."""
    count = 0

    def deadly(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls and calls % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **named)
        if count == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    for owner, name in DANGEROUS:
        setattr(owner, name, _wrap(getattr(owner, name), deadly))
    toy.run(directory, **overrides)


def _wrap(function: Callable[..., Any], deadly: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        return deadly(function, *arguments, **named)

    return call


def test_killed_at_every_stage_of_writing(toy: ModuleType, tmp_path: Path, in_child: Callable[..., int]) -> None:
    short = {"max_steps": 4, "validate_interval": 2, "keep_checkpoints": 1}
    whole = tmp_path / "whole"
    toy.run(whole, **short)
    calls, kills = 1, 0
    while True:
        directory = tmp_path / f"killed_{calls}"
        code = in_child(run_and_die, toy, directory, calls, **short)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        toy.run(directory, **short)
        assert_same_run(directory, whole)
        shutil.rmtree(directory)
        calls += 1 if calls < 25 else 7  # the first checkpoint call by call, then samples
    assert kills > 25


@pytest.mark.parametrize("workers", [(2, 0), (0, 1)])
def test_the_number_of_workers_may_change_on_the_way(
    toy: ModuleType, reference: Path, tmp_path: Path, in_child: Callable[..., int], workers: tuple[int, int]
) -> None:
    first, second = workers
    code = in_child(run_and_die, toy, tmp_path, 300, num_workers=first)
    assert code == -signal.SIGKILL
    toy.run(tmp_path, num_workers=second)
    got, expected = traces(tmp_path), traces(reference)
    assert got == expected


def test_rare_checkpoints_lose_only_the_steps_since(
    toy: ModuleType, tmp_path: Path, in_child: Callable[..., int]
) -> None:
    """Checkpoints that fall between log lines keep the running averages; lines after the checkpoint are not doubled."""
    settings = {"checkpoint_interval": 7, "max_steps": 30, "log_interval": 4, "validate_interval": 10}
    toy.run(tmp_path / "whole", **settings)
    for calls in (40, 60, 80):
        in_child(run_and_die, toy, tmp_path / "killed", calls, **settings)
    toy.run(tmp_path / "killed", **settings)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []

    def start(**overrides: Any) -> "subprocess.Popen[str]":
        toy_program = str(Path(__file__).with_name("toy.py"))
        command = [sys.executable, toy_program, str(tmp_path / "run"), json.dumps(overrides)]
        repository = str(Path(__file__).resolve().parents[3])
        started.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, cwd=repository, env={**os.environ, "PYTHONPATH": repository}
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for_step(directory: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(line["step"] >= step for line in read_metrics(directory)):
            return
        time.sleep(0.01)
    raise AssertionError("the program made no progress")


def test_sigterm_saves_and_ends_and_the_program_goes_on(
    program: Callable[..., "subprocess.Popen[str]"], toy: ModuleType, tmp_path: Path
) -> None:
    settings = {"max_steps": 200, "checkpoint_interval": 10**6, "validate_interval": None, "num_workers": 1}
    process = program(**settings)
    wait_for_step(tmp_path / "run", 30)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    said = json.loads(output)
    assert (said["why"], said["signal"]) == ("signal", signal.SIGTERM)
    assert 30 <= said["steps"] < 200
    assert (tmp_path / "run/checkpoints/last").resolve().name == f"step_{said['steps']}"
    assert toy.run(tmp_path / "run", **settings).steps == 200
    toy.run(tmp_path / "whole", **settings)
    assert traces(tmp_path / "run") == traces(tmp_path / "whole")
