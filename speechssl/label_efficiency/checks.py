"""Before anything is trained: do the manifests go together, can all be read, does a batch of each encoder run."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl import evaluate, finetune
from speechssl.config import flatten, load_config
from speechssl.errors import ConfigError, ManifestError
from speechssl.label_efficiency.config import LabelEfficiencyConfig
from speechssl.label_efficiency.trials import LabelSet, Trial
from speechssl.manifest import Manifest, require_valid
from speechssl.training.dry_run import StepCost

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What an experiment would do and cost; `costs` of one training step by encoder, on the largest label set."""

    sets: tuple[LabelSet, ...]
    num_sweep_runs: int
    num_runs: int
    costs: dict[str, StepCost]
    max_steps: dict[str, int]
    hours: float
    warnings: tuple[str, ...]


def check_manifests(config: LabelEfficiencyConfig, sets: Sequence[LabelSet], *, audio: bool = False) -> list[str]:
    """Refuse what would make the result worthless; return what the reader of the result should know.

    Args:
        config: the experiment.
        sets: its label sets.
        audio: whether to look for every recording as well.

    Raises:
        ManifestError: a recording is in the labels or in the validation and in a test; a label set does not hold all
            smaller ones; a recording is missing.
    """
    manifests = {f"labels {labels.name}": Manifest.load(labels.path) for labels in sets}
    manifests["validation"] = Manifest.load(config.valid_manifest)
    tests = {f"test {name}": Manifest.load(path) for name, path in config.test_manifests.items()}
    spans = {name: _spans(manifest) for name, manifest in (manifests | tests).items()}
    for test in tests:
        for name in manifests:
            shared = spans[test] & spans[name]
            if shared:
                raise ManifestError(
                    f"{test} and {name} share {len(shared)} recordings, e.g. {sorted(shared)[0][0]}; a test must not be"
                    " learnt from: divide the recordings by `speechssl manifest split`"
                )
    for smaller, larger in zip(sets, sets[1:], strict=False):
        extra = spans[f"labels {smaller.name}"] - spans[f"labels {larger.name}"]
        if extra:
            raise ManifestError(
                f"labels {larger.name} lack {len(extra)} recordings of labels {smaller.name}, e.g."
                f" {sorted(extra)[0][0]}; label sets must be nested"
            )
    if audio:
        require_valid(*(labels.path for labels in sets), config.valid_manifest, *config.test_manifests.values())
    return _shared_texts(manifests[f"labels {sets[-1].name}"], tests)


def check_decoders(config: LabelEfficiencyConfig) -> None:
    """Refuse what would end the tests after days of training: options that are none, files that are not there.

    Raises:
        ConfigError: an option of `decoders` or `evaluate_options`, or a file that it names.
    """
    for name, values in {"evaluate_options": config.evaluate_options, **config.decoders}.items():
        place = name if name == "evaluate_options" else f"decoders.{name}"
        given = {**flatten(values), "checkpoint": "", "manifest": config.valid_manifest}
        try:
            found = load_config(evaluate.EvaluateConfig, None, given)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        for path in (found.beam.language_model, found.beam.lexicon):
            if path is not None and not Path(path).exists():
                raise ConfigError(f"{place}: there is no file {path}; make a language model by `speechssl lm`")


def try_one_step(
    config: LabelEfficiencyConfig, sets: Sequence[LabelSet], trials: Sequence[Trial], warnings: Sequence[str]
) -> DryRun:
    """Load every encoder and run a few batches of the largest label set; no weight changes, nothing is kept."""
    costs, steps = {}, {}
    for encoder in config.sources:
        trial = next(trial for trial in trials if trial.encoder == encoder and trial.labels.name == sets[-1].name)
        words = trial.job(config).words
        found = load_config(finetune.FinetuneConfig, config.finetune, _assignments(words))
        costs[encoder] = finetune.dry_run(found)
        steps[encoder] = found.training.max_steps
    sweep = len(trials)
    runs = sweep + len(sets) * len(config.sources) * (len(config.seeds) - 1)
    per_encoder = runs / len(config.sources)
    seconds = sum(per_encoder * steps[encoder] * cost.seconds for encoder, cost in costs.items())
    return DryRun(
        sets=tuple(sets),
        num_sweep_runs=sweep,
        num_runs=runs,
        costs=costs,
        max_steps=steps,
        hours=seconds / 3600,
        warnings=tuple(warnings),
    )


def _assignments(words: Sequence[str]) -> list[str]:
    """The command line of a trial as `load_config` takes it: key=value, without the command and the file."""
    found, index = [], 1
    while index < len(words):
        name = words[index].removeprefix("--")
        values = []
        index += 1
        while index < len(words) and not words[index].startswith("--"):
            values.append(words[index])
            index += 1
        if name not in ("config", "no_report"):
            found.append(f"{name}={values[0] if len(values) == 1 else '[' + ', '.join(values) + ']'}")
    return found


def _spans(manifest: Manifest) -> set[tuple[str, float]]:
    """Recordings and where in them; a path is the same however it was written."""
    found = set()
    for utterance in manifest:
        name = utterance.audio_filepath
        found.add((name if "://" in name else os.path.abspath(name), utterance.offset))
    return found


def _shared_texts(labels: Manifest, tests: dict[str, Manifest]) -> list[str]:
    known = {utterance.text for utterance in labels}
    found = []
    for name, manifest in tests.items():
        shared = sum(utterance.text in known for utterance in manifest)
        if shared:
            found.append(f"{name}: {shared} of {len(manifest)} texts are in the labels too")
            logger.warning("%s", found[-1])
    return found
