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
import yaml
from torch import Tensor

from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop.encoder_names import EncoderNames, wav2vec2_pairs
from speechssl.interop.labels import CtcParts, ctc_parts, read_sentencepiece
from speechssl.interop.model import ImportedModel, Origin
from speechssl.interop.pickled import load_pickled
from speechssl.interop.weights import Pair, import_tensors, linear
from speechssl.objectives.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.text import Vocabulary

FAMILIES = ("wav2vec2", "wav2vec2_asr")
CARD_FILE = "fairseq2.yaml"
"""The card in a folder that we wrote."""
CARD_KEY = "speechssl"
"""Of a card that we wrote: what fairseq2 does not ask for, `normalize_waveform`."""

OBJECTIVE_PAIRS = [
    *linear("quantizer.logits", "quantizer.entry_proj"),
    Pair(ours="quantizer.codebooks", theirs="quantizer.entries"),
    *linear("target_projection", "final_target_proj"),
    *linear("context_projection", "final_proj"),
]
UNUSED = {"quantizer.num_updates": "a counter; the temperature here is a function of the step"}

_ENCODER: dict[str, Any] = {
    "model_dim": 768, "feature_dim": 512, "use_fbank": False, "first_pass_dropout_p": 0.0, "layer_norm_features": True,
    "feature_extractor_layer_descs": [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2,
    "feature_extractor_bias": False, "feature_extractor_layer_norm_convs": False, "feature_grad_scale": 0.1,
    "pos_encoder_type": "conv", "pos_encoder_depth": 1, "pos_conv_kernel_size": 128, "num_pos_conv_groups": 16,
    "use_conformer": False, "num_encoder_layers": 12, "num_encoder_attn_heads": 12, "ffn_inner_dim": 3072,
    "dropout_p": 0.1, "attn_dropout_p": 0.1, "ffn_inner_dropout_p": 0.0, "layer_drop_p": 0.05, "norm_order": "post",
}  # fmt: skip
_LARGE: dict[str, Any] = {
    **_ENCODER, "model_dim": 1024, "num_encoder_layers": 24, "num_encoder_attn_heads": 16, "ffn_inner_dim": 4096,
    "dropout_p": 0.0, "layer_drop_p": 0.2,
}  # fmt: skip
_LARGE_LV60K: dict[str, Any] = {
    **_LARGE, "layer_norm_features": False, "feature_extractor_bias": True,
    "feature_extractor_layer_norm_convs": True, "layer_drop_p": 0.0, "norm_order": "pre",
}  # fmt: skip
_MODEL: dict[str, Any] = {
    "final_dim": 256, "temporal_mask_span_len": 10, "max_temporal_mask_prob": 0.69, "quantized_dim": 256,
    "num_codebooks": 2, "num_codebook_entries": 320, "codebook_sampling_temperature": (2.0, 0.5, 0.999995),
    "num_distractors": 100, "logit_temp": 0.1,
}  # fmt: skip
_LARGE_MODEL = {**_MODEL, "quantized_dim": 768, "final_dim": 768}
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "base": {**_MODEL, "encoder_config": _ENCODER},
    "large": {**_LARGE_MODEL, "encoder_config": _LARGE},
    "large_lv60k": {
        **_LARGE_MODEL,
        "codebook_sampling_temperature": (2.0, 0.1, 0.999995),
        "encoder_config": _LARGE_LV60K,
    },
}
"""fairseq2's own, of `wav2vec2`; the recogniser's are the same encoders."""


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


def is_fairseq2(path: Path) -> bool:
    """Whether it is an asset card of one of the families, or a folder of ours with one."""
    path = _card_path(path)
    if not path.is_file() or path.suffix not in (".yaml", ".yml"):
        return False
    try:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(card, dict) and card.get("model_family") in FAMILIES


def _card_path(path: Path) -> Path:
    return path / CARD_FILE if path.is_dir() else path


def read_fairseq2(path: str | Path) -> ImportedModel:
    """Import the model of an asset card, or of a folder that we wrote.

    Raises:
        CheckpointError: another family, an unknown architecture, parts that cannot be imported, or weights that do not
            fit.
    """
    path = _card_path(Path(path))
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
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in SpeechEncoder(config).state_dict().items()}
    names = encoder_names(config.norm_position)
    if "masker.temporal_mask_embed" not in encoder:  # a recogniser that was trained without masking
        encoder["masker.temporal_mask_embed"] = torch.rand(config.model_dim, generator=torch.Generator().manual_seed(0))
        notes.append("the model has no mask embedding; a random one stands in its place")
    state, left_out = import_tensors(
        wav2vec2_pairs(config, names),
        encoder,
        shapes,
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
        model = ContrastiveObjective(objective, latent_dim=config.latent_dim, model_dim=config.model_dim)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        objective_state, left_out = import_tensors(OBJECTIVE_PAIRS, heads, shapes, source=path, unused=UNUSED)
        notes += left_out
    return ImportedModel(
        kind="ctc" if found.vocabulary is not None else "encoder" if objective is None else "pretraining",
        origin=Origin(format="fairseq2", source=str(path), architecture=str(card["model_family"])),
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


def read_card(path: Path) -> dict[str, Any]:
    """An asset card.

    Raises:
        CheckpointError: not a card of a known family.
    """
    if not is_fairseq2(path):
        raise CheckpointError(
            f"{path}: not an asset card of fairseq2's {' or '.join(FAMILIES)} (YAML with model_family and checkpoint)"
        )
    card: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return card


def _labels(card: Mapping[str, Any], path: Path) -> Vocabulary | None:
    """The vocabulary of the card's own tokenizer; None where it names none, or one of another card."""
    parsed = urlparse(str(card.get("tokenizer") or ""))
    if not parsed.path or parsed.scheme not in ("", "file"):
        return None
    return read_sentencepiece(path.parent / unquote(parsed.path))


def model_config(card: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The whole configuration: the architecture's with what the card changes.

    Raises:
        CheckpointError: the architecture is not known.
    """
    name = str(card.get("model_arch") or "base")
    if card["model_family"] == "wav2vec2_asr":
        name = name.removesuffix("_10h").removesuffix("_100h")
    if name not in _ARCHITECTURES:
        raise CheckpointError(
            f"{path}: model_arch is {card.get('model_arch')!r}; known are {', '.join(_ARCHITECTURES)}; write the whole"
            " configuration as model_config"
        )
    changes = card.get("model_config") or {}
    changes = changes.get("_set_", changes)
    encoder = {**_ARCHITECTURES[name]["encoder_config"], **(changes.get("encoder_config") or {})}
    return {**_ARCHITECTURES[name], **changes, "encoder_config": encoder}


def checkpoint_path(card: Mapping[str, Any], path: Path) -> Path:
    """The weights' file.

    Raises:
        CheckpointError: the card names none, or one that is not on this machine.
    """
    uri = str(card.get("checkpoint") or "")
    parsed = urlparse(uri)
    if not uri or parsed.scheme not in ("", "file"):
        raise CheckpointError(f"{path}: checkpoint is {uri!r}; download it and let the card name the file")
    return path.parent / unquote(parsed.path)  # an absolute path stays


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` or `.pt` file.

    Raises:
        CheckpointError: missing or damaged.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); copy it again") from None
    content = load_pickled(path)
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no state; is it a model's checkpoint?")
    return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


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
