"""A fine-tuning run, from manifests to a model that writes text."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from speechssl.asr import CtcModel
from speechssl.config import to_dict
from speechssl.data import EpochCoverage
from speechssl.encoder import SpeechEncoder, encoder_config, override, resolve_device
from speechssl.errors import ConfigError
from speechssl.files import write_text
from speechssl.finetune.adapters import weights_checksum
from speechssl.finetune.config import FinetuneConfig
from speechssl.finetune.diagnose import diagnose_data, monitor_for
from speechssl.finetune.labels import LabeledData, build_vocabulary, prepare_training, prepare_validation, summarize
from speechssl.finetune.task import CtcTask, layer_weights
from speechssl.finetune.weights import TrainingCost
from speechssl.interop import load_encoder
from speechssl.manifest import Manifest, require_valid
from speechssl.text import Vocabulary, describe_characters
from speechssl.training.dry_run import StepCost, try_batches
from speechssl.training.loop import train
from speechssl.training.profiling import Profiler
from speechssl.training.randomness import derive_seed
from speechssl.training.task import TrainingResult
from speechssl.training.together import is_first, joined

logger = logging.getLogger(__name__)

LEFT_OUT_FILE = "left_out.jsonl"
_CHANGEABLE = (
    "input_dropout",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "layer_drop",
    "feature_gradient_scale",
)


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """What a run came to.

    `left_out` says why utterances of the training manifest were not learnt from: their texts and lengths (also in
    `left_out.jsonl` of the run), or, as far as this process has seen, their recordings. `coverage` counts, by epoch,
    what this process was handed of the others; the run's `coverage.jsonl` has it for all of the run.
    `unknown_validation_characters` counts characters of the validation texts that the model cannot write.
    `cost` says how many weights were trained and what memory that took; `layer_weights` are those of the weighted sum
    of layers, the transformer's input first. Of `num_seen` utterances that this process handed to the model,
    `num_infeasible` were too short for their labels as they were played, and left out of the loss.
    """

    directory: Path
    training: TrainingResult
    vocabulary: Vocabulary
    num_train: int
    num_valid: int
    left_out: Mapping[str, str]
    unknown_validation_characters: Mapping[str, int]
    cost: TrainingCost
    coverage: tuple[EpochCoverage, ...] = ()
    layer_weights: tuple[float, ...] = ()
    num_seen: int = 0
    num_infeasible: int = 0


def run(config: FinetuneConfig, *, resume: bool = True, profiler: Profiler | None = None) -> FinetuneResult:
    """Fine-tune as configured, continuing an interrupted run of the same configuration.

    `profiler` is told of every update. Processes that torchrun started train one model together.

    Raises:
        ConfigError, ManifestError, CheckpointError: something that was given cannot be used.
        TrainingError: no utterance can be learnt from, or the training was stopped.
    """
    with joined(config.device):
        return _run(config, resume=resume, profiler=profiler)


def _run(config: FinetuneConfig, *, resume: bool, profiler: Profiler | None) -> FinetuneResult:
    task, train_data, valid_data = build_task(config)
    encoder, vocabulary = task.model.encoder, task.model.vocabulary
    resolved = {"stage": "finetune", **to_dict(config), "resolved_encoder": to_dict(encoder.config)}
    if task.pretrained_checksum:
        resolved["pretrained_checksum"] = task.pretrained_checksum
    _report_cost(task.weights.cost())
    result = train(
        task,
        config=replace(config.training, monitor=monitor_for(config)),
        run_directory=config.run_directory,
        resolved_config=resolved,
        diagnoses=diagnose_data(train_data, valid_data, encoder, config),
        fingerprint=f"{train_data.manifest.fingerprint()} {valid_data.manifest.fingerprint()}",
        description="training from scratch" if config.pretrained is None else "fine-tuning",
        resume=resume,
        profiler=profiler,
    )
    cost = task.weights.cost(with_peak=True)
    if is_first():
        cost.save(config.run_directory)
    return FinetuneResult(
        directory=config.run_directory,
        training=result,
        vocabulary=vocabulary,
        num_train=len(train_data.manifest),
        num_valid=len(valid_data.manifest),
        left_out={**train_data.left_out, **task.unreadable},
        unknown_validation_characters=valid_data.unknown_characters,
        coverage=task.coverage,
        cost=cost,
        layer_weights=tuple(layer_weights(task.weights.evaluated)),
        num_seen=task.num_seen,
        num_infeasible=task.num_infeasible,
    )


def dry_run(config: FinetuneConfig) -> StepCost:
    """Load all that a run would, and put a few batches through the model without learning from them.

    Raises:
        ConfigError, ManifestError, CheckpointError, AudioError, TrainingError: what would stop the run.
    """
    require_valid(config.train_manifest, config.valid_manifest)
    with TemporaryDirectory() as scratch:
        task, _, _ = build_task(replace(config, run_directory=Path(scratch)))
        return try_batches(task, device=task.model.device)


def build_task(config: FinetuneConfig) -> tuple[CtcTask, LabeledData, LabeledData]:
    """What the loop trains, and what it learns from and is validated on; writes what is left out beside the run."""
    train_manifest, valid_manifest = Manifest.load(config.train_manifest), Manifest.load(config.valid_manifest)
    _check_disjoint(train_manifest, valid_manifest, config)
    encoder = build_encoder(config)
    vocabulary = build_vocabulary(train_manifest, config)
    train_data = prepare_training(train_manifest, vocabulary, encoder, config)
    valid_data = prepare_validation(valid_manifest, vocabulary, config)
    _report(train_data, valid_data, config.run_directory)
    model = CtcModel(
        encoder,
        vocabulary,
        normalizer=config.normalizer,
        dropout=config.head_dropout,
        blank_bias=config.blank_bias,
        head_input=config.head_input,
        seed=derive_seed("head", config.training.seed),
    ).to(resolve_device(config.device))
    # a checkpoint then holds the adapters alone, so that it can go on with the same encoder only
    checksum = weights_checksum(encoder) if config.adapters.rank else ""
    return CtcTask(model, train_data, valid_data, config, pretrained_checksum=checksum), train_data, valid_data


def build_encoder(config: FinetuneConfig) -> SpeechEncoder:
    """The pre-trained encoder with its dropout rates replaced, or a fresh one.

    The scaling of the gradient into the front end is a matter of pre-training and is undone, unless it is given.

    Raises:
        ConfigError: `config.encoder` names an unknown field, or one that a pre-trained encoder cannot change.
        CheckpointError: the pre-trained encoder cannot be loaded.
    """
    overrides = {"feature_gradient_scale": 1.0, **config.encoder}
    if config.pretrained is None:
        return SpeechEncoder(
            encoder_config(config.preset, overrides), seed=derive_seed("encoder", config.training.seed)
        )
    fixed = sorted(set(config.encoder) - set(_CHANGEABLE))
    if fixed:
        raise ConfigError(
            f"encoder.{fixed[0]}: cannot be changed in the pre-trained encoder {config.pretrained}; only "
            f"{', '.join(_CHANGEABLE)} can, or train from scratch (pretrained: null)"
        )
    loaded = load_encoder(config.pretrained)
    encoder = SpeechEncoder(override(loaded.config, overrides))
    encoder.load_state_dict(loaded.state_dict())
    return encoder


def _check_disjoint(train_manifest: Manifest, valid_manifest: Manifest, config: FinetuneConfig) -> None:
    """Warn where the checkpoint would be chosen by recordings that were learnt."""
    spans = {(utterance.audio_filepath, utterance.offset) for utterance in train_manifest}
    shared = [utterance.id for utterance in valid_manifest if (utterance.audio_filepath, utterance.offset) in spans]
    if shared:
        logger.warning(
            "%s: %d of %d utterances are in the training manifest too (the first is %r), so validation will look "
            "better than it is; `speechssl manifest split` makes manifests that share nothing",
            config.valid_manifest,
            len(shared),
            len(valid_manifest),
            shared[0],
        )


def _report_cost(cost: TrainingCost) -> None:
    mega = 1e-6
    logger.info(
        "training %.2f of %.2f million parameters (%.1f %%): %.1f MB of gradients and %.1f MB of optimizer state%s",
        cost.num_trained_parameters * mega,
        cost.num_parameters * mega,
        100 * cost.num_trained_parameters / cost.num_parameters,
        cost.gradient_bytes * mega,
        cost.optimizer_bytes * mega,
        f", {cost.average_bytes * mega:.1f} MB of averages" if cost.average_bytes else "",
    )


def _report(train_data: LabeledData, valid_data: LabeledData, directory: Path) -> None:
    """Log what is not used, and write the list beside the run."""
    if not is_first():
        return
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / LEFT_OUT_FILE
    path.unlink(missing_ok=True)
    if train_data.left_out:
        lines = (
            json.dumps({"id": name, "reason": reason}, ensure_ascii=False)
            for name, reason in train_data.left_out.items()
        )
        write_text(path, "\n".join(lines) + "\n")
        total = len(train_data.left_out) + len(train_data.manifest)
        logger.warning(
            "%d of %d training utterances are left out, see %s: %s",
            len(train_data.left_out),
            total,
            path,
            summarize(train_data.left_out),
        )
    if valid_data.unknown_characters:
        logger.warning(
            "the validation texts hold characters that the training texts do not, which count as errors: %s",
            describe_characters(valid_data.unknown_characters),
        )
