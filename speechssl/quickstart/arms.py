"""The fine-tuned arms: each with its own sweep of learning rates, on the same labels and the same number of updates."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechssl.config import load_config, to_dict, write_yaml
from speechssl.errors import CheckpointError, TrainingError
from speechssl.finetune import FinetuneConfig
from speechssl.jobs import Job, last_words, num_cores, run_jobs
from speechssl.quickstart.corpus import Parts
from speechssl.quickstart.settings import QuickstartConfig, Trial
from speechssl.resources import resource_folder
from speechssl.training.records import read_metrics

logger = logging.getLogger(__name__)

SCRATCH = "from scratch"
QUICKSTART = "pre-trained here"
SHIPPED = "shipped encoder"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A start for fine-tuning: `source` is None from scratch, else what `load_encoder` takes."""

    name: str
    source: str | None


def find_arms(config: QuickstartConfig, pretrained: Path, left_out: list[str]) -> list[Arm]:
    """From scratch, from the quickstart's own pre-training, and from the shipped encoder where it can be loaded."""
    from speechssl.model_directory import resolve_model_directory

    arms = [Arm(name=SCRATCH, source=None), Arm(name=QUICKSTART, source=str(pretrained))]
    if config.shipped is not None:
        try:
            resolve_model_directory(config.shipped)
        except CheckpointError as error:
            left_out.append(f"the arm of the shipped encoder: {error}")
        else:
            arms.append(Arm(name=SHIPPED, source=config.shipped))
    return arms


def trial_configs(config: QuickstartConfig, arms: Sequence[Arm], parts: Parts, folder: Path) -> list[FinetuneConfig]:
    """One fine-tuning for each arm and learning rate."""
    assert parts.labelled_train is not None and parts.labelled_dev is not None
    configs = []
    for arm, rate in _arms_and_rates(config, arms):
        values: dict[str, Any] = {
            "train_manifest": parts.labelled_train,
            "valid_manifest": parts.labelled_dev,
            "run_directory": trial_folder(folder, arm, rate),
            "training.optim.peak_lr": rate,
            "training.seed": config.seed,
        }
        if config.finetune_steps is not None:
            values |= scaled_intervals(config.finetune_steps)
        if arm.source is None:
            values |= {"encoder": dict(config.encoder)} if config.encoder else {}
        else:
            values["pretrained"] = arm.source
        recipe = "finetune_scratch" if arm.source is None else "finetune_pretrained"
        configs.append(load_config(FinetuneConfig, recipe_path(recipe), values))
    return configs


def sweep(config: QuickstartConfig, arms: Sequence[Arm], parts: Parts, folder: Path) -> list[Trial]:
    """Run all trials side by side, and mark the best of each arm by its character error rate on dev.

    A trial that its learning rate ended is a result, and is listed with the reason.

    Raises:
        TrainingError: all trials of an arm failed.
    """
    configs = trial_configs(config, arms, parts, folder)
    jobs = []
    for (arm, rate), trial in zip(_arms_and_rates(config, arms), configs, strict=True):
        trial.run_directory.mkdir(parents=True, exist_ok=True)
        path = folder / f"{trial.run_directory.name}.yaml"
        write_yaml(trial, path)
        name = f"{arm.name}, learning rate {rate:g}"
        log = folder / f"{trial.run_directory.name}.log"
        jobs.append(
            Job(name=name, words=("finetune", "--config", str(path), "--no_report"), log=log, status=_Status(trial))
        )
    num_parallel = config.jobs or num_cores()
    logger.info("%d fine-tunings, %d at a time", len(jobs), min(num_parallel, len(jobs)))
    codes = run_jobs(jobs, num_parallel=num_parallel, num_threads=max(1, num_cores() // num_parallel))
    trials = []
    for (arm, rate), trial, job, code in zip(_arms_and_rates(config, arms), configs, jobs, codes, strict=True):
        rates = _best_validation(trial.run_directory)
        failure = "" if code == 0 and rates is not None else last_words(job.log)
        trials.append(
            Trial(
                arm=arm.name,
                learning_rate=rate,
                folder=trial.run_directory,
                dev_wer=None if failure or rates is None else rates[0],
                dev_cer=None if failure or rates is None else rates[1],
                failure=failure,
            )
        )
    return choose(trials)


def choose(trials: Sequence[Trial]) -> list[Trial]:
    """Mark the trial of each arm with the lowest character error rate on dev; of equal ones the first.

    Raises:
        TrainingError: all trials of an arm failed.
    """
    best: dict[str, Trial] = {}
    for trial in trials:
        if trial.dev_cer is not None:
            kept = best.get(trial.arm)
            if kept is None or kept.dev_cer is None or trial.dev_cer < kept.dev_cer:
                best[trial.arm] = trial
    for trial in trials:
        if trial.arm not in best:
            raise TrainingError(f"{trial.arm}: every learning rate failed, the last with: {trial.failure}")
    return [replace(trial, chosen=trial is best[trial.arm]) for trial in trials]


def scaled_intervals(num_steps: int) -> dict[str, Any]:
    """Keys for a run of another length than its recipe's: it is validated five times and saved as often."""
    interval = max(1, num_steps // 5)
    return {
        "training.max_steps": num_steps,
        "training.validate_interval": interval,
        "training.checkpoint_interval": interval,
        "training.log_interval": max(1, min(10, interval)),
    }


def trial_folder(folder: Path, arm: Arm, rate: float) -> Path:
    """Run directory of a trial."""
    return folder / f"{arm.name.replace(' ', '-')}-{rate:g}"


def recipe_path(name: str) -> Path:
    """A recipe of the quickstart; the installed package carries them."""
    return resource_folder("recipes") / "quickstart" / f"{name}.yaml"


def describe_trials(config: QuickstartConfig, arms: Sequence[Arm], parts: Parts, folder: Path) -> list[dict[str, Any]]:
    """All settings of all trials, for the step's fingerprint."""
    return [to_dict(trial) for trial in trial_configs(config, arms, parts, folder)]


def _arms_and_rates(config: QuickstartConfig, arms: Sequence[Arm]) -> list[tuple[Arm, float]]:
    """Rate by rate, so that all arms have a first result early."""
    pairs = []
    for index in range(max(len(config.scratch_learning_rates), len(config.pretrained_learning_rates))):
        for arm in arms:
            rates = config.scratch_learning_rates if arm.source is None else config.pretrained_learning_rates
            if index < len(rates):
                pairs.append((arm, rates[index]))
    return pairs


def _best_validation(run: Path) -> tuple[float, float] | None:
    """WER and CER on dev at the checkpoint that is kept as best: the first with the lowest CER."""
    found = [
        (float(line["valid_cer"]), float(line["valid_wer"]))
        for line in read_metrics(run)
        if line.get("valid_cer") is not None and line.get("valid_wer") is not None
    ]
    if not found:
        return None
    cer, wer = min(found, key=lambda pair: pair[0])
    return wer, cer


class _Status:
    """What to say of a running fine-tuning: step, loss and the latest error rates on dev."""

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config

    def __call__(self) -> str:
        latest: dict[str, Any] = {}
        for line in read_metrics(self.config.run_directory):
            latest.update(line)
        if "step" not in latest:
            return "starting"
        words = [f"step {latest['step']} of {self.config.training.max_steps}"]
        if latest.get("loss") is not None:
            words.append(f"loss {latest['loss']:.2f}")
        if latest.get("valid_cer") is not None:
            words.append(f"dev CER {100 * latest['valid_cer']:.1f} %, WER {100 * latest['valid_wer']:.1f} %")
        return ", ".join(words)
