"""The experiment: subsets, sweep, repetitions, tests, results."""

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechssl.config import to_dict, write_yaml
from speechssl.errors import ManifestError, TrainingError
from speechssl.files import write_text
from speechssl.jobs import Job, num_cores, run_jobs
from speechssl.label_efficiency.analysis import Analysis, Metric, analyse, counts_by_unit
from speechssl.label_efficiency.checks import DryRun, check_decoders, check_manifests, try_one_step
from speechssl.label_efficiency.config import LabelEfficiencyConfig, test_name
from speechssl.label_efficiency.tables import markdown
from speechssl.label_efficiency.trials import LabelSet, Trial, all_trials, choose, make_trial
from speechssl.manifest import Manifest, subset_manifest
from speechssl.training.records import environment

logger = logging.getLogger(__name__)

CONFIG_FILE = "label_efficiency.yaml"
RESULTS_FILE = "results.json"
TABLES_FILE = "results.md"
UTTERANCES_FILE = "utterances.csv"
_METRICS: tuple[Metric, ...] = ("wer", "cer")


@dataclass(frozen=True, kw_only=True)
class LabelEfficiencyResult:
    """Where the results stand, and the analysis of every test by metric; `to_dict` is results.json.

    A test is called as its manifest, or MANIFEST-DECODER where it was read by one of `decoders`.
    """

    output: Path
    analyses: Mapping[str, Mapping[str, Analysis]]
    to_dict: Mapping[str, Any]


def run(config: LabelEfficiencyConfig) -> LabelEfficiencyResult:
    """Fine-tune, test and tabulate; what was done before in `config.output` is kept.

    Raises:
        ConfigError, ManifestError, CheckpointError: something that was given cannot be used, or does not go together.
        TrainingError: every candidate of an encoder failed.
    """
    config.output.mkdir(parents=True, exist_ok=True)
    sets = label_sets(config)
    check_manifests(config, sets)
    check_decoders(config)
    write_yaml(to_dict(config), config.output / CONFIG_FILE)
    _train(all_trials(config, sets, config.seeds[:1]), config)
    chosen = {(encoder, labels.name): _chosen(config, labels, encoder) for labels in sets for encoder in config.sources}
    repeats = [
        make_trial(config, labels, encoder, chosen[encoder, labels.name].rate, seed)
        for labels in sets
        for seed in config.seeds
        for encoder in config.sources
    ]
    _train(repeats, config)
    _test(repeats, config)
    _test_by_decoders(repeats, chosen, config)
    return summarize(config, sets, chosen)


def dry_run(config: LabelEfficiencyConfig) -> DryRun:
    """Check all manifests, recordings and encoders, and run one batch of each encoder without learning from it.

    Raises:
        ConfigError, ManifestError, CheckpointError, AudioError: what would stop the experiment.
    """
    config.output.mkdir(parents=True, exist_ok=True)
    sets = label_sets(config)
    warnings = check_manifests(config, sets, audio=True)
    check_decoders(config)
    return try_one_step(config, sets, all_trials(config, sets, config.seeds[:1]), warnings)


def label_sets(config: LabelEfficiencyConfig) -> list[LabelSet]:
    """The subsets, smallest first; drawn ones are written to `OUTPUT/labels/`.

    Raises:
        ManifestError: a manifest cannot be read, or an amount cannot be drawn from it.
    """
    if config.label_sets:
        found = [(name, Path(path), Manifest.load(path)) for name, path in config.label_sets.items()]
    else:
        assert config.train_manifest is not None
        manifest = Manifest.load(config.train_manifest)
        subsets = subset_manifest(manifest, [60 * minutes for minutes in config.minutes], seed=config.subset_seed)
        found = []
        for minutes, subset in zip(config.minutes, subsets, strict=True):
            name = f"{minutes:g}min"
            path = config.output / "labels" / f"{name}{config.train_manifest.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            subset.save(path)
            found.append((name, path, subset))
    sets = [
        LabelSet(name=name, path=path, hours=manifest.total_seconds / 3600, num_utterances=len(manifest))
        for name, path, manifest in found
    ]
    return sorted(sets, key=lambda labels: labels.hours)


def summarize(
    config: LabelEfficiencyConfig, sets: Sequence[LabelSet], chosen: Mapping[tuple[str, str], Trial]
) -> LabelEfficiencyResult:
    """Analyse the tests and write results.json and results.md."""
    analyses: dict[str, dict[str, Analysis]] = {}
    for test in config.test_manifests:
        for decoder in (None, *config.decoders):
            analyses[test_name(test, decoder)] = {
                metric: _analyse(config, sets, chosen, test, decoder, metric) for metric in _METRICS
            }
    record = {
        "config": to_dict(config),
        "environment": _environment(),
        "label_sets": [{**asdict(labels), "path": str(labels.path)} for labels in sets],
        "fingerprints": {
            path: Manifest.load(path).fingerprint()
            for path in [*(str(s.path) for s in sets), str(config.valid_manifest), *config.test_manifests.values()]
        },
        "sweep": [_sweep_entry(config, trial) for trial in all_trials(config, sets, config.seeds[:1])],
        "chosen": [
            {"encoder": encoder, "labels": name, "rate": trial.rate, "at_edge": _at_edge(config, trial)}
            for (encoder, name), trial in chosen.items()
        ],
        "decoders": {
            decoder: [
                {"encoder": encoder, "labels": name, **_weights(trial, decoder)}
                for (encoder, name), trial in chosen.items()
            ]
            for decoder in config.decoders
        },
        "tests": {test: {metric: asdict(found) for metric, found in by.items()} for test, by in analyses.items()},
    }
    write_text(config.output / RESULTS_FILE, json.dumps(_finite(record), indent=1, default=str) + "\n")
    write_text(config.output / TABLES_FILE, markdown(record, analyses))
    return LabelEfficiencyResult(output=config.output, analyses=analyses, to_dict=record)


