"""Hugging Face encoders: what their `config.json` means, and how their tensors are named.

Families: wav2vec2 (also XLS-R and MMS), hubert, wavlm, data2vec-audio, wav2vec2-conformer, wav2vec2-bert.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from speechssl.encoder import EncoderConfig
from speechssl.errors import CheckpointError
from speechssl.interop.encoder_names import (
    EncoderNames,
    front_end_pairs,
    gated_bias_pairs,
    transformer_pairs,
    wav2vec2_pairs,
)
from speechssl.interop.weights import Pair, joint, linear
from speechssl.nn.context_encoder import ContextVariant

HUGGINGFACE_EPS = 1e-7
"""Added to the variance by Hugging Face's feature extractors when they normalize a waveform."""

Values = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """`prefix` of the encoder's tensors inside of models with a head; `unused` names tensors that the model ignores."""

    prefix: str
    variant: Callable[[Values], ContextVariant]
    pairs: Callable[[EncoderConfig, EncoderNames], list[Pair]]
    unused: Mapping[str, str]


def encoder_config(values: Values, *, normalize: bool, source: str) -> EncoderConfig:
    """The encoder that a Hugging Face `config.json` describes.

    Args:
        values: the file's content.
        normalize: `do_normalize` of the feature extractor.
        source: for messages.

    Raises:
        CheckpointError: the family is unknown, or the model has a part that has no place here.
    """
    family = family_of(values, source=source)
    _refuse(values, source)
    model_type = values["model_type"]
    takes_features = model_type == "wav2vec2-bert"
    is_conformer = model_type in ("wav2vec2-conformer", "wav2vec2-bert")
    front_end: dict[str, Any] = (
        {
            "front_end": "fbank",
            "num_mels": values.get("feature_projection_input_dim", 160) // 2,
            "mel_stack": 2,
        }
        if takes_features
        else {
            "conv_layers": tuple(zip(values["conv_kernel"], values["conv_stride"], strict=True)),
            "conv_dim": values["conv_dim"][0],
            "conv_norm": values.get("feat_extract_norm", "layer"),
            "conv_bias": values["conv_bias"],
            "normalize_waveform": normalize,
            "normalize_eps": HUGGINGFACE_EPS,
            "latent_norm": values.get("feat_proj_layer_norm", True),
        }
    )
    pre_norm = is_conformer or values.get("do_stable_layer_norm", False)
    kernel = (
        values.get("conv_pos_kernel_size", 19)
        if model_type == "data2vec-audio"
        else values.get("num_conv_pos_embeddings", 128)
    )
    return EncoderConfig(
        **front_end,
        feature_gradient_scale=1.0,  # Hugging Face scales none
        model_dim=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=values["num_attention_heads"],
        feed_forward_dim=values["intermediate_size"],
        norm_position="pre" if pre_norm else "post",
        position_kernel=kernel,
        position_groups=values.get("num_conv_pos_embedding_groups", 16),
        input_dropout=values.get("feat_proj_dropout", 0.0),
        dropout=values.get("hidden_dropout", 0.1),
        attention_dropout=values.get("attention_dropout", 0.1),
        activation_dropout=values.get("activation_dropout", 0.0),
        layer_drop=values.get("layerdrop", 0.0),
        variant=family.variant(values),
    )


def family_of(values: Values, *, source: str) -> Family:
    """The family of a `config.json`.

    Raises:
        CheckpointError: not a speech encoder that is known here.
    """
    model_type = values.get("model_type")
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{source}: model_type is {model_type!r}, which is no speech encoder that can be imported; these can:"
            f" {', '.join(FAMILIES)}"
        )
    return FAMILIES[model_type]


