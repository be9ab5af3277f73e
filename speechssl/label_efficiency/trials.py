"""One fine-tuning and one test each: the words of their commands, where they stand, and what came of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import flatten
from speechssl.files import write_text
from speechssl.jobs import Job
from speechssl.label_efficiency.config import LabelEfficiencyConfig, test_name
from speechssl.training.records import read_metrics

TRIAL_FILE = "trial.json"
RESULT_FILE = "result.json"
DECODER_FILE = "decoder.json"


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """A subset of the labels; `hours` of audio."""

    name: str
    path: Path
    hours: float
    num_utterances: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One fine-tuning: an encoder, a subset, a learning rate, a seed."""

    encoder: str
    source: str | None
    labels: LabelSet
    rate: float
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """`10min tiny 0.002 seed 1`, for people."""
        return f"{self.labels.name} {self.encoder} {self.rate:g} seed {self.seed}"

    @property
    def log(self) -> Path:
        """What its process writes."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def job(self, config: LabelEfficiencyConfig) -> Job:
        """The command that trains it; an interrupted one goes on."""
        words = ["finetune", "--config", str(config.finetune), "--no_report"]
        words += ["--run_directory", str(self.folder), "--train_manifest", str(self.labels.path)]
        words += ["--valid_manifest", str(config.valid_manifest), "--training.seed", str(self.seed)]
        words += ["--training.optim.peak_lr", repr(self.rate)]
        words += ["--pretrained", "null" if self.source is None else self.source]
        words += options(config.set_options.get(self.labels.name, {}))
        words += options(config.own_options.get(self.encoder, {}))
        return Job(name=self.name, words=words, log=self.log, status=self.status)

    def validations(self) -> list[dict[str, Any]]:
        """Every validation so far, by step."""
        return [values for values in read_metrics(self.folder) if values.get("valid_loss") is not None]

    def status(self) -> str:
        """For the progress log."""
        seen = self.validations()
        if not seen:
            return "training"
        return f"update {seen[-1]['step']}, WER {seen[-1]['valid_wer']:.3f} and CER {seen[-1]['valid_cer']:.3f} on dev"

    def finish(self, code: int, choose_by: str) -> None:
        """Note that the training has ended, with its best validation."""
        seen = self.validations()
        best = min(seen, key=lambda values: float(values[choose_by])) if seen else {}
        found = {name: best.get(name) for name in ("step", "valid_loss", "valid_cer", "valid_wer")}
        record = {"exit_code": code, "best": found if best else None, "last_step": seen[-1]["step"] if seen else 0}
        write_text(self.folder / TRIAL_FILE, json.dumps(record) + "\n")

    def outcome(self) -> dict[str, Any] | None:
        """What `finish` noted; None before."""
        path = self.folder / TRIAL_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def score(self, choose_by: str) -> float:
        """The best validation; infinite where the run failed before one."""
        outcome = self.outcome()
        best = None if outcome is None else outcome["best"]
        return float("inf") if best is None or best[choose_by] is None else float(best[choose_by])

    def test_folder(self, test: str, decoder: str | None = None) -> Path:
        """Where the results on a test manifest stand."""
        return self.folder / f"test-{test_name(test, decoder)}"

    def test_job(self, test: str, manifest: str, config: LabelEfficiencyConfig) -> Job:
        """The command that tests its best checkpoint."""
        return self._evaluation(test, manifest, self.test_folder(test), options(config.evaluate_options))

    def tuned(self, decoder: str) -> Path:
        """Where the weights stand that this run chose for one of `decoders`."""
        return self.folder / f"tuned-{decoder}" / DECODER_FILE

    def tune_job(self, decoder: str, config: LabelEfficiencyConfig) -> Job:
        """The command that finds the weights of one of `decoders` on the validation manifest."""
        words = ["--tune", "true", *options(config.decoders[decoder])]
        folder = self.tuned(decoder).parent
        return self._evaluation(f"weights of {decoder}", str(config.valid_manifest), folder, words)

    def decoder_job(self, test: str, manifest: str, decoder: str, tuned: Path) -> Job:
        """The command that tests its best checkpoint by one of `decoders`, with the weights in `tuned`."""
        folder = self.test_folder(test, decoder)
        return self._evaluation(f"{test} by {decoder}", manifest, folder, ["--decoder", str(tuned)])

    def tested(self, test: str, decoder: str | None = None) -> bool:
        """Whether the results on a test manifest are there."""
        return (self.test_folder(test, decoder) / RESULT_FILE).exists()

    def _evaluation(self, what: str, manifest: str, folder: Path, more: Sequence[str]) -> Job:
        words = ["evaluate", "--checkpoint", str(self.folder), "--manifest", manifest, "--output", str(folder), *more]
        log = folder.with_name(f"{folder.name}.log")
        return Job(name=f"{self.name}, {what}", words=words, log=log, status=lambda: "recognising")


def options(values: Mapping[str, Any], prefix: str = "--") -> list[str]:
    """A mapping, nested or with dotted names, as words of a command line."""
    words: list[str] = []
    for name, value in flatten(values).items():
        items = value if isinstance(value, list | tuple) else [value]
        words.append(f"{prefix}{name}")
        words += ["null" if item is None else str(item).lower() if isinstance(item, bool) else str(item)
                  for item in items]  # fmt: skip
    return words


def all_trials(config: LabelEfficiencyConfig, sets: Sequence[LabelSet], seeds: Iterable[int]) -> list[Trial]:
    """Every encoder with every candidate on every subset; the smallest subset comes first."""
    return [
        make_trial(config, labels, encoder, rate, seed)
        for labels in sets
        for seed in seeds
        for encoder in config.sources
        for rate in config.rates_of(encoder)
    ]


def make_trial(config: LabelEfficiencyConfig, labels: LabelSet, encoder: str, rate: float, seed: int) -> Trial:
    """The trial and its place."""
    return Trial(
        encoder=encoder,
        source=config.sources[encoder],
        labels=labels,
        rate=rate,
        seed=seed,
        folder=config.output / "runs" / labels.name / f"{encoder}-lr{rate:g}-seed{seed}",
    )


def choose(trials: Sequence[Trial], choose_by: str) -> Trial:
    """The candidate with the lowest validation; the lowest rate where several are equal."""
    return min(trials, key=lambda trial: (trial.score(choose_by), trial.rate))
