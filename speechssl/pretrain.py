"""Pre-training on unlabelled audio: manifests -> encoder + objective -> run directory.

from speechssl import pretrain
result = pretrain.run(pretrain.PretrainConfig(manifests=("train.jsonl",), run_directory="runs/base"))
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from speechssl.config import to_dict
from speechssl.data import AudioBatches, DataConfig, EpochCoverage, coverage_path, current_ranks, iterate_once
from speechssl.encoder import SpeechEncoder, encoder_config, resolve_device
from speechssl.errors import ConfigError
from speechssl.interop.model import PretrainingModel
from speechssl.interop.models import load_model
from speechssl.lengths import input_length
from speechssl.manifest import Manifest, require_valid
from speechssl.objectives import ClusterConfig, ClusterObjective, ContrastiveConfig, build_contrastive
from speechssl.training.dry_run import StepCost, try_batches
from speechssl.training.loop import train
from speechssl.training.profiling import Profiler
from speechssl.training.randomness import derive_seed
from speechssl.training.task import TrainingConfig, TrainingResult
from speechssl.training.together import joined
from speechssl.types import AudioBatch, ObjectiveOutput
from speechssl.units.model import centers_file
from speechssl.units.targets import open_targets

logger = logging.getLogger(__name__)

MIN_FRAMES = 4
"""Shorter clips are left out and counted: two masked frames and as many visible ones are the least that can be learnt
from."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What to pre-train, on what, and where to write.

    Attributes:
        manifests: training manifests, joined.
        valid_manifest: held-out recordings for `valid_*` metrics; none by default.
        run_directory: receives configuration, metrics and checkpoints; an interrupted run there is continued.
        preset: of the encoder: tiny, small, base or large.
        encoder: fields of the encoder that differ from the preset.
        initialize_from: start from this model (run, model directory, shipped name, or another tool's) instead of random
            weights; its architecture replaces preset and encoder.
        fresh_objective: begin with a new quantizer and new projections also where `initialize_from` brings its own.
        objective: `contrastive` (wav2vec 2.0) or `cluster` (HuBERT), which needs units (`speechssl units`) as targets.
        contrastive: settings of the contrastive objective.
        cluster: settings of the masked prediction of clusters.
        data: how utterances become batches.
        training: the loop.
        device: `auto` takes a GPU where there is one.
    """

    manifests: tuple[Path, ...]
    run_directory: Path
    valid_manifest: Path | None = None
    preset: str = "base"
    encoder: Mapping[str, Any] = field(default_factory=dict)
    initialize_from: str | None = None
    fresh_objective: bool = False
    objective: str = "contrastive"
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check names early, before anything is read."""
        if not self.manifests:
            raise ConfigError("manifests must name at least one manifest, but is empty")
        if self.objective not in BUILDERS:
            raise ConfigError(f"objective must be one of {', '.join(BUILDERS)}, but is {self.objective!r}")
        if self.objective == "cluster" and self.cluster.targets is None:
            raise ConfigError(
                "objective=cluster needs targets: make them with `speechssl units` and name the folder as"
                " cluster.targets"
            )
        encoder_config(self.preset, self.encoder)


def _build_contrastive(config: PretrainConfig, encoder: SpeechEncoder, seed: int) -> nn.Module:
    return build_contrastive(config.contrastive, encoder, seed)


def _build_cluster(config: PretrainConfig, encoder: SpeechEncoder, seed: int) -> nn.Module:
    assert config.cluster.targets is not None
    targets = open_targets(config.cluster.targets, encoder)
    return ClusterObjective(config.cluster, targets, model_dim=encoder.config.model_dim, seed=seed)


BUILDERS: dict[str, Callable[[PretrainConfig, SpeechEncoder, int], nn.Module]] = {
    "contrastive": _build_contrastive,
    "cluster": _build_cluster,
}


def build_objective(config: PretrainConfig, encoder: SpeechEncoder) -> nn.Module:
    """A new objective for `encoder`, as configured.

    Raises:
        ConfigError, CheckpointError: the units that are to be predicted cannot be used.
    """
    return BUILDERS[config.objective](config, encoder, derive_seed("objective", config.training.seed))


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """A finished or interrupted run.

    `left_out` maps the ids of utterances that could not be used to the reason. `coverage` counts, by epoch, what this
    process was handed; the run's `coverage.jsonl` has it for all of the run.
    """

    run_directory: Path
    training: TrainingResult
    left_out: Mapping[str, str]
    coverage: tuple[EpochCoverage, ...] = ()


class PretrainTask:
    """Encoder, objective and unlabelled batches, as the training loop sees them."""

    def __init__(
        self, encoder: SpeechEncoder, objective: nn.Module, stream: AudioBatches, valid: Manifest | None, *,
        valid_batch_seconds: float, seed: int, num_workers: int = 0,
    ) -> None:  # fmt: skip
        """Train `encoder` with `objective` on `stream`; `valid` rows are measured whole, in a fixed order.

        `num_workers` processes read ahead for that.
        """
        self.encoder = encoder
        self.objective: Any = objective
        self.stream = stream
        self._valid = valid
        self._valid_batch_seconds = valid_batch_seconds
        self._num_workers = num_workers
        self._seed = seed

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """All that a checkpoint holds."""
        return {"model": self.encoder, "objective": self.objective}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Weight decay on matrices and kernels only: not on biases, norms, the mask embedding or codebooks."""
        named = [
            (name, parameter)
            for module in (self.encoder, self.objective)
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]
        decayed = [p for name, p in named if p.dim() > 1 and not name.endswith("codebooks")]
        others = [p for name, p in named if p.dim() <= 1 or name.endswith("codebooks")]
        return [{"params": decayed}, {"params": others, "weight_decay": 0.0}]

    def batches(self, start: int) -> Iterator[AudioBatch]:
        """This rank's micro-batches from its number `start` on, when all ranks have made as many."""
        return self.stream.batches(start * self.stream.world_size)

    def batch_seconds(self, batch: AudioBatch) -> float:
        """Seconds of audio in a batch."""
        return batch.seconds

    def to_device(self, batch: AudioBatch, device: torch.device) -> AudioBatch:
        """The batch on `device`."""
        return batch.to(device)

    def before_step(self, step: int) -> None:
        """Nothing is scheduled by the task."""

    def loss(self, batch: AudioBatch, *, step: int, generator: torch.Generator) -> ObjectiveOutput:
        """The objective's loss."""
        output: ObjectiveOutput = self.objective(self.encoder, batch, step=step, generator=self._on_device(generator))
        if not batch.source_seconds:
            return output
        seconds = batch.waveform.numel() / batch.sample_rate  # crops are equal: there is no padding
        cropped = torch.tensor(max(0.0, 1 - seconds / batch.source_seconds))
        return replace(output, metrics={**output.metrics, "cropped_share": cropped})

    def compile(self) -> None:
        """Compile what profits with lengths that change from batch to batch."""
        self.encoder.context_encoder.compile_feed_forward()

    def checkpoint_activations(self) -> None:
        """Keep only the inputs of the encoder's layers for the backward pass."""
        self.encoder.context_encoder.checkpoint_activations()

    def _on_device(self, generator: torch.Generator) -> torch.Generator:
        device = self.encoder.device
        if device.type == "cpu":
            return generator
        return torch.Generator(device).manual_seed(generator.initial_seed())

    def after_update(self, step: int) -> None:
        """Moving averages of the objective, where it has any."""
        self.objective.after_update(self.encoder, step=step)

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The objective on the held-out manifest, weighted by targets, with the same masks every time."""
        if self._valid is None:
            return {}
        self.encoder.eval()
        self.objective.eval()
        totals: dict[str, float] = {}
        count = 0.0
        rate = self.encoder.config.sample_rate
        batches = iterate_once(
            self._valid,
            batch_seconds=self._valid_batch_seconds,
            sample_rate=rate,
            min_num_samples=shortest_clip(self.encoder),
            num_workers=self._num_workers,
        )
        for number, batch in enumerate(batches):
            generator = torch.Generator(self.encoder.device).manual_seed(derive_seed("valid", self._seed, number))
            output: ObjectiveOutput = self.objective(
                self.encoder, batch.to(self.encoder.device), step=step, generator=generator
            )
            weight = float(output.num_targets)
            count += weight
            for name, value in {"loss": output.loss, **output.metrics}.items():
                totals[name] = totals.get(name, 0.0) + weight * float(value)
        self.encoder.train()
        self.objective.train()
        return {f"valid_{name}": total / max(count, 1.0) for name, total in totals.items() if name != "temperature"}

    def save_model(self, directory: Path) -> None:
        """The encoder alone."""
        self.encoder.save(directory)


def shortest_clip(encoder: SpeechEncoder) -> int:
    """Samples of the shortest clip that pre-training uses."""
    return input_length(MIN_FRAMES, encoder.strided_layers)


def load_joined(paths: tuple[Path, ...]) -> Manifest:
    """Several manifests as one; only the columns that pre-training reads are kept, so that any mix can be joined.

    Raises:
        ManifestError: a file cannot be used, or two rows have the same id.
    """
    columns = ["id", "audio_filepath", "sample_rate", "num_samples", "offset", "duration"]
    parts = [Manifest.load(path).select(columns) for path in paths]
    return parts[0].concat(*parts[1:]) if len(parts) > 1 else parts[0]


def build_models(config: PretrainConfig) -> tuple[SpeechEncoder, nn.Module]:
    """Encoder and objective: fresh, or those that `initialize_from` brings.

    An objective that comes along keeps the shapes of its quantizer and projections; everything else about it is as
    configured.
    """
    seed = config.training.seed
    if config.initialize_from is None:
        encoder = SpeechEncoder(encoder_config(config.preset, config.encoder), seed=derive_seed("encoder", seed))
        return encoder, build_objective(config, encoder)
    start = load_model(config.initialize_from)
    encoder = start if isinstance(start, SpeechEncoder) else start.encoder
    if not isinstance(start, PretrainingModel) or config.fresh_objective or config.objective != "contrastive":
        return encoder, build_objective(config, encoder)
    theirs = start.objective.config
    shapes = {name: getattr(theirs, name) for name in ("num_codebooks", "num_entries", "quantized_dim", "final_dim")}
    objective = build_contrastive(replace(config.contrastive, **shapes), encoder, derive_seed("objective", seed))
    objective.load_state_dict(start.objective.state_dict())
    logger.info("%s: its quantizer and projections are trained on, too (fresh_objective=false)", config.initialize_from)
    return encoder, objective


def run(config: PretrainConfig, *, resume: bool = True, profiler: Profiler | None = None) -> PretrainResult:
    """Pre-train, continuing an interrupted run of the same configuration; `profiler` is told of every update.

    Processes that torchrun started train one model together.

    Raises:
        ConfigError, ManifestError: the input is wrong; nothing was started.
        TrainingError: the monitor stopped the run, or no recording can be read.
    """
    with joined(config.device):
        task, manifest, valid = build_task(config)
        result = train(
            task,
            config=config.training,
            run_directory=Path(config.run_directory),
            resolved_config={"stage": "pretrain", **to_dict(config), "resolved_encoder": to_dict(task.encoder.config)},
            fingerprint=data_fingerprint(config, manifest, valid),
            description="pre-training",
            resume=resume,
            profiler=profiler,
        )
    return PretrainResult(
        run_directory=Path(config.run_directory),
        training=result,
        left_out=dict(task.stream.problems),
        coverage=task.stream.coverage,
    )


def dry_run(config: PretrainConfig) -> StepCost:
    """Load all that a run would, and put a few batches through the model without learning from them.

    Raises:
        ConfigError, ManifestError, AudioError: what would stop the run.
    """
    require_valid(*config.manifests, *([] if config.valid_manifest is None else [config.valid_manifest]))
    with TemporaryDirectory() as scratch:
        task, _, _ = build_task(replace(config, run_directory=Path(scratch)))
        return try_batches(task, device=task.encoder.device)


def build_task(config: PretrainConfig) -> tuple[PretrainTask, Manifest, Manifest | None]:
    """What the loop trains, and the manifests to learn from and to validate on."""
    manifest = load_joined(config.manifests)
    valid = None if config.valid_manifest is None else Manifest.load(config.valid_manifest)
    seed = config.training.seed
    encoder, objective = build_models(config)
    device = resolve_device(config.device)
    encoder.to(device).train()
    objective.to(device).train()
    ranks = current_ranks()
    stream = AudioBatches(
        manifest,
        config.data,
        sample_rate=encoder.config.sample_rate,
        min_num_samples=shortest_clip(encoder),
        seed=derive_seed("data", seed) % 2**32,
        rank=ranks.rank,
        world_size=ranks.world_size,
        pin_memory=device.type == "cuda",
        coverage_path=coverage_path(Path(config.run_directory), ranks),
    )
    logger.info(
        "pre-training on %.2f hours in %d utterances, %s",
        manifest.total_seconds / 3600, len(manifest), stream.describe(),
    )  # fmt: skip
    task = PretrainTask(
        encoder, objective, stream, valid, valid_batch_seconds=config.data.batch_seconds, seed=seed,
        num_workers=config.data.num_workers,
    )  # fmt: skip
    return task, manifest, valid


def data_fingerprint(config: PretrainConfig, *manifests: Manifest | None) -> str:
    """One hash for all data that a run learns from: the manifests and, of clusters, the centers."""
    found = fingerprint(*manifests)
    if config.objective != "cluster" or config.cluster.targets is None:
        return found
    centers = centers_file(config.cluster.targets).read_bytes()
    return hashlib.sha256(found.encode() + hashlib.sha256(centers).digest()).hexdigest()


def fingerprint(*manifests: Manifest | None) -> str:
    """One hash for several manifests, in order."""
    digest = hashlib.sha256()
    for manifest in manifests:
        digest.update(b"none" if manifest is None else manifest.fingerprint().encode())
    return digest.hexdigest()
