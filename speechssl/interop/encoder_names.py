"""How the encoders of the wav2vec 2.0 family name their tensors: one table for each tool, one walk for all."""

from dataclasses import dataclass, replace

from speechssl.encoder import EncoderConfig
from speechssl.interop.weights import Pair, joint, linear


@dataclass(frozen=True, kw_only=True)
class EncoderNames:
    """Names of a tool's layers; `{i}` stands for the number of the convolution or layer.

    `group_norm` is the norm of the first convolution where only that has one, `conv_norm` that of every convolution.
    `mask_embedding` is None where the tool's model has none.
    """

    conv: str = "feature_extractor.conv_layers.{i}.conv"
    group_norm: str = "feature_extractor.conv_layers.0.layer_norm"
    conv_norm: str = "feature_extractor.conv_layers.{i}.layer_norm"
    latent_norm: str = "feature_projection.layer_norm"
    projection: str = "feature_projection.projection"
    mask_embedding: str | None = "masked_spec_embed"
    positions: str = "encoder.pos_conv_embed.conv"
    norm: str = "encoder.layer_norm"
    layer: str = "encoder.layers.{i}"
    query: str = "attention.q_proj"
    key: str = "attention.k_proj"
    value: str = "attention.v_proj"
    attention_output: str = "attention.out_proj"
    attention_norm: str = "layer_norm"
    expand: str = "feed_forward.intermediate_dense"
    contract: str = "feed_forward.output_dense"
    feed_forward_norm: str = "final_layer_norm"

    def within(self, prefix: str) -> "EncoderNames":
        """The same names inside of a larger model."""
        inside = {
            name: f"{prefix}{getattr(self, name)}"
            for name in ("conv", "group_norm", "conv_norm", "latent_norm", "projection", "positions", "norm", "layer")
        }
        if self.mask_embedding is not None:
            inside["mask_embedding"] = f"{prefix}{self.mask_embedding}"
        return replace(self, **inside)


def front_end_pairs(config: EncoderConfig, names: EncoderNames) -> list[Pair]:
    """Convolutions, norm, projection and mask embedding."""
    pairs: list[Pair] = []
    if config.front_end == "waveform":
        for i in range(len(config.conv_layers)):
            pairs += linear(f"feature_encoder.convs.{i}", names.conv.format(i=i), bias=config.conv_bias)
            if config.conv_norm == "layer":
                pairs += linear(f"feature_encoder.norms.{i}", names.conv_norm.format(i=i))
        if config.conv_norm == "group":
            pairs += linear("feature_encoder.norms.0", names.group_norm)
    if config.front_end != "log_mel" and config.latent_norm:
        pairs += linear("latent_norm", names.latent_norm)
    pairs += linear("projection", names.projection)
    if names.mask_embedding is not None:
        pairs.append(Pair(ours="mask_embedding", theirs=names.mask_embedding))
    return pairs


def position_pairs(names: EncoderNames) -> list[Pair]:
    """The weight-normalized positional convolution."""
    ours = "context_encoder.positions"
    return [
        Pair(ours=f"{ours}.direction", theirs=f"{names.positions}.weight_v"),
        Pair(ours=f"{ours}.magnitude", theirs=f"{names.positions}.weight_g"),
        Pair(ours=f"{ours}.bias", theirs=f"{names.positions}.bias"),
    ]


def transformer_pairs(config: EncoderConfig, names: EncoderNames) -> list[Pair]:
    """The transformer layers."""
    pairs: list[Pair] = []
    for i in range(config.num_layers):
        ours, theirs = f"context_encoder.layers.{i}", names.layer.format(i=i)
        heads = [f"{theirs}.{name}" for name in (names.query, names.key, names.value)]
        pairs += joint(f"{ours}.attention.input_projection", heads)
        pairs += linear(f"{ours}.attention.output_projection", f"{theirs}.{names.attention_output}")
        pairs += linear(f"{ours}.attention_norm", f"{theirs}.{names.attention_norm}")
        pairs += linear(f"{ours}.feed_forward.expand", f"{theirs}.{names.expand}")
        pairs += linear(f"{ours}.feed_forward.contract", f"{theirs}.{names.contract}")
        pairs += linear(f"{ours}.feed_forward_norm", f"{theirs}.{names.feed_forward_norm}")
    return pairs


def gated_bias_pairs(
    config: EncoderConfig,
    attention: str,
    *,
    embedding: str = "rel_attn_embed",
    gate: str = "gru_rel_pos_linear",
    scale: str = "gru_rel_pos_const",
) -> list[Pair]:
    """WavLM's relative positions; `attention` holds `{i}`, the embedding is that of layer 0."""
    pairs = [
        Pair(
            ours="context_encoder.shared_positions.embedding.weight",
            theirs=f"{attention.format(i=0)}.{embedding}.weight",
        )
    ]
    for i in range(config.num_layers):
        ours, theirs = f"context_encoder.layers.{i}.attention.positions", attention.format(i=i)
        pairs += linear(f"{ours}.gate", f"{theirs}.{gate}")
        pairs.append(Pair(ours=f"{ours}.scale", theirs=f"{theirs}.{scale}"))
    return pairs


def wav2vec2_pairs(config: EncoderConfig, names: EncoderNames) -> list[Pair]:
    """A whole encoder of wav2vec 2.0's architecture."""
    return [
        *front_end_pairs(config, names),
        *position_pairs(names),
        *linear("context_encoder.norm", names.norm),
        *transformer_pairs(config, names),
    ]
