"""What the loop trains (`Task`), how (`TrainingConfig`) and what comes of it (`TrainingResult`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from speechssl.training.monitor import Diagnosis, MonitorConfig
from speechssl.training.optim import OptimConfig
from speechssl.types import ObjectiveOutput


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How long and how to train, what to write and when to stop.

    Attributes:
        max_steps: updates of the whole run; a finished run goes on when this is raised.
        accumulation_steps: micro-batches that make one update; its gradient is the mean over all their targets.
        clip_norm: largest norm of an update's gradient; null clips nothing.
        precision: of the arithmetic; weights stay in fp32. bf16 is for GPUs, and CPUs with AMX.
        compile: compile the feed-forward parts with torch.compile; the first updates take longer.
        checkpoint_activations: keep only the input of each of the encoder's layers and compute the layer again in the
            backward pass; less memory, more time, the same gradients.
        seed: of weights, order, crops, masks and dropout.
        num_threads: of the arithmetic on the CPU; null leaves it to torch.
        log_interval: updates between two lines of metrics.
        validate_interval: updates between two validations; null never validates.
        checkpoint_interval: updates between two checkpoints.
        keep_checkpoints: the newest checkpoints that are kept.
        keep_best: the best checkpoints by best_metric that are kept besides.
        best_metric: a metric of the validations.
        best_mode: whether less or more of it is better.
        early_stopping_patience: end after so many validations without a better best_metric; null never does.
        tensorboard: write the metrics for TensorBoard, too.
        optim: the optimizer.
        monitor: what is diagnosed.
    """

    max_steps: int = 10_000
    accumulation_steps: int = 1
    clip_norm: float | None = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    checkpoint_activations: bool = False
    seed: int = 1
    num_threads: int | None = None
    log_interval: int = 10
    validate_interval: int | None = 500
    checkpoint_interval: int = 500
    keep_checkpoints: int = 2
    keep_best: int = 1
    best_metric: str = "valid_loss"
    best_mode: Literal["min", "max"] = "min"
    early_stopping_patience: int | None = None
    tensorboard: bool = True
    optim: OptimConfig = field(default_factory=OptimConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def __post_init__(self) -> None:
        for name in ("max_steps", "accumulation_steps", "log_interval", "checkpoint_interval", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}")
        for name in ("validate_interval", "early_stopping_patience", "num_threads"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 or null, but is {getattr(self, name)}")
        if self.keep_best < 0:
            raise ValueError(f"keep_best must not be negative, but is {self.keep_best}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be above 0 or null, but is {self.clip_norm}")
        if self.early_stopping_patience is not None and self.validate_interval is None:
            raise ValueError("early_stopping_patience needs validations; set validate_interval")


class Task(Protocol):
    """A model with its data, as the loop sees it. Every method must be a pure function of its arguments and weights."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """All that a checkpoint holds; `model` is the one that `save_model` writes.

        Without a `model`, all that training goes on from is in the others, and `save_model` writes what it likes.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters to train: `params`, and optionally `lr_scale` and `weight_decay`."""

    def batches(self, start: int) -> Iterator[Any]:
        """The infinite, deterministic stream of micro-batches from number `start`."""

    def batch_seconds(self, batch: Any) -> float:
        """Seconds of audio in a batch that is still on the CPU."""

    def to_device(self, batch: Any, device: torch.device) -> Any:
        """The batch on `device`."""

    def before_step(self, step: int) -> None:
        """Freeze, unfreeze or schedule, by the number of the update that follows."""

    def loss(self, batch: Any, *, step: int, generator: torch.Generator) -> ObjectiveOutput:
        """The loss of one micro-batch; `generator` (CPU) and the default generators are seeded by step."""

    def after_update(self, step: int) -> None:
        """Moving averages and the like, after update number `step`."""

    def validate(self, step: int) -> dict[str, float]:
        """Metrics named `valid_*` after `step` updates, in evaluation mode and deterministic."""

    def save_model(self, directory: Path) -> None:
        """Write `config.json`, `model.safetensors` (every tensor of `modules["model"]`) and what else a model needs."""


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run came to. `stopped_because` is `max_steps`, `early_stopping` or `signal` (then `signal_number`).

    `metrics` holds the last value of each metric, `seconds` the training time over all restarts.
    """

    steps: int
    metrics: dict[str, float]
    best_metric: float | None
    best_checkpoint: Path | None
    last_checkpoint: Path
    stopped_because: Literal["max_steps", "early_stopping", "signal"]
    seconds: float
    audio_seconds: float
    diagnoses: tuple[Diagnosis, ...] = ()
    signal_number: int | None = None
