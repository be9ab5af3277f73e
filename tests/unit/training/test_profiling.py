"""A profile explains whole updates, names the loader when it is slow, and changes nothing that is learnt."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from speechssl.pretrain import PretrainTask
from speechssl.training.loop import train
from speechssl.training.profiling import DATA_WAIT, OTHER, PARTS, Profile, Profiler
from speechssl.training.task import TrainingConfig, TrainingResult
from speechssl.types import AudioBatch

TRAINING = TrainingConfig(
    max_steps=8, log_interval=1, validate_interval=None, checkpoint_interval=100, tensorboard=False
)


class NoiseBatches:
    """Endless batches of noise, each after a pause."""

    world_size = 1

    def __init__(self, pause_seconds: float) -> None:
        self._pause_seconds = pause_seconds

    def batches(self, start: int) -> Iterator[AudioBatch]:
        number = start
        while True:
            time.sleep(self._pause_seconds)
            waveform = torch.randn(2, 16000, generator=torch.Generator().manual_seed(number))
            yield AudioBatch(
                utterance_ids=("a", "b"), waveform=waveform, num_samples=torch.full((2,), 16000), sample_rate=16000
            )
            number += 1


def run(folder: Path, profiler: Profiler | None, *, pause_seconds: float = 0.0) -> TrainingResult:
    encoder = SpeechEncoder(
        EncoderConfig(
            conv_dim=32, model_dim=32, num_layers=2, num_heads=2, feed_forward_dim=64, position_kernel=16,
            position_groups=4,
        )
    )  # fmt: skip
    objective = ContrastiveObjective(
        ContrastiveConfig(num_entries=8, quantized_dim=16, final_dim=16, num_distractors=5), latent_dim=32, model_dim=32
    )
    task = PretrainTask(encoder, objective, NoiseBatches(pause_seconds), None, valid_batch_seconds=1.0, seed=0)  # type: ignore[arg-type]
    return train(
        task, config=TRAINING, run_directory=folder, resolved_config={}, fingerprint="x", description="test",
        profiler=profiler,
    )  # fmt: skip


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    profiler = Profiler(skip=2, steps=4, num_workers=1)
    run(tmp_path_factory.mktemp("run") / "plain", profiler)
    assert profiler.profile is not None
    return profiler.profile


def test_parts_add_up_to_the_update_and_all_that_work_are_seen(profile: Profile) -> None:
    assert [part.part for part in profile.parts] == list(PARTS)
    assert sum(part.milliseconds for part in profile.parts) == pytest.approx(profile.step_milliseconds, rel=1e-6)
    assert sum(part.share for part in profile.parts) == pytest.approx(1.0)
    idle = {part.part for part in profile.parts if part.forward_milliseconds == 0}
    assert idle <= {OTHER}
    # a part with weights has a backward pass of its own; the optimizer and the loader have none
    backward = {part.part for part in profile.parts if part.backward_milliseconds > 0}
    assert backward >= {"front end", "positions", "attention", "feed-forward", "quantizer", "head and loss"}
    assert not backward & {"optimizer", DATA_WAIT}


def test_trace_and_table_are_written(profile: Profile) -> None:
    assert profile.trace is not None and profile.num_steps == 4
    events = json.loads(profile.trace.read_text())["traceEvents"]
    assert any("front end" in str(event.get("name")) for event in events)
    written = json.loads(profile.trace.with_name("profile.json").read_text())
    assert [part["part"] for part in written["parts"]] == list(PARTS)


def test_a_profiled_run_learns_the_same_and_leaves_no_hook(tmp_path: Path) -> None:
    profiler = Profiler(skip=0, steps=3)
    plain, profiled = run(tmp_path / "plain", None), run(tmp_path / "profiled", profiler)
    assert plain.metrics["loss"] == profiled.metrics["loss"]
    modules = [module for root in profiler._modules.values() for module in root.modules()]
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in modules if isinstance(module, nn.Module)
    )


def test_a_slow_loader_is_called_the_bottleneck(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    profiler = Profiler(skip=1, steps=3, num_workers=1)
    with caplog.at_level(logging.WARNING, logger="speechssl"):
        run(tmp_path / "slow", profiler, pause_seconds=0.5)
    assert profiler.profile is not None
    wait = next(part for part in profiler.profile.parts if part.part == DATA_WAIT)
    assert wait.milliseconds >= 500 and profiler.profile.data_wait > 0.1
    assert "the loader is the bottleneck" in caplog.text and "data.num_workers (now 1)" in caplog.text


def test_a_quick_loader_is_not(profile: Profile) -> None:
    parts = tuple(replace(part, share=0.05 if part.part == DATA_WAIT else 0.1) for part in profile.parts)
    assert replace(profile, parts=parts).warning is None


def test_a_run_that_ends_early_gives_what_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    short = Profiler(skip=6, steps=50)
    run(tmp_path / "short", short)
    assert short.profile is not None and short.profile.num_steps == 2
    none = Profiler(skip=50)
    with caplog.at_level(logging.WARNING, logger="speechssl"):
        run(tmp_path / "none", none)
    assert none.profile is None and "nothing was profiled: the run made 8 updates" in caplog.text
