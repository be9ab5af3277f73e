"""A few batches through a task without learning from them: do they run, how long do they take, in what memory."""

import math
import time
from dataclasses import dataclass
from itertools import islice

import torch
from torch import nn

from speechssl.training.allocator import peak_memory_bytes
from speechssl.training.task import Task

_ADAM_STATES = 2  # first and second moments


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What a batch costs.

    `seconds` of the quickest one, forward and backward (the first of all is slow). `memory_bytes`: the highest so far
    of the process on the CPU, or of the device's allocator on a GPU, with the optimizer's states added.
    """

    num_parameters: int
    num_trained_parameters: int
    batch_seconds: float
    seconds: float
    memory_bytes: int
    loss: float


def try_batches(task: Task, *, device: torch.device, num_batches: int = 3, seed: int = 0) -> StepCost:
    """Run forward and backward of the first batches; gradients are dropped, no weight changes.

    Raises:
        AudioError, TrainingError: whatever reading or computing the batches raises.
    """
    modules = nn.ModuleDict(dict(task.modules))
    modules.train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    generator = torch.Generator().manual_seed(seed)
    seconds, audio_seconds, loss = math.inf, 0.0, 0.0
    for batch in islice(task.batches(0), num_batches):
        task.before_step(0)
        started = time.perf_counter()
        output = task.loss(task.to_device(batch, device), step=0, generator=generator)
        output.loss.backward()  # type: ignore[no-untyped-call]
        loss = float(output.loss.detach())
        seconds = min(seconds, time.perf_counter() - started)
        audio_seconds = max(audio_seconds, task.batch_seconds(batch))
    trained = sum(parameter.numel() for parameter in modules.parameters() if parameter.grad is not None)
    for parameter in modules.parameters():
        parameter.grad = None
    return StepCost(
        num_parameters=sum(parameter.numel() for parameter in modules.parameters()),
        num_trained_parameters=trained,
        batch_seconds=audio_seconds,
        seconds=seconds,
        memory_bytes=peak_memory_bytes(device) + 4 * _ADAM_STATES * trained,
        loss=loss,
    )
