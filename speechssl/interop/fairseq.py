"""Original fairseq checkpoints (`.pt`) of wav2vec 2.0, HuBERT and data2vec, pre-trained and fine-tuned with CTC, and
WavLM's own files, whose tensors are named as fairseq's.

Their settings lie beside the weights. What they do not tell is read from the weights' shapes. The labels of a
fine-tuned model lie in a file of their own, `dict.ltr.txt`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl.encoder import WAV2VEC2_CONV_LAYERS, EncoderConfig
from speechssl.errors import CheckpointError
from speechssl.interop.encoder_names import (
    EncoderNames,
    front_end_pairs,
    gated_bias_pairs,
    transformer_pairs,
    wav2vec2_pairs,
)
from speechssl.interop.labels import ctc_parts, read_dictionary
from speechssl.interop.model import ImportedModel, Origin
from speechssl.interop.pickled import Inert, load_pickled, settings
from speechssl.interop.weights import Pair, encoder_shapes, import_tensors, linear, objective_shapes, plain_name
from speechssl.nn.context_encoder import ContextVariant
from speechssl.objectives.contrastive import ContrastiveConfig

NAMES = EncoderNames(
    conv="feature_extractor.conv_layers.{i}.0",
    group_norm="feature_extractor.conv_layers.0.2",
    conv_norm="feature_extractor.conv_layers.{i}.2.1",
    latent_norm="layer_norm",
    projection="post_extract_proj",
    mask_embedding="mask_emb",
    positions="encoder.pos_conv.0",
    norm="encoder.layer_norm",
    layer="encoder.layers.{i}",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention_output="self_attn.out_proj",
    attention_norm="self_attn_layer_norm",
    expand="fc1",
    contract="fc2",
    feed_forward_norm="final_layer_norm",
)

OBJECTIVE_PAIRS = [
    *linear("quantizer.logits", "quantizer.weight_proj"),
    Pair(ours="quantizer.codebooks", theirs="quantizer.vars"),
    *linear("target_projection", "project_q"),
    *linear("context_projection", "final_proj"),
]

_HEAD_DIM = 64  # of every published fairseq model
_STACKED = "encoder.pos_conv.{i}.0"
"""data2vec's positional convolutions."""
_CTC = "w2v_encoder.proj."
_POSITION_BIAS = "encoder.layers.0.self_attn.relative_attention_bias.weight"
"""WavLM's `[num_buckets, num_heads]`."""
_MAX_DISTANCE = 800  # of every published WavLM


def is_fairseq(path: Path) -> bool:
    """Whether it may be one, by its name; `read_fairseq` tells for sure."""
    return path.is_file() and path.suffix in (".pt", ".bin", ".pth")


