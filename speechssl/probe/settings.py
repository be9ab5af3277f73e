"""What a probe can be told, and what it gives back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from speechssl.errors import ConfigError
from speechssl.probe.classify import Difference, ProbeScore
from speechssl.probe.features import BASELINES, Pooling

Task = Literal["classify", "verify", "frames", "ctc", "abx"]
OWN_LABELS = {"verify": "speaker", "ctc": "text", "frames": "id"}  # where no label is named


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What to probe for, in what, and how.

    Attributes:
        manifest: the recordings; divided into a training and a test part unless `test_manifest` is given.
        task: classify (an utterance's label: keyword, speaker, language, emotion, ...), verify (are two utterances of
            one speaker? equal error rate), frames (the label of every frame of an alignment: characters, phones), ctc
            (recognition by a small CTC head), abx (is a third recording nearer to the one of its own kind?).
        label: the manifest's column to predict: speaker, language, text, or any other; speaker for verify and text for
            ctc unless named, not used by frames.
        test_manifest: the test part; it must share no utterance, and no group, with `manifest`.
        test_fraction: share of utterances (of groups) that become the test part otherwise.
        group: a column whose values never stand on both sides, of the split and of cross-validation alike.
        representations: log_mel, mfcc, random (the first checkpoint's architecture with random weights), and
            checkpoints: run or model directories or shipped names, each also as NAME=CHECKPOINT.
        layer: a number, or `context` for the encoder's output; null searches the best inside the training part.
        pool: mean over time, or segments: the means of three thirds, one after the other.
        num_train: labelled utterances to train on, drawn anew for each seed, classes balanced; all when null.
        num_seeds: draws of training utterances, trials and random encoders.
        layerwise: also give the test value of every layer, for the picture; nothing is chosen by it.
        alignment: labels in time (CTM: ID CHANNEL START DURATION LABEL), for frames; with abx, kinds of spans.
        across: abx: a column (speaker) in which the third recording differs from the other two, which agree in it.
        num_pairs: verify: pairs of utterances at most.
        num_triples: abx: triples of recordings.
        max_frames: frames: frames to train on at most, and twice as many to test on.
        num_updates: ctc: training steps of the head.
        confidence: of the intervals.
        num_bootstrap: replicates of the bootstrap.
        batch_seconds: audio encoded at a time.
        device: auto, cpu, cuda, cuda:1, ...
        seed: of the split, the draws and the bootstrap.
        output: a folder for probe.json; nothing is written when null.
    """

    manifest: Path
    task: Task = "classify"
    label: str = ""
    test_manifest: Path | None = None
    test_fraction: float = 0.3
    group: str | None = None
    representations: tuple[str, ...] = ("log_mel", "mfcc", "random", "speechssl-tiny")
    layer: int | Literal["context"] | None = None
    pool: Pooling = "mean"
    num_train: int | None = None
    num_seeds: int = 3
    layerwise: bool = True
    alignment: Path | None = None
    across: str | None = None
    num_pairs: int = 20_000
    num_triples: int = 1_000
    max_frames: int = 10_000
    num_updates: int = 400
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
        if self.task not in get_args(Task):
            raise ConfigError(f"task must be one of {', '.join(get_args(Task))}, but is {self.task!r}")
        if not self.label:
            by_spans = self.task == "abx" and self.alignment is not None
            own = "id" if by_spans else OWN_LABELS.get(self.task, "")
            if not own:
                raise ConfigError(f"label is missing; name the manifest's column that {self.task} is about")
            object.__setattr__(self, "label", own)
        if self.task == "frames" and self.alignment is None:
            raise ConfigError("frames needs an alignment: CTM lines ID CHANNEL START DURATION LABEL")
        for name in (
            "num_seeds", "num_bootstrap", "batch_seconds", "num_pairs", "num_triples", "max_frames", "num_updates"
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, but is {getattr(self, name)}")
        if self.num_train is not None and self.num_train < 2:
            raise ConfigError(f"num_train must be at least 2, but is {self.num_train}")
        if self.group is not None and self.group == self.label:
            raise ConfigError(f"group and label are both {self.label!r}: no value of it could be in training and test")

    @property
    def kept_apart(self) -> str | None:
        """The column whose values never stand on both sides: the group, or the speakers that are verified."""
        return self.label if self.task == "verify" else self.group

    @property
    def is_stratified(self) -> bool:
        """Whether a split keeps each label's share: not where labels are texts, or stand in an alignment."""
        return self.task == "classify" or (self.task == "abx" and self.alignment is None)


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
