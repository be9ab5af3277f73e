"""A few real updates of a task, timed, with the memory that they take."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from speechssl.training.allocator import keep_freed_memory
from speechssl.training.clock import Clock
from speechssl.training.loop import prepare
from speechssl.training.optim import build_optimizer
from speechssl.training.task import TrainingConfig
from speechssl.training.update import Updater

WARM_UP_STEPS = 1


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An update on `num_clips` clips: seconds, CPU seconds, and the most bytes of tensors held at any time.

    `peak_bytes` includes weights, gradients and the optimizer's state.
    """

    num_clips: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


class StepMeter:
    """Makes updates of a task on batches that it is handed."""

    def __init__(self, task: Any, training: TrainingConfig, device: torch.device) -> None:
        """The task's modules are on `device` and will be trained a little."""
        if device.type == "cpu":
            keep_freed_memory()
        prepare(task, training)
        self._task, self._device = task, device
        self._optimizer = build_optimizer(task.parameter_groups(), training.optim)
        self._updater = Updater(task, training, self._optimizer, device=device, clock=Clock())
        self._step = 0

    def state_bytes(self) -> int:
        """Weights and buffers, gradients and the optimizer's state."""
        tensors = [
            tensor
            for module in self._task.modules.values()
            for tensor in (*module.parameters(), *module.buffers())
        ]  # fmt: skip
        tensors += [parameter.grad for parameter in tensors if parameter.grad is not None]
        tensors += [value for state in self._optimizer.state.values() for value in state.values()]
        return _bytes_of(tensors)

    def measure(self, make_batch: Callable[[], Any], num_clips: int, *, num_steps: int) -> Measured:
        """Updates on the same batch: one to warm up, `num_steps` timed, one whose memory is followed."""
        batch = self._task.to_device(make_batch(), self._device)
        for _ in range(WARM_UP_STEPS):
            self._update(batch)
        seconds, cpu_seconds = [], []
        for _ in range(num_steps):
            wall, cpu = time.perf_counter(), time.process_time()
            self._update(batch)
            seconds.append(time.perf_counter() - wall)
            cpu_seconds.append(time.process_time() - cpu)
        return Measured(
            num_clips=num_clips,
            seconds=sorted(seconds)[len(seconds) // 2],
            cpu_seconds=sorted(cpu_seconds)[len(cpu_seconds) // 2],
            peak_bytes=self._peak(batch),
        )

    def _update(self, batch: Any) -> None:
        self._updater.update(self._step, [batch])
        self._step += 1
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _peak(self, batch: Any) -> int:
        """Most bytes of tensors during an update."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._update(batch)
            return int(torch.cuda.max_memory_allocated(self._device))
        held = self.state_bytes()
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as found:
            self._update(batch)
        return held + _largest_sum(found)


def _largest_sum(found: Any) -> int:
    """The largest sum of all allocations and releases so far, in their order."""
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in found.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type().name == "CPU"
    )
    current = largest = 0
    for _, change in changes:
        current += change
        largest = max(largest, current)
    return largest


def _bytes_of(tensors: list[torch.Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
