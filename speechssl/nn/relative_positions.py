"""Relative positions inside of attention, as the published families have them.

Each kind has two halves: `SharedPositions` is computed once for all layers, `AttentionPositions` belongs to a layer and
turns it into a bias on the attention logits.

Shapes: B utterances, T frames, D model dim, H heads, E = D / H dims of a head.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AttentionPositionKind = Literal["none", "gated_bias", "relative", "relative_key", "rotary"]


class SharedPositions(nn.Module):
    """What all layers know of relative positions among T frames."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, T, D]` -> a tensor that the layers' `AttentionPositions` understand."""
        raise NotImplementedError


class AttentionPositions(nn.Module):
    """What one layer makes of it."""

    def project(self, x: Tensor, projection: nn.Module, shared: Tensor) -> Tensor:
        """Query, key and value `[B, T, 3 D]` of the input `[B, T, D]`."""
        projected: Tensor = projection(x)
        return projected

    def forward(self, x: Tensor, query: Tensor, shared: Tensor) -> tuple[Tensor, Tensor | None]:
        """Layer input `[B, T, D]` and query `[B, H, T, E]` -> the query to use, and a bias `[B, H, T, T]` or None."""
        raise NotImplementedError


class BucketedDistances(SharedPositions):
    """A learnt number for each head and bucket of distances: `[H, T, T]` (T5's buckets; WavLM, section 3.1).

    Half of the buckets are for frames to the right. Of each half the first half are single distances, the others widen
    logarithmically up to `max_distance`.
    """

    def __init__(self, num_heads: int, *, num_buckets: int, max_distance: int) -> None:
        super().__init__()
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.embedding = nn.Embedding(num_buckets, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, T, D]` -> `[H, T, T]`."""
        steps = torch.arange(x.shape[1], device=x.device)
        biases: Tensor = self.embedding(self.buckets(steps[None, :] - steps[:, None]))
        return biases.permute(2, 0, 1)

    def buckets(self, distance: Tensor) -> Tensor:
        """Bucket of each distance (key minus query, in frames)."""
        half = self.num_buckets // 2
        num_exact = half // 2
        absolute = distance.abs()
        log_ratio = torch.log(absolute.clamp(min=1).to(torch.float32) / num_exact)
        log_ratio = log_ratio / math.log(self.max_distance / num_exact)
        wide = (num_exact + log_ratio * (half - num_exact)).long().clamp(max=half - 1)
        return (distance > 0).long() * half + torch.where(absolute < num_exact, absolute, wide)


class GatedBias(AttentionPositions):
    """The shared bias, scaled for each query and head by a gate on the layer's input (WavLM, equations 3 to 6)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.gate = nn.Linear(dim // num_heads, 8)
        self.scale = nn.Parameter(torch.ones(num_heads))

    def forward(self, x: Tensor, query: Tensor, shared: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `AttentionPositions`."""
        batch, time, _ = x.shape
        heads = x.view(batch, time, self.num_heads, -1).transpose(1, 2)  # [B, H, T, E]
        # the eight outputs are two sums of four, as in the published code
        update, reset = torch.sigmoid(self.gate(heads).view(batch, self.num_heads, time, 2, 4).sum(-1)).unbind(-1)
        gate = update * (reset * self.scale[:, None] - 1.0) + 2.0  # [B, H, T]
        return query, gate[:, :, :, None] * shared


class SinusoidalDistances(SharedPositions):
    """Sinusoids of all distances from T - 1 down to 1 - T: `[2 T - 1, D]` (Transformer-XL, section 3.3)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, T, D]` -> `[2 T - 1, D]`."""
        time = x.shape[1]
        distance = torch.arange(time - 1, -time, -1, device=x.device).to(torch.float32)
        even = torch.arange(0, self.dim, 2, device=x.device).to(torch.float32)
        rates = torch.exp(even * -(math.log(10000.0) / self.dim))
        angles = distance[:, None] * rates
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1).to(x.dtype)


class RelativeBias(AttentionPositions):
    """Attention to content and to distance (Transformer-XL, section 3.3, terms a to d)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projection = nn.Linear(dim, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, dim // num_heads))  # u
        self.position_bias = nn.Parameter(torch.zeros(num_heads, dim // num_heads))  # v

    def forward(self, x: Tensor, query: Tensor, shared: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `AttentionPositions`."""
        time, head_dim = query.shape[2:]
        positions = self.projection(shared).view(-1, self.num_heads, head_dim).transpose(0, 1)  # [H, 2 T - 1, E]
        scores = (query + self.position_bias[:, None]) @ positions.transpose(1, 2)  # [B, H, T, 2 T - 1]
        # row t starts at distance t: shift each row by one more than the row above
        shifted = F.pad(scores, (1, 0)).flatten(2)[:, :, time:].view(*scores.shape)[..., :time]
        return query + self.content_bias[:, None], shifted / math.sqrt(head_dim)


class NoSharedPositions(SharedPositions):
    """Only the number of frames, as an empty tensor."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, T, D]` -> `[T, 0]`."""
        return x.new_empty(x.shape[1], 0)


class RelativeKeys(AttentionPositions):
    """A learnt key for each distance, clipped on both sides (Shaw et al. 2018, equation 4; w2v-BERT 2.0)."""

    def __init__(self, head_dim: int, *, max_left: int, max_right: int) -> None:
        super().__init__()
        self.max_left = max_left
        self.max_right = max_right
        self.keys = nn.Embedding(max_left + max_right + 1, head_dim)

    def forward(self, x: Tensor, query: Tensor, shared: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `AttentionPositions`."""
        time, head_dim = query.shape[2:]
        steps = torch.arange(time, device=x.device)
        distance = (steps[None, :] - steps[:, None]).clamp(-self.max_left, self.max_right) + self.max_left
        # one product with each key, then a gather: [T, T, E] is never built
        scores = query @ self.keys.weight.to(query.dtype).T  # [B, H, T, num_keys]
        return query, scores.gather(3, distance.expand(*query.shape[:2], -1, -1)) / math.sqrt(head_dim)


class RotaryAngles(SharedPositions):
    """Cosines and sines of the rotary embedding: `[2, T, E]` (RoFormer, equation 34)."""

    def __init__(self, head_dim: int, *, base: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, T, D]` -> `[2, T, E]`."""
        steps = torch.arange(0, self.head_dim, 2, device=x.device).to(torch.float32) / self.head_dim
        angles = torch.arange(x.shape[1], device=x.device).to(torch.float32)[:, None] * (1.0 / self.base**steps)
        angles = torch.cat([angles, angles], dim=-1)
        return torch.stack([angles.cos(), angles.sin()]).to(x.dtype)


class RotaryInput(AttentionPositions):
    """Rotates the layer's input before query and key are made of it, as fairseq's conformer does.

    (RoFormer rotates queries and keys themselves.)
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def project(self, x: Tensor, projection: nn.Module, shared: Tensor) -> Tensor:
        """See `AttentionPositions`."""
        batch, time, dim = x.shape
        heads = x.view(batch, time, self.num_heads, -1)
        cosines, sines = shared[:, :, None]
        first, second = heads.chunk(2, dim=-1)
        rotated = (heads * cosines + torch.cat([-second, first], dim=-1) * sines).view(batch, time, dim)
        if not isinstance(projection, nn.Linear):  # adapters, which compute all three at once
            return torch.cat([projection(rotated)[..., : 2 * dim], projection(x)[..., 2 * dim :]], dim=-1)
        query_key = F.linear(rotated, projection.weight[: 2 * dim], projection.bias[: 2 * dim])
        return torch.cat([query_key, F.linear(x, projection.weight[2 * dim :], projection.bias[2 * dim :])], dim=-1)

    def forward(self, x: Tensor, query: Tensor, shared: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `AttentionPositions`."""
        return query, None
