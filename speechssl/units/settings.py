"""What making units can be told, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.errors import ConfigError
from speechssl.frames import CONTEXT, Layer


@dataclass(frozen=True, kw_only=True)
class UnitsConfig:
    """What to make units of, how many, and where to write.

    Attributes:
        checkpoint: run, checkpoint or model directory, a shipped model's name, or the hand-made features mfcc or
            log_mel.
        manifest: the recordings, .jsonl or .parquet.
        output: a folder; it gets units.safetensors, the manifest's units (units.tsv, units.parquet) and result.json.
        num_units: centers of the k-means, K.
        layer: `context` for the encoder's output, 0 for the transformer's input, n for its n-th layer.
        num_passes: how often every recording is seen.
        num_seeds: runs from `seed` on, trained side by side on the same stream; the first gives the units, the others
            tell how far units depend on the seed.
        chunk_seconds: audio whose frames are held in memory and shuffled together.
        update_frames: frames of one mini-batch.
        first_frames: frames over which the first centers are spread.
        label: a column of the manifest whose value every frame of an utterance is scored against.
        alignment: labels in time (CTM: ID CHANNEL START DURATION LABEL) to score against instead.
        batch_seconds: audio encoded at a time.
        device: auto, cpu, cuda, cuda:1, ...
        seed: of the order of recordings, and of the first run.
        overwrite: begin anew even where units are in the output already; other files there stay.
    """

    checkpoint: str
    manifest: Path
    output: Path
    num_units: int = 100
    layer: Layer = CONTEXT
    num_passes: int = 5
    num_seeds: int = 1
    chunk_seconds: float = 600.0
    update_frames: int = 10_000
    first_frames: int = 20_000
    label: str | None = None
    alignment: Path | None = None
    batch_seconds: float = 60.0
    device: str = "cpu"
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("num_passes", "num_seeds", "chunk_seconds", "update_frames", "batch_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, but is {getattr(self, name)}")
        if self.num_units < 2:
            raise ConfigError(f"num_units must be at least 2, but is {self.num_units}")
        if self.first_frames < self.num_units:
            raise ConfigError(
                f"first_frames must be at least num_units={self.num_units}, but is {self.first_frames}; each unit"
                " begins at another frame"
            )
        check_labels(self.label, self.alignment)


@dataclass(frozen=True, kw_only=True)
class ApplyConfig:
    """What to write in units that were made before.

    Attributes:
        units: the folder that `speechssl units` wrote.
        manifest: the recordings, .jsonl or .parquet.
        output: a folder for units.tsv, units.parquet and result.json.
        label: a column of the manifest whose value every frame of an utterance is scored against.
        alignment: labels in time (CTM: ID CHANNEL START DURATION LABEL) to score against instead.
        checkpoint: the encoder, where it is no longer where the units were made; its weights must be the same.
        batch_seconds: audio encoded at a time.
        device: auto, cpu, cuda, cuda:1, ...
    """

    units: Path
    manifest: Path
    output: Path
    label: str | None = None
    alignment: Path | None = None
    checkpoint: str | None = None
    batch_seconds: float = 60.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.batch_seconds > 0:
            raise ConfigError(f"batch_seconds must be above 0, but is {self.batch_seconds}")
        check_labels(self.label, self.alignment)


def check_labels(label: str | None, alignment: Path | None) -> None:
    """Refuse two kinds of labels at once."""
    if label is not None and alignment is not None:
        raise ConfigError("label and alignment are both given; score against one of them at a time")


@dataclass(frozen=True, kw_only=True)
class UnitsResult:
    """What was written, and what it is worth.

    `used` of `num_units` units occur, with the perplexity `perplexity`; `scores` are those of `UnitScores` where labels
    were given, averaged over seeds (`seed_scores` has each); `stability` compares the seeds two by two (means of `nmi`
    and `matched`). `skipped` are (id, reason) of recordings that could not be used.
    """

    directory: Path
    num_utterances: int
    num_frames: int
    num_units: int
    used: int
    perplexity: float
    runs_per_second: float
    scores: Mapping[str, float] | None
    seed_scores: tuple[Mapping[str, float], ...]
    stability: Mapping[str, float] | None
    num_unlabelled_frames: int
    skipped: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **vars(self),
            "directory": str(self.directory),
            "scores": None if self.scores is None else dict(self.scores),
            "seed_scores": [dict(scores) for scores in self.seed_scores],
            "stability": None if self.stability is None else dict(self.stability),
            "skipped": [list(pair) for pair in self.skipped],
        }
