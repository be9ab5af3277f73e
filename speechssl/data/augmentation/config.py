"""What is done to a waveform, how often and how strongly; everything is off by default.

Every effect has a `probability` per utterance and epoch; a range is `(lowest, highest)`, drawn from evenly.
"""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from speechssl.data.augmentation.codecs import CodecName
from speechssl.errors import ConfigError

SpeechLevel = Literal["whole", "active"]

SLOWEST, FASTEST = 0.5, 2.0


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """Play faster or slower by resampling: tempo and pitch change together (Ko et al. 2015).

    Attributes:
        probability: of a draw from `factors`.
        factors: one is drawn; 1.1 is 10 % faster and so 9 % shorter, 1 leaves the utterance as it is.
    """

    probability: float = 0.0
    factors: tuple[float, ...] = (0.9, 1.0, 1.1)

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        if not self.factors or not all(SLOWEST <= factor <= FASTEST for factor in self.factors):
            raise ConfigError(f"factors must be between {SLOWEST} and {FASTEST}, but are {list(self.factors)}")


@dataclass(frozen=True, kw_only=True)
class ReverberationConfig:
    """Put the speaker into a room: convolve with an impulse response, direct sound kept in time.

    Attributes:
        probability: of reverberation.
        manifest: manifest of mono room impulse responses; any sampling rate.
        max_rir_seconds: an impulse response is cut so long after its direct sound.
    """

    probability: float = 0.0
    manifest: Path | None = None
    max_rir_seconds: float = 1.0

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        _check_manifest(self.probability, self.manifest, "room impulse responses")
        if not self.max_rir_seconds > 0:
            raise ConfigError(f"max_rir_seconds must be above 0, but is {self.max_rir_seconds}")


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Add a recorded noise at a signal-to-noise ratio.

    Attributes:
        probability: of noise.
        manifest: manifest of noises; any sampling rate, any length.
        snr_db: range of the ratio of the speech's power to the noise's, in decibels.
        speech_level: the speech's power over the "whole" clip, or over its "active" frames, those within 30 dB of
            the loudest.
    """

    probability: float = 0.0
    manifest: Path | None = None
    snr_db: tuple[float, float] = (0.0, 20.0)
    speech_level: SpeechLevel = "whole"

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        _check_manifest(self.probability, self.manifest, "noises")
        _check_range("snr_db", self.snr_db, -100.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class BabbleConfig:
    """Add several other talkers at once.

    Attributes:
        probability: of babble.
        manifest: manifest of speech; may be the training manifest itself, whose utterance is not mixed with itself.
        snr_db: range of the ratio of the speech's power to that of all talkers together, in decibels.
        num_talkers: range of how many talk, each equally loud.
        speech_level: as with noise.
    """

    probability: float = 0.0
    manifest: Path | None = None
    snr_db: tuple[float, float] = (10.0, 20.0)
    num_talkers: tuple[int, int] = (3, 7)
    speech_level: SpeechLevel = "whole"

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        _check_manifest(self.probability, self.manifest, "speech")
        _check_range("snr_db", self.snr_db, -100.0, 100.0)
        _check_range("num_talkers", self.num_talkers, 1, 100)


@dataclass(frozen=True, kw_only=True)
class GainConfig:
    """Make louder or quieter; the peak is never raised above full scale.

    Attributes:
        probability: of a change.
        gain_db: range in decibels; louder only as far as the peak stays within full scale.
    """

    probability: float = 0.0
    gain_db: tuple[float, float] = (-12.0, 6.0)

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        _check_range("gain_db", self.gain_db, -100.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class BandLimitConfig:
    """Keep a band of frequencies only, as a telephone or a small loudspeaker does.

    Attributes:
        probability: of a limit.
        low_hz: range of the lower edge (-3 dB); below 20 Hz there is none.
        high_hz: range of the upper edge (-3 dB); an edge above what the sampling rate can hold is none.
    """

    probability: float = 0.0
    low_hz: tuple[float, float] = (0.0, 300.0)
    high_hz: tuple[float, float] = (3400.0, 7000.0)

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        _check_range("low_hz", self.low_hz, 0.0, math.inf)
        _check_range("high_hz", self.high_hz, 100.0, math.inf)
        if not self.low_hz[1] * 1.1 < self.high_hz[0]:
            raise ConfigError(
                f"low_hz {list(self.low_hz)} must lie a tenth below high_hz {list(self.high_hz)}, so that a band is"
                " left between them"
            )


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Encode and decode, in memory, by the real codec; one of `names` is drawn.

    Attributes:
        probability: of a codec.
        names: at 8 kHz: narrowband (resampled only), mulaw, alaw (G.711), gsm, adpcm (G.721); at the encoder's own
            rate: vorbis, opus, mp3.
        compression: range for vorbis, opus and mp3, from 0 (largest and best) to 0.95.
    """

    probability: float = 0.0
    names: tuple[CodecName, ...] = ("mulaw", "alaw", "gsm", "vorbis", "mp3")
    compression: tuple[float, float] = (0.3, 0.95)

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        unknown = [name for name in self.names if name not in get_args(CodecName)]
        if unknown or not self.names:
            raise ConfigError(
                f"names must be of {', '.join(get_args(CodecName))}, but"
                + (f" {unknown[0]!r} is not" if unknown else " there are none")
            )
        _check_range("compression", self.compression, 0.0, 0.95)  # LAME refuses 1


