"""The context network: a transformer over latents (wav2vec 2.0, section 2 and appendix B).

Shapes: B utterances, T frames, D model dim, H heads.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.positions import ConvPositions


class SelfAttention(nn.Module):
    """Multi-head self-attention on `scaled_dot_product_attention`."""

    def __init__(self, dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.input_projection = nn.Linear(dim, 3 * dim)  # query, key, value
        self.output_projection = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attention_mask: Tensor | None) -> Tensor:
        """`x` `[B, T, D]`, `attention_mask` bool `[B, 1, 1, T]` (True = may be looked at) or None -> `[B, T, D]`."""
        batch, time, dim = x.shape
        # [B, T, 3 D] -> three of [B, H, T, D / H]
        query, key, value = (
            self.input_projection(x).view(batch, time, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, dropout_p=self.dropout if self.training else 0.0
        )
        output: Tensor = self.output_projection(attended.transpose(1, 2).reshape(batch, time, dim))
        return output


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden_dim: int, *, dropout: float, activation_dropout: float) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden_dim)
        self.contract = nn.Linear(hidden_dim, dim)
        self.activation_dropout = activation_dropout
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`."""
        x = F.dropout(F.gelu(self.expand(x)), self.activation_dropout, self.training)
        return F.dropout(self.contract(x), self.dropout, self.training)


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with a residual; layer norm after the sum (`post`) or before (`pre`)."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        hidden_dim: int,
        norm_position: Literal["post", "pre"],
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
    ) -> None:
        super().__init__()
        self.norm_position = norm_position
        self.dropout = dropout
        self.attention = SelfAttention(dim, num_heads, dropout=attention_dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, hidden_dim, dropout=dropout, activation_dropout=activation_dropout)
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, attention_mask: Tensor | None) -> Tensor:
        """`x` `[B, T, D]`, `attention_mask` bool `[B, 1, 1, T]` or None -> `[B, T, D]`."""
        if self.norm_position == "pre":
            x = x + self._drop(self.attention(self.attention_norm(x), attention_mask))
            x = x + self.feed_forward(self.feed_forward_norm(x))
        else:
            x = self.attention_norm(x + self._drop(self.attention(x, attention_mask)))
            x = self.feed_forward_norm(x + self.feed_forward(x))
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class ContextEncoder(nn.Module):
    """Convolutional positions, then transformer layers.

    With `norm_position="post"` (BASE) the sum of input and positions is normalized first; with `"pre"` (LARGE) the
    last layer's output is. LayerDrop skips a layer by passing its input on, so `layers` always has every entry.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        norm_position: Literal["post", "pre"],
        position_kernel: int,
        position_groups: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layer_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm_position = norm_position
        self.dropout = dropout
        self.layer_drop = layer_drop
        self.positions = ConvPositions(dim, kernel=position_kernel, groups=position_groups)
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            TransformerLayer(
                dim,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                norm_position=norm_position,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
            )
            for _ in range(num_layers)
        )
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, padding: Tensor | None, *, layers: bool = False) -> tuple[Tensor, list[Tensor] | None]:
        """Context of latents.

        Args:
            x: `[B, T, D]`.
            padding: bool `[B, T]`, True in the padding; None when there is none, which keeps the fast kernels.
            layers: also return the transformer's input and each layer's output.

        Returns:
            context `[B, T, D]`, and num_layers + 1 tensors `[B, T, D]` or None. With pre-norm the last of them is the
            context before the final norm.
        """
        attention_mask = None
        if padding is not None:
            x = x.masked_fill(padding[:, :, None], 0)
            attention_mask = ~padding[:, None, None, :]
        x = x + self.positions(x)
        if self.norm_position == "post":
            x = self.norm(x)
        x = F.dropout(x, self.dropout, self.training)
        outputs = [x]
        for layer in self.layers:
            if not self._skips_layer():
                x = layer(x, attention_mask)
            outputs.append(x)
        if self.norm_position == "pre":
            x = self.norm(x)
        return x, outputs if layers else None

    def compile_feed_forward(self) -> None:
        """Compile the feed-forward parts, in place.

        Attention is left out: with changing lengths, torch 2.9 compiles `scaled_dot_product_attention` on the CPU into
        code that fails on the next length.
        """
        for layer in self.layers:
            assert isinstance(layer, TransformerLayer)
            layer.feed_forward.compile(dynamic=True)  # type: ignore[no-untyped-call]

    def _skips_layer(self) -> bool:
        # drawn on the CPU, so that skipping never waits for a device
        return self.training and self.layer_drop > 0 and torch.rand(()).item() < self.layer_drop
