"""Everything that a resumed run must know beyond weights and optimizer: one JSON object."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from speechssl.errors import CheckpointError


@dataclass(kw_only=True)
class TrainingState:
    """Counters and running values after `step` updates.

    `best_checkpoints` holds `(metric, step)` pairs, best first; `sums` the metrics since the last log line;
    `metrics` the last value of each; `monitor` and `diagnoses` what the monitor knows and said, `stopped_by` the
    diagnosis that ended the run.
    """

    step: int = 0
    audio_seconds: float = 0.0
    seconds: float = 0.0
    skipped_updates: int = 0
    best_metric: float | None = None
    validations_since_best: int = 0
    best_checkpoints: list[tuple[float, int]] = field(default_factory=list)
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    monitor: dict[str, Any] = field(default_factory=dict)
    diagnoses: list[dict[str, Any]] = field(default_factory=list)
    stopped_by: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` turns into an equal state."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str) -> "TrainingState":
        """Inverse of `to_dict`; other keys are ignored.

        Raises:
            CheckpointError: keys are missing.
        """
        names = cls.__dataclass_fields__
        missing = [name for name in names if name not in values]
        if missing:
            raise CheckpointError(f"{source}: lacks {', '.join(missing)}; it was written by another version")
        state = cls(**{name: values[name] for name in names})
        state.best_checkpoints = [(metric, step) for metric, step in state.best_checkpoints]
        state.sums = {name: (total, count) for name, (total, count) in state.sums.items()}
        return state

    def add(self, values: Mapping[str, float]) -> None:
        """Add one update's metrics to the averages; values that are not finite are left out."""
        for name, value in values.items():
            if math.isfinite(value):
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = (total + value, count + 1)

    def take_averages(self) -> dict[str, float]:
        """The averages since the last call, which starts new ones."""
        averages = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return averages

    def record_validation(self, value: float, *, mode: Literal["min", "max"]) -> bool:
        """Note a validation's `best_metric`; True when it is the best so far."""
        best = self.best_metric
        better = math.isfinite(value) and (best is None or (value < best if mode == "min" else value > best))
        self.validations_since_best = 0 if better else self.validations_since_best + 1
        if better:
            self.best_metric = value
        return better

    def rank_checkpoint(self, value: float, step: int, *, mode: Literal["min", "max"], keep: int) -> bool:
        """Enter a step into the list of best checkpoints; True when it is among the best `keep`."""
        if not math.isfinite(value):
            return False
        sign = 1 if mode == "min" else -1
        ranked = sorted([*self.best_checkpoints, (value, step)], key=lambda pair: (sign * pair[0], pair[1]))
        self.best_checkpoints = ranked[:keep]
        return any(kept == step for _, kept in self.best_checkpoints)


class PendingMetrics:
    """Metrics of the last updates, left on the device until they are read all at once."""

    def __init__(self) -> None:
        self._updates: list[tuple[int, dict[str, Tensor]]] = []

    def append(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Keep the scalars of an update without reading them."""
        self._updates.append((step, {name: value.detach() for name, value in values.items()}))

    def drain(self) -> list[tuple[int, dict[str, float]]]:
        """Read and forget all; one transfer from each device."""
        updates, self._updates = self._updates, []
        tensors = [value for _, values in updates for value in values.values()]
        numbers = iter(_read(tensors))
        return [(step, {name: next(numbers) for name in values}) for step, values in updates]


def _read(tensors: list[Tensor]) -> list[float]:
    by_device: dict[torch.device, list[int]] = {}
    for index, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(index)
    numbers = [0.0] * len(tensors)
    for indices in by_device.values():
        values = torch.stack([tensors[index].to(torch.float32).reshape(()) for index in indices]).tolist()
        for index, value in zip(indices, values, strict=True):
            numbers[index] = value
    return numbers
