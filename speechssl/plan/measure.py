"""A few real updates of a task, timed, with the memory that they take.

The most memory is held at one of several moments: for few clips when gradients meet the workspace of a layer, for many
when the last layer's output is there. Each moment's memory grows linearly with the clips, the largest of them does not.
So the memory of an update is kept by moment (`phases`), and each has its own line.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from speechssl.progress import Progress
from speechssl.training.allocator import keep_freed_memory
from speechssl.training.clock import Clock
from speechssl.training.loop import prepare
from speechssl.training.optim import build_optimizer
from speechssl.training.task import TrainingConfig
from speechssl.training.update import Updater

WARM_UP_STEPS = 1
LEAST_TIMED_SECONDS = 1.0
"""Updates are timed for at least so long, at most `MOST_STEPS` of them: single short ones waver."""
MOST_STEPS = 20
_MARK = "speechssl plan: "

Phases = tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An update on `num_clips` clips: seconds, CPU seconds, and the most bytes of tensors held at any time.

    `peak_bytes` includes weights, gradients, the optimizer's state and the batch. `phases` are the parts of an update
    in their order, from one layer's beginning or parameter's gradient to the next, each with the most bytes held in it.
    """

    num_clips: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    phases: Phases = field(default=(), repr=False)


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
        """See `measure_sizes`; one size."""
        return self.measure_sizes([(num_clips, make_batch)], num_steps=num_steps)[0]

    def measure_sizes(
        self,
        sizes: Sequence[tuple[int, Callable[[], Any]]],
        *,
        num_steps: int,
        progress: Progress | None = None,
    ) -> list[Measured]:
        """Updates on batches of several sizes, (number of clips, maker of the batch).

        Of each size one to warm up, at least `num_steps` timed, and one whose memory is followed. The timed ones are
        made in turn, so that a slow moment of the machine meets all sizes alike.
        """
        batches = [self._task.to_device(make_batch(), self._device) for _, make_batch in sizes]
        for batch in batches:
            for _ in range(WARM_UP_STEPS):
                self._update(batch)
        seconds: list[list[float]] = [[] for _ in sizes]
        cpu_seconds: list[list[float]] = [[] for _ in sizes]
        while len(seconds[0]) < num_steps or (
            len(seconds[0]) < MOST_STEPS and min(map(sum, seconds)) < LEAST_TIMED_SECONDS
        ):
            for place, batch in enumerate(batches):
                wall, cpu = time.perf_counter(), time.process_time()
                self._update(batch)
                seconds[place].append(time.perf_counter() - wall)
                cpu_seconds[place].append(time.process_time() - cpu)
        batches.clear()
        del batch
        found = []
        for place, (num_clips, make_batch) in enumerate(sizes):
            phases = self._memory(make_batch)
            found.append(
                Measured(
                    num_clips=num_clips,
                    seconds=_median(seconds[place]),
                    cpu_seconds=_median(cpu_seconds[place]),
                    peak_bytes=max(most for _, most in phases),
                    phases=phases,
                )
            )
            if progress is not None:
                progress(place + 1, len(sizes))
        return found

    def _update(self, batch: Any) -> None:
        self._updater.update(self._step, [batch])
        self._step += 1
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _memory(self, make_batch: Callable[[], Any]) -> Phases:
        """Most bytes of tensors in each phase of an update."""
        self._optimizer.zero_grad(set_to_none=True)  # a profiler cannot know the size of what was there before it
        gc.collect()
        modules = self._task.modules.values()
        if self._device.type == "cuda":
            phases: list[tuple[str, int]] = []
            names = ["begin"]

            def next_phase(name: str) -> None:  # numbers of the allocator on the host: nothing waits
                phases.append((names[-1], int(torch.cuda.max_memory_allocated(self._device))))
                torch.cuda.reset_peak_memory_stats(self._device)
                names.append(name)

            torch.cuda.reset_peak_memory_stats(self._device)
            with _marks(modules, next_phase):
                self._update(self._task.to_device(make_batch(), self._device))
            next_phase("end")
            return tuple(phases)

        def mark(name: str) -> None:
            with torch.profiler.record_function(_MARK + name):
                pass

        held = self.state_bytes()
        activities = [torch.profiler.ProfilerActivity.CPU]
        with _marks(modules, mark):
            with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as found:
                self._update(self._task.to_device(make_batch(), self._device))
        return _largest_sums(found, held)


def joined(first: Phases, second: Phases) -> list[tuple[str, int, int]]:
    """Phases that both have, with the bytes of each; what only one has counts for the phase before it.

    A layer may be left out of one update, as LayerDrop does.
    """
    shared = {name for name, _ in first} & {name for name, _ in second}
    folded = []
    for phases in (first, second):
        most: dict[str, int] = {}
        current = phases[0][0] if phases else ""
        for name, value in phases:
            current = name if name in shared else current
            most[current] = max(most.get(current, 0), value)
        folded.append(most)
    return [(name, folded[0][name], folded[1][name]) for name in folded[0] if name in folded[1]]


@contextmanager
def _marks(modules: Any, mark: Callable[[str], None]) -> Iterator[None]:
    """Call `mark` with a name of its own when each submodule first begins and each parameter has its gradient."""
    seen: set[str] = set()
    handles = []

    def once(name: str) -> None:
        if name not in seen:
            seen.add(name)
            mark(name)

    for number, module in enumerate(modules):
        handles += [_before(part, f"{number}.{name} begins", once) for name, part in _steps(module)]
        handles += [
            _after_gradient(parameter, f"gradient of {number}.{name}", once)
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _steps(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Children, and the layers among them; a hook within the front end would keep it from its own kernels."""
    for name, child in module.named_children():
        yield name, child
        for inner, part in child.named_children():
            if isinstance(part, nn.ModuleList) and inner == "layers":
                yield from ((f"{name}.{inner}.{place}", layer) for place, layer in enumerate(part))


def _before(module: nn.Module, name: str, once: Callable[[str], None]) -> Any:
    return module.register_forward_pre_hook(lambda *_: once(name))


def _after_gradient(parameter: nn.Parameter, name: str, once: Callable[[str], None]) -> Any:
    return parameter.register_post_accumulate_grad_hook(lambda _: once(name))  # type: ignore[no-untyped-call]


def _largest_sums(found: Any, held: int) -> Phases:
    """The largest sum of `held` and all allocations and releases so far, in each phase, in their order."""
    events = []
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            if event.device_type().name == "CPU":
                events.append((event.start_ns(), "", event.nbytes()))
        elif event.name().startswith(_MARK):
            events.append((event.start_ns(), event.name().removeprefix(_MARK), 0))
    events.sort(key=lambda event: event[0])
    current, phases = held, [("begin", held)]
    for _, name, change in events:
        current += change
        if name:
            phases.append((name, current))
        elif current > phases[-1][1]:
            phases[-1] = (phases[-1][0], current)
    return tuple(phases)


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _bytes_of(tensors: list[torch.Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
