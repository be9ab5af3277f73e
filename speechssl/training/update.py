"""One update: micro-batches, gradients, clipping, AdamW. A process alone never waits for the device."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from speechssl.training.clock import Clock
from speechssl.training.optim import apply_update, learning_rate, set_learning_rate
from speechssl.training.profiling import DATA_WAIT, HEAD, OPTIMIZER, Profiler
from speechssl.training.randomness import seeded
from speechssl.training.task import Task, TrainingConfig
from speechssl.training.together import Together


class Updater:
    """Makes updates of one task; `batches` is its stream of micro-batches."""

    def __init__(
        self, task: Task, config: TrainingConfig, optimizer: torch.optim.AdamW, *, device: torch.device, clock: Clock,
        profiler: Profiler | None = None,
    ) -> None:  # fmt: skip
        self.task = task
        self.config = config
        self.optimizer = optimizer
        self.device = device
        self.clock = clock
        self.profiler = profiler
        self.together = Together()
        self.batches: Iterator[Any] = iter(())

    def start(self, step: int) -> None:
        """Put the stream to the first micro-batch of update number `step`."""
        self.batches = self.task.batches(step * self.config.accumulation_steps)

    def fetch(self) -> list[tuple[Any, float]]:
        """The micro-batches of the next update, on the device, each with its seconds of audio."""
        fetched = []
        for _ in range(self.config.accumulation_steps):
            started = time.perf_counter()
            with self._scope(DATA_WAIT):
                batch = next(self.batches)
            self.clock.waited(time.perf_counter() - started)
            fetched.append((self.task.to_device(batch, self.device), self.task.batch_seconds(batch)))
        return fetched

    def update(self, step: int, batches: list[Any]) -> dict[str, Tensor]:
        """Make update number `step`; returns its metrics as scalars that nobody has read yet."""
        for module in self.task.modules.values():
            module.train()
        self.task.before_step(step)
        set_learning_rate(self.optimizer, learning_rate(self.config.optim, step, self.config.max_steps))
        self.optimizer.zero_grad(set_to_none=True)  # a frozen parameter must have no gradient, not one of zeros
        metrics, loss, num_targets = self._accumulate(step, batches)
        with self._scope(OPTIMIZER):
            self.together.sum_gradients([p for group in self.optimizer.param_groups for p in group["params"]])
            norm, skipped = apply_update(
                self.optimizer,
                loss=loss,
                num_targets=num_targets if self._sums(batches) else None,
                clip_norm=self.config.clip_norm,
            )
        self.task.after_update(step)
        return {"loss": loss, **metrics, "num_targets": num_targets, "gradient_norm": norm, "skipped": skipped}

    def _sums(self, batches: list[Any]) -> bool:
        """Whether an update has several micro-batches, here or in other processes."""
        return len(batches) > 1 or not self.together.is_alone

    def _accumulate(self, step: int, batches: list[Any]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Gradients of sum(loss_i * n_i), or of the only loss; mean metrics, mean loss and the number of targets.

        Gradients are those of this process, the rest is of all of them. Micro-batches are numbered over all of them,
        in the order of the stream, so that what is drawn for one does not depend on who has it.
        """
        outputs = []
        for index, batch in enumerate(batches):
            number = index * self.together.world_size + self.together.rank
            with seeded(self.device, self.config.seed, step, number) as generator, self.autocast():
                with self._scope(HEAD):
                    output = self.task.loss(batch, step=step, generator=generator)
            loss = output.loss * output.num_targets if self._sums(batches) else output.loss
            loss.backward()  # type: ignore[no-untyped-call]
            scalars = {"loss": output.loss.detach().float(), **output.metrics}
            outputs.append((scalars, output.num_targets.detach().to(self.device)))
        if not self._sums(batches):
            metrics, num_targets = outputs[0]
        elif self.together.is_alone:
            num_targets = torch.stack([count for _, count in outputs]).sum()
            metrics = _weighted_means(outputs)
        else:
            pairs = self.together.sum_pairs(_weighted_sums(outputs))
            num_targets = pairs["loss"][1]
            metrics = {name: pair[0] / pair[1].clamp(min=1) for name, pair in pairs.items()}
        return metrics, metrics.pop("loss"), num_targets

    def _scope(self, part: str) -> AbstractContextManager[Any]:
        return nullcontext() if self.profiler is None else self.profiler.scope(part)

    def autocast(self) -> AbstractContextManager[Any]:
        """The configured precision."""
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def close(self) -> None:
        """End the stream, and with it any loader workers."""
        close = getattr(self.batches, "close", None)
        if close is not None:
            close()
        self.batches = iter(())


def _weighted_sums(outputs: list[tuple[dict[str, Tensor], Tensor]]) -> dict[str, Tensor]:
    """Sums over micro-batches of each metric times its targets, and of these targets: name -> `[2]`."""
    sums = {}
    for name in {name: None for scalars, _ in outputs for name in scalars}:
        pairs = [(scalars[name].to(count.device), count) for scalars, count in outputs if name in scalars]
        total = torch.stack([count for _, count in pairs]).sum()
        sums[name] = torch.stack([torch.stack([value * count for value, count in pairs]).sum(), total])
    return sums


def _weighted_means(outputs: list[tuple[dict[str, Tensor], Tensor]]) -> dict[str, Tensor]:
    """Means over micro-batches, weighted by targets; a metric that only some report counts for those."""
    return {name: pair[0] / pair[1].clamp(min=1) for name, pair in _weighted_sums(outputs).items()}
