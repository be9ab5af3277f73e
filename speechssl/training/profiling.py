"""Where an update goes: a trace of a few updates, and a table of their time by part of the work.

Scopes are opened by hooks that are there only while a run is profiled, so a run that is not profiled pays nothing. The
time of a backward operation goes to the part whose forward operation it belongs to: torch's profiler gives both the
same sequence number.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechssl.files import write_text
from speechssl.nn.attention import FeedForward, SelfAttention
from speechssl.nn.context_encoder import ContextEncoder
from speechssl.nn.feature_encoder import ConvFeatureEncoder
from speechssl.nn.mel_features import FbankFeatureEncoder, LogMelFeatureEncoder
from speechssl.nn.positions import BatchNormConvPositions, ConvPositions, StackedConvPositions
from speechssl.nn.quantizer import GumbelQuantizer

logger = logging.getLogger(__name__)

FOLDER = "profile"
TABLE_FILE = "profile.json"
TRACE_FILE = "trace.json"
SKIPPED_STEPS = 3
"""Updates before the first that is profiled: the first ones allocate and choose kernels."""
PROFILED_STEPS = 5
WAITING_SHARE = 0.1
"""From this share of an update spent waiting for data on, the loader is called the bottleneck."""

FRONT_END, POSITIONS, ATTENTION, FEED_FORWARD = "front end", "positions", "attention", "feed-forward"
CONTEXT, QUANTIZER, HEAD, OPTIMIZER = "norms and residuals", "quantizer", "head and loss", "optimizer"
DATA_WAIT, OTHER = "data wait", "other"
PARTS = (FRONT_END, POSITIONS, ATTENTION, FEED_FORWARD, CONTEXT, QUANTIZER, HEAD, OPTIMIZER, DATA_WAIT, OTHER)

_PREFIX = "speechssl: "
_BACKWARD = "autograd::engine::evaluate_function"
_PART_OF: Mapping[type[nn.Module], str] = {
    ConvFeatureEncoder: FRONT_END,
    LogMelFeatureEncoder: FRONT_END,
    FbankFeatureEncoder: FRONT_END,
    ConvPositions: POSITIONS,
    BatchNormConvPositions: POSITIONS,
    StackedConvPositions: POSITIONS,
    SelfAttention: ATTENTION,
    FeedForward: FEED_FORWARD,
    ContextEncoder: CONTEXT,
    GumbelQuantizer: QUANTIZER,
}
_PART_OF_NAME = {"latent_norm": CONTEXT, "projection": CONTEXT}


@dataclass(frozen=True, kw_only=True)
class PartTime:
    """Milliseconds an update spends in a part, of an update's `share`."""

    part: str
    forward_milliseconds: float
    backward_milliseconds: float
    share: float

    @property
    def milliseconds(self) -> float:
        """Both directions."""
        return self.forward_milliseconds + self.backward_milliseconds


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where `num_steps` updates went, on average.

    `parts` are in the order of `PARTS` and add up to `step_milliseconds` of wall time; on a GPU the parts hold the time
    of its kernels, and `other` what it stood still or did besides. `trace` is for chrome://tracing or Perfetto.
    """

    num_steps: int
    step_milliseconds: float
    parts: tuple[PartTime, ...]
    device: str
    num_workers: int | None
    trace: Path | None

    @property
    def data_wait(self) -> float:
        """Share of an update spent waiting for the loader."""
        return next(part.share for part in self.parts if part.part == DATA_WAIT)

    @property
    def warning(self) -> str | None:
        """What to do when the loader is the bottleneck, in words; None when it is not."""
        if self.data_wait < WAITING_SHARE:
            return None
        workers = "" if self.num_workers is None else f" (now {self.num_workers})"
        return (
            f"the loader is the bottleneck: {100 * self.data_wait:.0f} % of each update is spent waiting for data."
            f" Raise data.num_workers{workers} as far as there are cores, keep decoded audio in memory"
            " (data.cache_megabytes), store recordings at the model's sampling rate, or pack small files into shards"
            " (speechssl manifest shard)"
        )


class Profiler:
    """Profiles some of the first updates of a run; given to `train`, which tells it where it is.

    Writes `profile/trace.json` and `profile/profile.json` into the run directory when the last of them is done.
    """

    def __init__(
        self, *, skip: int = SKIPPED_STEPS, steps: int = PROFILED_STEPS, num_workers: int | None = None
    ) -> None:
        """Profile `steps` updates after the first `skip`; `num_workers` of the loader is named in its warning."""
        if skip < 0 or steps < 1:
            raise ValueError(f"skip must not be negative and steps at least 1, but are {skip} and {steps}")
        self.profile: Profile | None = None
        self._skip, self._steps, self._num_workers = skip, steps, num_workers
        self._done = 0
        self._torch: Any = None  # torch's own profiler while it runs; it is not typed
        self._stack = ExitStack()
        self._started = 0.0

    def start(self, modules: Mapping[str, nn.Module], directory: Path, device: torch.device) -> None:
        """The run is about to make its first update."""
        self._modules, self._directory, self._device = modules, directory / FOLDER, device
        if self._skip == 0:
            self._begin()

    def step(self) -> None:
        """An update is done."""
        self._done += 1
        if self._done == self._skip:
            self._begin()
        elif self._torch is not None and self._done == self._skip + self._steps:
            self._end()

    @contextmanager
    def scope(self, part: str) -> Iterator[None]:
        """What happens within belongs to `part`, as far as no module's part is nearer."""
        if self._torch is None:
            yield
        else:
            with torch.profiler.record_function(_PREFIX + part):
                yield

    def close(self) -> None:
        """The run has ended: what was profiled so far is written, if anything."""
        if self._torch is not None:
            steps = self._done - self._skip
            if steps > 0:
                self._steps = steps
                self._end()
            else:
                self._stack.close()
                self._torch = None
        elif self.profile is None:
            logger.warning(
                "nothing was profiled: the run made %d updates, and the first %d are left out", self._done, self._skip
            )

    def _begin(self) -> None:
        for handle in _open_scopes(self._modules):
            self._stack.callback(handle)
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
            torch.cuda.synchronize(self._device)
        self._torch = torch.profiler.profile(activities=activities, acc_events=True)
        self._torch.__enter__()
        self._started = time.perf_counter()

    def _end(self) -> None:
        assert self._torch is not None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._started
        self._torch.__exit__(None, None, None)
        self._stack.close()
        found, self._torch = self._torch, None
        self._directory.mkdir(parents=True, exist_ok=True)
        trace = self._directory / TRACE_FILE
        found.export_chrome_trace(str(trace))
        self.profile = Profile(
            num_steps=self._steps,
            step_milliseconds=1000 * seconds / self._steps,
            parts=part_times(
                found.events() or (), seconds=seconds, num_steps=self._steps, on_gpu=self._device.type == "cuda"
            ),
            device=str(self._device),
            num_workers=self._num_workers,
            trace=trace,
        )
        values = {**asdict(self.profile), "trace": TRACE_FILE, "warning": self.profile.warning}
        write_text(self._directory / TABLE_FILE, json.dumps(values, indent=2) + "\n")
        if self.profile.warning:
            logger.warning("%s", self.profile.warning)


