"""`run(PlanConfig(training=Path("pretrain.yaml"), gpu_memory="80GB"))`: measure a few small updates, and say what is to
come.

Time of an update, and memory at each of its moments, grow linearly with the number of clips in it, so two sizes that
are quick to measure give the others; the most memory is the largest of those lines. What clips of another length would
take is not guessed: the measured clips have the length of those that are to come. No layer is dropped while measuring:
some updates of the training drop none, and those need the most memory; its mean time is less by the dropped layers'
share of the operations.
"""

import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from speechssl.config import flatten, from_dict, read_yaml
from speechssl.encoder import EncoderConfig
from speechssl.errors import ConfigError
from speechssl.finetune import FinetuneConfig
from speechssl.plan.flops import StepFlops, step_flops
from speechssl.plan.measure import Measured, StepMeter, joined
from speechssl.plan.tasks import Planned, plan_finetuning, plan_pretraining
from speechssl.pretrain import PretrainConfig
from speechssl.progress import Progress

logger = logging.getLogger(__name__)

RESERVE = 0.1
"""Of the memory, for what allocators lose in between and what is no tensor."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What to plan for.

    Attributes:
        training: a configuration of `speechssl pretrain` or `speechssl finetune`, as a YAML file.
        overrides: values that replace the file's, as `--overrides.data.batch_seconds 60`.
        gpu_memory: memory to fit into, as 80GB or 24GiB; null takes that of the device, on the CPU what is free now.
        clip_seconds: length of a clip; null takes the longest that training cuts to, or that the manifest has.
        num_steps: timed updates at each of the two sizes, more where a second allows.
        largest_share: the larger measured batch is at most this share of the configured one.
        tflops: 10^12 operations a second that another device sustains, for its hours; null gives those of this one.
        device: where the updates are measured; `auto` takes a GPU where there is one.
    """

    training: Path
    overrides: Mapping[str, Any] = field(default_factory=dict)
    gpu_memory: str | None = None
    clip_seconds: float | None = None
    num_steps: int = 3
    largest_share: float = 0.5
    tflops: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.gpu_memory is not None:
            parse_memory(self.gpu_memory)
        if self.num_steps < 1:
            raise ConfigError(f"num_steps must be at least 1, but is {self.num_steps}")
        if not 0 < self.largest_share <= 1:
            raise ConfigError(f"largest_share must be above 0 and at most 1, but is {self.largest_share}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The prediction.

    `parameters` by part; `flops` of one clip; `state_bytes` of weights, gradients and optimizer. `memory_lines` are
    those of an update's moments, as (bytes of no clip, bytes of a clip); `fixed_bytes` and `bytes_per_clip`, of
    activations, are the line of the moment of most memory. `measured` is what all rests on. `step_seconds` (and
    `step_cpu_seconds`, which tell more where cores are shared) and `peak_bytes` are of the configured batch of
    `num_clips`; `hours` of the whole training on the measured device (or at `tflops`), waiting for data and validation
    not counted. `largest_num_clips` is what fits into `memory_bytes` but for a reserve.
    """

    stage: str
    device: str
    parameters: Mapping[str, int]
    flops: StepFlops
    clip_seconds: float
    num_clips: int
    accumulation_steps: int
    max_steps: int
    state_bytes: int
    fixed_bytes: float
    bytes_per_clip: float
    peak_bytes: float
    step_seconds: float
    step_cpu_seconds: float
    hours: float
    hours_at_tflops: float | None
    memory_bytes: int
    largest_num_clips: int
    measured: tuple[Measured, ...]
    memory_lines: tuple[tuple[float, float], ...]
    audio_hours: float
    epochs: float | None

    @property
    def flops_per_audio_second(self) -> float:
        """Operations of training on a second of audio, forward and backward."""
        return self.flops.training / self.clip_seconds

    @property
    def largest_batch_seconds(self) -> float:
        """Audio in the largest batch: what to set `data.batch_seconds` to."""
        return self.largest_num_clips * self.clip_seconds

    def peak_bytes_of(self, num_clips: int) -> float:
        """Predicted for a batch of another size."""
        return _at(_highest(self.memory_lines, num_clips), num_clips)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the phases that `memory_lines` are made of."""
        values = asdict(self)
        for one in values["measured"]:
            del one["phases"]
        values["flops_per_audio_second"] = self.flops_per_audio_second
        values["largest_batch_seconds"] = self.largest_batch_seconds
        return values


def run(config: PlanConfig, *, progress: Progress | None = None) -> Plan:
    """Measure two sizes of batch and predict the configured training.

    Raises:
        ConfigError: the file configures neither pre-training nor fine-tuning, or not rightly.
    """
    planned = load_planned(config)
    clip_seconds = planned.clip_seconds
    num_clips = max(1, math.floor(planned.batch_seconds / clip_seconds + 1e-9))
    device = planned.device
    meter = StepMeter(planned.task, planned.training, device)
    sizes = measured_sizes(num_clips, config.largest_share)
    for module in planned.task.modules.values():
        for part in module.modules():
            if hasattr(part, "layer_drop"):
                part.layer_drop = 0.0
    makers = [(size, planned.batch_maker(size)) for size in sizes]
    measured = meter.measure_sizes(makers, num_steps=config.num_steps, progress=progress)
    state_bytes = meter.state_bytes()
    lines = memory_lines(measured)
    fixed, each = _highest(lines, num_clips)
    memory = parse_memory(config.gpu_memory) if config.gpu_memory else free_memory(device)
    usable = memory * (1 - RESERVE)
    largest = min((math.floor((usable - line[0]) / line[1]) for line in lines if line[1] > 0), default=0)
    steps, accumulation = planned.training.max_steps, planned.training.accumulation_steps
    flops = _flops(planned, planned.encoder)
    share = flops.training / _flops(planned, replace(planned.encoder, layer_drop=0.0)).training * accumulation
    step_seconds = share * _at(fit([(one.num_clips, one.seconds) for one in measured], least=0.0), num_clips)
    cpu_seconds = share * _at(fit([(one.num_clips, one.cpu_seconds) for one in measured], least=0.0), num_clips)
    audio_hours = steps * accumulation * num_clips * clip_seconds / 3600
    total_flops = flops.training * num_clips * accumulation * steps
    return Plan(
        stage=planned.stage,
        device=str(device),
        parameters=planned.parameters,
        flops=flops,
        clip_seconds=clip_seconds,
        num_clips=num_clips,
        accumulation_steps=accumulation,
        max_steps=steps,
        state_bytes=state_bytes,
        fixed_bytes=fixed,
        bytes_per_clip=each,
        peak_bytes=_at((fixed, each), num_clips),
        step_seconds=step_seconds,
        step_cpu_seconds=cpu_seconds,
        hours=steps * step_seconds / 3600,
        hours_at_tflops=None if config.tflops is None else total_flops / (config.tflops * 1e12) / 3600,
        memory_bytes=memory,
        largest_num_clips=max(0, largest),
        measured=tuple(measured),
        memory_lines=lines,
        audio_hours=audio_hours,
        epochs=None if planned.corpus_seconds is None else audio_hours * 3600 / planned.corpus_seconds,
    )


def load_planned(config: PlanConfig) -> Planned:
    """The training that the file configures, ready to be measured."""
    values = {**read_yaml(config.training), **flatten(config.overrides)}
    values.pop("stage", None)
    values.pop("resolved_encoder", None)
    source = str(config.training)
    if "manifests" in values:
        return plan_pretraining(
            replace(from_dict(PretrainConfig, values, source=source), device=config.device), config.clip_seconds
        )
    if "train_manifest" in values:
        return plan_finetuning(
            replace(from_dict(FinetuneConfig, values, source=source), device=config.device), config.clip_seconds
        )
    raise ConfigError(
        f"{source}: configures neither pre-training (manifests) nor fine-tuning (train_manifest); give such a file"
    )


def measured_sizes(num_clips: int, largest_share: float) -> tuple[int, int]:
    """Two numbers of clips, the larger at most a share of those configured, but at least 2."""
    larger = max(2, math.floor(num_clips * largest_share))
    return max(1, larger // 3), larger


def fit(points: list[tuple[int, float]], *, least: float) -> tuple[float, float]:
    """Value at 0 and slope of the line through two points; the value at 0 is no less than `least`."""
    (x0, y0), (x1, y1) = points
    slope = (y1 - y0) / (x1 - x0)
    start = y1 - slope * x1
    return (start, slope) if start >= least else (least, (y1 - least) / x1)


def memory_lines(measured: list[Measured]) -> tuple[tuple[float, float], ...]:
    """The lines of all phases of two measured updates, without those that are never the highest."""
    few, many = measured
    lines = {
        fit([(few.num_clips, first), (many.num_clips, second)], least=0.0)
        for _, first, second in joined(few.phases, many.phases)
    }
    kept: list[tuple[float, float]] = []
    for line in sorted(lines, reverse=True):  # the highest beginnings first: another must climb faster to ever pass it
        if not kept or line[1] > max(each for _, each in kept):
            kept.append(line)
    return tuple(kept)


def _highest(lines: tuple[tuple[float, float], ...], num_clips: int) -> tuple[float, float]:
    return max(lines, key=lambda line: _at(line, num_clips))


def _at(line: tuple[float, float], num_clips: int) -> float:
    return line[0] + line[1] * num_clips


def _flops(planned: Planned, encoder: EncoderConfig) -> StepFlops:
    num_samples = round(planned.clip_seconds * encoder.sample_rate)
    return step_flops(encoder, num_samples, objective=planned.objective, num_labels=planned.num_labels)


def parse_memory(text: str) -> int:
    """`80GB`, `24 GiB`, `40g` or a number of bytes -> bytes.

    Raises:
        ConfigError: it is not that.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", text.lower())
    try:
        if match is not None:
            return int(float(match[1]) * _UNITS[match[2]])
    except (KeyError, ValueError):
        pass  # an unknown unit, or no number: refused below
    raise ConfigError(f"gpu_memory must be like 80GB or 24GiB, but is {text!r}")


def free_memory(device: torch.device) -> int:
    """All of a GPU's memory; on the CPU what the system could give now."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
