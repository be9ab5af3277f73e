"""What the quickstart can be told, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechssl.errors import ConfigError
from speechssl.types import ErrorReport


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig:
    """The quickstart on the voice prompts, or on the user's own recordings.

    How the trainings go stands in recipes/quickstart/pretrain.yaml and finetune.yaml; the values here lay over them.

    Attributes:
        output: folder for everything that is made; the same command goes on there after an interruption.
        audio: a folder of recordings to use instead of the voice prompts.
        transcripts: TSV or CSV of their texts; without it a transcripts.tsv in the folder or .txt files beside them.
        language: language code of the recordings in `audio`.
        cache: where the voice prompts are kept; in the user's cache folder when null.
        shipped: the pre-trained encoder that comes with the package, compared beside the one trained here.
        label_minutes: minutes of transcribed audio that each arm is fine-tuned on; all there is when null.
        encoder: fields of the encoder that differ from the recipes' preset, for pre-training and the scratch arm.
        pretrain_steps: updates of pre-training; the recipe's when null.
        finetune_steps: updates of each fine-tuning; the recipe's when null.
        scratch_learning_rates: peak rates tried for the arm from scratch; the best on dev is tested.
        pretrained_learning_rates: peak rates tried for each arm that starts from an encoder.
        probe_labels: labelled utterances that each probe is trained on, at most.
        jobs: fine-tunings that run side by side; one a core when null.
        seed: of the split, the label subset and all trainings.
    """

    output: Path = Path("runs/quickstart")
    audio: Path | None = None
    transcripts: Path | None = None
    language: str | None = None
    cache: Path | None = None
    shipped: str | None = "speechssl-tiny"
    label_minutes: float | None = 10.0
    encoder: dict[str, Any] = field(default_factory=dict)
    pretrain_steps: int | None = None
    finetune_steps: int | None = None
    scratch_learning_rates: tuple[float, ...] = (2e-3, 4e-3)
    pretrained_learning_rates: tuple[float, ...] = (2e-3, 4e-3)
    probe_labels: int = 50
    jobs: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.transcripts is not None and self.audio is None:
            raise ConfigError("--transcripts gives the texts of --audio FOLDER; name the folder too")
        for name in ("label_minutes", "pretrain_steps", "finetune_steps", "probe_labels", "jobs"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be above 0, but is {value}")
        for name in ("scratch_learning_rates", "pretrained_learning_rates"):
            rates = getattr(self, name)
            if not rates or min(rates) <= 0:
                raise ConfigError(f"{name} must be one or more numbers above 0, but is {list(rates)}")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One fine-tuning of the sweep; `dev_wer` is None where it failed, for the reason in `failure`."""

    arm: str
    learning_rate: float
    folder: Path
    dev_wer: float | None
    dev_cer: float | None
    failure: str = ""
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class QuickstartResult:
    """What came of it: error rates of each arm on the test prompts, probes, and what was left out and why."""

    report: Path
    trials: tuple[Trial, ...] = ()
    errors: Mapping[str, ErrorReport] = field(default_factory=dict)
    probes: tuple[Mapping[str, Any], ...] = ()
    left_out: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
