"""Self-attention and the feed-forward part of a context layer.

Shapes: B utterances, T frames, D model dim, H heads, E = D / H dims of a head.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.dropout import dropout, is_plain_cpu
from speechssl.nn.dropped_attention import DroppedAttention
from speechssl.nn.packing import Packing
from speechssl.nn.relative_positions import AttentionPositions

Activation = Literal["gelu", "swish"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "swish": F.silu}


class SelfAttention(nn.Module):
    """Multi-head self-attention on `scaled_dot_product_attention`."""

    def __init__(
        self, dim: int, num_heads: int, *, dropout: float, positions: AttentionPositions | None = None
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.input_projection = nn.Linear(dim, 3 * dim)  # query, key, value
        self.output_projection = nn.Linear(dim, dim)
        self.positions = positions

    def forward(
        self, x: Tensor, attention_mask: Tensor | None, shared: Tensor | None = None, packing: Packing | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: `[B, T, D]`.
            attention_mask: bool `[B, 1, 1, T]` (True = may be looked at) or None.
            shared: what all layers know of relative positions (`SharedPositions`), where there are any.
            packing: of `x` `[1, N, D]`, whose utterances look each at itself; without relative positions only.

        Returns:
            As `x`.
        """
        batch, time, dim = x.shape
        heads = (batch, time, 3, self.num_heads, dim // self.num_heads)
        if self.positions is None:
            projected = self.input_projection(x).view(heads)
            drops = self.training and self.dropout > 0 and is_plain_cpu(x)
            if packing is not None or (drops and attention_mask is None):
                lengths = (time,) * batch if packing is None else packing.lengths
                joined = self._attend_each(projected.flatten(0, 1), lengths, drops)  # [N, H, E]
                mixed: Tensor = self.output_projection(joined.reshape(batch, time, dim))
                return mixed
            # [B, T, 3, H, E] -> three of [B, H, T, E]
            query, key, value = projected.permute(2, 0, 3, 1, 4)
            bias = attention_mask
        else:
            assert packing is None and shared is not None, "relative positions need what the layers share"
            query, key, value = (
                self.positions.project(x, self.input_projection, shared).view(heads).permute(2, 0, 3, 1, 4)
            )
            query, bias = self.positions(x, query, shared)
            if bias is None:
                bias = attention_mask
            elif attention_mask is not None:
                bias = bias.masked_fill(~attention_mask, float("-inf"))
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0
        )
        joined = attended.transpose(1, 2)  # [B, T, H, E]
        if torch.compiler.is_compiling():  # kernels differ in layout: an exported program must not rely on one
            joined = joined.clone(memory_format=torch.contiguous_format)
        output: Tensor = self.output_projection(joined.reshape(batch, time, dim))
        return output

    def _attend_each(self, projected: Tensor, lengths: Sequence[int], drops: bool) -> Tensor:
        """Queries, keys and values `[N, 3, H, E]` of utterances one after the other -> `[N, H, E]`."""
        if drops:
            dropped: Tensor = DroppedAttention.apply(  # type: ignore[no-untyped-call]
                projected, lengths, self.dropout
            )
            return dropped
        attended = []
        for part in torch.split(projected, list(lengths)):
            query, key, value = part.permute(1, 2, 0, 3)[:, None]  # [T, 3, H, E] -> three of [1, H, T, E]
            attended.append(F.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1))
        return torch.cat(attended)


class FeedForward(nn.Module):
    """Linear, activation, linear."""

    def __init__(
        self, dim: int, hidden_dim: int, *, dropout: float, activation_dropout: float, activation: Activation = "gelu"
    ) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden_dim)
        self.contract = nn.Linear(hidden_dim, dim)
        self.activation = ACTIVATIONS[activation]
        self.activation_dropout = activation_dropout
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`."""
        x = dropout(self.activation(self.expand(x)), self.activation_dropout, self.training)
        return dropout(self.contract(x), self.dropout, self.training)
