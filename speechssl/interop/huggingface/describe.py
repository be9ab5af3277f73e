"""What Hugging Face's `config.json` says of a model of ours, and whether it says all that matters."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig
from speechssl.errors import CheckpointError
from speechssl.interop.gate import encoder_of
from speechssl.interop.huggingface.encoders import encoder_config
from speechssl.interop.huggingface.vocabulary import special_tokens
from speechssl.interop.model import Exportable, PretrainingModel
from speechssl.nn.context_encoder import ContextVariant

CLASSES = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "data2vec-audio": "Data2VecAudio",
    "wav2vec2-conformer": "Wav2Vec2Conformer",
    "wav2vec2-bert": "Wav2Vec2Bert",
}
"""How the names of a family's classes begin, by `model_type`."""
# of no effect on what an evaluated model computes, or compared as the format has it
_FREE = {"feature_gradient_scale", "conv_padding", "normalize_eps", "variant", "sample_rate"}


def family_for(config: EncoderConfig, architecture: str | None = None) -> str:
    """The family (`model_type`) that computes what an encoder of this configuration does.

    Args:
        config: of the encoder.
        architecture: the family that it came from, which is kept where it computes the same (`hubert`).

    Raises:
        CheckpointError: there is none.
    """
    if config.front_end == "log_mel":
        raise CheckpointError(
            "the encoder takes log-mel features (front_end=log_mel, as the preset tiny and the shipped model), which no"
            " Hugging Face speech model computes; train with front_end=waveform (preset small, base or large), or"
            " export to another format"
        )
    if config.front_end == "fbank":
        return "wav2vec2-bert"
    variant = config.variant
    if variant.layer == "conformer":
        return "wav2vec2-conformer"
    if variant.attention_positions == "gated_bias":
        return "wavlm"
    if variant.positions == "stacked_convolution":
        return "data2vec-audio"
    if architecture == "hubert" or variant.positions == "batch_norm_convolution" or not config.latent_norm:
        return "hubert"
    return "wav2vec2"


def huggingface_config(model: Exportable, family: str) -> dict[str, Any]:
    """The fields of `config.json`."""
    config = encoder_of(model).config
    variant = config.variant
    values: dict[str, Any] = {
        "model_type": family,
        "hidden_size": config.model_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.feed_forward_dim,
        "hidden_act": variant.activation,
        "feat_proj_dropout": config.input_dropout,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "layerdrop": config.layer_drop,
        "final_dropout": 0.0,
        "mask_time_prob": 0.05,
        "mask_time_length": 10,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family == "wav2vec2-bert":
        values["feature_projection_input_dim"] = config.latent_dim
    else:
        values |= {
            "conv_dim": [config.conv_dim] * len(config.conv_layers),
            "conv_kernel": [kernel for kernel, _ in config.conv_layers],
            "conv_stride": [stride for _, stride in config.conv_layers],
            "conv_bias": config.conv_bias,
            "feat_extract_norm": config.conv_norm,
            "num_conv_pos_embeddings": config.position_kernel,
            "num_conv_pos_embedding_groups": config.position_groups,
            "do_stable_layer_norm": config.norm_position == "pre",
        }
    values |= _variant_config(config, family)
    if isinstance(model, CtcModel):
        values |= _ctc_config(model)
    elif isinstance(model, PretrainingModel):
        values |= _pretraining_config(model)
    return values


def _variant_config(config: EncoderConfig, family: str) -> dict[str, Any]:
    variant = config.variant
    if family == "hubert":
        return {
            "feat_proj_layer_norm": config.latent_norm,
            "conv_pos_batch_norm": variant.positions == "batch_norm_convolution",
        }
    if family == "wavlm":
        return {"num_buckets": variant.num_buckets, "max_bucket_distance": variant.max_distance}
    if family == "data2vec-audio":
        return {
            "num_conv_pos_embeddings": variant.num_position_layers,
            "conv_pos_kernel_size": config.position_kernel,
        }
    if variant.layer == "conformer":
        kind = variant.attention_positions
        return {
            "position_embeddings_type": None if kind == "none" else kind,
            "conv_depthwise_kernel_size": variant.conformer_kernel,
            "conformer_conv_dropout": config.dropout,
            "rotary_embedding_base": int(variant.rotary_base),
            "left_max_position_embeddings": variant.max_left,
            "right_max_position_embeddings": variant.max_right,
        }
    return {}


def _ctc_config(model: CtcModel) -> dict[str, Any]:
    vocabulary = model.vocabulary
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    names = special_tokens(vocabulary)
    return {
        "vocab_size": len(vocabulary),
        "final_dropout": model.dropout,
        "ctc_loss_reduction": "mean",
        **{f"{name}_id": None if token is None else ids[token] for name, token in names.items() if name != "unk_token"},
    }


def _pretraining_config(model: PretrainingModel) -> dict[str, Any]:
    objective = model.objective.config
    return {
        "num_codevector_groups": objective.num_codebooks,
        "num_codevectors_per_group": objective.num_entries,
        "codevector_dim": objective.quantized_dim,
        "proj_codevector_dim": objective.final_dim,
        "num_negatives": objective.num_distractors,
        "contrastive_logits_temperature": objective.logit_temperature,
        "diversity_loss_weight": objective.diversity_weight,
        "feat_quantizer_dropout": objective.feature_dropout,
        "mask_time_prob": objective.mask_probability,
        "mask_time_length": objective.mask_span,
    }


def check_expressed(config: EncoderConfig, values: Mapping[str, Any]) -> None:
    """What is written must read back as the same architecture.

    Raises:
        CheckpointError: names the fields that the family does not have.
    """
    back = encoder_config(values, normalize=config.normalize_waveform, source="export")
    names = [field.name for field in fields(EncoderConfig) if field.name not in _FREE]
    if config.front_end == "fbank":
        names = [name for name in names if not name.startswith(("conv_", "position_", "normalize_"))]
    else:
        names = [name for name in names if not name.startswith("mel_") and name != "num_mels"]
    if config.variant.positions == "none":
        names = [name for name in names if not name.startswith("position_")]
    differing = [
        f"{name}={getattr(config, name)!r} (it would be {getattr(back, name)!r})"
        for name in names
        if getattr(config, name) != getattr(back, name)
    ]
    differing += [
        f"variant.{name}={getattr(config.variant, name)!r} (it would be {getattr(back.variant, name)!r})"
        for name in _used(config.variant)
        if getattr(config.variant, name) != getattr(back.variant, name)
    ]
    if differing:
        raise CheckpointError(
            f"transformers' {CLASSES[values['model_type']]} computes something else: it has no {', '.join(differing)}"
        )


def _used(variant: ContextVariant) -> list[str]:
    """The fields of a variant that change what it computes."""
    names = ["layer", "activation", "positions", "attention_positions"]
    if variant.positions == "stacked_convolution":
        names.append("num_position_layers")
    if variant.layer == "conformer":
        names += ["conformer_kernel", "conformer_norm", "conformer_causal", "output_norm"]
    by_kind = {
        "gated_bias": ["num_buckets", "max_distance"], "rotary": ["rotary_base"],
        "relative_key": ["max_left", "max_right"],
    }  # fmt: skip
    return names + by_kind.get(variant.attention_positions, [])
