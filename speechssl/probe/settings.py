"""What a probe can be told, and what it gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speechssl.errors import ConfigError
from speechssl.probe.classify import Difference, ProbeScore
from speechssl.probe.features import BASELINES, Pooling


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What to probe for, in what, and how.

    Attributes:
        manifest: the recordings; divided into a training and a test part unless `test_manifest` is given.
        label: the manifest's column to predict: speaker, language, text, or any other.
        test_manifest: the test part; it must share no utterance, and no group, with `manifest`.
        test_fraction: share of utterances (of groups) that become the test part otherwise.
        group: a column whose values never stand on both sides, of the split and of cross-validation alike.
        representations: log_mel, mfcc, random (the first checkpoint's architecture with random weights), and
            checkpoints: run or model directories or shipped names, each also as NAME=CHECKPOINT.
        layer: a number, or `context` for the encoder's output; null searches the best inside the training part.
        pool: mean over time, or segments: the means of three thirds, one after the other.
        num_train: labelled utterances to train on, drawn anew for each seed, classes balanced; all when null.
        num_seeds: draws of training utterances and of random encoders.
        confidence: of the intervals.
        num_bootstrap: replicates of the bootstrap.
        batch_seconds: audio encoded at a time.
        device: auto, cpu, cuda, cuda:1, ...
        seed: of the split, the draws and the bootstrap.
        output: a folder for probe.json; nothing is written when null.
    """

    manifest: Path
    label: str
    test_manifest: Path | None = None
    test_fraction: float = 0.3
    group: str | None = None
    representations: tuple[str, ...] = ("log_mel", "mfcc", "random", "speechssl-tiny")
    layer: int | Literal["context"] | None = None
    pool: Pooling = "mean"
    num_train: int | None = None
    num_seeds: int = 3
    confidence: float = 0.95
    num_bootstrap: int = 2000
    batch_seconds: float = 60.0
    device: str = "cpu"
    seed: int = 0
    output: Path | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.representations:
            raise ConfigError(f"representations is empty; name some of {', '.join(BASELINES)}, or checkpoints")
        if self.pool not in ("mean", "segments"):
            raise ConfigError(f"pool must be mean or segments, but is {self.pool!r}")
        for name in ("test_fraction", "confidence"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must be between 0 and 1, but is {getattr(self, name)}")
        for name in ("num_seeds", "num_bootstrap", "batch_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, but is {getattr(self, name)}")
        if self.num_train is not None and self.num_train < 2:
            raise ConfigError(f"num_train must be at least 2, but is {self.num_train}")
        if self.group is not None and self.group == self.label:
            raise ConfigError(f"group and label are both {self.label!r}: no value of it could be in training and test")


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """Accuracy of every representation, and differences of encoders from baselines.

    `majority` is what the most frequent training value alone would reach on the test part, `interval_over` what the
    bootstrap drew beside seeds, `skipped` (id, reason) of recordings that some representation could not use, and
    `unlabelled` the number of rows without a label; both were left out for all representations.
    """

    label: str
    scores: tuple[ProbeScore, ...]
    differences: tuple[Difference, ...]
    num_train: int
    num_test: int
    num_classes: int
    num_seeds: int
    pool: Pooling
    confidence: float
    interval_over: str
    majority: float
    skipped: tuple[tuple[str, str], ...]
    unlabelled: int

    def score(self, name: str) -> ProbeScore:
        """The score of one representation."""
        return next(score for score in self.scores if score.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for the report."""
        return {
            **vars(self),
            "scores": [score.to_dict() for score in self.scores],
            "differences": [difference.to_dict() for difference in self.differences],
            "skipped": [list(pair) for pair in self.skipped],
        }

    def table(self) -> str:
        """A table in plain text."""
        width = max(len("representation"), *(len(score.name) for score in self.scores))
        lines = [f"{'representation':<{width}}  accuracy  {100 * self.confidence:.0f} % interval  layer"]
        for score in self.scores:
            low, high = score.interval
            between = f"{100 * low:.1f} - {100 * high:.1f}"
            lines.append(f"{score.name:<{width}}  {100 * score.accuracy:6.1f} %  {between:>13}  {score.layer or '-'}")
        lines.append(f"{'most frequent':<{width}}  {100 * self.majority:6.1f} %")
        return "\n".join(lines)
