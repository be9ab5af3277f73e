"""The CTC model: an encoder and a linear layer over the labels of a vocabulary.

Shapes: B utterances, S samples, T frames, D model dim, N vocabulary.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from speechssl.ctc.decoding import Hypothesis, greedy_decode
from speechssl.encoder import SpeechEncoder, config_from_dict
from speechssl.errors import CheckpointError, ConfigError
from speechssl.model_directory import CONFIG_FILE, MODEL_FILE, load_weights, read_model, save_model
from speechssl.nn.layer_mix import LayerMix
from speechssl.text import NormalizerName, Vocabulary, normalize
from speechssl.types import CtcOutput, EncoderOutput

VOCABULARY_FILE = "vocab.json"
HeadInput = Literal["context", "weighted_layers"]


class CtcModel(nn.Module):
    """A speech encoder with dropout and a linear layer to the labels of a vocabulary.

    Attributes:
        encoder: the `SpeechEncoder`.
        vocabulary: labels of the N outputs.
        normalizer: the rule by which the training texts were normalised, which is the language that the model writes.
        layer_mix: the weighted sum of the encoder's layers that the linear layer reads; None where it reads the
            context.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        vocabulary: Vocabulary,
        *,
        normalizer: NormalizerName,
        dropout: float = 0.0,
        blank_bias: float = 0.0,
        head_input: HeadInput = "context",
        seed: int = 0,
    ) -> None:
        """A fresh linear layer: weights normal with deviation 0.02 drawn from `seed`, biases 0.

        Args:
            encoder: kept, not copied.
            vocabulary: labels.
            normalizer: recorded, and used as the default of an evaluation.
            dropout: on the context before the linear layer, in training.
            blank_bias: initial bias of the blank. CTC training first learns to write blanks everywhere; a positive
                value starts there, a negative one keeps it from staying there.
            head_input: the linear layer reads the `context`, or the sum of all layers with weights that are learnt
                (`weighted_layers`, equal at first).
            seed: of the linear layer's weights.
        """
        super().__init__()
        normalize("", normalizer)  # refuses an unknown name
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, but is {dropout}")
        if head_input not in get_args(HeadInput):
            raise ConfigError(f"head_input must be one of {', '.join(get_args(HeadInput))}, but is {head_input!r}")
        self.encoder = encoder
        self.vocabulary = vocabulary
        self.normalizer: NormalizerName = normalizer
        self.dropout = dropout
        weighted = head_input == "weighted_layers"
        self.layer_mix: LayerMix | None = LayerMix(encoder.config.num_layers + 1) if weighted else None
        # built without torch's own initialization, which would draw from the global random state
        self.head: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, encoder.config.model_dim, len(vocabulary)
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * 0.02)
            self.head.bias.zero_()
            self.head.bias[vocabulary.blank] = blank_bias

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def forward(
        self,
        waveform: Tensor,
        num_samples: Tensor,
        *,
        frame_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
    ) -> CtcOutput:
        """Label logits of waveforms.

        Args:
            waveform: f32 `[B, S]` at the encoder's sampling rate; what lies beyond a row's length does not matter.
            num_samples: i64 `[B]`, each at least the encoder's receptive field.
            frame_mask: bool `[B, T]`, True frames are hidden behind the encoder's mask embedding (training).
            channel_mask: bool `[B, D]`, True channels are set to 0 (training).

        Raises:
            AudioError: an utterance is too short to give a frame.
        """
        latents = self.encoder.extract_latents(waveform, num_samples)
        output = self.encoder.contextualize(
            latents.normalized,
            latents.num_frames,
            frame_mask=frame_mask,
            channel_mask=channel_mask,
            layers=self.layer_mix is not None,
        )
        dropped = functional.dropout(self.head_features(output), self.dropout, self.training)
        return CtcOutput(logits=self.head(dropped), num_frames=output.num_frames)

    def head_features(self, output: EncoderOutput) -> Tensor:
        """What the linear layer reads `[B, T, D]`: the context, or the weighted sum of `output.layers`."""
        if self.layer_mix is None:
            return output.context
        assert output.layers is not None, "a model with weighted layers needs the encoder's layers"
        mixed: Tensor = self.layer_mix(output.layers)
        return mixed

    @torch.no_grad()
    def recognize(self, waveform: Tensor, num_samples: Tensor) -> list[Hypothesis]:
        """Greedy hypotheses of a padded batch, in evaluation mode; the model is left in the mode it was in."""
        was_training = self.training
        self.eval()
        try:
            output = self(waveform.to(self.device), num_samples.to(self.device))
        finally:
            self.train(was_training)
        return greedy_decode(output.logits, output.num_frames, self.vocabulary)

    def save(self, directory: str | Path) -> None:
        """Write a model directory: `config.json`, `model.safetensors` and `vocab.json`."""
        description: dict[str, Any] = {
            "model_type": "ctc",
            "encoder": asdict(self.encoder.config),
            "normalizer": self.normalizer,
            "dropout": self.dropout,
        }
        if self.layer_mix is not None:
            description["head_input"] = "weighted_layers"
        facts = self.vocabulary.facts()
        if facts:
            description["vocabulary"] = facts
        save_model(directory, self, description)
        self.vocabulary.save(Path(directory) / VOCABULARY_FILE)

    @classmethod
    def load(cls, directory: str | Path, *, device: torch.device | str = "cpu") -> "CtcModel":
        """Read what `save` wrote, in evaluation mode.

        Raises:
            CheckpointError: a file is missing or damaged, or the directory holds an encoder without a CTC layer.
        """
        directory = Path(directory)
        description, tensors = read_model(directory, device=device)
        if description["model_type"] != "ctc":
            raise CheckpointError(
                f"{directory}: is a model of type {description['model_type']!r}, which cannot write text; "
                "fine-tune it first (speechssl finetune) and give that run"
            )
        encoder = SpeechEncoder(config_from_dict(description["encoder"], source=directory / CONFIG_FILE))
        try:
            model = cls(
                encoder,
                Vocabulary.load(directory / VOCABULARY_FILE, facts=description.get("vocabulary")),
                normalizer=description["normalizer"],
                dropout=description["dropout"],
                head_input=description.get("head_input", "context"),
            )
        except (KeyError, ConfigError) as error:
            raise CheckpointError(f"{directory / CONFIG_FILE}: not a usable CTC model: {error}") from error
        load_weights(model, tensors, source=directory / MODEL_FILE)
        return model.to(device).eval()


def load_vocabulary(path: str | Path) -> Vocabulary:
    """The labels in a `vocab.json`; of another tool's kind where the model's `config.json` beside it says so.

    Raises:
        CheckpointError: the file is missing, or it or the `config.json` beside it cannot be used.
    """
    config = Path(path).with_name(CONFIG_FILE)
    try:
        description = json.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        description = {}
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{config}: cannot be read as JSON: {error}; it says how {Path(path).name} is to be read, so restore it"
        ) from error
    facts = description.get("vocabulary") if isinstance(description, dict) else None
    return Vocabulary.load(Path(path), facts=facts)
