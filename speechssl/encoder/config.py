"""What fixes an encoder's function: the configuration, whose defaults are BASE."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from speechssl.config import from_dict
from speechssl.errors import CheckpointError, ConfigError
from speechssl.lengths import frame_stride
from speechssl.model_directory import CONFIG_FILE
from speechssl.nn.context_encoder import ContextVariant
from speechssl.nn.feature_encoder import PaddingStatistics

WAV2VEC2_CONV_LAYERS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that fixes the encoder's function; the defaults are BASE (wav2vec 2.0, section 4.2).

    Attributes:
        front_end: `waveform` (strided convolutions), `log_mel` (fixed features, for small machines) or `fbank` (Kaldi's
            log-mel features, w2v-BERT 2.0).
        sample_rate: of the audio the encoder takes, in Hz.
        normalize_waveform: scale each utterance to zero mean and unit variance first.
        normalize_eps: added to that variance; fairseq's is 1e-5, Hugging Face's 1e-7.
        conv_layers: (kernel, stride) in samples of each convolution; `waveform` only.
        conv_dim: channels of the convolutions, C; `waveform` only.
        conv_norm: `group` (over time, first layer only) or `layer` (over channels, every layer); `waveform` only.
        conv_bias: whether convolutions have a bias; `waveform` only.
        conv_padding: whether padding is `masked` wherever it could reach a clip's frames: group norm statistics,
            stacked positions, the conformer's convolution (a clip's result never depends on its batch), or `included`
            (what fairseq, fairseq2 and Hugging Face compute).
        latent_norm: layer norm on the latents; all have it but some HuBERTs. `log_mel` never has it.
        feature_gradient_scale: factor on the gradient into the front end; 0 freezes it.
        num_mels: mel bins; `log_mel` and `fbank` only, as are the next three.
        mel_window_samples: analysis window.
        mel_hop_samples: hop between windows.
        mel_stack: neighbouring windows joined into one frame.
        model_dim: D.
        num_layers: transformer layers.
        num_heads: attention heads.
        feed_forward_dim: hidden dim of the feed-forward part.
        norm_position: layer norm `post` (BASE) or `pre` (LARGE).
        position_kernel: taps of the positional convolution, in frames.
        position_groups: its groups.
        input_dropout: on the projected latents.
        dropout: on each residual branch.
        attention_dropout: on attention weights.
        activation_dropout: inside the feed-forward part.
        layer_drop: chance to skip a layer in training.
        variant: what other published families change about the context network.
    """

    front_end: Literal["waveform", "log_mel", "fbank"] = "waveform"
    sample_rate: int = 16_000
    normalize_waveform: bool = False
    normalize_eps: float = 1e-5
    conv_layers: tuple[tuple[int, int], ...] = WAV2VEC2_CONV_LAYERS
    conv_dim: int = 512
    conv_norm: Literal["group", "layer"] = "group"
    conv_bias: bool = False
    conv_padding: PaddingStatistics = "masked"
    latent_norm: bool = True
    feature_gradient_scale: float = 0.1
    num_mels: int = 80
    mel_window_samples: int = 400
    mel_hop_samples: int = 160
    mel_stack: int = 2
    model_dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    feed_forward_dim: int = 3072
    norm_position: Literal["post", "pre"] = "post"
    position_kernel: int = 128
    position_groups: int = 16
    input_dropout: float = 0.1
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layer_drop: float = 0.05
    variant: ContextVariant = field(default_factory=ContextVariant)

    def __post_init__(self) -> None:
        """Check the values against each other."""
        if self.model_dim % self.num_heads:
            raise ConfigError(f"model_dim must be divisible by num_heads={self.num_heads}, but is {self.model_dim}")
        if self.model_dim % self.position_groups:
            raise ConfigError(
                f"model_dim must be divisible by position_groups={self.position_groups}, but is {self.model_dim}"
            )
        for name in ("input_dropout", "dropout", "attention_dropout", "activation_dropout", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, but is {getattr(self, name)}")
        for name in ("sample_rate", "conv_dim", "num_mels", "model_dim", "num_layers", "feed_forward_dim", "mel_stack"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")

    @property
    def strided_layers(self) -> tuple[tuple[int, int], ...]:
        """(kernel, stride) of the front end's layers, for `speechssl.lengths`."""
        if self.front_end == "waveform":
            return self.conv_layers
        return ((self.mel_window_samples, self.mel_hop_samples), (self.mel_stack, self.mel_stack))

    @property
    def latent_dim(self) -> int:
        """C: channels of the front end's output."""
        return self.conv_dim if self.front_end == "waveform" else self.num_mels * self.mel_stack

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / frame_stride(self.strided_layers)


def config_from_dict(values: Mapping[str, Any], *, source: Path | str = CONFIG_FILE) -> EncoderConfig:
    """`EncoderConfig` from what a model's JSON holds.

    Raises:
        CheckpointError: a field is unknown or has a wrong value.
    """
    try:
        return from_dict(EncoderConfig, dict(values), source="encoder")
    except (TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{source}: not a usable encoder configuration: {error}") from error