def _refuse(values: Values, source: str) -> None:
    """Name what has no place here instead of computing something else."""
    reasons = {
        "add_adapter": "an adapter that shortens the sequence after the encoder",
        "adapter_attn_dim": "language adapters inside of the layers (MMS); merge or drop them with transformers first",
        "use_intermediate_ffn_before_adapter": "a feed-forward part before an adapter",
    }
    found = [f"{key}: {what}" for key, what in reasons.items() if values.get(key)]
    conv_dims = values.get("conv_dim")
    if conv_dims and values["model_type"] != "wav2vec2-bert" and len(set(conv_dims)) > 1:
        found.append(f"conv_dim: convolutions of different widths {list(conv_dims)}")
    if values.get("layer_norm_eps", 1e-5) != 1e-5:
        found.append(f"layer_norm_eps: {values['layer_norm_eps']} where 1e-05 is supported")
    for key in ("feat_extract_activation", "hidden_act"):
        if values.get(key, "gelu") not in (("gelu", "swish", "silu") if key == "hidden_act" else ("gelu",)):
            found.append(f"{key}: {values[key]}")
    if found:
        raise CheckpointError(f"{source}: the model has parts that cannot be imported: {'; '.join(found)}")


def _activation(values: Values) -> Any:
    return "gelu" if values.get("hidden_act", "gelu") == "gelu" else "swish"


def _plain(values: Values) -> ContextVariant:
    return ContextVariant(
        activation=_activation(values),
        positions="batch_norm_convolution" if values.get("conv_pos_batch_norm") else "convolution",
    )


def _wavlm(values: Values) -> ContextVariant:
    return ContextVariant(
        activation=_activation(values),
        attention_positions="gated_bias",
        num_buckets=values.get("num_buckets", 320),
        max_distance=values.get("max_bucket_distance", 800),
    )


def _data2vec(values: Values) -> ContextVariant:
    return ContextVariant(
        activation=_activation(values),
        positions="stacked_convolution",
        num_position_layers=values.get("num_conv_pos_embeddings", 5),
    )


def _conformer(values: Values) -> ContextVariant:
    is_bert = values["model_type"] == "wav2vec2-bert"
    kind = values.get("position_embeddings_type")
    return ContextVariant(
        layer="conformer",
        activation=_activation(values),
        positions="none",
        attention_positions=kind or "none",
        max_left=values.get("left_max_position_embeddings", 64),
        max_right=values.get("right_max_position_embeddings", 8),
        rotary_base=float(values.get("rotary_embedding_base", 10000)),
        conformer_kernel=values.get("conv_depthwise_kernel_size", 31),
        conformer_norm="layer" if is_bert else "batch",
        conformer_causal=is_bert,
        output_norm=not is_bert,
    )


def _plain_pairs(config: EncoderConfig, names: EncoderNames) -> list[Pair]:
    if config.variant.positions == "convolution":
        return wav2vec2_pairs(config, names)
    stem = names.positions.removesuffix(".conv")
    ours = "context_encoder.positions"
    return [
        *front_end_pairs(config, names),
        *linear(f"{ours}.conv", f"{stem}.conv"),
        *batch_norm_pairs(f"{ours}.norm", f"{stem}.batch_norm"),
        *linear("context_encoder.norm", names.norm),
        *transformer_pairs(config, names),
    ]


def _wavlm_pairs(config: EncoderConfig, names: EncoderNames) -> list[Pair]:
    return [*wav2vec2_pairs(config, names), *gated_bias_pairs(config, f"{names.layer}.attention")]


def _data2vec_pairs(config: EncoderConfig, names: EncoderNames) -> list[Pair]:
    stem = names.positions.removesuffix(".conv")
    pairs = [*front_end_pairs(config, names), *linear("context_encoder.norm", names.norm)]
    for i in range(config.variant.num_position_layers):
        pairs += linear(f"context_encoder.positions.convs.{i}", f"{stem}.layers.{i}.conv")
    return [*pairs, *transformer_pairs(config, names)]


def _conformer_pairs(config: EncoderConfig, names: EncoderNames) -> list[Pair]:
    pairs = front_end_pairs(config, names)
    if config.variant.output_norm:
        pairs += linear("context_encoder.norm", names.norm)
    for i in range(config.num_layers):
        pairs += _conformer_layer_pairs(config, f"context_encoder.layers.{i}", names.layer.format(i=i))
    return pairs


