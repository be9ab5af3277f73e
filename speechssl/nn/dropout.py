"""Dropout whose random numbers cost little on the CPU.

Torch draws a Bernoulli variable for each element there, which takes longer than the layer it follows. Here 16 random
bits an element, of a generator seeded from torch's own, decide; so the rate is exact to 1 / 131072, and what is kept is
divided by the rate that really holds. On a GPU, and where a graph is traced, this is torch's dropout.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 1 << 16


def keep_mask(shape: torch.Size | tuple[int, ...], p: float) -> tuple[Tensor, float]:
    """Where to keep, bool of `shape` on the CPU, drawn from torch's default generator; and the share that is kept."""
    seed = int(torch.randint(1 << 62, ()))
    dropped = min(round(p * STEPS), STEPS - 1)
    count = int(np.prod(shape, dtype=np.int64))
    words = np.random.Generator(np.random.SFC64(seed)).integers(
        0, 1 << 64, size=-(-count // 4), dtype=np.uint64, endpoint=False
    )
    bits = torch.from_numpy(words.view(np.int16)[:count]).view(shape)
    return bits >= dropped - STEPS // 2, 1 - dropped / STEPS


class _Dropout(torch.autograd.Function):
    """Multiplies by the same mask forward and backward; saves a byte an element."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        """Drop with probability `p`."""
        mask, share = keep_mask(x.shape, p)
        ctx.save_for_backward(mask)
        ctx.share = share
        return torch.mul(x, mask).mul_(1 / share)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        """The gradient of what was kept."""
        (mask,) = ctx.saved_tensors
        return torch.mul(grad_output, mask).mul_(1 / ctx.share), None


def is_plain_cpu(x: Tensor) -> bool:
    """Whether `x` is on the CPU and no graph is being traced, so that own kernels may stand in for torch's."""
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return x.device.type == "cpu" and not tracing


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Like `torch.nn.functional.dropout`."""
    if p == 0 or not training:
        return x
    if p == 1 or not is_plain_cpu(x):
        return F.dropout(x, p, training)
    dropped: Tensor = _Dropout.apply(x, p)  # type: ignore[no-untyped-call]
    return dropped
