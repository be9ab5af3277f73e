"""The task of a configuration, with batches of noise that have the shape of those to come."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig, SpeechEncoder, resolve_device
from speechssl.errors import SpeechSSLError
from speechssl.finetune import CtcTask, FinetuneConfig, build_encoder, build_vocabulary, prepare_training
from speechssl.finetune import prepare_validation as prepare_valid
from speechssl.lengths import output_length
from speechssl.manifest import Manifest
from speechssl.objectives import ClusterConfig, ClusterObjective, ContrastiveConfig
from speechssl.pretrain import PretrainConfig, PretrainTask, build_models
from speechssl.training.task import TrainingConfig
from speechssl.types import AudioBatch, LabeledBatch

logger = logging.getLogger(__name__)

Maker = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A task to measure. `batch_maker(n)` makes a batch of n clips of `clip_seconds`."""

    stage: str
    task: Any
    training: TrainingConfig
    device: torch.device
    encoder: EncoderConfig
    objective: ContrastiveConfig | ClusterConfig | None
    num_labels: int
    batch_seconds: float
    clip_seconds: float
    corpus_seconds: float | None
    parameters: Mapping[str, int]
    batch_maker: Callable[[int], Maker]


class _NoStream:
    """Stands for the stream of batches, which planning does not read."""

    world_size = 1


def plan_pretraining(config: PretrainConfig, clip_seconds: float | None) -> Planned:
    """Pre-training as configured; manifests that cannot be read are done without."""
    encoder, objective = build_models(config)
    device = resolve_device(config.device)
    encoder.to(device).train()
    objective.to(device).train()
    stream: Any = _NoStream()
    task = PretrainTask(encoder, objective, stream, None, valid_batch_seconds=1.0, seed=config.training.seed)
    durations = _durations(config.manifests)
    longest = config.data.max_crop_seconds
    if durations is not None:
        longest = min(longest, float(durations.max()))
    seconds = clip_seconds or longest
    rate = encoder.config.sample_rate
    return Planned(
        stage="pre-training",
        task=task,
        training=config.training,
        device=device,
        encoder=encoder.config,
        objective=config.cluster if isinstance(objective, ClusterObjective) else config.contrastive,
        num_labels=objective.num_clusters if isinstance(objective, ClusterObjective) else 0,
        batch_seconds=config.data.batch_seconds,
        clip_seconds=seconds,
        corpus_seconds=None if durations is None else float(durations.sum()),
        parameters=count_parameters(encoder, objective=objective),
        batch_maker=lambda count: lambda: _noise(count, seconds, rate),
    )


def plan_finetuning(config: FinetuneConfig, clip_seconds: float | None) -> Planned:
    """Fine-tuning as configured; its manifests must be there, since the labels come from them."""
    train_manifest, valid_manifest = Manifest.load(config.train_manifest), Manifest.load(config.valid_manifest)
    encoder = build_encoder(config)
    vocabulary = build_vocabulary(train_manifest, config)
    train_data = prepare_training(train_manifest, vocabulary, encoder, config)
    device = resolve_device(config.device)
    model = CtcModel(encoder, vocabulary, normalizer=config.normalizer, dropout=config.head_dropout).to(device)
    task = CtcTask(model, train_data, prepare_valid(valid_manifest, vocabulary, config), config)
    task.before_step(config.freeze_steps)
    durations = train_data.manifest.durations
    seconds = clip_seconds or float(durations.max())
    labels_per_second = sum(map(len, train_data.labels)) / float(durations.sum())
    rate = encoder.config.sample_rate

    def make(count: int) -> LabeledBatch:
        audio = _noise(count, seconds, rate)
        most = output_length(audio.waveform.shape[1], encoder.strided_layers) // 2
        length = max(1, min(round(labels_per_second * seconds), most))
        generator = torch.Generator().manual_seed(0)
        targets = torch.randint(2, len(vocabulary), (count, length), generator=generator)
        return LabeledBatch(
            audio=audio, targets=targets, target_lengths=torch.full((count,), length), references=("",) * count
        )

    return Planned(
        stage="fine-tuning",
        task=_WithoutFreezing(task),
        training=config.training,
        device=device,
        encoder=encoder.config,
        objective=None,
        num_labels=len(vocabulary),
        batch_seconds=config.data.batch_seconds,
        clip_seconds=seconds,
        corpus_seconds=float(durations.sum()),
        parameters=count_parameters(encoder, head=model.head),
        batch_maker=lambda count: lambda: make(count),
    )


class _WithoutFreezing:
    """A fine-tuning task in the part of the run in which the encoder learns, which needs the most."""

    def __init__(self, task: CtcTask) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def before_step(self, step: int) -> None:
        """Leave everything as it is."""


def count_parameters(encoder: SpeechEncoder, **others: nn.Module) -> dict[str, int]:
    """Parameters by part, and in all."""
    counts = {
        "front end": _count(encoder.feature_encoder),
        "context network": _count(encoder) - _count(encoder.feature_encoder),
        **{name: _count(module) for name, module in others.items()},
    }
    return {**counts, "total": sum(counts.values())}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _noise(count: int, seconds: float, sample_rate: int) -> AudioBatch:
    num_samples = round(seconds * sample_rate)
    waveform = torch.randn(count, num_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    return AudioBatch(
        utterance_ids=tuple(f"noise {number}" for number in range(count)),
        waveform=waveform,
        num_samples=torch.full((count,), num_samples),
        sample_rate=sample_rate,
    )


def _durations(paths: tuple[Path, ...]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    try:
        return np.concatenate([Manifest.load(path).durations for path in paths])
    except (SpeechSSLError, OSError) as error:
        logger.warning("planning without the manifests: %s", error)
        return None
