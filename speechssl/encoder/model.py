"""The speech encoder: waveform -> latents -> context, with saving and loading.

Shapes: B utterances, S samples, T frames, C latent dim, D model dim.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechssl.encoder.config import EncoderConfig, config_from_dict
from speechssl.encoder.embedding import Recording, embed_recordings, too_short
from speechssl.extraction import ChunkSettings, Extractor, Pool, Representation
from speechssl.lengths import is_full, output_length, padding_mask, receptive_field
from speechssl.model_directory import (
    CONFIG_FILE,
    MODEL_FILE,
    load_weights,
    read_model,
    resolve_model_directory,
    save_model,
)
from speechssl.nn.context_encoder import ContextEncoder
from speechssl.nn.dropout import dropout
from speechssl.nn.feature_encoder import ConvFeatureEncoder
from speechssl.nn.mel_features import FbankFeatureEncoder, LogMelFeatureEncoder
from speechssl.nn.pooling import Pooling
from speechssl.nn.statistics import normalize_waveform
from speechssl.types import EncoderOutput, LatentOutput, Utterance


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
            waveform = normalize_waveform(waveform, num_samples, eps=self.config.normalize_eps, training=self.training)
        scale = self.config.feature_gradient_scale
        with torch.no_grad() if scale == 0 else nullcontext():
            latents, num_frames = self.feature_encoder(waveform, num_samples)
        if scale not in (0, 1) and latents.requires_grad:
            latents = latents * scale + latents.detach() * (1 - scale)
        return LatentOutput(latents=latents, normalized=self.latent_norm(latents), num_frames=num_frames)

    def _check_lengths(self, waveform: Tensor, num_samples: Tensor) -> None:
        shortest = receptive_field(self.strided_layers)
        if waveform.shape[1] < shortest or (num_samples.device.type == "cpu" and int(num_samples.min()) < shortest):
            raise too_short("an utterance", int(num_samples.min()), self.config)

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
        is_one = isinstance(source, (str, Path, np.ndarray, Tensor))
        recordings: Iterable[Recording] = [source] if is_one else source  # type: ignore[list-item,assignment]
        results = embed_recordings(
            recordings,
            extractor,
            config=self.config,
            sample_rate=sample_rate,
            batch_seconds=batch_seconds,
            chunks=chunks or ChunkSettings(),
        )
        if is_one:
            return results[0]
        if pool == "none":
            return results
        return np.stack(results) if results else np.zeros((0, extractor.dimension), np.float32)


def load_encoder(source: str | Path, *, device: torch.device | str = "cpu") -> SpeechEncoder:
    """Load an encoder in evaluation mode.

    `source` is a run directory (`runs/base`), one of its checkpoints, a model directory (of an encoder or of an ASR
    model), or the name of a shipped model (`speechssl-tiny`, which needs no network).

    Raises:
        CheckpointError: nothing usable is there, or a file is damaged.
    """
    return SpeechEncoder.load(resolve_model_directory(source), device=device)
