"""Relative positions by convolution (wav2vec 2.0, section 2): one wide grouped convolution, weight-normalized, GELU.

Shapes: B utterances, T frames, D model dim.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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

    def weight(self) -> Tensor:
        """The convolution's weight `[D, D / groups, kernel]`, in fp32."""
        direction = self.direction.float()
        weight: Tensor = direction * (self.magnitude / direction.norm(dim=(0, 1)))
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, T, D]`, zero in the padding, so that a frame near the end sees what it would see alone."""
        y = F.conv1d(
            x.transpose(1, 2),
            self.weight().to(x.dtype),
            self.bias.to(x.dtype),
            padding=self.kernel // 2,
            groups=self.groups,
        )
        if self.kernel % 2 == 0:
            y = y[:, :, :-1]  # an even kernel makes one frame too many
        return F.gelu(y).transpose(1, 2)
