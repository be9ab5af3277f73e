"""Configurations by name: `tiny`, `small`, and the paper's `base` and `large`."""

from collections.abc import Mapping
from typing import Any

from speechssl.config import from_dict, to_dict
from speechssl.encoder.config import EncoderConfig
from speechssl.errors import ConfigError

_NO_DROPOUT = {"input_dropout": 0.0, "dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0}
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "front_end": "log_mel",
        "normalize_waveform": True,
        "model_dim": 256,
        "num_layers": 4,
        "num_heads": 4,
        "feed_forward_dim": 1024,
        "norm_position": "pre",
        "position_kernel": 32,
        **_NO_DROPOUT,
    },
    "small": {
        "conv_dim": 256,
        "conv_norm": "layer",
        "normalize_waveform": True,
        "model_dim": 384,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_dim": 1536,
        "norm_position": "pre",
        "position_kernel": 64,
    },
    "base": {},
    "large": {
        "conv_norm": "layer",
        "conv_bias": True,
        "normalize_waveform": True,
        "feature_gradient_scale": 1.0,
        "model_dim": 1024,
        "num_layers": 24,
        "num_heads": 16,
        "feed_forward_dim": 4096,
        "norm_position": "pre",
        **_NO_DROPOUT,
    },
}


def encoder_config(preset: str, overrides: Mapping[str, Any] | None = None) -> EncoderConfig:
    """The configuration of a preset (`tiny`, `small`, `base`, `large`), with some fields replaced.

    `base` and `large` are the paper's; `tiny` has a log-mel front end and trains on two CPU cores.

    Raises:
        ConfigError: unknown preset or field, or a wrong value.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, but is {preset!r}")
    return override(EncoderConfig(**PRESETS[preset]), overrides or {})


def override(config: EncoderConfig, overrides: Mapping[str, Any]) -> EncoderConfig:
    """`config` with some fields replaced, each converted to its declared type.

    Raises:
        ConfigError: unknown field (with the nearest name), or a wrong value.
    """
    return from_dict(EncoderConfig, {**to_dict(config), **overrides}, source="encoder")
