"""A tiny task with dropout, masks from the generator, tied weights and a teacher; also a program to be killed.

`python toy.py RUN_DIRECTORY OVERRIDES_JSON` trains; the tests start it, kill it and start it again.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from speechssl.config import from_dict, to_dict
from speechssl.training import TrainingConfig, TrainingResult, train
from speechssl.types import ObjectiveOutput

DIM = 6


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(DIM, DIM)
        self.second = nn.Linear(DIM, DIM)
        self.second.bias = self.first.bias  # tied
        self.norm = nn.BatchNorm1d(DIM)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.dropout(self.norm(self.first(x)).relu()))


class Stream(IterableDataset[Tensor]):
    """Batch number i is a function of i; workers take turns."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Tensor]:
        info = torch.utils.data.get_worker_info()
        worker, count = (info.id, info.num_workers) if info else (0, 1)
        number = self.start + worker
        while True:
            yield batch_number(number)
            number += count


def batch_number(number: int) -> Tensor:
    size = 3 + number % 4
    return torch.randn(size, DIM, generator=torch.Generator().manual_seed(number))


class ToyTask:
    def __init__(self, *, num_workers: int = 0) -> None:
        self.model = ToyModel()
        self.teacher = nn.Linear(DIM, DIM)
        self.teacher.load_state_dict(self.model.first.state_dict())
        self.num_workers = num_workers
        self.modules: Mapping[str, nn.Module] = {"model": self.model, "teacher": self.teacher}

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": [self.model.first.weight], "lr_scale": 0.5, "weight_decay": 0.0},
            {"params": [p for p in self.model.parameters() if p is not self.model.first.weight]},
        ]

    def batches(self, start: int) -> Iterator[Tensor]:
        return iter(DataLoader(Stream(start), batch_size=None, num_workers=self.num_workers))

    def batch_seconds(self, batch: Tensor) -> float:
        return float(len(batch))

    def to_device(self, batch: Tensor, device: torch.device) -> Tensor:
        return batch.to(device)

    def before_step(self, step: int) -> None:
        self.model.first.weight.requires_grad_(step >= 3)  # frozen first

    def loss(self, batch: Tensor, *, step: int, generator: torch.Generator) -> ObjectiveOutput:
        mask = torch.rand(len(batch), generator=generator).to(batch.device) < 0.8
        error = (self.model(batch) - self.teacher(batch).detach().tanh())[mask]
        count = mask.sum() * DIM
        loss = error.float().square().sum() / count.clamp(min=1)
        return ObjectiveOutput(loss=loss, num_targets=count, metrics={"error": error.detach().float().abs().sum()})

    def after_update(self, step: int) -> None:
        with torch.no_grad():
            self.teacher.weight.lerp_(self.model.first.weight, 0.01)

    def validate(self, step: int) -> dict[str, float]:
        self.model.eval()
        x = batch_number(10**6)
        return {"valid_loss": float((self.model(x) - self.teacher(x)).square().mean())}

    def save_model(self, directory: Path) -> None:
        from safetensors.torch import save_file

        state = {name: t.detach().clone() for name, t in self.model.state_dict().items() if name != "second.bias"}
        save_file(state, directory / "model.safetensors")
        (directory / "config.json").write_text("{}\n")


DEFAULTS: dict[str, Any] = {
    "max_steps": 40, "accumulation_steps": 2, "log_interval": 3, "validate_interval": 5, "checkpoint_interval": 1,
    "tensorboard": False, "optim": {"peak_lr": 0.02},
}  # fmt: skip


def run(
    directory: Path, *, num_workers: int = 0, task: Any = None, fingerprint: str = "f", **overrides: Any
) -> TrainingResult:
    config = from_dict(TrainingConfig, {**DEFAULTS, **overrides})
    return train(
        task or ToyTask(num_workers=num_workers),
        config=config,
        run_directory=directory,
        resolved_config={"training": to_dict(config), "num_workers": num_workers},
        fingerprint=fingerprint,
        description="toy",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = run(Path(sys.argv[1]), **json.loads(sys.argv[2]))
    print(json.dumps({"steps": result.steps, "why": result.stopped_because, "signal": result.signal_number}))
