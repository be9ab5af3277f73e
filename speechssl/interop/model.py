"""What an import gives: a description, and the modules that can be built of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.model_directory import load_weights
from speechssl.objectives.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.text import NormalizerName, Vocabulary

Kind = Literal["encoder", "pretraining", "ctc"]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from: `format` (`huggingface`, ...), `source` as it was named, `licence` where it says."""

    format: str
    source: str
    architecture: str
    licence: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Fields for JSON."""
        return {
            "format": self.format,
            "source": self.source,
            "architecture": self.architecture,
            "licence": self.licence,
        }


@dataclass(frozen=True, kw_only=True)
class PretrainingModel:
    """An encoder and the objective that it is trained with, both in evaluation mode."""

    encoder: SpeechEncoder
    objective: ContrastiveObjective


Exportable = SpeechEncoder | CtcModel | PretrainingModel
"""What can be written for other tools."""


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A foreign model in our terms.

    `encoder_state` holds all tensors of the `SpeechEncoder` of `config`; `objective` and `objective_state` are there
    for `kind="pretraining"`; for `kind="ctc"` the `vocabulary` of the N labels in the model's order, `head_state` with
    `weight` `[N, D]` and `bias` `[N]`, `head_dropout` before it and the `normalizer` of the texts that it writes.
    `no_text` says why a CTC layer that is there was left out. `notes` names every tensor that has no place here, and
    whatever was assumed.
    """

    kind: Kind
    origin: Origin
    config: EncoderConfig
    encoder_state: Mapping[str, Tensor] = field(repr=False)
    objective: ContrastiveConfig | None = None
    objective_state: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    vocabulary: Vocabulary | None = None
    head_state: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    head_dropout: float = 0.0
    normalizer: NormalizerName = "none"
    no_text: str | None = None
    notes: tuple[str, ...] = ()

    def build_encoder(self) -> SpeechEncoder:
        """The encoder, in evaluation mode."""
        encoder = SpeechEncoder(self.config)
        load_weights(encoder, self.encoder_state, source=Path(self.origin.source))
        return encoder.eval()

    def build_objective(self) -> ContrastiveObjective:
        """The quantizer and projections of a pre-training model.

        Raises:
            CheckpointError: the model has none.
        """
        if self.objective is None:
            raise CheckpointError(
                f"{self.origin.source}: holds no quantizer, so its pre-training cannot go on as it was; start the"
                " objective anew"
            )
        objective = ContrastiveObjective(
            self.objective, latent_dim=self.config.latent_dim, model_dim=self.config.model_dim
        )
        load_weights(objective, self.objective_state, source=Path(self.origin.source))
        return objective.eval()

    def build_ctc(self) -> CtcModel:
        """The recognizer, in evaluation mode.

        Raises:
            CheckpointError: the model has no CTC layer, or it does not fit its vocabulary.
        """
        if self.no_text is not None:
            raise CheckpointError(self.no_text)
        if self.vocabulary is None:
            raise CheckpointError(
                f"{self.origin.source}: has no CTC layer, so it cannot write text; fine-tune it first (speechssl"
                " finetune) and give that run"
            )
        model = CtcModel(self.build_encoder(), self.vocabulary, normalizer=self.normalizer, dropout=self.head_dropout)
        load_weights(model.head, self.head_state, source=Path(self.origin.source))
        return model.eval()

    def build(self) -> Exportable:
        """The whole model, as its `kind` says."""
        if self.kind == "ctc":
            return self.build_ctc()
        if self.kind == "pretraining":
            return PretrainingModel(encoder=self.build_encoder(), objective=self.build_objective())
        return self.build_encoder()
