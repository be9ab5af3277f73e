import dataclasses
import json
import logging
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from speechssl.errors import ConfigError, TrainingError
from speechssl.training import TrainingConfig
from speechssl.training.records import read_metrics
from speechssl.training.tensors import read_tensors
from speechssl.types import ObjectiveOutput

SHORT = {"max_steps": 6, "checkpoint_interval": 3, "validate_interval": 3, "log_interval": 2}


def weights(directory: Path) -> dict[str, Tensor]:
    return read_tensors(directory / "checkpoints/last/model.safetensors")


def events(directory: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(directory) if "event" in line]


def make_plain(toy: ModuleType, splits: list[int]) -> Any:
    """A toy without dropout, mask or batch norm, whose micro-batches cut the same 12 examples at `splits`."""

    class Plain(toy.ToyTask):
        def batches(self, start: int) -> Any:
            number = start
            while True:
                update, part = divmod(number, len(splits))
                examples = torch.randn(12, toy.DIM, generator=torch.Generator().manual_seed(update))
                yield examples.split(splits)[part]
                number += 1

        def before_step(self, step: int) -> None:
            self.model.dropout.p = 0.0
            self.model.norm.eval()

        def loss(self, batch: Tensor, *, step: int, generator: torch.Generator) -> ObjectiveOutput:
            loss = (self.model(batch) - 1).square().mean()
            return ObjectiveOutput(loss=loss, num_targets=torch.tensor(len(batch)), metrics={"size": loss.detach() * 2})

    return Plain()


def test_metrics_are_read_around_a_line_that_was_cut_off(tmp_path: Path) -> None:
    lines = b'{"step": 1, "loss": 2.0}\n{"loss": 9}\n[1]\n{"step": 2, "event": "caf\xc3'
    (tmp_path / "metrics.jsonl").write_bytes(lines)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize("splits", [[6, 6], [1, 11], [3, 2, 7]])
def test_accumulated_micro_batches_equal_one_batch(toy: ModuleType, tmp_path: Path, splits: list[int]) -> None:
    common = {**SHORT, "log_interval": 1}
    toy.run(tmp_path / "one", task=make_plain(toy, [12]), accumulation_steps=1, **common)
    toy.run(tmp_path / "many", task=make_plain(toy, splits), accumulation_steps=len(splits), **common)
    one, many = weights(tmp_path / "one"), weights(tmp_path / "many")
    for name in one:
        torch.testing.assert_close(many[name], one[name], rtol=1e-5, atol=1e-6)
    for first, second in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "many"), strict=True):
        for name in {"loss", "size", "gradient_norm", "valid_loss"} & first.keys():
            assert second[name] == pytest.approx(first[name], rel=1e-4)


def test_what_a_run_leaves(toy: ModuleType, tmp_path: Path) -> None:
    result = toy.run(tmp_path, tensorboard=True, **SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoints", "config.yaml", "environment.json", "metrics.jsonl", "tensorboard",
    ]  # fmt: skip
    assert (result.steps, result.stopped_because, result.signal_number) == (6, "max_steps", None)
    assert result.last_checkpoint == tmp_path / "checkpoints/step_6"
    assert result.best_checkpoint is not None and result.best_checkpoint.is_dir()
    assert result.seconds > 0 and result.audio_seconds == sum(3 + number % 4 for number in range(12))
    assert {"loss", "valid_loss", "learning_rate", "gradient_norm", "audio_hours", "error"} <= result.metrics.keys()
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["data_fingerprint"] == "f"
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"command", "commit", "hardware", "time", "restarts"} <= environment.keys()
    logged = [line["step"] for line in read_metrics(tmp_path)]
    assert logged == [2, 3, 4, 6, 6]


def test_a_finished_run_is_only_looked_at(toy: ModuleType, tmp_path: Path) -> None:
    first = toy.run(tmp_path, **SHORT)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*.safetensors")}
    again = toy.run(tmp_path, **SHORT)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*.safetensors")} == before