def read_fairseq(path: str | Path, *, dictionary: str | Path | None = None) -> ImportedModel:
    """Import a checkpoint.

    Args:
        path: the `.pt` file.
        dictionary: labels of a fine-tuned model; `dict.ltr.txt` beside the checkpoint (or of the label type that its
            settings name) when None. Without one the encoder alone comes over.

    Raises:
        CheckpointError: not a fairseq checkpoint of a wav2vec 2.0, HuBERT or data2vec model, or one with other parts.
    """
    path = Path(path)
    content = load_pickled(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{path}: no fairseq checkpoint: it holds no state under 'model'")
    tensors = {name: tensor for name, tensor in content["model"].items() if isinstance(tensor, Tensor)}
    notes = [f"left out {name}: it is no tensor" for name in content["model"] if name not in tensors]
    outer = next((p for p in ("w2v_encoder.w2v_model.", "") if f"{p}post_extract_proj.weight" in tensors), None)
    if outer is None:
        raise CheckpointError(
            f"{path}: no wav2vec 2.0, HuBERT or data2vec of fairseq: it has no post_extract_proj; its tensors begin"
            f" with {', '.join(sorted(tensors)[:3])}"
        )
    told = _settings(content)
    inside = {
        plain_name(name.removeprefix(outer)): tensor for name, tensor in tensors.items() if name.startswith(outer)
    }
    config = _encoder_config(inside, told, notes, path)
    encoder, objective = _split(inside)
    state, left_out = import_tensors(_pairs(config), encoder, encoder_shapes(config), source=path)
    notes += left_out
    outside = {name: tensor for name, tensor in tensors.items() if not name.startswith(outer)}
    head = {name.removeprefix(_CTC): outside.pop(name) for name in [*outside] if name.startswith(_CTC)}
    file = _dictionary(path, content) if dictionary is None else Path(dictionary)
    remedy = f"put its dictionary beside it, as {file.name}"
    labels = read_dictionary(file) if head and (dictionary is not None or file.is_file()) else None
    found = ctc_parts(head, labels, blank=0, source=str(path), remedy=remedy)
    objective_config: ContrastiveConfig | None = None
    objective_state: dict[str, Tensor] = {}
    if outer or "quantizer.vars" not in objective:
        notes += [f"left out {name}: no place here" for name in objective]
    else:
        objective_config, objective_state = _objective(objective, told, config, path)
    notes += [f"left out {name}: no place here" for name in outside]
    return ImportedModel(
        kind="ctc" if found.vocabulary is not None else "pretraining" if objective_config is not None else "encoder",
        origin=Origin(format="fairseq", source=str(path), architecture=_architecture(inside, config)),
        config=config,
        encoder_state=state,
        objective=objective_config,
        objective_state=objective_state,
        vocabulary=found.vocabulary,
        head_state=found.state,
        head_dropout=float(_outer_settings(content).get("final_dropout") or 0.0),
        normalizer=found.normalizer,
        no_text=found.no_text,
        notes=(*notes, *found.notes),
    )


def _pairs(config: EncoderConfig) -> list[Pair]:
    if config.variant.attention_positions == "gated_bias":
        gated = gated_bias_pairs(
            config,
            f"{NAMES.layer}.self_attn",
            embedding="relative_attention_bias",
            gate="grep_linear",
            scale="grep_a",
        )
        return [*wav2vec2_pairs(config, NAMES), *gated]
    if config.variant.positions == "convolution":
        return wav2vec2_pairs(config, NAMES)
    pairs = [*front_end_pairs(config, NAMES), *linear("context_encoder.norm", NAMES.norm)]
    for i in range(config.variant.num_position_layers):
        pairs += linear(f"context_encoder.positions.convs.{i}", _STACKED.format(i=i))
    return [*pairs, *transformer_pairs(config, NAMES)]


def _architecture(tensors: Mapping[str, Tensor], config: EncoderConfig) -> str:
    if config.variant.positions == "stacked_convolution":
        return "data2vec-audio"
    if config.variant.attention_positions == "gated_bias":
        return "wavlm"
    return "hubert" if "label_embs_concat" in tensors else "wav2vec2"


def _dictionary(path: Path, content: Mapping[str, Any]) -> Path:
    """Where the labels of a fine-tuned model belong."""
    labels = _outer_settings(content).get("labels")
    return path.parent / f"dict.{labels if isinstance(labels, str) else 'ltr'}.txt"


def _split(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the encoder, and those of a pre-training objective."""
    starts = ("quantizer.", "project_q.", "final_proj.", "label_embs_concat")
    objective = {name: tensor for name, tensor in tensors.items() if name.startswith(starts)}
    return {name: tensor for name, tensor in tensors.items() if name not in objective}, objective


def _outer_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the model and the task; for a fine-tuned one not those of the pre-training."""
    cfg = settings(content.get("cfg"))
    model = cfg if "model" not in cfg else settings(cfg["model"])  # WavLM's cfg is that of the model itself
    return {**settings(content.get("args")), **model, **settings(cfg.get("task"))}


def _settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings, with the task's `normalize`; those of the pre-trained model for a fine-tuned one."""
    told = _outer_settings(content)
    inner = told.get("w2v_args")  # of a fine-tuned model: the pre-training's, in the same two forms
    if inner is not None:
        nested = settings(inner)
        told = {**told, **nested, **settings(nested.get("model")), **settings(nested.get("task"))}
    return {name: value for name, value in told.items() if not isinstance(value, (Inert, dict))}


def _encoder_config(
    tensors: Mapping[str, Tensor], told: Mapping[str, Any], notes: list[str], path: Path
) -> EncoderConfig:
    kernels = [tensors[f"feature_extractor.conv_layers.{i}.0.weight"].shape for i in range(_count_convs(tensors))]
    model_dim, latent_dim = tensors["post_extract_proj.weight"].shape
    layer_norm_convs = "feature_extractor.conv_layers.0.2.1.weight" in tensors
    num_stacked = sum(f"{_STACKED.format(i=i)}.weight" in tensors for i in range(100))
    positions = f"{_STACKED.format(i=0)}.weight" if num_stacked else f"{NAMES.positions}.weight_v"
    if positions not in tensors:
        raise CheckpointError(f"{path}: has no {positions}, so its positions are of a kind that is not known")
    direction = tensors[positions]
    pre_norm = bool(told.get("layer_norm_first", layer_norm_convs and not num_stacked))
    if "layer_norm_first" not in told:
        notes.append(f"the file does not tell layer_norm_first; taken to be {pre_norm}, as is usual beside its convs")
    normalize = told.get("normalize")
    if normalize is None:
        normalize = layer_norm_convs
        notes.append(f"the file does not tell whether waveforms are normalized; taken to be {normalize}")
    bias = tensors.get(_POSITION_BIAS)
    usual = bias.shape[1] if bias is not None else max(1, model_dim // _HEAD_DIM)
    num_heads = int(told.get("encoder_attention_heads") or usual)
    if "encoder_attention_heads" not in told and bias is None:
        notes.append(
            f"the file does not tell the number of attention heads; taken to be {num_heads}, of {_HEAD_DIM} dims"
        )
    strides = _strides(told, len(kernels))
    return EncoderConfig(
        conv_layers=tuple((shape[2], stride) for shape, stride in zip(kernels, strides, strict=True)),
        conv_dim=latent_dim,
        conv_norm="layer" if layer_norm_convs else "group",
        conv_bias="feature_extractor.conv_layers.0.0.bias" in tensors,
        normalize_waveform=bool(normalize),
        feature_gradient_scale=float(told.get("feature_grad_mult") or 0.1),
        model_dim=model_dim,
        num_layers=1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layers.")),
        num_heads=num_heads,
        feed_forward_dim=tensors["encoder.layers.0.fc1.weight"].shape[0],
        norm_position="pre" if pre_norm else "post",
        position_kernel=direction.shape[2],
        position_groups=model_dim // direction.shape[1],
        input_dropout=float(told.get("dropout_input") or 0.0),
        dropout=float(told.get("dropout") or 0.0),
        attention_dropout=float(told.get("attention_dropout") or 0.0),
        activation_dropout=float(told.get("activation_dropout") or 0.0),
        layer_drop=float(told.get("encoder_layerdrop") or 0.0),
        variant=_variant(bias, num_stacked, told, notes),
    )


def _variant(bias: Tensor | None, num_stacked: int, told: Mapping[str, Any], notes: list[str]) -> ContextVariant:
    if num_stacked:
        return ContextVariant(positions="stacked_convolution", num_position_layers=num_stacked)
    if bias is None:
        return ContextVariant()
    max_distance = int(told.get("max_distance") or _MAX_DISTANCE)
    if "max_distance" not in told:
        notes.append(f"the file does not tell max_distance; taken to be {max_distance}, as in the published models")
    return ContextVariant(attention_positions="gated_bias", num_buckets=bias.shape[0], max_distance=max_distance)


def _count_convs(tensors: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("feature_extractor.conv_layers.") and name.endswith(".0.weight") for name in tensors)


def _strides(told: Mapping[str, Any], num_convs: int) -> list[int]:
    """Strides from `conv_feature_layers`, such as `[(512, 10, 5)] + [(512, 3, 2)] * 4`, else wav2vec 2.0's."""
    import ast

    text = told.get("conv_feature_layers")
    if isinstance(text, str):
        strides = []
        for term in text.split("+"):
            layers, _, times = term.partition("*")
            strides += [int(layer[2]) for layer in ast.literal_eval(layers.strip())] * int(times or 1)
        return strides
    return [stride for _, stride in WAV2VEC2_CONV_LAYERS][:num_convs]


def _objective(
    tensors: Mapping[str, Tensor], told: Mapping[str, Any], config: EncoderConfig, path: Path
) -> tuple[ContrastiveConfig, dict[str, Tensor]]:
    groups = int(told.get("latent_groups") or 2)
    quantized_dim = tensors["quantizer.vars"].shape[2] * groups
    temperatures = told.get("latent_temp") or (2.0, 0.5, 0.999995)
    if isinstance(temperatures, str):
        temperatures = [float(value) for value in temperatures.strip("()[] ").split(",")]
    weights = told.get("loss_weights") or (0.1, 10.0)
    objective = ContrastiveConfig(
        num_codebooks=groups,
        num_entries=tensors["quantizer.vars"].shape[1] // groups,
        quantized_dim=quantized_dim,
        final_dim=tensors["final_proj.weight"].shape[0],
        mask_probability=float(told.get("mask_prob") or 0.65),
        mask_span=int(told.get("mask_length") or 10),
        num_distractors=int(told.get("num_negatives") or 100),
        logit_temperature=float(told.get("logit_temp") or 0.1),
        diversity_weight=float(weights[0]),
        feature_penalty_weight=float(weights[1]) if len(weights) > 1 else 0.0,
        gumbel_temperature_start=float(temperatures[0]),
        gumbel_temperature_end=float(temperatures[1]),
        gumbel_temperature_decay=float(temperatures[2]),
        feature_dropout=float(told.get("dropout_features") or 0.0),
    )
    unused = {"quantizer.num_updates": "a counter of fairseq2"}
    shapes = objective_shapes(objective, config)
    state, _ = import_tensors(OBJECTIVE_PAIRS, tensors, shapes, source=path, unused=unused)
    return objective, state
