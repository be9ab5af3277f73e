"""fairseq2 models of the families `wav2vec2` and `wav2vec2_asr`.

A model is an asset card (YAML) beside its weights: `checkpoint` names the file, `model_config` what differs from
`model_arch`. Waveforms are normalized by fairseq2's data pipeline, not by its model, so a card does not tell; it does
for the models that were trained so (`large_lv60k` and its like).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import torch
from torch import Tensor

from speechssl.encoder import EncoderConfig
from speechssl.errors import CheckpointError
from speechssl.interop.card import read_licence
from speechssl.interop.encoder_names import EncoderNames, wav2vec2_pairs
from speechssl.interop.fairseq2_cards import CARD_KEY, card_path, checkpoint_path, model_config, read_card
from speechssl.interop.files import read_tensors
from speechssl.interop.labels import CtcParts, ctc_parts, read_sentencepiece
from speechssl.interop.model import ImportedModel, Origin
from speechssl.interop.weights import Pair, encoder_shapes, import_tensors, linear, objective_shapes
from speechssl.objectives.contrastive import ContrastiveConfig
from speechssl.text import Vocabulary

OBJECTIVE_PAIRS = [
    *linear("quantizer.logits", "quantizer.entry_proj"),
    Pair(ours="quantizer.codebooks", theirs="quantizer.entries"),
    *linear("target_projection", "final_target_proj"),
    *linear("context_projection", "final_proj"),
]
UNUSED = {"quantizer.num_updates": "a counter; the temperature here is a function of the step"}


def encoder_names(norm_order: str) -> EncoderNames:
    """Names within both families; the norm of the context network stands where it is applied."""
    front = "encoder_frontend"
    return EncoderNames(
        conv=f"{front}.feature_extractor.layers.{{i}}.conv",
        group_norm=f"{front}.feature_extractor.layers.0.group_norm",
        conv_norm=f"{front}.feature_extractor.layers.{{i}}.layer_norm",
        latent_norm=f"{front}.post_extract_layer_norm",
        projection=f"{front}.model_dim_proj",
        mask_embedding="masker.temporal_mask_embed",
        positions=f"{front}.pos_encoder.conv",
        norm=f"{front}.layer_norm" if norm_order == "post" else "encoder.layer_norm",
        query="self_attn.q_proj",
        key="self_attn.k_proj",
        value="self_attn.v_proj",
        attention_output="self_attn.output_proj",
        attention_norm="self_attn_layer_norm",
        expand="ffn.inner_proj",
        contract="ffn.output_proj",
        feed_forward_norm="ffn_layer_norm",
    )


def read_fairseq2(path: str | Path) -> ImportedModel:
    """Import the model of an asset card, or of a folder that we wrote.

    Raises:
        CheckpointError: another family, an unknown architecture, parts that cannot be imported, or weights that do not
            fit.
    """
    path = card_path(Path(path))
    card = read_card(path)
    values = model_config(card, path)
    tensors = read_tensors(checkpoint_path(card, path))
    notes: list[str] = []
    config = encoder_config(values["encoder_config"], path)
    if CARD_KEY in card:
        config = replace(config, normalize_waveform=bool(card[CARD_KEY]["normalize_waveform"]))
    elif not config.normalize_waveform:
        notes.append("waveforms are taken as they are, as is usual for this architecture; a card does not tell")
    is_asr = card["model_family"] == "wav2vec2_asr"
    is_head = ("final_proj.",) if is_asr else ("quantizer.", "final_proj.", "final_target_proj.")
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith(is_head)}
    heads = {name: tensor for name, tensor in tensors.items() if name.startswith(is_head)}
    names = encoder_names(config.norm_position)
    if "masker.temporal_mask_embed" not in encoder:  # a recogniser that was trained without masking
        encoder["masker.temporal_mask_embed"] = torch.rand(config.model_dim, generator=torch.Generator().manual_seed(0))
        notes.append("the model has no mask embedding; a random one stands in its place")
    state, left_out = import_tensors(
        wav2vec2_pairs(config, names),
        encoder,
        encoder_shapes(config),
        source=path,
        unused={"masker.spatial": "nothing is learnt for masked channels here"},
    )
    notes += left_out
    objective: ContrastiveConfig | None = None
    objective_state: dict[str, Tensor] = {}
    found = CtcParts()
    if is_asr:
        head = {name.removeprefix("final_proj."): tensor for name, tensor in heads.items()}
        found = ctc_parts(
            head, _labels(card, path), blank=0, source=str(path), remedy="name its sentencepiece model as tokenizer"
        )
    elif heads:
        objective = objective_config(values)
        shapes = objective_shapes(objective, config)
        objective_state, left_out = import_tensors(OBJECTIVE_PAIRS, heads, shapes, source=path, unused=UNUSED)
        notes += left_out
    return ImportedModel(
        kind="ctc" if found.vocabulary is not None else "encoder" if objective is None else "pretraining",
        origin=Origin(
            format="fairseq2",
            source=str(path),
            architecture=str(card["model_family"]),
            licence=read_licence(path.parent) if CARD_KEY in card else None,
        ),
        config=config,
        encoder_state=state,
        objective=objective,
        objective_state=objective_state,
        vocabulary=found.vocabulary,
        head_state=found.state,
        head_dropout=float(values.get("final_dropout_p") or 0.0) if is_asr else 0.0,
        normalizer=found.normalizer,
        no_text=found.no_text,
        notes=(*notes, *found.notes),
    )


def _labels(card: Mapping[str, Any], path: Path) -> Vocabulary | None:
    """The vocabulary of the card's own tokenizer; None where it names none, or one of another card."""
    parsed = urlparse(str(card.get("tokenizer") or ""))
    if not parsed.path or parsed.scheme not in ("", "file"):
        return None
    return read_sentencepiece(path.parent / unquote(parsed.path))