def test_more_steps_may_be_asked_for(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(tmp_path, **SHORT)
    assert toy.run(tmp_path, **{**SHORT, "max_steps": 9, "log_interval": 3}).steps == 9
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert [restart["step"] for restart in environment["restarts"]] == [6]


def test_another_configuration_is_refused_key_by_key(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(tmp_path, **SHORT)
    with pytest.raises(ConfigError) as error:
        toy.run(tmp_path, **{**SHORT, "seed": 5, "max_steps": 9, "optim": {"peak_lr": 0.03}})
    message = str(error.value)
    assert "training.optim.peak_lr was 0.02, now 0.03; training.seed was 1, now 5" in message
    assert "max_steps" not in message and "another run directory" in message


def test_other_data_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    toy.run(tmp_path, fingerprint="a" * 64, **SHORT)
    with pytest.raises(ConfigError, match=r"the data changed since this run began \(fingerprint a{12}, now b{12}\)"):
        toy.run(tmp_path, fingerprint="b" * 64, **SHORT)


def test_without_resume_a_run_is_not_touched(toy: ModuleType, tmp_path: Path) -> None:
    from speechssl.training import train

    toy.run(tmp_path, **SHORT)
    with pytest.raises(ConfigError, match="already holds a run; choose another directory or let it resume"):
        train(
            toy.ToyTask(), config=TrainingConfig(), run_directory=tmp_path, resolved_config={}, fingerprint="f",
            description="toy", resume=False,
        )  # fmt: skip


def scripted(toy: ModuleType, losses: list[float]) -> Any:
    class Scripted(toy.ToyTask):
        def validate(self, step: int) -> dict[str, float]:
            return {"valid_loss": losses[step - 1], "valid_wer": 1.0}

    return Scripted()


def test_early_stopping_and_the_best_checkpoints(toy: ModuleType, tmp_path: Path) -> None:
    losses = [5.0, 3.0, 4.0, 3.5, math.inf, 1.0]
    settings = {"max_steps": 6, "validate_interval": 1, "checkpoint_interval": 100, "keep_checkpoints": 1,
                "keep_best": 2, "early_stopping_patience": 3}  # fmt: skip
    result = toy.run(tmp_path, task=scripted(toy, losses), **settings)
    assert (result.steps, result.stopped_because, result.best_metric) == (5, "early_stopping", 3.0)
    assert result.best_checkpoint == tmp_path / "checkpoints/step_2"
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "last", "step_2", "step_4", "step_5"]
    assert (tmp_path / "checkpoints/best").resolve().name == "step_2"
    assert toy.run(tmp_path, task=scripted(toy, losses), **settings) == result  # and stays stopped
    line = [line for line in read_metrics(tmp_path) if line["step"] == 5 and "valid_loss" in line]
    assert line == [{"step": 5, "valid_loss": None, "valid_wer": 1.0}]


def test_larger_can_be_better(toy: ModuleType, tmp_path: Path) -> None:
    result = toy.run(tmp_path, task=scripted(toy, [1.0, 3.0, 2.0]), max_steps=3, validate_interval=1, best_mode="max")
    assert (result.best_metric, result.best_checkpoint) == (3.0, tmp_path / "checkpoints/step_2")


def test_an_unknown_best_metric_names_the_known(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="best_metric is 'valid_cer', but validation gives valid_loss; choose one"):
        toy.run(tmp_path, **SHORT, best_metric="valid_cer")


def test_a_task_without_validation_data_trains_but_cannot_stop_early(toy: ModuleType, tmp_path: Path) -> None:
    task = toy.ToyTask()
    task.validate = lambda step: {}
    assert toy.run(tmp_path / "a", task=task, **SHORT).best_checkpoint is None
    with pytest.raises(ConfigError, match="best_metric is 'valid_loss', but validation gives none"):
        toy.run(tmp_path / "b", task=task, early_stopping_patience=2, **SHORT)


def poisoned(toy: ModuleType, bad_steps: set[int]) -> Any:
    class Poisoned(toy.ToyTask):
        def loss(self, batch: Tensor, *, step: int, generator: torch.Generator) -> ObjectiveOutput:
            output = super().loss(batch, step=step, generator=generator)
            return dataclasses.replace(output, loss=output.loss * (math.nan if step in bad_steps else 1.0))

    return Poisoned()


def test_an_update_that_is_not_finite_is_skipped_counted_and_noted(toy: ModuleType, tmp_path: Path) -> None:
    result = toy.run(tmp_path, task=poisoned(toy, {2, 3}), **SHORT)
    assert result.metrics["skipped_updates"] == 2
    assert math.isfinite(result.metrics["loss"])
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    assert [diagnosis.kind for diagnosis in result.diagnoses] == ["skipped_update"]
    assert events(tmp_path)[0]["kind"] == "skipped_update"


def test_many_such_updates_end_the_run_after_saving_it(toy: ModuleType, tmp_path: Path) -> None:
    settings = {"max_steps": 60, "checkpoint_interval": 100, "validate_interval": None, "log_interval": 5}
    task = poisoned(toy, set(range(10, 60)))
    with pytest.raises(TrainingError, match="training stopped after step 15: loss or gradient was NaN") as error:
        toy.run(tmp_path, task=task, **settings)
    assert error.value.exit_code == 1
    assert (tmp_path / "checkpoints/last").resolve().name == "step_15"
    with pytest.raises(TrainingError, match="the monitor stopped this run after step 15"):
        toy.run(tmp_path, task=task, **settings)


def collapsing(toy: ModuleType) -> Any:
    class Collapsing(toy.ToyTask):
        def loss(self, batch: Tensor, *, step: int, generator: torch.Generator) -> ObjectiveOutput:
            output = super().loss(batch, step=step, generator=generator)
            return dataclasses.replace(output, metrics={"latent_std": torch.tensor(1e-4)})

    return Collapsing()


def test_a_problem_warns_or_stops_as_told(toy: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {**SHORT, "max_steps": 20, "log_interval": 1}
    monitor = {"grace_steps": 2, "patience_steps": 3}
    with caplog.at_level(logging.WARNING):
        result = toy.run(tmp_path / "warn", task=collapsing(toy), monitor=monitor, **settings)
    assert [diagnosis.kind for diagnosis in result.diagnoses] == ["latent_collapse"]
    assert "step 4, latent collapse: the latents have collapsed" in caplog.text
    event = events(tmp_path / "warn")[0]
    assert (event["event"], event["kind"], event["step"]) == ("diagnosis", "latent_collapse", 4)
    directory = tmp_path / "stop"
    with pytest.raises(TrainingError, match="training stopped after step 4: the latents have collapsed"):
        toy.run(directory, task=collapsing(toy), monitor={**monitor, "action": "stop"}, **settings)
    with pytest.raises(TrainingError, match=r"the monitor stopped this run after step 4.*set monitor.action=warn"):
        toy.run(directory, task=collapsing(toy), monitor={**monitor, "action": "stop"}, **settings)
    assert toy.run(directory, task=collapsing(toy), monitor=monitor, **settings).steps == 20


def test_bf16_trains_and_keeps_fp32_weights(toy: ModuleType, tmp_path: Path) -> None:
    result = toy.run(tmp_path, precision="bf16", **SHORT)
    assert math.isfinite(result.metrics["loss"])
    assert {tensor.dtype for name, tensor in weights(tmp_path).items() if "num_batches" not in name} == {torch.float32}


def test_the_callers_random_state_and_threads_are_left_alone(toy: ModuleType, tmp_path: Path) -> None:
    task, threads = toy.ToyTask(), torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    toy.run(tmp_path, task=task, num_threads=2, **SHORT)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_compile_calls_the_tasks_hook_or_says_that_there_is_none(
    toy: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task, called = toy.ToyTask(), []
    task.compile = lambda: called.append(True)
    toy.run(tmp_path / "a", task=task, compile=True, **SHORT)
    assert called == [True]
    toy.run(tmp_path / "b", compile=True, **SHORT)
    assert "compile is set, but this task has no way to do so" in caplog.text


def test_tensorboard_shows_no_point_twice_after_a_resume(toy: ModuleType, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Failing(toy.ToyTask):
        def before_step(self, step: int) -> None:
            if step == 8:
                raise KeyError("the process ends here")

    intervals = {"log_interval": 1, "checkpoint_interval": 5, "validate_interval": 3}
    settings = {"max_steps": 12, "tensorboard": True, **intervals}
    with pytest.raises(KeyError):
        toy.run(tmp_path, task=Failing(), **settings)  # points up to 8 are written, the checkpoint is at 5
    toy.run(tmp_path, **settings)
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Scalars("train/loss")] == list(range(1, 13))
    assert [event.step for event in curves.Scalars("valid/loss")] == [3, 6, 9, 12]
    logged = {line["step"]: line["loss"] for line in read_metrics(tmp_path) if "loss" in line}
    for event in curves.Scalars("train/loss"):
        assert event.value == pytest.approx(logged[event.step])


def test_progress_falls_back_to_log_lines(toy: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="speechssl"):
        toy.run(tmp_path, **SHORT)
    line = next(message for message in caplog.messages if message.startswith("toy: step 4/6"))
    assert "loss" in line and "h of audio" in line and "audio s/s" in line and line.endswith("left")


def test_the_live_bar_shows_loss_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    from speechssl.training.progress import RichProgress

    progress = RichProgress("pre-train", step=10, max_steps=100)
    progress.advance(20)
    progress.metrics(20, {"loss": 1.25, "seconds_left": 75.0, "audio_hours": 0.5, "audio_seconds_per_second": 130.0})
    progress.close()
    shown = " ".join(capsys.readouterr().err.split())
    assert "20/100" in shown and "1:15 left" in shown and "loss 1.250" in shown


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": 0}, "max_steps must be at least 1, but is 0"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0 or null"),
        ({"validate_interval": 0}, "validate_interval must be at least 1 or null"),
        ({"validate_interval": None, "early_stopping_patience": 3}, "set validate_interval"),
    ],
)
def test_senseless_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**values)
