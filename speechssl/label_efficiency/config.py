"""The configuration of a label-efficiency experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from speechssl.errors import ConfigError

SCRATCH = "scratch"


@dataclass(frozen=True, kw_only=True)
class LabelEfficiencyConfig:
    """Which encoders, which amounts of labels, which candidates, and what is tested.

    Attributes:
        finetune: configuration of `speechssl finetune` that all runs share. Its manifests, pretrained, run_directory,
            learning rate and seed are replaced.
        encoders: `scratch`, and pre-trained ones as NAME=SOURCE, e.g. tiny=speechssl-tiny; the first is what the others
            are compared with.
        train_manifest: labelled utterances, from which nested subsets are drawn; null where label_sets are given.
        minutes: sizes of the subsets in minutes of audio, e.g. 5 15 60.
        label_sets: NAME: MANIFEST of given subsets, e.g. Libri-light's 10min, 1h and 10h; in place of minutes.
        subset_seed: which utterances make up the subsets.
        valid_manifest: chooses the checkpoint of every run and the learning rate; never the test manifests.
        test_manifests: NAME: MANIFEST; the first gives the main figures.
        learning_rates: candidates that every encoder is tried with at every size, with the first of the seeds.
        own_learning_rates: NAME: candidates of an encoder in place of learning_rates, as many of them.
        own_options: NAME: options of `speechssl finetune` for one encoder alone, e.g. {tiny: {freeze_steps: 100}}.
        set_options: NAME of a size: options for the runs of this size, e.g. {10h: {training.max_steps: 20000}}.
        seeds: the chosen rate is run with each; five or more make intervals that can be trusted.
        choose_by: what is lowest on valid_manifest at the chosen rate.
        output: folder of the runs, the results and the page; an interrupted experiment there goes on.
        num_parallel: runs at a time; 0 takes the number of GPUs, or of cores.
        num_threads: of each run.
        gpus: devices to spread the runs over, e.g. 0 1 2 3; empty lets every run choose by itself.
        evaluate_options: options of `speechssl evaluate` for the tests, e.g. {decoder: beam}.
        decoders: NAME: options of `speechssl evaluate` for one more test of every run by a beam search, e.g.
            {words: {beam.language_model: words.arpa}}. For each encoder and size its two weights are tuned on
            valid_manifest, by the run of the first seed.
        num_bootstrap: replicates of the bootstrap for the intervals.
        confidence: coverage of the intervals.
    """

    finetune: Path
    encoders: tuple[str, ...]
    output: Path
    valid_manifest: Path
    test_manifests: Mapping[str, str]
    train_manifest: Path | None = None
    minutes: tuple[float, ...] = ()
    label_sets: Mapping[str, str] = field(default_factory=dict)
    subset_seed: int = 0
    learning_rates: tuple[float, ...] = (5e-4, 1e-3, 2e-3)
    own_learning_rates: Mapping[str, Any] = field(default_factory=dict)
    own_options: Mapping[str, Any] = field(default_factory=dict)
    set_options: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    choose_by: Literal["valid_cer", "valid_wer", "valid_loss"] = "valid_cer"
    num_parallel: int = 0
    num_threads: int = 1
    gpus: tuple[str, ...] = ()
    evaluate_options: Mapping[str, Any] = field(default_factory=dict)
    decoders: Mapping[str, Any] = field(default_factory=dict)
    num_bootstrap: int = 2000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        sources = self.sources
        if len(sources) != len(self.encoders):
            raise ConfigError(f"encoders: every name may stand once, but they are {' '.join(self.encoders)}")
        if bool(self.label_sets) == bool(self.minutes):
            raise ConfigError("give either minutes (with train_manifest) or label_sets")
        if self.minutes and self.train_manifest is None:
            raise ConfigError("minutes: needs train_manifest, from which the subsets are drawn")
        if not self.test_manifests:
            raise ConfigError("test_manifests: give at least one as NAME: MANIFEST")
        for name, values in (("learning_rates", self.learning_rates), ("seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name}: give at least one and none twice, but they are {list(values)}")
        for name in (*self.own_learning_rates, *self.own_options):
            if name not in sources:
                raise ConfigError(f"own options of {name!r}: there is no such encoder; they are {', '.join(sources)}")
        for name, rates in self.own_learning_rates.items():
            if len(rates) != len(self.learning_rates):
                raise ConfigError(
                    f"own_learning_rates.{name}: {len(rates)} candidates where the others have"
                    f" {len(self.learning_rates)}; a fair comparison gives each as many"
                )
        for name, options in self.decoders.items():
            if not name or "/" in name or not isinstance(options, Mapping):
                example = "{words: {beam.language_model: words.arpa}}"
                raise ConfigError(f"decoders: {name!r} must be a name with options, e.g. {example}")
        tests = [test_name(test, decoder) for test in self.test_manifests for decoder in (None, *self.decoders)]
        if len(set(tests)) < len(tests):
            raise ConfigError(f"test_manifests and decoders: two results would have the same name of {' '.join(tests)}")
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence must be between 0 and 1, but is {self.confidence}")

    @property
    def sources(self) -> dict[str, str | None]:
        """Name -> checkpoint of every encoder, None from scratch.

        Raises:
            ConfigError: an entry is neither `scratch` nor NAME=SOURCE.
        """
        found: dict[str, str | None] = {}
        for entry in self.encoders:
            name, equals, source = entry.partition("=")
            if not name or bool(equals) == (name == SCRATCH) or (equals and not source) or "/" in name:
                raise ConfigError(
                    f"encoders: {entry!r} must be {SCRATCH} or NAME=SOURCE, e.g. tiny=speechssl-tiny or base=runs/base"
                )
            found[name] = source or None
        if not found:
            raise ConfigError("encoders: give at least one, e.g. scratch tiny=speechssl-tiny")
        return found

    def rates_of(self, encoder: str) -> tuple[float, ...]:
        """The candidates of an encoder."""
        return tuple(float(rate) for rate in self.own_learning_rates.get(encoder, self.learning_rates))


def test_name(test: str, decoder: str | None) -> str:
    """Of the results on a test manifest: its name, and that of the decoder where one of `decoders` was used."""
    return test if decoder is None else f"{test}-{decoder}"
