"""The quickstart, step by step: audio -> manifests -> pre-training -> fine-tuned arms -> error rates, probe,
embeddings -> report. Every step is done once; see `steps`.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechssl import embed, evaluate, pretrain
from speechssl.config import load_config, to_dict
from speechssl.jobs import Interrupted, raise_on_sigterm
from speechssl.model_directory import MODEL_FILE, resolve_model_directory
from speechssl.quickstart import corpus
from speechssl.quickstart.arms import (
    Arm,
    describe_trials,
    find_arms,
    recipe_path,
    scaled_intervals,
    sweep,
)
from speechssl.quickstart.corpus import Parts
from speechssl.quickstart.page import write_page
from speechssl.quickstart.probing import probe_encoders
from speechssl.quickstart.settings import QuickstartConfig, QuickstartResult, Trial
from speechssl.quickstart.steps import Step, Steps
from speechssl.types import ErrorReport, UtteranceErrors

logger = logging.getLogger(__name__)


def run(config: QuickstartConfig) -> QuickstartResult:
    """Run what has not been run, and write the report.

    Raises:
        ConfigError, ManifestError, AudioError: the recordings or settings cannot be used.
        TrainingError: a training failed.
        Interrupted: SIGINT or SIGTERM came; the next call goes on.
    """
    with raise_on_sigterm():
        return _run(config)


def _run(config: QuickstartConfig) -> QuickstartResult:
    steps = Steps(config.output)
    data = _prepare(steps, config)
    parts = corpus.parts_of(data.folder, data.outcome)
    left_out = list(parts.left_out)
    training = _pretrain(steps, config, data, parts)
    run_directory = training.folder / "run"
    arms = find_arms(config, run_directory, left_out)
    done = [data, training]
    trials: list[Trial] = []
    errors: dict[str, ErrorReport] = {}
    if parts.labelled_train is not None:
        tuning = _finetune(steps, config, arms, parts, [data, training])
        trials = [_trial(values) for values in tuning.outcome["trials"]]
        scoring = _evaluate(steps, config, trials, parts, tuning)
        errors = {arm: _report(values) for arm, values in scoring.outcome["errors"].items()}
        done += [tuning, scoring]
    probing = steps.run(
        "probe",
        title="Probing frozen encoders",
        inputs={
            "after": [data.fingerprint, training.fingerprint],
            "config": _probe_inputs(config),
            "arms": _hashes(arms),
        },
        work=lambda folder: probe_encoders(config, parts, arms, folder),
    )
    left_out += probing.outcome["left_out"]
    best = arms[-1]
    embedding = _embed(steps, best, parts, probing)
    done += [probing, embedding]
    result = QuickstartResult(
        report=config.output / "report.html",
        trials=tuple(trials),
        errors=errors,
        probes=tuple(probing.outcome["probes"]),
        left_out=tuple(left_out),
        seconds={step.name: step.seconds for step in done},
    )
    logger.info("Writing the report")
    write_page(
        config, result, parts, run_directory=run_directory, embedded_with=best, embeddings=_embeddings_path(embedding)
    )
    return result


def _prepare(steps: Steps, config: QuickstartConfig) -> Step:
    inputs: dict[str, Any] = {
        name: to_dict(config)[name] for name in ("audio", "transcripts", "language", "label_minutes", "seed")
    }
    inputs["fractions"] = corpus.FRACTIONS
    if config.audio is not None:
        inputs["files"] = corpus.listing(config.audio, config.transcripts)
    return steps.run(
        "data", title="Preparing the audio", inputs=inputs, work=lambda folder: corpus.prepare(config, folder)
    )


def _pretrain(steps: Steps, config: QuickstartConfig, data: Step, parts: Parts) -> Step:
    def settings(folder: Path) -> pretrain.PretrainConfig:
        values: dict[str, Any] = {
            "manifests": [str(parts.train)],
            "valid_manifest": parts.valid,
            "run_directory": folder / "run",
            "training.seed": config.seed,
        }
        if config.encoder:
            values["encoder"] = dict(config.encoder)
        if config.pretrain_steps is not None:
            values |= scaled_intervals(config.pretrain_steps)
        return load_config(pretrain.PretrainConfig, recipe_path("pretrain"), values)

    def work(folder: Path) -> Mapping[str, Any]:
        result = pretrain.run(settings(folder))
        _check_finished(result.training)
        return {"steps": result.training.steps, "metrics": result.training.metrics, "left_out": dict(result.left_out)}

    folder = steps.folder / "pretrain"
    return steps.run(
        "pretrain",
        title="Pre-training on unlabelled audio",
        inputs={"after": data.fingerprint, "config": to_dict(settings(folder))},
        work=work,
    )


def _finetune(steps: Steps, config: QuickstartConfig, arms: list[Arm], parts: Parts, after: list[Step]) -> Step:
    return steps.run(
        "finetune",
        title="Fine-tuning every arm with its own learning rates",
        inputs={
            "after": [step.fingerprint for step in after],
            "trials": describe_trials(config, arms, parts, steps.folder / "finetune"),
            "arms": _hashes(arms),
        },
        work=lambda folder: {"trials": [_trial_values(trial) for trial in sweep(config, arms, parts, folder)]},
    )


def _evaluate(steps: Steps, config: QuickstartConfig, trials: list[Trial], parts: Parts, after: Step) -> Step:
    def work(folder: Path) -> Mapping[str, Any]:
        errors = {}
        for trial in trials:
            if trial.chosen and parts.labelled_test is not None:
                result = evaluate.run(
                    evaluate.EvaluateConfig(
                        checkpoint=str(trial.folder),
                        manifest=parts.labelled_test,
                        output=folder / trial.arm.replace(" ", "-"),
                        device="cpu",
                    )
                )
                logger.info("%s: WER %.1f %%, CER %.1f %%", trial.arm, 100 * result.report.wer, 100 * result.report.cer)
                errors[trial.arm] = asdict(result.report)
        return {"errors": errors}

    return steps.run(
        "evaluate", title="Error rates on the test prompts", inputs={"after": after.fingerprint}, work=work
    )


def _embed(steps: Steps, arm: Arm, parts: Parts, after: Step) -> Step:
    def work(folder: Path) -> Mapping[str, Any]:
        result = embed.run(
            embed.EmbedConfig(
                checkpoint=str(arm.source), manifest=parts.test, output=folder / "embeddings", overwrite=True
            )
        )
        return {"path": str(result.path.relative_to(folder)), "rows": result.num_rows, "dimension": result.dimension}

    inputs = {"after": after.fingerprint, "arm": asdict(arm)}
    return steps.run("embed", title="Embedding the test recordings", inputs=inputs, work=work)


def _embeddings_path(step: Step) -> Path:
    return step.folder / str(step.outcome["path"])


def _check_finished(training: Any) -> None:
    if training.stopped_because == "signal":
        raise Interrupted(training.signal_number or 2)


def _hashes(arms: list[Arm]) -> list[dict[str, Any]]:
    """What each arm starts from, by the contents of its weights: a shipped encoder may be replaced."""
    found = []
    for arm in arms:
        path = None if arm.source is None else resolve_model_directory(arm.source) / MODEL_FILE
        digest = None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
        found.append({"name": arm.name, "sha256": digest})
    return found


def _probe_inputs(config: QuickstartConfig) -> dict[str, Any]:
    return {"probe_labels": config.probe_labels, "seed": config.seed}


def _trial_values(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "folder": str(trial.folder)}


def _trial(values: Mapping[str, Any]) -> Trial:
    return Trial(**{**values, "folder": Path(values["folder"])})


def _report(values: Mapping[str, Any]) -> ErrorReport:
    """An `ErrorReport` from what JSON made of it."""
    utterances = tuple(
        UtteranceErrors(**{**utterance, "alignment": tuple(tuple(chunk) for chunk in utterance["alignment"])})
        for utterance in values["utterances"]
    )
    intervals = {name: tuple(values[name]) for name in ("wer_interval", "cer_interval")}
    return ErrorReport(**{**values, "utterances": utterances, **intervals})
