"""Processes that torchrun starts train one model: the one that a single process with more micro-batches trains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from safetensors.numpy import load_file

from speechssl.config import from_dict, write_yaml
from speechssl.errors import ConfigError
from speechssl.finetune import FinetuneConfig
from speechssl.finetune import run as finetune
from speechssl.locks import locked
from speechssl.manifest import Manifest, build_manifest
from speechssl.pretrain import PretrainConfig, run
from speechssl.training.records import read_metrics

STEPS = 8
TIMES = {"seconds_left", "audio_seconds_per_second", "data_wait"}
ENCODER = {
    "model_dim": 32, "num_layers": 3, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 8,
    "position_groups": 4, "num_mels": 20, "dropout": 0.1, "layer_drop": 0.5,
}  # fmt: skip
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "speechssl"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of about a second with short texts."""
    folder = tmp_path_factory.mktemp("clips")
    generator = np.random.default_rng(0)
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", 0.1 * generator.standard_normal(12_000 + 900 * number), 16_000)
    build_manifest(folder, output=folder / "clips.jsonl")
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    texts = ("on", "no", "noon")
    lines = [json.dumps({**row, "text": texts[number % 3]}) for number, row in enumerate(rows)]
    (folder / "clips.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "clips.jsonl"


def pretraining(manifest: Path, directory: Path, *, accumulation_steps: int) -> dict[str, Any]:
    """LayerDrop is high, so that layers are often unused by a process, and now and then by both."""
    return {
        "manifests": [str(manifest)],
        "valid_manifest": str(manifest),
        "run_directory": str(directory),
        "preset": "tiny",
        "encoder": ENCODER,
        "contrastive": {"num_entries": 8, "quantized_dim": 16, "final_dim": 16, "num_distractors": 10},
        "data": {"batch_seconds": 2.5, "max_crop_seconds": 0.7, "num_workers": 0},
        "training": {
            "max_steps": STEPS, "accumulation_steps": accumulation_steps, "log_interval": 1, "validate_interval": 4,
            "checkpoint_interval": 2, "tensorboard": False, "optim": {"peak_lr": 0.01, "schedule": "cosine"},
        },
        "device": "cpu",
    }  # fmt: skip


def launch(command: str, values: dict[str, Any], path: Path) -> subprocess.Popen[str]:
    """The command in two processes."""
    write_yaml(values, path)
    words = [*LAUNCHER, command, "--config", str(path), "--no_report"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    return said


def weights(directory: Path) -> dict[str, np.ndarray[Any, Any]]:
    last = directory / "checkpoints/last"
    return {f"{path.stem}/{name}": value for path in sorted(last.glob("*.safetensors"))
            for name, value in load_file(path).items()}  # fmt: skip


def assert_same_run(found: Path, expected: Path) -> None:
    """Two micro-batches are summed in any order to the same bits, so every weight is the same; means of metrics are
    rounded in another order.
    """
    ours, theirs = weights(found), weights(expected)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    rows, expected_rows = ([row for row in read_metrics(path) if "event" not in row] for path in (found, expected))
    assert [row["step"] for row in rows] == [row["step"] for row in expected_rows]
    for row, other in zip(rows, expected_rows, strict=True):
        assert row.keys() == other.keys()
        timeless = [name for name in row if name not in TIMES]
        for name in timeless:
            assert row[name] == pytest.approx(other[name], rel=1e-5, abs=1e-6), (row["step"], name)


@pytest.fixture(scope="module")
def alone(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with two micro-batches an update."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    run(from_dict(PretrainConfig, pretraining(manifest, directory, accumulation_steps=2)))
    return directory


def test_two_processes_train_what_one_trains(manifest: Path, alone: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    said = finish(launch("pretrain", pretraining(manifest, directory, accumulation_steps=1), tmp_path / "c.yaml"))
    assert said.count(f"step {STEPS}/{STEPS}, loss") == 1 and said.count("pre-training: 8 updates") == 1
    assert_same_run(directory, alone)
    assert {path.name for path in directory.iterdir()} >= {"coverage.jsonl", "coverage.rank1.jsonl"}
    assert not (directory / ".lock").exists()


def test_one_goes_on_where_two_were_stopped(manifest: Path, tmp_path: Path) -> None:
    """And comes to the weights that it would have had by itself. A rate that is constant knows no last update."""
    values = pretraining(manifest, tmp_path / "run", accumulation_steps=1)
    schedule = {"optim": {"peak_lr": 0.01, "schedule": "constant", "warmup_steps": 2}, "validate_interval": None}
    values["training"] |= {**schedule, "max_steps": 10**6}
    process = launch("pretrain", values, tmp_path / "c.yaml")
    deadline = time.monotonic() + 200
    while not read_metrics(tmp_path / "run") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0 and said.count("stopped by a signal after step") == 1, said
    stopped = max(int(path.name.removeprefix("step_")) for path in (tmp_path / "run/checkpoints").glob("step_*"))
    assert 0 < stopped < 10**5
    values["training"]["max_steps"] = stopped + 3
    with pytest.raises(ConfigError, match="world_size was 2, now None"):
        run(from_dict(PretrainConfig, values))
    for directory in (tmp_path / "run", tmp_path / "alone"):
        values = pretraining(manifest, directory, accumulation_steps=2)
        values["training"] |= {**schedule, "max_steps": stopped + 3}
        assert run(from_dict(PretrainConfig, values)).training.steps == stopped + 3
    assert_same_run(tmp_path / "run", tmp_path / "alone")


def pid_of_rank(rank: int, path: Path) -> int:
    """The process that torchrun started as `rank` with the configuration in `path`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or not ours
        if str(path).encode() in words and f"RANK={rank}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"there is no rank {rank}")


def test_the_others_end_when_one_is_killed(manifest: Path, tmp_path: Path) -> None:
    values = pretraining(manifest, tmp_path / "run", accumulation_steps=1)
    values["training"] |= {"max_steps": 10**6, "validate_interval": None}
    process = launch("pretrain", values, tmp_path / "c.yaml")
    deadline = time.monotonic() + 200
    while not read_metrics(tmp_path / "run") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid_of_rank(1, tmp_path / "c.yaml"), signal.SIGKILL)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "speechssl: the processes that train together have lost each other" in said, said


def test_a_recogniser_with_a_freeze_schedule(manifest: Path, alone: Path, tmp_path: Path) -> None:
    """Weights that are frozen at first have no gradient in any process, and are trained later."""
    everything = Manifest.load(manifest)
    everything.filter(pa.array([row < 9 for row in range(12)])).save(tmp_path / "train.jsonl")
    everything.filter(pa.array([row >= 9 for row in range(12)])).save(tmp_path / "dev.jsonl")
    values: dict[str, Any] = {
        "train_manifest": str(tmp_path / "train.jsonl"),
        "valid_manifest": str(tmp_path / "dev.jsonl"),
        "pretrained": str(alone),
        "encoder": {"layer_drop": 0.5},
        "freeze_steps": 3,
        "data": {"batch_seconds": 2.5, "num_workers": 0},
        "device": "cpu",
    }
    training = {
        "max_steps": 6,
        "log_interval": 1,
        "validate_interval": 6,
        "checkpoint_interval": 6,
        "tensorboard": False,
    }
    both, one = tmp_path / "both", tmp_path / "one"
    finish(launch("finetune", {**values, "run_directory": str(both), "training": training}, tmp_path / "c.yaml"))
    training = {**training, "accumulation_steps": 2}
    finetune(from_dict(FinetuneConfig, {**values, "run_directory": str(one), "training": training}))
    assert_same_run(both, one)


def test_processes_that_cannot_meet_are_told_so(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    config = from_dict(PretrainConfig, pretraining(manifest, tmp_path / "run", accumulation_steps=1))
    with pytest.raises(ConfigError, match="WORLD_SIZE is 4 and RANK 1, but MASTER_ADDR not set; start .* by torchrun"):
        run(config)


def test_two_trainings_never_share_a_run_directory(manifest: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    config = from_dict(PretrainConfig, pretraining(manifest, directory, accumulation_steps=1))
    with locked(directory / ".lock", "busy"), pytest.raises(ConfigError, match=f"{directory}: another training is"):
        run(config)
    assert os.listdir(directory) == []