def _environment() -> dict[str, Any]:
    """Without the place of the program on this machine: results are handed around."""
    found = environment()
    first, *words = found["command"]
    return {**found, "command": [Path(first).name, *words]}


def _train(trials: Sequence[Trial], config: LabelEfficiencyConfig) -> None:
    left = [trial for trial in dict.fromkeys(trials) if trial.outcome() is None]
    if left:
        logger.info("%d of %d runs to train", len(left), len(trials))
    for trial in left:
        trial.folder.parent.mkdir(parents=True, exist_ok=True)

    def note(index: int, code: int) -> None:
        left[index].folder.mkdir(exist_ok=True)
        left[index].finish(code, config.choose_by)

    _run([trial.job(config) for trial in left], config, note)


def _test(trials: Sequence[Trial], config: LabelEfficiencyConfig) -> None:
    jobs = [
        trial.test_job(test, manifest, config)
        for trial in trials
        for test, manifest in config.test_manifests.items()
        if not trial.tested(test) and trial.score(config.choose_by) < float("inf")
    ]
    _run_all(jobs, config)


def _test_by_decoders(
    trials: Sequence[Trial], chosen: Mapping[tuple[str, str], Trial], config: LabelEfficiencyConfig
) -> None:
    """Tune each decoder once for every encoder and size, then test all seeds with it."""
    _run_all(
        [
            trial.tune_job(decoder, config)
            for decoder in config.decoders
            for trial in chosen.values()
            if not trial.tuned(decoder).exists()
        ],
        config,
    )
    jobs = [
        trial.decoder_job(test, manifest, decoder, chosen[trial.encoder, trial.labels.name].tuned(decoder))
        for decoder in config.decoders
        for trial in trials
        for test, manifest in config.test_manifests.items()
        if not trial.tested(test, decoder) and trial.score(config.choose_by) < float("inf")
    ]
    _run_all(jobs, config)


def _weights(trial: Trial, decoder: str) -> dict[str, Any]:
    """What tuning came to: the weights, and the error rates that they were chosen by."""
    found = json.loads(trial.tuned(decoder).read_text(encoding="utf-8"))
    weights = {name: found["beam"][name] for name in ("lm_weight", "word_score")}
    return {**weights, "valid_wer": found["wer"], "valid_cer": found["cer"]}


def _run_all(jobs: Sequence[Job], config: LabelEfficiencyConfig) -> None:
    codes = _run(jobs, config)
    for job, code in zip(jobs, codes, strict=True):
        if code:
            raise TrainingError(f"{job.name}: it failed; see {job.log}")


def _run(
    jobs: Sequence[Job], config: LabelEfficiencyConfig, note: Callable[[int, int], None] = lambda index, code: None
) -> list[int]:
    parallel = config.num_parallel or len(config.gpus) or max(1, num_cores() // config.num_threads)
    return run_jobs(
        jobs,
        num_parallel=parallel,
        num_threads=config.num_threads,
        report_seconds=60.0,
        gpus=config.gpus,
        on_end=note,
    )


def _chosen(config: LabelEfficiencyConfig, labels: LabelSet, encoder: str) -> Trial:
    seed = config.seeds[0]
    candidates = [make_trial(config, labels, encoder, rate, seed) for rate in config.rates_of(encoder)]
    best = choose(candidates, config.choose_by)
    if best.score(config.choose_by) == float("inf"):
        raise TrainingError(
            f"{labels.name} {encoder}: every learning rate failed ({', '.join(f'{t.rate:g}' for t in candidates)}); see"
            f" {candidates[0].log}"
        )
    if _at_edge(config, best):
        logger.warning(
            "%s %s: the best learning rate, %g, is the last one tried on its side; try further ones",
            labels.name,
            encoder,
            best.rate,
        )
    return best


def _at_edge(config: LabelEfficiencyConfig, trial: Trial) -> bool:
    rates = config.rates_of(trial.encoder)
    return len(rates) > 1 and trial.rate in (min(rates), max(rates))


def _sweep_entry(config: LabelEfficiencyConfig, trial: Trial) -> dict[str, Any]:
    return {
        "encoder": trial.encoder,
        "labels": trial.labels.name,
        "rate": trial.rate,
        "seed": trial.seed,
        **(trial.outcome() or {}),
    }


def _analyse(
    config: LabelEfficiencyConfig,
    sets: Sequence[LabelSet],
    chosen: Mapping[tuple[str, str], Trial],
    test: str,
    decoder: str | None,
    metric: Metric,
) -> Analysis:
    runs, over = {}, "utterances"
    for (encoder, name), trial in chosen.items():
        counts = []
        for seed in config.seeds:
            repeat = make_trial(config, trial.labels, encoder, trial.rate, seed)
            if not repeat.tested(test, decoder):
                logger.warning("%s: failed, so it is not in the results", repeat.name)
                continue
            over, found = counts_by_unit(_rows(repeat.test_folder(test, decoder) / UTTERANCES_FILE), metric)
            counts.append(found)
        if counts:
            runs[encoder, name] = counts
    if not runs:
        raise ManifestError(f"{test}: no run was tested on it")
    return analyse(
        runs,
        {labels.name: labels.hours for labels in sets},
        metric=metric,
        interval_over=over,
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _finite(value: Any) -> Any:
    """JSON has no infinity: it is written as the word `never`."""
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return "never" if isinstance(value, float) and value == float("inf") else value
