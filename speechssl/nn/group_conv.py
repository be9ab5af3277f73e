"""Wide grouped convolutions that keep the length, as matrix products, for the CPU.

`conv1d` of 128 taps in 16 groups runs at a third of the processor's speed forward and a fifth backward. Here a few
neighbouring frames of a group are copied into one row, so that the convolution is a sum of matrix products of that
copy, shifted: 128 taps by 8 are 16 products of rows that lie 8 frames apart. Both gradients are the same again.

Shapes: B utterances, T frames, D model dim, G groups, E = D / G dims of a group, K taps.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TAPS = 8
"""Frames copied into one row: enough for products of useful size, few enough to copy."""


def flat_weight(weight: Tensor, groups: int) -> Tensor:
    """A convolution's weight `[D, E, K]` -> `[G, K, E, E]`: tap, input dim, output dim."""
    dim, width, kernel = weight.shape
    return weight.view(groups, dim // groups, width, kernel).permute(0, 3, 2, 1).contiguous()


def _rows(x: Tensor, groups: int, before: int, after: int, taps: int) -> Tensor:
    """`[T, D]` with zeros before and after -> each group's `taps` neighbouring frames in a row, `[G, T', taps E]`."""
    padded = F.pad(x, (0, 0, before, after)).view(-1, groups, x.shape[1] // groups).transpose(0, 1).contiguous()
    _, time, width = padded.shape
    view = padded.as_strided((groups, time - taps + 1, taps * width), (time * width, width, 1))
    return view.contiguous()


def _convolve(x: Tensor, weight: Tensor, before: int) -> Tensor:
    """`[T, D]` with zeros on both sides, `before` of them in front, by `[G, K, E, E]` -> `[T, D]`."""
    groups, kernel, width, _ = weight.shape
    time = x.shape[0]
    taps = min(TAPS, kernel)
    rows = _rows(x, groups, before, kernel - 1 - before, taps)
    y = x.new_zeros(groups, time, width)
    for first in range(0, kernel, taps):
        count = min(taps, kernel - first)
        # in the last block there may be fewer taps than frames in a row: leave out those that came before
        start = first - (taps - count)
        seen = rows[:, start : start + time, (taps - count) * width :]
        y.baddbmm_(seen, weight[:, first : first + count].reshape(groups, count * width, width))
    return y.transpose(0, 1).reshape(time, groups * width)


class SameLengthConv(torch.autograd.Function):
    """Convolution `[B, T, D]` -> `[B, T, D]` with `flat_weight`, K // 2 zeros in front and the rest behind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        """Utterance by utterance."""
        ctx.save_for_backward(x, weight)
        before = weight.shape[1] // 2
        return torch.stack([_convolve(row, weight, before) for row in x])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        """With respect to `x` the convolution with the taps turned round; to the weight the products' other factor."""
        x, weight = ctx.saved_tensors
        groups, kernel, width, _ = weight.shape
        before = kernel // 2
        grad_output = grad_output.contiguous()
        x_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            turned = weight.flip(1).transpose(2, 3).contiguous()
            x_grad = torch.stack([_convolve(row, turned, kernel - 1 - before) for row in grad_output])
        if ctx.needs_input_grad[1]:
            weight_grad = torch.zeros_like(weight)
            flat = weight_grad.view(groups, kernel * width, width)
            taps = min(TAPS, kernel)
            for row, grad in zip(x, grad_output, strict=True):
                rows = _rows(row, groups, before, kernel - 1 - before, taps)
                by_group = grad.view(-1, groups, width).transpose(0, 1).contiguous()  # [G, T, E]
                for first in range(0, kernel, taps):
                    count = min(taps, kernel - first)
                    start = first - (taps - count)
                    seen = rows[:, start : start + len(grad), (taps - count) * width :]
                    flat[:, first * width : (first + count) * width].baddbmm_(seen.transpose(1, 2), by_group)
        return x_grad, weight_grad
