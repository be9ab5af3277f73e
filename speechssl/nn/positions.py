"""Relative positions by convolution, added to the transformer's input.

One wide grouped convolution with weight norm and GELU (wav2vec 2.0, section 2), the same with batch norm instead of
weight norm (mHuBERT), or several narrow ones (data2vec).

Shapes: B utterances, T frames, D model dim.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.dropout import is_plain_cpu
from speechssl.nn.group_conv import SameLengthConv, flat_weight
from speechssl.nn.kept import KeptWhileUnchanged


class ConvPositions(nn.Module):
    """`[B, T, D]` -> position information `[B, T, D]`, to be added to the input.

    The weight is normalized over output and input channels for each tap (weight norm with `dim=2`), as in the
    reference: `weight = magnitude[k] * direction[:, :, k] / |direction[:, :, k]|`.
    """

    def __init__(self, dim: int, *, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.groups = groups
        direction = torch.empty(dim, dim // groups, kernel)
        nn.init.normal_(direction, std=math.sqrt(4.0 / (kernel * dim)))
        self.direction = nn.Parameter(direction)
        self.magnitude = nn.Parameter(direction.norm(dim=(0, 1)))
        self.bias = nn.Parameter(torch.zeros(dim))
        self._flat = KeptWhileUnchanged()

    def weight(self) -> Tensor:
        """The convolution's weight `[D, D / groups, kernel]`, in fp32."""
        direction = self.direction.float()
        weight: Tensor = direction * (self.magnitude / direction.norm(dim=(0, 1)))
        return weight

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """`x` `[B, T, D]`, zero in the padding, so that a frame near the end sees what it would see alone."""
        if is_plain_cpu(x):
            with torch.autocast("cpu", enabled=False):
                flat = self._flat(
                    lambda: flat_weight(self.weight().to(x.dtype), self.groups), self.direction, self.magnitude, x
                )
                products: Tensor = SameLengthConv.apply(x, flat)  # type: ignore[no-untyped-call]
            return F.gelu(products + self.bias.to(x.dtype))
        y = same_length_conv(x.transpose(1, 2), self.weight().to(x.dtype), self.bias.to(x.dtype), self.groups)
        return F.gelu(y).transpose(1, 2)


class BatchNormConvPositions(nn.Module):
    """`ConvPositions` with batch norm before a plain convolution."""

    def __init__(self, dim: int, *, kernel: int, groups: int, mask_padding: bool = True) -> None:
        super().__init__()
        self.mask_padding = mask_padding
        self.norm = PaddedBatchNorm(dim, mask_padding=mask_padding)
        self.conv = nn.Conv1d(dim, dim, kernel, groups=groups)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """`x` `[B, T, D]`, `padding` bool `[B, T]` or None -> `[B, T, D]`."""
        y = self.norm(x.transpose(1, 2), padding)
        bias = self.conv.bias
        assert bias is not None
        y = same_length_conv(y, self.conv.weight.to(x.dtype), bias.to(x.dtype), self.conv.groups)
        return F.gelu(y).transpose(1, 2)


class StackedConvPositions(nn.Module):
    """Several convolutions, each with a layer norm that has no weights, and GELU (data2vec, section 4).

    After the first convolution the padding is no longer zero. `mask_padding=False` lets it into the frames before it,
    as the published code does.
    """

    def __init__(self, dim: int, *, kernel: int, groups: int, num_layers: int, mask_padding: bool = True) -> None:
        super().__init__()
        self.dim = dim
        self.mask_padding = mask_padding
        self.convs = nn.ModuleList(nn.Conv1d(dim, dim, kernel, groups=groups) for _ in range(num_layers))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """`x` `[B, T, D]`, zero in the padding, `padding` bool `[B, T]` or None -> `[B, T, D]`."""
        for index, conv in enumerate(self.convs):
            assert isinstance(conv, nn.Conv1d) and conv.bias is not None
            if index and padding is not None and self.mask_padding:
                x = x.masked_fill(padding[:, :, None], 0)
            y = same_length_conv(x.transpose(1, 2), conv.weight.to(x.dtype), conv.bias.to(x.dtype), conv.groups)
            x = F.gelu(F.layer_norm(y.transpose(1, 2), (self.dim,)))
        return x


class PaddedBatchNorm(nn.BatchNorm1d):
    """Batch norm over `[B, C, T]` whose statistics, in training, are those of the valid frames only.

    The padding stays zero; with `mask_padding=False` it counts and is normalized as any frame.
    """

    def __init__(self, num_channels: int, *, mask_padding: bool = True) -> None:
        super().__init__(num_channels)
        self.mask_padding = mask_padding

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """`x` `[B, C, T]`, `padding` bool `[B, T]` or None -> `[B, C, T]`."""
        if padding is None or not self.mask_padding:
            normalized: Tensor = super().forward(x)
            return normalized
        if not self.training:  # running statistics: each frame is normalized by itself
            return super().forward(x).masked_fill(padding[:, None, :], 0)
        valid = ~padding
        result = torch.zeros_like(x).transpose(1, 2)
        result[valid] = super().forward(x.transpose(1, 2)[valid])  # [number of valid frames, C]
        return result.transpose(1, 2)


def same_length_conv(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Convolve `[B, C, T]` so that T stays; the padding is zeros on both sides."""
    kernel = weight.shape[2]
    y = F.conv1d(x, weight, bias, padding=kernel // 2, groups=groups)
    return y[:, :, :-1] if kernel % 2 == 0 else y  # an even kernel makes one frame too many