def encoder_config(values: Mapping[str, Any], path: Path) -> EncoderConfig:
    """Our configuration of a `Wav2Vec2EncoderConfig`, given as a dictionary.

    Raises:
        CheckpointError: it has parts that cannot be imported.
    """
    refused = [
        f"{name}: {values[name]}"
        for name, usual in (("use_fbank", False), ("use_conformer", False), ("pos_encoder_type", "conv"),
                            ("pos_encoder_depth", 1))
        if values[name] != usual
    ]  # fmt: skip
    convs = [tuple(layer) for layer in values["feature_extractor_layer_descs"]]
    if len({dim for dim, _, _ in convs}) > 1:
        refused.append(f"feature_extractor_layer_descs: convolutions of different widths {convs}")
    if refused:
        raise CheckpointError(f"{path}: the model has parts that cannot be imported: {'; '.join(refused)}")
    pre_norm = str(getattr(values["norm_order"], "name", values["norm_order"])).lower().startswith("pre")
    layer_norm_convs = bool(values["feature_extractor_layer_norm_convs"])
    return EncoderConfig(
        conv_layers=tuple((int(kernel), int(stride)) for _, kernel, stride in convs),
        conv_dim=int(convs[0][0]),
        conv_norm="layer" if layer_norm_convs else "group",
        conv_bias=bool(values["feature_extractor_bias"]),
        normalize_waveform=layer_norm_convs,
        feature_gradient_scale=float(values["feature_grad_scale"]),
        model_dim=int(values["model_dim"]),
        num_layers=int(values["num_encoder_layers"]),
        num_heads=int(values["num_encoder_attn_heads"]),
        feed_forward_dim=int(values["ffn_inner_dim"]),
        norm_position="pre" if pre_norm else "post",
        position_kernel=int(values["pos_conv_kernel_size"]),
        position_groups=int(values["num_pos_conv_groups"]),
        input_dropout=float(values["first_pass_dropout_p"]),
        dropout=float(values["dropout_p"]),
        attention_dropout=float(values["attn_dropout_p"]),
        activation_dropout=float(values["ffn_inner_dropout_p"]),
        layer_drop=float(values["layer_drop_p"]),
    )


def objective_config(values: Mapping[str, Any]) -> ContrastiveConfig:
    """Our objective's configuration of a `Wav2Vec2Config`, given as a dictionary."""
    start, end, decay = values["codebook_sampling_temperature"]
    return ContrastiveConfig(
        num_codebooks=int(values["num_codebooks"]),
        num_entries=int(values["num_codebook_entries"]),
        quantized_dim=int(values["quantized_dim"]),
        final_dim=int(values["final_dim"]),
        mask_probability=float(values["max_temporal_mask_prob"]),
        mask_span=int(values["temporal_mask_span_len"]),
        num_distractors=int(values["num_distractors"]),
        logit_temperature=float(values["logit_temp"]),
        gumbel_temperature_start=float(start),
        gumbel_temperature_end=float(end),
        gumbel_temperature_decay=float(decay),
        feature_dropout=0.0,
    )
