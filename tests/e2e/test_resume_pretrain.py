"""A pre-training run killed at any step and started again is, bit for bit, the run that was never killed."""

import json
import multiprocessing
import multiprocessing.process
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechssl.config import from_dict
from speechssl.manifest import build_manifest
from speechssl.pretrain import PretrainConfig, PretrainTask, run
from speechssl.training.records import read_metrics

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 12
TIMES = {"seconds_left", "audio_seconds_per_second", "data_wait", "seconds"}

PROGRAM = """
import json, sys
from speechssl import pretrain
from speechssl.config import from_dict
pretrain.run(from_dict(pretrain.PretrainConfig, json.loads(sys.argv[1])))
"""


def settings(manifest: Path, directory: Path, *, num_workers: int = 0) -> dict[str, Any]:
    """Dropout, LayerDrop and validation are on: all that could depend on what went before."""
    return {
        "manifests": [str(manifest)],
        "valid_manifest": str(manifest),
        "run_directory": str(directory),
        "preset": "tiny",
        "encoder": {
            "model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 8,
            "position_groups": 4, "num_mels": 20, "input_dropout": 0.1, "dropout": 0.1, "attention_dropout": 0.1,
            "layer_drop": 0.2,
        },
        "contrastive": {"num_entries": 8, "quantized_dim": 16, "final_dim": 16, "num_distractors": 10},
        "data": {"batch_seconds": 2.5, "max_crop_seconds": 0.8, "num_workers": num_workers},
        "training": {
            "max_steps": STEPS, "accumulation_steps": 2, "log_interval": 1, "validate_interval": 6,
            "checkpoint_interval": 3, "tensorboard": False, "optim": {"peak_lr": 0.01, "schedule": "cosine"},
        },
        "device": "cpu",
    }  # fmt: skip


def traces(directory: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Every tensor file of the last checkpoint, and all metrics but times."""
    last = directory / "checkpoints" / "last"
    files = {path.name: path.read_bytes() for path in sorted(last.glob("*.safetensors"))}
    rows = [{name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(directory)]
    return files, rows


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips of about a second, one of them damaged."""
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    for number in range(9):
        waveform = 0.1 * generator.standard_normal(12_000 + 1000 * number)
        soundfile.write(folder / f"{number}.wav", waveform, 16_000)
    build_manifest(folder, output=folder / "clips.jsonl")
    (folder / "4.wav").write_bytes(b"RIFF")
    return folder / "clips.jsonl"


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never killed."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    result = run(from_dict(PretrainConfig, settings(manifest, directory)))
    assert result.training.steps == STEPS and set(result.left_out) != set()
    return directory


def train(values: dict[str, Any], deadly_step: int = -1) -> None:
    """Train, and when told to, die in the middle of an update, as by a power cut."""
    after_update = PretrainTask.after_update

    def watched(task: PretrainTask, step: int) -> None:
        if step == deadly_step:
            os.kill(os.getpid(), signal.SIGKILL)
        after_update(task, step)

    PretrainTask.after_update = watched
    run(from_dict(PretrainConfig, values))


def start(values: dict[str, Any], deadly_step: int = -1) -> multiprocessing.process.BaseProcess:
    """`train` in a process of its own; forked, which spares the imports."""
    process = multiprocessing.get_context("fork").Process(target=train, args=(values, deadly_step))
    process.start()
    return process


def wait_for(condition: Callable[[], bool], is_alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert is_alive() and time.monotonic() < deadline
        time.sleep(0.005)


def assert_same(directory: Path, whole: Path) -> None:
    files, rows = traces(directory)
    expected_files, expected_rows = traces(whole)
    assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
    assert rows == expected_rows
    assert files.keys() == expected_files.keys() == {
        "model.safetensors", "objective.safetensors", "optimizer.safetensors",
    }  # fmt: skip
    assert files == expected_files


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_at_random_steps(manifest: Path, whole: Path, tmp_path: Path, num_workers: int) -> None:
    values = settings(manifest, tmp_path / "run", num_workers=num_workers)
    steps = random.Random(num_workers)
    for deadly_step in (steps.randrange(0, STEPS // 2), steps.randrange(STEPS // 2, STEPS)):
        process = start(values, deadly_step)
        process.join(300)
        assert process.exitcode == -signal.SIGKILL
    assert run(from_dict(PretrainConfig, values)).training.steps == STEPS
    assert_same(tmp_path / "run", whole)


def test_killed_from_outside_at_a_random_moment(manifest: Path, whole: Path, tmp_path: Path) -> None:
    """A fresh interpreter, killed wherever it is once it has a checkpoint; then another number of workers goes on."""
    values = settings(manifest, tmp_path / "run", num_workers=2)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(values)], cwd=REPOSITORY)
    wait_for((tmp_path / "run" / "checkpoints" / "last").exists, lambda: process.poll() is None)
    process.kill()
    assert process.wait(300) == -signal.SIGKILL
    values = settings(manifest, tmp_path / "run", num_workers=1)
    assert run(from_dict(PretrainConfig, values)).training.steps == STEPS
    assert_same(tmp_path / "run", whole)


def test_sigterm_saves_and_the_run_goes_on_from_there(manifest: Path, whole: Path, tmp_path: Path) -> None:
    values = settings(manifest, tmp_path / "run")
    process = start({**values, "training": {**values["training"], "checkpoint_interval": 1000}})
    wait_for(lambda: len(read_metrics(tmp_path / "run")) >= 2, process.is_alive)
    process.terminate()
    process.join(300)
    assert process.exitcode == 0
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir(), "no checkpoint was due, but one is left"
    assert 2 <= len(read_metrics(tmp_path / "run")) < STEPS
    assert run(from_dict(PretrainConfig, values)).training.steps == STEPS
    assert_same(tmp_path / "run", whole)
