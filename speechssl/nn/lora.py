"""Low-rank adapters: a frozen linear layer plus a trained difference of low rank (LoRA, Hu et al. 2021, section 4.1).

Shapes: D input dim, E output dim, R rank.
"""

import copy
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.attention import FeedForward, SelfAttention

AdapterTargets = Literal["attention", "feed_forward", "all"]


class LowRankLinear(nn.Module):
    """y = W x + b + (alpha / R) up(down(dropout(x))); W and b are those of a linear layer and stay as they are.

    `weight` and `bias` keep the linear layer's names, so a state dict holds the same tensors and two more. `down`
    `[R, D]` is drawn as torch draws a linear layer, `up` `[E, R]` is zero: at first the output is the linear layer's.
    """

    def __init__(
        self, linear: nn.Linear, *, rank: int, alpha: float, dropout: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.scale = alpha / rank
        self.dropout = dropout
        outputs, inputs = linear.weight.shape
        bound = 1 / math.sqrt(inputs)
        down = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(linear.weight))
        self.up = nn.Parameter(torch.zeros(outputs, rank).to(linear.weight))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., E]`."""
        dropped = F.dropout(x, self.dropout, self.training)
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(F.linear(dropped, self.down), self.up)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One linear layer that computes the same; its weight is a new tensor, its bias is shared."""
        linear: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, self.weight.shape[1], self.weight.shape[0], bias=self.bias is not None, device="meta"
        )
        difference = self.scale * (self.up.double() @ self.down.double())
        linear.weight = nn.Parameter((self.weight.double() + difference).to(self.weight.dtype))
        linear.bias = self.bias
        return linear


def add_adapters(
    layers: nn.Module, *, rank: int, alpha: float, dropout: float, targets: AdapterTargets, seed: int
) -> int:
    """Put adapters on the projections of attention and the linear layers of the feed-forward parts, in place.

    Query, key and value are one projection in these layers, so they share one `down` and have each their rows of `up`.

    Args:
        layers: the context encoder's layers, transformer or conformer.
        rank: R.
        alpha: the difference is scaled by alpha / R.
        dropout: on what goes into `down`, in training.
        targets: `attention`, `feed_forward` or `all`.
        seed: of all `down`.

    Returns:
        How many linear layers have one now.
    """
    generator = torch.Generator().manual_seed(seed)
    adapted = 0
    for parent, name in list(_places(layers, targets)):
        linear = getattr(parent, name)
        setattr(parent, name, LowRankLinear(linear, rank=rank, alpha=alpha, dropout=dropout, generator=generator))
        adapted += 1
    return adapted


def _places(layers: nn.Module, targets: AdapterTargets) -> Iterator[tuple[nn.Module, str]]:
    for module in layers.modules():
        if isinstance(module, SelfAttention) and targets != "feed_forward":
            yield module, "input_projection"
            yield module, "output_projection"
        if isinstance(module, FeedForward) and targets != "attention":
            yield module, "expand"
            yield module, "contract"


def adapter_parameters(module: nn.Module) -> list[nn.Parameter]:
    """All `down` and `up` inside a module."""
    return [p for part in module.modules() if isinstance(part, LowRankLinear) for p in (part.down, part.up)]


def merge_adapters(module: nn.Module) -> nn.Module:
    """A copy without adapters that computes the same; what had none shares its tensors with `module`."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    merged = copy.deepcopy(module, shared)  # type: ignore[arg-type]
    for parent in list(merged.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LowRankLinear):
                setattr(parent, name, child.merged())
    return merged
