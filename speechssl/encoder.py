"""The speech encoder: waveform -> latents -> context, with presets, saving and loading.

Shapes: B utterances, S samples, T frames, C latent dim, D model dim.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechssl.errors import AudioError, CheckpointError, ConfigError
from speechssl.extraction import ChunkSettings, Extractor, Pool, Representation, encode_batch, encode_long
from speechssl.extraction.audio_blocks import array_blocks
from speechssl.lengths import frame_stride, output_length, padding_mask, receptive_field
from speechssl.model_directory import (
    CONFIG_FILE,
    MODEL_FILE,
    load_weights,
    read_model,
    resolve_model_directory,
    save_model,
)
from speechssl.nn.context_encoder import ContextEncoder, ContextVariant
from speechssl.nn.dropout import dropout
from speechssl.nn.feature_encoder import (
    ConvFeatureEncoder,
    FbankFeatureEncoder,
    LogMelFeatureEncoder,
    PaddingStatistics,
    is_full,
    normalize_waveform,
)
from speechssl.nn.pooling import MeanPooling, Pooling
from speechssl.types import EncoderOutput, LatentOutput, Utterance

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


_NO_DROPOUT = {"input_dropout": 0.0, "dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "front_end": "log_mel",
        "normalize_waveform": True,
        "model_dim": 256,
        "num_layers": 4,
        "num_heads": 4,
        "feed_forward_dim": 1024,
        "norm_position": "pre",
        "position_kernel": 32,
        **_NO_DROPOUT,
    },
    "small": {
        "conv_dim": 256,
        "conv_norm": "layer",
        "normalize_waveform": True,
        "model_dim": 384,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_dim": 1536,
        "norm_position": "pre",
        "position_kernel": 64,
    },
    "base": {},
    "large": {
        "conv_norm": "layer",
        "conv_bias": True,
        "normalize_waveform": True,
        "feature_gradient_scale": 1.0,
        "model_dim": 1024,
        "num_layers": 24,
        "num_heads": 16,
        "feed_forward_dim": 4096,
        "norm_position": "pre",
        **_NO_DROPOUT,
    },
}


def encoder_config(preset: str, overrides: Mapping[str, Any] | None = None) -> EncoderConfig:
    """The configuration of a preset (`tiny`, `small`, `base`, `large`), with some fields replaced.

    `base` and `large` are the paper's; `tiny` has a log-mel front end and trains on two CPU cores.

    Raises:
        ConfigError: unknown preset or field.
    """
    if preset not in PRESETS:
        raise ConfigError(f"encoder preset must be one of {', '.join(PRESETS)}, but is {preset!r}")
    config = EncoderConfig(**PRESETS[preset])
    if not overrides:
        return config
    unknown = set(overrides) - {field.name for field in fields(EncoderConfig)}
    if unknown:
        raise ConfigError(f"encoder has no option {', '.join(sorted(unknown))}; see EncoderConfig for the list")
    return replace(config, **overrides)


class SpeechEncoder(nn.Module):
    """Front end, projection, mask embedding and context network.

    Objectives use the two steps `extract_latents` and `contextualize`; everybody else calls `forward` or `embed`.
    """

    def __init__(self, config: EncoderConfig, *, seed: int = 0) -> None:
        """Random weights drawn from `seed`; the global random state is left as it was."""
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(config)

    def _build(self, config: EncoderConfig) -> None:
        self.feature_encoder: ConvFeatureEncoder | LogMelFeatureEncoder | FbankFeatureEncoder
        if config.front_end == "waveform":
            self.feature_encoder = ConvFeatureEncoder(
                config.conv_layers,
                config.conv_dim,
                norm=config.conv_norm,
                bias=config.conv_bias,
                padding=config.conv_padding,
            )
        else:
            mel_features = LogMelFeatureEncoder if config.front_end == "log_mel" else FbankFeatureEncoder
            self.feature_encoder = mel_features(
                sample_rate=config.sample_rate,
                num_mels=config.num_mels,
                window_samples=config.mel_window_samples,
                hop_samples=config.mel_hop_samples,
                stack=config.mel_stack,
            )
        # log-mel features are normalized already; a norm over the bins of a frame would hide which frames are loud
        has_norm = config.front_end != "log_mel" and config.latent_norm
        self.latent_norm = nn.LayerNorm(config.latent_dim) if has_norm else nn.Identity()
        self.projection = nn.Linear(config.latent_dim, config.model_dim)
        self.mask_embedding = nn.Parameter(torch.empty(config.model_dim).uniform_())
        self.context_encoder = ContextEncoder(
            config.model_dim,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            hidden_dim=config.feed_forward_dim,
            norm_position=config.norm_position,
            position_kernel=config.position_kernel,
            position_groups=config.position_groups,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            activation_dropout=config.activation_dropout,
            layer_drop=config.layer_drop,
            variant=config.variant,
            mask_padding=config.conv_padding == "masked",
        )

    @property
    def strided_layers(self) -> tuple[tuple[int, int], ...]:
        """(kernel, stride) of the front end's layers, for `speechssl.lengths`."""
        return self.config.strided_layers

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mask_embedding.device

    def num_frames(self, num_samples: int) -> int:
        """Frames that `num_samples` samples give; 0 when shorter than the receptive field."""
        return output_length(num_samples, self.strided_layers)

    def forward(self, waveform: Tensor, num_samples: Tensor, *, layers: bool = False) -> EncoderOutput:
        """Encode waveforms.

        Args:
            waveform: f32 `[B, S]` at `config.sample_rate`; what lies beyond a row's length does not matter.
            num_samples: i64 `[B]`, each at least the receptive field (`lengths.receptive_field`).
            layers: also return every layer's output.

        Raises:
            AudioError: an utterance is too short to give a frame.
        """
        latents = self.extract_latents(waveform, num_samples)
        return self.contextualize(latents.normalized, latents.num_frames, layers=layers)

    def extract_latents(self, waveform: Tensor, num_samples: Tensor) -> LatentOutput:
        """Waveform `[B, S]` -> latents `[B, T, C]`; the gradient into the front end is scaled as configured."""
        if not torch.compiler.is_compiling():
            self._check_lengths(waveform, num_samples)
        if self.config.normalize_waveform:
            waveform = normalize_waveform(waveform, num_samples, eps=self.config.normalize_eps)
        scale = self.config.feature_gradient_scale
        with torch.no_grad() if scale == 0 else nullcontext():
            latents, num_frames = self.feature_encoder(waveform, num_samples)
        if scale not in (0, 1) and latents.requires_grad:
            latents = latents * scale + latents.detach() * (1 - scale)
        return LatentOutput(latents=latents, normalized=self.latent_norm(latents), num_frames=num_frames)

    def _check_lengths(self, waveform: Tensor, num_samples: Tensor) -> None:
        shortest = receptive_field(self.strided_layers)
        if waveform.shape[1] < shortest or (num_samples.device.type == "cpu" and int(num_samples.min()) < shortest):
            raise self._too_short("an utterance", int(num_samples.min()))

    def _too_short(self, name: str | Path, num_samples: int) -> AudioError:
        shortest, rate = receptive_field(self.strided_layers), self.config.sample_rate
        return AudioError(
            f"{name} has {num_samples} samples at {rate} Hz, but the encoder needs at least {shortest}"
            f" ({shortest / rate * 1000:.1f} ms); leave out or join shorter clips"
        )

    def contextualize(
        self,
        normalized: Tensor,
        num_frames: Tensor,
        *,
        frame_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
        layers: bool = False,
    ) -> EncoderOutput:
        """Latents -> context.

        Args:
            normalized: `[B, T, C]` of `extract_latents`.
            num_frames: i64 `[B]`.
            frame_mask: bool `[B, T]`, True frames are replaced by the mask embedding.
            channel_mask: bool `[B, D]`, True channels of the projected latents are set to 0 in all frames.
            layers: also return every layer's output.
        """
        x = dropout(self.projection(normalized), self.config.input_dropout, self.training)
        if frame_mask is not None:
            x = torch.where(frame_mask[:, :, None], self.mask_embedding.to(x.dtype), x)
        if channel_mask is not None:
            x = x.masked_fill(channel_mask[:, None, :], 0)
        padding = None if is_full(num_frames, x.shape[1]) else padding_mask(num_frames, x.shape[1])
        context, outputs = self.context_encoder(x, padding, layers=layers)
        return EncoderOutput(latents=normalized, context=context, num_frames=num_frames, layers=outputs)

    def save(self, directory: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, which is made if needed."""
        save_model(directory, self, {"model_type": "encoder", "encoder": asdict(self.config)})

    @classmethod
    def load(cls, directory: str | Path, *, device: torch.device | str = "cpu") -> "SpeechEncoder":
        """Read a model directory of an encoder, or the encoder inside an ASR model's, in evaluation mode.

        Raises:
            CheckpointError: the directory is not a model directory, or a file in it is damaged.
        """
        description, tensors = read_model(directory, device=device)
        encoder = cls(config_from_dict(description["encoder"], source=Path(directory) / CONFIG_FILE))
        if description["model_type"] != "encoder":
            tensors = {name.removeprefix("encoder."): t for name, t in tensors.items() if name.startswith("encoder.")}
        load_weights(encoder, tensors, source=Path(directory) / MODEL_FILE)
        return encoder.to(device).eval()

    def embed(
        self,
        source: str | Path | Sequence[str | Path | NDArray[Any] | Tensor] | NDArray[Any] | Tensor | Iterable[Utterance],
        *,
        sample_rate: int | None = None,
        layer: int | None = None,
        layer_weights: Sequence[float] | None = None,
        pool: Pool = "mean",
        pooling: Pooling | None = None,
        normalize: Literal["none", "l2"] = "none",
        batch_seconds: float = 60.0,
        chunks: ChunkSettings | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """Embeddings of recordings, which depend on nothing but the recording.

        Args:
            source: a path, an array or tensor `[S]` (with `sample_rate`), a list of either, or a `Manifest`.
            sample_rate: of arrays in Hz; they are resampled where it differs from the encoder's.
            layer: None for the context; 0 for the transformer's input, n for the output of its n-th layer.
            layer_weights: take the weighted sum of all layers instead, a weight for each from 0 to the last.
            pool: `mean`, `max`, `mean_std`, `attentive`, `first` or `last` over time, or `none` for every frame.
            pooling: trained weights of `attentive`.
            normalize: `l2` scales each vector (or frame) to length 1.
            batch_seconds: padded audio that is encoded at a time; results do not depend on it.
            chunks: how recordings longer than a minute are cut, to bound the memory.

        Returns:
            One recording: `[E]`, or `[T, D]` with `pool="none"`. Several: `[B, E]`, or a list of `[T, D]`. E is D, or
            2 D with the statistics.

        Raises:
            AudioError: a recording cannot be read or is too short; the message names it.
            ConfigError: there is no such layer.
        """
        wanted = Representation(
            layers=(layer,),
            layer_weights=None if layer_weights is None else tuple(layer_weights),
            pool=pool,
            normalize=normalize,
        )
        extractor = Extractor(self, wanted, pooling=pooling)
        chunks = chunks or ChunkSettings()
        if isinstance(source, (np.ndarray, Tensor)):
            waveform = self._waveform_of(source, sample_rate)
            return self._embed_waveforms([waveform], extractor, chunks)[0]
        if isinstance(source, (str, Path)):
            return self._embed_waveforms([self._waveform_of(source, sample_rate)], extractor, chunks)[0]
        results: list[NDArray[np.float32]] = []
        pending: list[NDArray[np.float32]] = []
        for item in source:
            pending.append(self._waveform_of(item, sample_rate))
            if max(map(len, pending)) * len(pending) >= batch_seconds * self.config.sample_rate:
                results += self._embed_waveforms(pending, extractor, chunks)
                pending = []
        if pending:
            results += self._embed_waveforms(pending, extractor, chunks)
        if pool == "none":
            return results
        return np.stack(results) if results else np.zeros((0, extractor.dimension), np.float32)

    def _waveform_of(
        self, item: str | Path | NDArray[Any] | Tensor | Utterance, sample_rate: int | None
    ) -> NDArray[np.float32]:
        """One recording at the encoder's rate, long enough for a frame."""
        from speechssl.audio import read, read_utterance, resample

        rate = self.config.sample_rate
        name: str | Path
        if isinstance(item, (np.ndarray, Tensor)):
            if sample_rate is None:
                raise AudioError("an array needs its sampling rate: embed(array, sample_rate=16000)")
            array = item.detach().cpu().float().numpy() if isinstance(item, Tensor) else item
            waveform = np.asarray(array, dtype=np.float32)
            if waveform.ndim != 1:
                raise AudioError(f"the array must be one channel of shape [S], but has shape {list(waveform.shape)}")
            waveform, name = resample(waveform, from_rate=sample_rate, to_rate=rate), "the array"
        elif isinstance(item, Utterance):
            waveform, name = read_utterance(item, rate), f"{item.audio_filepath} ({item.id})"
        else:
            waveform, name = read(item, sample_rate=rate), item
        if self.num_frames(len(waveform)) == 0:
            raise self._too_short(name, len(waveform))
        return waveform

    def _embed_waveforms(
        self, waveforms: Sequence[NDArray[np.float32]], extractor: Extractor, chunks: ChunkSettings
    ) -> list[NDArray[np.float32]]:
        rate = self.config.sample_rate
        found: list[NDArray[np.float32] | None] = [None] * len(waveforms)
        short = []
        for place, waveform in enumerate(waveforms):
            if chunks.is_long(len(waveform), rate):
                found[place] = encode_long(extractor, partial(array_blocks, waveform, rate), chunks).vectors[0]
            else:
                short.append(place)
        if short:
            num_samples = torch.tensor([len(waveforms[place]) for place in short])
            padded = torch.zeros(len(short), int(num_samples.max()))
            for row, place in zip(padded, short, strict=True):
                row[: len(waveforms[place])] = torch.from_numpy(np.ascontiguousarray(waveforms[place]))
            for place, vectors in zip(short, encode_batch(extractor, padded, num_samples), strict=True):
                found[place] = vectors[0]
        return [vectors for vectors in found if vectors is not None]


def select_layer(output: EncoderOutput, layer: int | None) -> Tensor:
    """The frames `[B, T, D]` of one layer; None is the context, 0 the transformer's input.

    Raises:
        ConfigError: there is no such layer.
    """
    if layer is None:
        return output.context
    assert output.layers is not None, "the encoder was called without layers=True"
    if not 0 <= layer < len(output.layers):
        raise ConfigError(f"layer must be between 0 and {len(output.layers) - 1}, but is {layer}")
    return output.layers[layer]


def mean_over_time(frames: Tensor, num_frames: Tensor) -> Tensor:
    """Mean over the valid frames in fp32: `[B, T, D]`, `[B]` -> `[B, D]`."""
    pooled: Tensor = MeanPooling()(frames, num_frames)
    return pooled


def config_from_dict(values: Mapping[str, Any], *, source: Path | str = CONFIG_FILE) -> EncoderConfig:
    """`EncoderConfig` from what JSON holds; lists become tuples, unknown fields are refused.

    Raises:
        CheckpointError: a field is unknown or has a wrong value.
    """
    try:
        converted = dict(values)
        if "conv_layers" in converted:
            converted["conv_layers"] = tuple((int(kernel), int(stride)) for kernel, stride in converted["conv_layers"])
        if "variant" in converted:
            converted["variant"] = ContextVariant(**converted["variant"])
        return EncoderConfig(**converted)
    except (TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{source}: not a usable encoder configuration: {error}") from error


def load_encoder(source: str | Path, *, device: torch.device | str = "cpu") -> SpeechEncoder:
    """Load an encoder in evaluation mode.

    `source` is a run directory (`runs/base`), one of its checkpoints, a model directory (of an encoder or of an ASR
    model), or the name of a shipped model (`speechssl-tiny`, which needs no network).

    Raises:
        CheckpointError: nothing usable is there, or a file is damaged.
    """
    return SpeechEncoder.load(resolve_model_directory(source), device=device)


def resolve_device(name: str) -> torch.device:
    """The device of a name; `auto` is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: unknown, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu or cuda, but is {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but this machine has no usable GPU; set device to auto or cpu")
    return device
