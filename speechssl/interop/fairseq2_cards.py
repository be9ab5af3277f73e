"""fairseq2's asset cards: which model a YAML file names, and its whole configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import yaml

from speechssl.errors import CheckpointError

FAMILIES = ("wav2vec2", "wav2vec2_asr")
CARD_FILE = "fairseq2.yaml"
"""The card in a folder that we wrote."""
CARD_KEY = "speechssl"
"""Of a card that we wrote: what fairseq2 does not ask for, `normalize_waveform`."""

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
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "base": {**_MODEL, "encoder_config": _ENCODER},
    "large": {**_LARGE_MODEL, "encoder_config": _LARGE},
    "large_lv60k": {
        **_LARGE_MODEL,
        "codebook_sampling_temperature": (2.0, 0.1, 0.999995),
        "encoder_config": _LARGE_LV60K,
    },
}
"""fairseq2's own, of `wav2vec2`; the recogniser's are the same encoders."""


def is_fairseq2(path: Path) -> bool:
    """Whether it is an asset card of one of the families, or a folder of ours with one."""
    path = card_path(path)
    if not path.is_file() or path.suffix not in (".yaml", ".yml"):
        return False
    try:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(card, dict) and card.get("model_family") in FAMILIES


def card_path(path: Path) -> Path:
    """The card that a path names: itself, or the one in a folder of ours."""
    return path / CARD_FILE if path.is_dir() else path


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


def model_config(card: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The whole configuration: the architecture's with what the card changes.

    Raises:
        CheckpointError: the architecture is not known.
    """
    name = str(card.get("model_arch") or "base")
    if card["model_family"] == "wav2vec2_asr":
        name = name.removesuffix("_10h").removesuffix("_100h")
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"{path}: model_arch is {card.get('model_arch')!r}; known are {', '.join(ARCHITECTURES)}; write the whole"
            " configuration as model_config"
        )
    changes = card.get("model_config") or {}
    changes = changes.get("_set_", changes)
    encoder = {**ARCHITECTURES[name]["encoder_config"], **(changes.get("encoder_config") or {})}
    return {**ARCHITECTURES[name], **changes, "encoder_config": encoder}


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
