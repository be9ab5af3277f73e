"""The configuration of fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechssl.asr import HeadInput
from speechssl.config import from_dict
from speechssl.data import DataConfig
from speechssl.errors import ConfigError
from speechssl.finetune.budget import Budget, fill_budget
from speechssl.nn.lora import AdapterTargets
from speechssl.text import NormalizerName, UnitConfig
from speechssl.training.optim import OptimConfig
from speechssl.training.task import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Masking of the encoder's input in fine-tuning, the paper's form of SpecAugment (section 4.3, appendix B).

    A probability p with spans of s hides up to the share p: n * p / s spans are drawn and may overlap.

    Attributes:
        time_probability: share of frames that spans of the mask embedding aim at; 0 hides none.
        time_span: frames a span covers.
        channel_probability: share of the model's dimensions that spans of zeros aim at; 0 hides none.
        channel_span: dimensions a span covers; the paper's 64 is a twelfth of BASE.
    """

    time_probability: float = 0.65
    time_span: int = 10
    channel_probability: float = 0.25
    channel_span: int = 64

    def __post_init__(self) -> None:
        for name in ("time_probability", "channel_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, but is {getattr(self, name)}")
        for name in ("time_span", "channel_span"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Low-rank adapters (LoRA): the encoder stays as it is, small matrices beside its linear layers are trained.

    The saved model has them merged in, so that every command takes it; the adapters alone are saved beside it.

    Attributes:
        rank: of each adapter; 0 trains the encoder itself.
        alpha: an adapter's output is scaled by alpha / rank, so that another rank needs no other learning rate.
        dropout: on what goes into an adapter.
        targets: the linear layers that have one: those of `attention`, `feed_forward` or `all`.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: AdapterTargets = "all"

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ConfigError(f"rank must be at least 0, but is {self.rank}")
        if not self.alpha > 0:
            raise ConfigError(f"alpha must be above 0, but is {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, but is {self.dropout}")


def _default_training() -> TrainingConfig:
    return TrainingConfig(
        best_metric="valid_cer",
        optim=OptimConfig(
            peak_lr=5e-5,
            schedule="tri_stage",
            warmup_fraction=0.1,
            hold_fraction=0.4,
            final_scale=0.05,
            eps=1e-8,
            weight_decay=0.0,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What to train on, from what and how. The defaults are the paper's for BASE.

    The best checkpoint is chosen by `valid_cer`: with little data the word error rate stays at 1 long after
    characters are being learnt, and so would not tell two checkpoints apart.

    Attributes:
        train_manifest: utterances with texts to learn from.
        valid_manifest: utterances with texts to choose the checkpoint by; none of them may be in the training.
        run_directory: receives configuration, metrics and checkpoints; an interrupted run there is continued.
        budget: the amount of labelled speech, 10min, 1h, 10h or 100h: sets whatever is not given to the published
            settings for it (updates, learning rate, freezing, masks, dropout, batches; see docs/fine-tuning.md).
        pretrained: a pre-training run, model directory or shipped model (`speechssl-tiny`); null trains from scratch.
        preset: the encoder's preset, when from scratch: tiny, small, base or large.
        encoder: fields of EncoderConfig that replace the preset's. Of a pre-trained encoder only those can be
            replaced that leave its weights as they are: the dropout rates, layer_drop and feature_gradient_scale.
        vocabulary: a vocab.json to use; null makes one from the training texts as `units` says.
        units: characters, sentencepiece pieces or phonemes, and the Unicode form, case and punctuation of texts.
        min_character_count: characters that are rarer than this in the training texts get no label.
        normalizer: how texts are normalised: none, lowercase, letters, basic or english.
        head_dropout: dropout before the linear layer.
        blank_bias: initial bias of the blank; see CtcModel.
        head_input: what the linear layer reads: the encoder's `context`, or the sum of all its layers with weights
            that are learnt (`weighted_layers`).
        head_lr_scale: factor on the learning rate of the linear layer.
        encoder_lr_scale: factor on the learning rate of the encoder.
        layer_lr_decay: further factor for each layer below the encoder's last; 1 gives all layers the same rate.
        freeze_feature_encoder: keep the convolutions as they are; null freezes those of a pre-trained encoder.
        freeze_steps: updates at the start in which only the linear layer is trained; pre-trained encoders only.
        adapters: low-rank adapters instead of training the encoder's own weights.
        ema_decay: of a moving average of the weights, such as 0.999; validation and saved models use the average. 0
            keeps none.
        mask: masking in time and channels.
        data: how utterances become batches; max_crop_seconds is not used.
        training: length, schedule, checkpoints.
        device: `auto` takes a GPU where there is one.
    """

    train_manifest: Path
    valid_manifest: Path
    run_directory: Path
    budget: Budget | None = None
    pretrained: str | None = None
    preset: str = "tiny"
    encoder: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: Path | None = None
    units: UnitConfig = field(default_factory=UnitConfig)
    min_character_count: int = 1
    normalizer: NormalizerName = "letters"
    head_dropout: float = 0.1
    blank_bias: float = 0.0
    head_input: HeadInput = "context"
    head_lr_scale: float = 1.0
    encoder_lr_scale: float = 1.0
    layer_lr_decay: float = 1.0
    freeze_feature_encoder: bool | None = None
    freeze_steps: int = 0
    adapters: AdapterConfig = field(default_factory=AdapterConfig)
    ema_decay: float = 0.0
    mask: MaskConfig = field(default_factory=MaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=_default_training)
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.vocabulary is not None and self.units != UnitConfig():
            raise ConfigError("vocabulary and units both say what the labels are; give one of them")
        for name in ("head_lr_scale", "encoder_lr_scale", "layer_lr_decay"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, but is {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay must be at least 0 and below 1, but is {self.ema_decay}")
        if self.freeze_steps < 0:
            raise ConfigError(f"freeze_steps must not be negative, but is {self.freeze_steps}")
        if self.pretrained is None and self.freeze_steps:
            raise ConfigError(
                f"freeze_steps is {self.freeze_steps}, but there is no pretrained encoder to keep; "
                "set freeze_steps to 0 or give pretrained"
            )
        if self.pretrained is None and self.freeze_feature_encoder:
            raise ConfigError(
                "freeze_feature_encoder is true, but without a pretrained encoder the convolutions would stay random; "
                "set it to false or give pretrained"
            )
        if self.adapters.rank and self.pretrained is None:
            raise ConfigError(
                f"adapters.rank is {self.adapters.rank}, but without a pretrained encoder the weights under the "
                "adapters would stay random; set it to 0 or give pretrained"
            )
        if self.adapters.rank and self.freeze_feature_encoder is False:
            raise ConfigError(
                "freeze_feature_encoder is false, but with adapters the encoder's own weights stay as they are; leave "
                "it out, or set adapters.rank to 0"
            )
        self._refuse_unfilled_budget()

    @classmethod
    def for_budget(cls, budget: Budget, **values: Any) -> "FinetuneConfig":
        """The configuration with the published settings for an amount of labelled speech; `values` go before them."""
        return from_dict(cls, {**values, "budget": budget})

    @classmethod
    def fill_values(cls, values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
        """See `config.from_dict`."""
        return fill_budget(values, source=source)

    def _refuse_unfilled_budget(self) -> None:
        """The constructor cannot tell what was given from what was left out, so that it cannot apply a budget."""
        if self.budget is not None and not self.encoder:
            raise ConfigError(
                f"budget is {self.budget!r}, but its settings are not applied by the constructor; in Python write "
                f"FinetuneConfig.for_budget({self.budget!r}, train_manifest=..., ...)"
            )