def _conformer_layer_pairs(config: EncoderConfig, ours: str, theirs: str) -> list[Pair]:
    pairs: list[Pair] = []
    for our_part, their_part in (("first_feed_forward", "ffn1"), ("feed_forward", "ffn2")):
        pairs += linear(f"{ours}.{our_part}_norm", f"{theirs}.{their_part}_layer_norm")
        pairs += linear(f"{ours}.{our_part}.expand", f"{theirs}.{their_part}.intermediate_dense")
        pairs += linear(f"{ours}.{our_part}.contract", f"{theirs}.{their_part}.output_dense")
    attention = f"{theirs}.self_attn"
    pairs += linear(f"{ours}.attention_norm", f"{theirs}.self_attn_layer_norm")
    pairs += joint(f"{ours}.attention.input_projection", [f"{attention}.linear_{name}" for name in "qkv"])
    pairs += linear(f"{ours}.attention.output_projection", f"{attention}.linear_out")
    positions = f"{ours}.attention.positions"
    if config.variant.attention_positions == "relative":
        pairs += linear(f"{positions}.projection", f"{attention}.linear_pos", bias=False)
        pairs.append(Pair(ours=f"{positions}.content_bias", theirs=f"{attention}.pos_bias_u"))
        pairs.append(Pair(ours=f"{positions}.position_bias", theirs=f"{attention}.pos_bias_v"))
    elif config.variant.attention_positions == "relative_key":
        pairs.append(Pair(ours=f"{positions}.keys.weight", theirs=f"{attention}.distance_embedding.weight"))
    ours, convolution = f"{ours}.convolution", f"{theirs}.conv_module"
    pairs += linear(f"{ours}.input_norm", f"{convolution}.layer_norm")
    pairs += linear(f"{ours}.gate", f"{convolution}.pointwise_conv1", bias=False)
    pairs += linear(f"{ours}.depthwise", f"{convolution}.depthwise_conv", bias=False)
    if config.variant.conformer_norm == "batch":
        pairs += batch_norm_pairs(f"{ours}.norm", f"{convolution}.batch_norm")
    else:
        pairs += linear(f"{ours}.norm", f"{convolution}.depthwise_layer_norm")
    pairs += linear(f"{ours}.output", f"{convolution}.pointwise_conv2", bias=False)
    return [*pairs, *linear(f"{ours.removesuffix('.convolution')}.output_norm", f"{theirs}.final_layer_norm")]


def batch_norm_pairs(ours: str, theirs: str) -> list[Pair]:
    """Weights and running statistics of a batch norm."""
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [Pair(ours=f"{ours}.{name}", theirs=f"{theirs}.{name}") for name in names]


_FIXED = {"encoder.embed_positions.inv_freq": "a constant of rotary positions, computed here"}
_UNUSED_POSITIONS = {"encoder.pos_conv_embed.": "wav2vec2-conformer holds a positional convolution that it never uses"}

FAMILIES: dict[str, Family] = {
    "wav2vec2": Family(prefix="wav2vec2.", variant=_plain, pairs=_plain_pairs, unused={}),
    "hubert": Family(prefix="hubert.", variant=_plain, pairs=_plain_pairs, unused={}),
    "wavlm": Family(prefix="wavlm.", variant=_wavlm, pairs=_wavlm_pairs, unused={}),
    "data2vec-audio": Family(prefix="data2vec_audio.", variant=_data2vec, pairs=_data2vec_pairs, unused={}),
    "wav2vec2-conformer": Family(
        prefix="wav2vec2_conformer.", variant=_conformer, pairs=_conformer_pairs, unused={**_FIXED, **_UNUSED_POSITIONS}
    ),
    "wav2vec2-bert": Family(prefix="wav2vec2_bert.", variant=_conformer, pairs=_conformer_pairs, unused=_FIXED),
}
"""By `model_type`."""
