"""Front ends: waveform -> latents, 20 ms apart.

`ConvFeatureEncoder` is the paper's stack of strided convolutions (wav2vec 2.0, Baevski et al. 2020, section 2).
`LogMelFeatureEncoder` computes normalized log-mel features and stacks neighbours; it has no weights and costs a
hundredth, which is what makes pre-training on a small machine possible. `FbankFeatureEncoder` is w2v-BERT 2.0's.

Shapes: B utterances, S samples, T frames, C latent dim.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.lengths import StridedLayers, is_full, output_length, padding_mask
from speechssl.nn.conv_stack import ConvStack, flat_weight, fold_group_norm, sample_windows
from speechssl.nn.dropout import is_plain_cpu
from speechssl.nn.kept import KeptWhileUnchanged

PaddingStatistics = Literal["masked", "included"]


@dataclass(frozen=True)
class TimeStatistics:
    """Mean and biased variance `[C]` over all `count` steps of a recording, by which a part of it is normalized."""

    mean: Tensor
    variance: Tensor
    count: int


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """No autocast inside; nothing where a program is exported, which is in fp32 and could not be stored with it."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return nullcontext() if exporting() else torch.autocast(device_type, enabled=False)


def wide(x: Tensor, *, training: bool) -> Tensor:
    """In fp64, for the little that is ill-conditioned; in fp32 in training, in exported programs and on MPS.

    Band energies near their floor, normalized by their own small variance, turn rounding in fp32, which differs with
    the shape of a batch, into 5e-5 of the largest latent; in fp64 nothing of it is left after rounding to fp32.
    Training does without: there it would cost twice the time for nothing.
    """
    narrow = training or torch.compiler.is_compiling() or x.device.type == "mps"
    return x.float() if narrow else x.double()


