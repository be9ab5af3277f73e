"""The context network: a transformer over latents (wav2vec 2.0, section 2 and appendix B), and its published variants.

Shapes: B utterances, T frames, D model dim.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from speechssl.errors import ConfigError
from speechssl.nn.attention import Activation, FeedForward, SelfAttention
from speechssl.nn.conformer import ConformerLayer, ConvolutionModule, ConvolutionNorm
from speechssl.nn.dropout import dropout, is_plain_cpu
from speechssl.nn.packing import Packing
from speechssl.nn.positions import BatchNormConvPositions, ConvPositions, PaddedBatchNorm, StackedConvPositions
from speechssl.nn.relative_positions import (
    AttentionPositionKind,
    AttentionPositions,
    BucketedDistances,
    GatedBias,
    NoSharedPositions,
    RelativeBias,
    RelativeKeys,
    RotaryAngles,
    RotaryInput,
    SharedPositions,
    SinusoidalDistances,
)

NormPosition = Literal["post", "pre"]


@dataclass(frozen=True, kw_only=True)
class ContextVariant:
    """What the published families change about wav2vec 2.0's context network; the defaults change nothing.

    Attributes:
        layer: `transformer` or `conformer` (wav2vec2-conformer, w2v-BERT 2.0).
        activation: of the feed-forward parts.
        positions: added to the input: `convolution`, `stacked_convolution` (data2vec), `batch_norm_convolution`
            (mHuBERT) or `none` (conformers).
        num_position_layers: convolutions of `stacked_convolution`.
        attention_positions: inside of attention: `none`, `gated_bias` (WavLM), `relative` and `rotary`
            (wav2vec2-conformer) or `relative_key` (w2v-BERT 2.0).
        num_buckets: distances that `gated_bias` tells apart.
        max_distance: frames beyond which `gated_bias` tells none apart.
        max_left: frames to the left that `relative_key` tells apart.
        max_right: frames to the right that it tells apart.
        rotary_base: of the frequencies of `rotary`.
        conformer_kernel: taps of the depthwise convolution.
        conformer_norm: the norm after it: `batch`, or `layer` (w2v-BERT 2.0).
        conformer_causal: whether it looks back only (w2v-BERT 2.0).
        output_norm: whether a pre-norm network ends with a layer norm.
    """

    layer: Literal["transformer", "conformer"] = "transformer"
    activation: Activation = "gelu"
    positions: Literal["convolution", "stacked_convolution", "batch_norm_convolution", "none"] = "convolution"
    num_position_layers: int = 5
    attention_positions: AttentionPositionKind = "none"
    num_buckets: int = 320
    max_distance: int = 800
    max_left: int = 64
    max_right: int = 8
    rotary_base: float = 10000.0
    conformer_kernel: int = 31
    conformer_norm: ConvolutionNorm = "batch"
    conformer_causal: bool = False
    output_norm: bool = True


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with a residual; layer norm after the sum (`post`) or before (`pre`)."""

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        hidden_dim: int,
        norm_position: NormPosition,
        dropout: float,
        attention_dropout: float,
        activation_dropout: float,
        activation: Activation = "gelu",
        positions: AttentionPositions | None = None,
    ) -> None:
        super().__init__()
        self.norm_position = norm_position
        self.dropout = dropout
        self.attention = SelfAttention(dim, num_heads, dropout=attention_dropout, positions=positions)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(
            dim, hidden_dim, dropout=dropout, activation_dropout=activation_dropout, activation=activation
        )
        self.feed_forward_norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        shared: Tensor | None = None,
        padding: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """`x` `[B, T, D]`, `attention_mask` bool `[B, 1, 1, T]` or None -> `[B, T, D]`; or both `[1, N, D]`, packed."""
        if self.norm_position == "pre":
            x = x + self._drop(self.attention(self.attention_norm(x), attention_mask, shared, packing))
            x = x + self.feed_forward(self.feed_forward_norm(x))
        else:
            x = self.attention_norm(x + self._drop(self.attention(x, attention_mask, shared, packing)))
            x = self.feed_forward_norm(x + self.feed_forward(x))
        return x

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class ContextEncoder(nn.Module):
    """Positions, then transformer or conformer layers.

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
        norm_position: NormPosition,
        position_kernel: int,
        position_groups: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        layer_drop: float = 0.0,
        variant: ContextVariant | None = None,
        mask_padding: bool = True,
    ) -> None:
        """Build; `mask_padding=False` lets padding through where the published code of a variant does."""
        super().__init__()
        variant = variant or ContextVariant()
        self.norm_position = norm_position
        self.dropout = dropout
        self.layer_drop = layer_drop
        self.checkpoints_activations = False
        self.positions = _make_positions(dim, position_kernel, position_groups, variant, mask_padding)
        self.shared_positions = _make_shared_positions(dim, num_heads, variant)
        self.looks_across_frames_in_attention_only = variant.layer == "transformer" and self.shared_positions is None
        has_norm = norm_position == "post" or variant.output_norm
        self.norm: nn.LayerNorm | nn.Identity = nn.LayerNorm(dim) if has_norm else nn.Identity()

        def make_layer() -> nn.Module:
            positions = _make_attention_positions(dim, num_heads, variant)
            if variant.layer == "transformer":
                return TransformerLayer(
                    dim,
                    num_heads=num_heads,
                    hidden_dim=hidden_dim,
                    norm_position=norm_position,
                    dropout=dropout,
                    attention_dropout=attention_dropout,
                    activation_dropout=activation_dropout,
                    activation=variant.activation,
                    positions=positions,
                )
            convolution = ConvolutionModule(
                dim,
                kernel=variant.conformer_kernel,
                norm=variant.conformer_norm,
                causal=variant.conformer_causal,
                activation=variant.activation,
                dropout=dropout,
                mask_padding=mask_padding,
            )
            return ConformerLayer(
                dim,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                convolution=convolution,
                activation=variant.activation,
                dropout=dropout,
                attention_dropout=attention_dropout,
                activation_dropout=activation_dropout,
                positions=positions,
            )

        self.layers = nn.ModuleList(make_layer() for _ in range(num_layers))
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, padding: Tensor | None, *, layers: bool = False) -> tuple[Tensor, list[Tensor] | None]:
        """Context of latents.

        Args:
            x: `[B, T, D]`.
            padding: bool `[B, T]`, True in the padding, which is behind the utterance; None when there is none, which
                keeps the fast kernels. On the CPU the transformer's layers leave it out (`nn/packing.py`).
            layers: also return the transformer's input and each layer's output.

        Returns:
            context `[B, T, D]`, and num_layers + 1 tensors `[B, T, D]` or None. With pre-norm the last of them is the
            context before the final norm. What stands in the padding is undefined.
        """
        attention_mask = packing = None
        if padding is not None:
            x = x.masked_fill(padding[:, :, None], 0)
            attention_mask = ~padding[:, None, None, :]
        if self.positions is not None:
            x = x + self.positions(x, padding)
        if padding is not None and self.looks_across_frames_in_attention_only and is_plain_cpu(x):
            packing = Packing.of(padding)
            x = packing.pack(x)
        if self.norm_position == "post":
            x = self.norm(x)
        x = dropout(x, self.dropout, self.training)
        shared = None if self.shared_positions is None else self.shared_positions(x)
        outputs = [x]
        for layer in self.layers:
            if not self._skips_layer():
                x = self._run(layer, x, attention_mask, shared, padding, packing)
            if layers:
                outputs.append(x)
        if self.norm_position == "pre":
            x = self.norm(x)
        if packing is not None:
            x, outputs = packing.unpack(x), [packing.unpack(output) for output in outputs if layers]
        return x, outputs if layers else None

    def _run(
        self,
        layer: nn.Module,
        x: Tensor,
        attention_mask: Tensor | None,
        shared: Tensor | None,
        padding: Tensor | None,
        packing: Packing | None,
    ) -> Tensor:
        if packing is not None:
            attention_mask = shared = padding = None
        compute = layer if packing is None else partial(layer, packing=packing)
        if not (self.checkpoints_activations and self.training and torch.is_grad_enabled()):
            output: Tensor = compute(x, attention_mask, shared, padding)
            return output
        from torch.utils.checkpoint import checkpoint

        output = checkpoint(compute, x, attention_mask, shared, padding, use_reentrant=False)
        return output

    def checkpoint_activations(self) -> None:
        """In training keep only each layer's input, and compute the layer again in the backward pass.

        Random numbers are drawn as the first time, so the gradients stay the same.

        Raises:
            ConfigError: a layer counts statistics as it computes (batch norm), and would count them twice.
        """
        if any(isinstance(module, PaddedBatchNorm) for module in self.layers.modules()):
            raise ConfigError(
                "training.checkpoint_activations would compute every layer twice, but this encoder's layers have batch"
                " norms, whose running statistics would then be wrong; leave it off"
            )
        self.checkpoints_activations = True

    def compile_feed_forward(self) -> None:
        """Compile the feed-forward parts, in place.

        Attention is left out: with changing lengths, torch 2.9 compiles `scaled_dot_product_attention` on the CPU into
        code that fails on the next length.
        """
        for module in self.layers.modules():
            if isinstance(module, FeedForward):
                module.compile(dynamic=True)  # type: ignore[no-untyped-call]

    def _skips_layer(self) -> bool:
        # drawn on the CPU, so that skipping never waits for a device
        return self.training and self.layer_drop > 0 and torch.rand(()).item() < self.layer_drop


def _make_positions(
    dim: int, kernel: int, groups: int, variant: ContextVariant, mask_padding: bool
) -> ConvPositions | StackedConvPositions | BatchNormConvPositions | None:
    if variant.positions == "none":
        return None
    if variant.positions == "stacked_convolution":
        return StackedConvPositions(
            dim, kernel=kernel, groups=groups, num_layers=variant.num_position_layers, mask_padding=mask_padding
        )
    if variant.positions == "batch_norm_convolution":
        return BatchNormConvPositions(dim, kernel=kernel, groups=groups, mask_padding=mask_padding)
    return ConvPositions(dim, kernel=kernel, groups=groups)


def _make_shared_positions(dim: int, num_heads: int, variant: ContextVariant) -> SharedPositions | None:
    match variant.attention_positions:
        case "gated_bias":
            return BucketedDistances(num_heads, num_buckets=variant.num_buckets, max_distance=variant.max_distance)
        case "relative":
            return SinusoidalDistances(dim)
        case "rotary":
            return RotaryAngles(dim // num_heads, base=variant.rotary_base)
        case "relative_key":
            return NoSharedPositions()
        case "none":
            return None


def _make_attention_positions(dim: int, num_heads: int, variant: ContextVariant) -> AttentionPositions | None:
    match variant.attention_positions:
        case "gated_bias":
            return GatedBias(dim, num_heads)
        case "relative":
            return RelativeBias(dim, num_heads)
        case "rotary":
            return RotaryInput(num_heads)
        case "relative_key":
            return RelativeKeys(dim // num_heads, max_left=variant.max_left, max_right=variant.max_right)
        case "none":
            return None
