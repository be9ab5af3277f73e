"""The speech encoder: `model` computes and loads it, `config` and `presets` describe it.

`embedding` turns recordings into vectors, `layers` picks a layer of an output, `device` resolves a device's name.
"""

from speechssl.encoder.config import WAV2VEC2_CONV_LAYERS, EncoderConfig, config_from_dict
from speechssl.encoder.device import resolve_device
from speechssl.encoder.layers import mean_over_time, select_layer
from speechssl.encoder.model import SpeechEncoder, load_encoder
from speechssl.encoder.presets import PRESETS, encoder_config, override

__all__ = [
    "PRESETS",
    "WAV2VEC2_CONV_LAYERS",
    "EncoderConfig",
    "SpeechEncoder",
    "config_from_dict",
    "encoder_config",
    "load_encoder",
    "mean_over_time",
    "override",
    "resolve_device",
    "select_layer",
]