def _open_scopes(modules: Mapping[str, nn.Module]) -> Iterator[Callable[[], None]]:
    """Hooks that open a scope around every module that is a part; gives what takes each away."""
    for root in modules.values():
        for name, module in root.named_modules():
            part = _PART_OF.get(type(module)) or _PART_OF_NAME.get(name.rpartition(".")[2])
            if part is None:
                continue
            opened: list[Any] = []

            def enter(module: nn.Module, inputs: Any, *, part: str = part, opened: list[Any] = opened) -> None:
                opened.append(torch.profiler.record_function(_PREFIX + part))
                opened[-1].__enter__()

            def leave(module: nn.Module, inputs: Any, output: Any, *, opened: list[Any] = opened) -> None:
                if opened:
                    opened.pop().__exit__(None, None, None)

            yield module.register_forward_pre_hook(enter).remove
            yield module.register_forward_hook(leave, always_call=True).remove


def part_times(events: Iterable[Any], *, seconds: float, num_steps: int, on_gpu: bool = False) -> tuple[PartTime, ...]:
    """The profiler's events as times by part; what they do not explain of `seconds` is `other`."""
    ordered = sorted((event for event in events if not event.is_async), key=lambda one: one.time_range.start)
    forward = dict.fromkeys(PARTS, 0.0)
    backward = dict.fromkeys(PARTS, 0.0)
    part_of_sequence: dict[int, str] = {}
    placed: dict[int, tuple[str, bool]] = {}
    for event in ordered:
        parent = placed.get(id(event.cpu_parent), (OTHER, False)) if event.cpu_parent is not None else (OTHER, False)
        part, is_backward = parent
        if event.name.startswith(_PREFIX):
            part = event.name.removeprefix(_PREFIX)
        elif event.name.startswith(_BACKWARD):
            part, is_backward = part_of_sequence.get(event.sequence_nr, part), True
        elif event.sequence_nr >= 0 and not is_backward:
            part_of_sequence[event.sequence_nr] = part  # the last operation with a number is the one that made the node
        placed[id(event)] = (part, is_backward)
        spent = event.self_device_time_total if on_gpu and part != DATA_WAIT else event.self_cpu_time_total
        (backward if is_backward else forward)[part] += spent
    scale = 1e-3 / num_steps
    total = 1000 * seconds / num_steps
    explained = sum(scale * (forward[part] + backward[part]) for part in PARTS if part != OTHER)
    forward[OTHER], backward[OTHER] = max(0.0, total - explained) / scale, 0.0
    return tuple(
        PartTime(
            part=part,
            forward_milliseconds=scale * forward[part],
            backward_milliseconds=scale * backward[part],
            share=scale * (forward[part] + backward[part]) / total,
        )
        for part in PARTS
    )
