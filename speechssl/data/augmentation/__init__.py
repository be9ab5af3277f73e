"""Augmentation on the fly: the same utterance in the same epoch always sounds the same.

`config` says what is done how often, `augmenter` does it, `effects`, `levels` and `codecs` hold the signal
processing, `sources` reads noises and impulse responses, `preview` writes examples to listen to.
"""

from speechssl.data.augmentation.augmenter import AppliedEffect, Augmented, Augmenter
from speechssl.data.augmentation.codecs import CODECS
from speechssl.data.augmentation.config import (
    AugmentConfig,
    BabbleConfig,
    BandLimitConfig,
    BandMaskConfig,
    CodecConfig,
    GainConfig,
    NoiseConfig,
    ReverberationConfig,
    SpeedConfig,
    TimeMaskConfig,
)

__all__ = [
    "CODECS",
    "AppliedEffect",
    "AugmentConfig",
    "Augmented",
    "Augmenter",
    "BabbleConfig",
    "BandLimitConfig",
    "BandMaskConfig",
    "CodecConfig",
    "GainConfig",
    "NoiseConfig",
    "ReverberationConfig",
    "SpeedConfig",
    "TimeMaskConfig",
]
