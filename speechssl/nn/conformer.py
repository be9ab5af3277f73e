"""The conformer layer (Gulati et al. 2020, section 2) as wav2vec2-conformer and w2v-BERT 2.0 have it.

Shapes: B utterances, T frames, D model dim.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.nn.attention import ACTIVATIONS, Activation, FeedForward, SelfAttention
from speechssl.nn.dropout import dropout
from speechssl.nn.positions import PaddedBatchNorm
from speechssl.nn.relative_positions import AttentionPositions

ConvolutionNorm = Literal["batch", "layer"]


class ConvolutionModule(nn.Module):
    """Layer norm, gated pointwise convolution, depthwise convolution, norm, activation, pointwise convolution.

    `causal` looks back only. With `mask_padding=False` a padded frame reaches the frames before it and the batch norm's
    statistics, as in the published code of wav2vec2-conformer.
    """

    def __init__(
        self,
        dim: int,
        *,
        kernel: int,
        norm: ConvolutionNorm,
        causal: bool,
        activation: Activation,
        dropout: float,
        mask_padding: bool = True,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.mask_padding = mask_padding
        self.activation = ACTIVATIONS[activation]
        self.dropout = dropout
        self.input_norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim, bias=False)  # a convolution of one tap is a linear map of each frame
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim, bias=False)
        self.norm: nn.LayerNorm | PaddedBatchNorm = (
            nn.LayerNorm(dim) if norm == "layer" else PaddedBatchNorm(dim, mask_padding=mask_padding)
        )
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """`x` `[B, T, D]`, `padding` bool `[B, T]` or None -> `[B, T, D]`."""
        x = self.input_norm(x)
        if padding is not None and self.mask_padding:
            x = x.masked_fill(padding[:, :, None], 0)
        x = F.glu(self.gate(x), dim=-1).transpose(1, 2)
        kernel = self.depthwise.kernel_size[0]
        left, right = (kernel - 1, 0) if self.causal else ((kernel - 1) // 2, kernel // 2)
        y = self.depthwise(F.pad(x, (left, right)))
        if isinstance(self.norm, PaddedBatchNorm):
            y = self.norm(y, padding).transpose(1, 2)
        else:
            y = self.norm(y.transpose(1, 2))
        return dropout(self.output(self.activation(y)), self.dropout, self.training)


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each with a residual; then a layer norm."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        hidden_dim: int,
        convolution: ConvolutionModule,
        activation: Activation,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        positions: AttentionPositions | None,
    ) -> None:
        super().__init__()
        self.dropout = dropout

        def feed_forward() -> FeedForward:
            return FeedForward(
                dim, hidden_dim, dropout=dropout, activation_dropout=activation_dropout, activation=activation
            )

        self.first_feed_forward_norm = nn.LayerNorm(dim)
        self.first_feed_forward = feed_forward()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads, dropout=attention_dropout, positions=positions)
        self.convolution = convolution
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward()
        self.output_norm = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, attention_mask: Tensor | None, shared: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        """`x` `[B, T, D]`, `attention_mask` bool `[B, 1, 1, T]`, `padding` bool `[B, T]` -> `[B, T, D]`."""
        x = x + 0.5 * self.first_feed_forward(self.first_feed_forward_norm(x))
        attended = self.attention(self.attention_norm(x), attention_mask, shared)
        x = x + dropout(attended, self.dropout, self.training)
        x = x + self.convolution(x, padding)
        x = x + 0.5 * self.feed_forward(self.feed_forward_norm(x))
        normalized: Tensor = self.output_norm(x)
        return normalized