@dataclass(frozen=True, kw_only=True)
class TimeMaskConfig:
    """Drop stretches of the waveform to silence, as lost packets do.

    Attributes:
        probability: of masks.
        num_masks: range of their number.
        mask_seconds: range of the length of each.
        max_fraction: at most this share of an utterance is dropped; further masks are left away.
    """

    probability: float = 0.0
    num_masks: tuple[int, int] = (1, 4)
    mask_seconds: tuple[float, float] = (0.02, 0.1)
    max_fraction: float = 0.15

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        _check_range("num_masks", self.num_masks, 1, 10_000)
        _check_range("mask_seconds", self.mask_seconds, 0.0, math.inf)
        if not 0 < self.max_fraction <= 1:
            raise ConfigError(f"max_fraction must be above 0 and at most 1, but is {self.max_fraction}")


@dataclass(frozen=True, kw_only=True)
class BandMaskConfig:
    """Remove bands of frequencies ("channel masking") by band-stop filters.

    Attributes:
        probability: of masks.
        num_bands: range of their number.
        width_hz: range of the width of each.
    """

    probability: float = 0.0
    num_bands: tuple[int, int] = (1, 3)
    width_hz: tuple[float, float] = (100.0, 600.0)

    def __post_init__(self) -> None:
        _check_probability(self.probability)
        _check_range("num_bands", self.num_bands, 1, 100)
        _check_range("width_hz", self.width_hz, 20.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Effects in the order in which sound meets them: talker, room, other sounds, microphone, channel, losses.

    Attributes:
        speed: faster or slower.
        reverberation: a room.
        babble: other talkers.
        noise: a recorded noise.
        gain: louder or quieter.
        band_limit: a band of frequencies only.
        codec: encoded and decoded.
        time_mask: stretches dropped.
        band_mask: bands of frequencies dropped.
        cache_megabytes: decoded noises and impulse responses kept in memory, in each worker process. Changes no
            result.
    """

    speed: SpeedConfig = field(default_factory=SpeedConfig)
    reverberation: ReverberationConfig = field(default_factory=ReverberationConfig)
    babble: BabbleConfig = field(default_factory=BabbleConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    gain: GainConfig = field(default_factory=GainConfig)
    band_limit: BandLimitConfig = field(default_factory=BandLimitConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    time_mask: TimeMaskConfig = field(default_factory=TimeMaskConfig)
    band_mask: BandMaskConfig = field(default_factory=BandMaskConfig)
    cache_megabytes: float = 64.0

    def __post_init__(self) -> None:
        if not self.cache_megabytes >= 0:
            raise ConfigError(f"cache_megabytes must be at least 0, but is {self.cache_megabytes}")

    @property
    def enabled(self) -> bool:
        """Whether any effect ever happens."""
        return any(getattr(self, effect).probability > 0 for effect in EFFECTS)

    @property
    def max_length_factor(self) -> float:
        """A result is at most so many times as long as the utterance was."""
        return max(1.0, *(1 / factor for factor in self.speed.factors)) if self.speed.probability > 0 else 1.0

    @property
    def min_length_factor(self) -> float:
        """A result is at least so many times as long as the utterance was, less one sample."""
        return min(1.0, *(1 / factor for factor in self.speed.factors)) if self.speed.probability > 0 else 1.0


EFFECTS = tuple(part.name for part in fields(AugmentConfig) if part.name != "cache_megabytes")
"""All effects, in the order in which they are applied."""


def _check_probability(value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"probability must be from 0 to 1, but is {value}")


def _check_manifest(probability: float, manifest: Path | None, what: str) -> None:
    if probability > 0 and manifest is None:
        raise ConfigError(
            f"manifest must name a manifest of {what} where the probability is above 0; make one with `speechssl"
            " manifest build FOLDER --output NAME.jsonl`"
        )


def _check_range(name: str, values: tuple[float, float], lowest: float, highest: float) -> None:
    low, high = values
    if not (lowest <= low <= high <= highest and math.isfinite(high)):
        limits = f"at least {lowest:g}" if math.isinf(highest) else f"from {lowest:g} to {highest:g}"
        raise ConfigError(f"{name} must be two values {limits}, the lower one first, but is {list(values)}")