def masked_mean_and_variance(x: Tensor, lengths: Tensor, *, time_dim: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the valid steps of `time_dim`, kept as size-1 dimensions, in fp32 (fp64 of fp64).

    `x` is `[B, ...]`, `lengths` i64 `[B]`. Rows without a valid step give mean 0 and variance 0.
    """
    x = x if x.dtype == torch.float64 else x.float()
    max_length = x.shape[time_dim]
    if is_full(lengths, max_length):
        mean = x.mean(time_dim, keepdim=True)
        return mean, (x - mean).square().mean(time_dim, keepdim=True)
    shape = [1] * x.dim()
    shape[0], shape[time_dim] = x.shape[0], max_length
    valid = (~padding_mask(lengths, max_length)).view(shape)
    count = valid.sum(time_dim, keepdim=True).clamp(min=1)
    mean = torch.where(valid, x, 0).sum(time_dim, keepdim=True) / count
    variance = torch.where(valid, x - mean, 0).square().sum(time_dim, keepdim=True) / count
    return mean, variance


def normalize_waveform(waveform: Tensor, num_samples: Tensor, *, eps: float = 1e-5, training: bool = False) -> Tensor:
    """Zero mean and unit variance per utterance over its own samples; padding becomes 0. `[B, S]` -> `[B, S]`.

    Outside of `training` the same samples give the same bits, whatever the padding.
    """
    mean, variance = masked_mean_and_variance(wide(waveform, training=training), num_samples, time_dim=1)
    normalized = (waveform - mean.float()) * torch.rsqrt(variance + eps).float()
    if is_full(num_samples, waveform.shape[1]):
        return normalized
    return normalized.masked_fill(padding_mask(num_samples, waveform.shape[1]), 0)


def is_untouched(module: nn.Module) -> bool:
    """Whether a layer is as it was built: no hook watches it, no other forward replaces its own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    known = type(module) in (nn.Conv1d, MaskedGroupNorm, ChannelLayerNorm)
    return known and not any(hooks) and "forward" not in vars(module)


class MaskedGroupNorm(nn.Module):
    """GroupNorm with one group a channel, its statistics over the valid frames only.

    The reference implementations let padding into the statistics, so that a clip's features depend on what it is
    batched with; `padding="included"` reproduces that.
    """

    def __init__(self, num_channels: int, *, padding: PaddingStatistics = "masked", eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.padding = padding
        self.eps = eps

    def forward(self, x: Tensor, num_frames: Tensor, statistics: TimeStatistics | None = None) -> Tensor:
        """`x` `[B, C, T]`, `num_frames` i64 `[B]` -> `[B, C, T]` in the dtype of `x`.

        `statistics` are those of the recordings that `x` is a part of; its own by default.
        """
        if statistics is not None:
            scale = self.weight * torch.rsqrt(statistics.variance + self.eps)
            shifted = x.float() - statistics.mean[:, None]
            return (shifted * scale[:, None] + self.bias[:, None]).to(x.dtype)
        if self.padding == "included" or is_full(num_frames, x.shape[2]):
            return F.group_norm(x.float(), x.shape[1], self.weight, self.bias, self.eps).to(x.dtype)
        mean, variance = masked_mean_and_variance(x, num_frames, time_dim=2)
        scale = self.weight[None, :, None] * torch.rsqrt(variance + self.eps)
        return ((x.float() - mean) * scale + self.bias[None, :, None]).to(x.dtype)

    def fold(self, conv: nn.Conv1d, seen: Tensor) -> Tensor:
        """Weight and bias of this norm after `conv` of one input channel, over the windows `seen` of one utterance."""
        folded = fold_group_norm(conv.weight[:, 0], self.weight, self.bias, seen, eps=self.eps)
        if conv.bias is not None:
            folded = folded + 0 * conv.bias  # the norm takes it out again: no effect, and a gradient of zero
        return folded

    def fold_given(self, conv: nn.Conv1d, statistics: TimeStatistics) -> Tensor:
        """Weight and bias of this norm after `conv` of one input channel, with the given statistics."""
        gain = self.weight * torch.rsqrt(statistics.variance + self.eps)
        offset = -statistics.mean if conv.bias is None else conv.bias - statistics.mean
        return torch.cat([(conv.weight[:, 0] * gain[:, None]).T, (self.bias + gain * offset)[None]])


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of `[B, C, T]`."""

    def forward(self, x: Tensor, num_frames: Tensor) -> Tensor:  # type: ignore[override]
        """`[B, C, T]` -> `[B, C, T]`; `num_frames` is not needed, each frame is normalized alone."""
        normalized = F.layer_norm(x.transpose(1, 2).float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return normalized.to(x.dtype).transpose(1, 2)


class ConvFeatureEncoder(nn.Module):
    """Strided convolutions on the waveform (section 2): each one convolution, a norm, GELU.

    `norm="group"` normalizes the first layer over time (BASE), `norm="layer"` every layer over channels (LARGE).
    """

    def __init__(
        self,
        layers: StridedLayers,
        dim: int,
        *,
        norm: Literal["group", "layer"],
        bias: bool,
        padding: PaddingStatistics = "masked",
    ) -> None:
        super().__init__()
        self.strided_layers = tuple(layers)
        self.dim = dim
        self.convs = nn.ModuleList(
            nn.Conv1d(1 if index == 0 else dim, dim, kernel, stride, bias=bias)
            for index, (kernel, stride) in enumerate(self.strided_layers)
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv1d)
            nn.init.kaiming_normal_(conv.weight)
        self.norms = nn.ModuleList(
            ChannelLayerNorm(dim) if norm == "layer" else MaskedGroupNorm(dim, padding=padding)
            for _ in (self.strided_layers if norm == "layer" else self.strided_layers[:1])
        )
        self._flat = [KeptWhileUnchanged() for _ in self.convs]

    @property
    def normalizes_over_time(self) -> bool:
        """Whether a frame depends on the whole recording, by way of `TimeStatistics` of `unnormalized`."""
        return isinstance(self.norms[0], MaskedGroupNorm)

    def unnormalized(self, waveform: Tensor) -> Tensor:
        """What is normalized over time: `[B, S]` -> `[B, T', C]`, steps of the first of the strided layers."""
        first: Tensor = self.convs[0](waveform[:, None, :])
        return first.transpose(1, 2)

    def forward(
        self, waveform: Tensor, num_samples: Tensor, statistics: TimeStatistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """`waveform` `[B, S]`, `num_samples` i64 `[B]` -> latents `[B, T, C]` (zero in the padding), num_frames `[B]`.

        No convolution pads, so a valid frame sees valid samples only. `statistics` are those of the recording that
        the waveforms are parts of.
        """
        if self._runs_as_products(waveform, num_samples):
            return self._as_products(waveform, num_samples, statistics)
        x = waveform[:, None, :]
        lengths = num_samples
        for index, conv in enumerate(self.convs):
            x = conv(x)
            lengths = output_length(lengths, self.strided_layers[index : index + 1])
            if index < len(self.norms):
                norm = self.norms[index]
                over_time = statistics is not None and isinstance(norm, MaskedGroupNorm)
                x = norm(x, lengths, statistics) if over_time else norm(x, lengths)
            x = F.gelu(x)
        return zero_padding(x.transpose(1, 2), lengths), lengths

    def _runs_as_products(self, waveform: Tensor, num_samples: Tensor) -> bool:
        """Whether `ConvStack` can do it: on the CPU, outside of traced graphs, for a waveform without a gradient.

        And while nobody watches a convolution or norm by a hook, or has replaced it: it would not be called.
        """
        return (
            is_plain_cpu(waveform)
            and not waveform.requires_grad
            and all(map(is_untouched, (*self.convs, *self.norms)))
            and int(output_length(num_samples, self.strided_layers).min()) > 0
        )

    def _as_products(
        self, waveform: Tensor, num_samples: Tensor, statistics: TimeStatistics | None
    ) -> tuple[Tensor, Tensor]:
        """`forward` as matrix products, to rounding errors the same. Under autocast the first layer stays in fp32."""
        convs = [conv for conv in self.convs if isinstance(conv, nn.Conv1d)]
        channel_norms = [norm for norm in self.norms if isinstance(norm, ChannelLayerNorm)]
        weight = convs[0].weight
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
        with torch.autocast("cpu", enabled=False):
            rows = waveform.to(weight.dtype).unbind()
            layer = self.strided_layers[0]
            seen = [sample_windows(row[:n], *layer) for row, n in zip(rows, num_samples.tolist(), strict=True)]
            group_norm = self.norms[0]
            if isinstance(group_norm, MaskedGroupNorm) and statistics is not None:
                first = group_norm.fold_given(convs[0], statistics)
            elif isinstance(group_norm, MaskedGroupNorm):
                masked = group_norm.padding == "masked"
                whole = seen if masked else [sample_windows(row, *layer) for row in rows]
                first = torch.stack([group_norm.fold(convs[0], frames) for frames in whole])
            else:
                bias = convs[0].bias
                first = torch.cat([weight[:, 0].T, (torch.zeros_like(weight[:, 0, 0]) if bias is None else bias)[None]])
            parameters: list[Tensor | None] = _norm_parameters(channel_norms, 0)
            for index, conv in enumerate(convs[1:], start=1):
                bias = None if conv.bias is None else conv.bias.to(dtype)
                flat = self._flat[index](
                    partial(_flat, conv.weight, dtype), conv.weight, weight.new_empty(0, dtype=dtype)
                )
                parameters += [flat, bias, *_norm_parameters(channel_norms, index)]
            layers, eps = self.strided_layers[1:], channel_norms[0].eps if channel_norms else None
            max_frames = output_length(waveform.shape[1], self.strided_layers)
            keep = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
            latents = ConvStack.apply(  # type: ignore[no-untyped-call]
                keep, seen, layers, eps, max_frames, first, *parameters
            )
        return latents, output_length(num_samples, self.strided_layers)


def _flat(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return flat_weight(weight).to(dtype)


def _norm_parameters(norms: list[ChannelLayerNorm], index: int) -> list[Tensor | None]:
    """Scale and shift of a layer's norm, where there are norms."""
    return [norms[index].weight, norms[index].bias] if norms else [None, None]


def zero_padding(latents: Tensor, num_frames: Tensor) -> Tensor:
    """Latents `[B, T, C]` with 0 beyond each row's `num_frames` i64 `[B]`."""
    if is_full(num_frames, latents.shape[1]):
        return latents
    return latents.masked_fill(padding_mask(num_frames, latents.shape[1])[:, :, None], 0)


def stack_frames(features: Tensor, stack: int) -> Tensor:
    """Join each `stack` neighbouring frames; what is left over at the end goes. `[B, T, C]` -> `[B, T', stack C]`."""
    if torch.compiler.is_compiling():
        # a slice would tie an exported program to odd or even lengths; this convolution only copies
        num_features = features.shape[2]
        copies = torch.eye(stack * num_features, device=features.device, dtype=features.dtype)
        kernel = copies.view(-1, stack, num_features).transpose(1, 2)
        return F.conv1d(features.transpose(1, 2), kernel, stride=stack).transpose(1, 2)
    num_frames = features.shape[1] // stack
    return features[:, : num_frames * stack].reshape(features.shape[0], num_frames, -1)


class LogMelFeatureEncoder(nn.Module):
    """Log-mel features, normalized per utterance and mel bin, `stack` neighbouring frames joined into one.

    25 ms windows every 10 ms without centring (so a frame never sees padding), Hann window, power spectrum, mel
    filters as in torchaudio, natural logarithm. Computed without gradient in fp32, whatever autocast says, and outside
    of training in fp64 (see `wide`).
    """

    mel_filters: Tensor
    window: Tensor

    def __init__(
        self, *, sample_rate: int, num_mels: int, window_samples: int, hop_samples: int, stack: int, floor: float = 1e-5
    ) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.strided_layers = ((window_samples, hop_samples), (stack, stack))
        self.dim = num_mels * stack
        self.stack = stack
        self.floor = floor
        filters = melscale_fbanks(
            window_samples // 2 + 1, 20.0, sample_rate / 2, num_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("mel_filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(window_samples), persistent=False)

    normalizes_over_time = True

    @torch.no_grad()
    def unnormalized(self, waveform: Tensor) -> Tensor:
        """The features before they are normalized: `[B, S]` -> `[B, 10 ms frames, mel bins]`."""
        with full_precision(waveform.device.type):
            (window_samples, hop_samples), _ = self.strided_layers
            frames = wide(waveform, training=self.training).unfold(
                1, window_samples, hop_samples
            )  # [B, 10 ms frames, window]
            spectrum = torch.fft.rfft(frames * self.window)
            power = torch.view_as_real(spectrum).square().sum(dim=-1)  # abs() would take a needless root
            return (power @ self.mel_filters.to(power.dtype)).clamp(min=self.floor).log()

    @torch.no_grad()
    def forward(
        self, waveform: Tensor, num_samples: Tensor, statistics: TimeStatistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """`waveform` `[B, S]`, `num_samples` i64 `[B]` -> latents `[B, T, C]` (zero in the padding), frames `[B]`.

        `statistics` are those of the recording that the waveforms are parts of.
        """
        with full_precision(waveform.device.type):
            features = self.unnormalized(waveform)
            lengths = output_length(num_samples, self.strided_layers[:1])
            if statistics is None:
                mean, variance = masked_mean_and_variance(features, lengths, time_dim=1)
            else:
                mean, variance = statistics.mean, statistics.variance
            features = ((features - mean) * torch.rsqrt(variance + 1e-3)).float()
            num_frames = output_length(lengths, self.strided_layers[1:])
            return zero_padding(stack_frames(features, self.stack), num_frames), num_frames


class FbankFeatureEncoder(nn.Module):
    """Kaldi's log-mel filter bank, normalized per utterance and mel bin, `stack` neighbouring frames joined into one.

    What w2v-BERT 2.0 takes: samples as 16-bit numbers, per window the mean removed and pre-emphasis of 0.97, Povey
    window, power spectrum of the next power of two, mel filters that are triangles on the mel scale, natural
    logarithm; unbiased variance. Computed without gradient in fp32, whatever autocast says, and outside of training in
    fp64 (see `wide`).
    """

    mel_filters: Tensor
    window: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        num_mels: int,
        window_samples: int,
        hop_samples: int,
        stack: int,
        floor: float = 2**-23,
    ) -> None:
        super().__init__()
        from torchaudio.compliance.kaldi import get_mel_banks

        self.strided_layers = ((window_samples, hop_samples), (stack, stack))
        self.dim = num_mels * stack
        self.stack = stack
        self.floor = floor
        self.fft_size = 1 << (window_samples - 1).bit_length()
        filters, _ = get_mel_banks(num_mels, self.fft_size, float(sample_rate), 20.0, 0.0, 100.0, -500.0, 1.0)
        self.register_buffer("mel_filters", F.pad(filters, (0, 1)).T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(window_samples, periodic=False) ** 0.85, persistent=False)

    normalizes_over_time = True

    @torch.no_grad()
    def unnormalized(self, waveform: Tensor) -> Tensor:
        """The features before they are normalized: `[B, S]` -> `[B, 10 ms frames, mel bins]`."""
        with full_precision(waveform.device.type):
            (window_samples, hop_samples), _ = self.strided_layers
            frames = (
                wide(waveform, training=self.training).unfold(1, window_samples, hop_samples) * 2**15
            )  # [B, 10 ms frames, window]
            frames = frames - frames.mean(dim=2, keepdim=True)
            frames = frames - 0.97 * torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
            spectrum = torch.fft.rfft(frames * self.window, n=self.fft_size)
            power = torch.view_as_real(spectrum).square().sum(dim=-1)
            return (power @ self.mel_filters.to(power.dtype)).clamp(min=self.floor).log()

    @torch.no_grad()
    def forward(
        self, waveform: Tensor, num_samples: Tensor, statistics: TimeStatistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """`waveform` `[B, S]`, `num_samples` i64 `[B]` -> latents `[B, T, C]` (zero in the padding), frames `[B]`.

        `statistics` are those of the recording that the waveforms are parts of.
        """
        with full_precision(waveform.device.type):
            features = self.unnormalized(waveform)
            lengths = output_length(num_samples, self.strided_layers[:1])
            if statistics is None:
                mean, variance = masked_mean_and_variance(features, lengths, time_dim=1)
                counts = lengths
            else:
                mean, variance = statistics.mean, statistics.variance
                counts = torch.full_like(lengths, statistics.count)
            unbiased = counts.to(torch.float32) / (counts - 1).clamp(min=1)
            features = ((features - mean) * torch.rsqrt(variance * unbiased[:, None, None] + 1e-7)).float()
            num_frames = output_length(lengths, self.strided_layers[1:])
            return zero_padding(stack_frames(features, self.stack), num_frames), num_frames
