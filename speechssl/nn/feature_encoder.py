"""The paper's front end: waveform -> latents 20 ms apart, by strided convolutions (wav2vec 2.0, section 2).

Those without weights are in `mel_features`. Shapes: B utterances, S samples, T frames, C latent dim.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.lengths import StridedLayers, is_full, output_length
from speechssl.nn.conv_stack import ConvStack, flat_weight, fold_group_norm, sample_windows
from speechssl.nn.dropout import is_plain_cpu
from speechssl.nn.kept import KeptWhileUnchanged
from speechssl.nn.statistics import TimeStatistics, masked_mean_and_variance, zero_padding

PaddingStatistics = Literal["masked", "included"]


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
