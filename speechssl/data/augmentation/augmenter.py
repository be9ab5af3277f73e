"""Applies the effects; what it does follows from the seed, the utterance's id and the epoch alone.

Shapes: S samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.audio import Waveform
from speechssl.data.augmentation import effects
from speechssl.data.augmentation.codecs import CODECS, check_codec, encode_decode
from speechssl.data.augmentation.config import EFFECTS, AugmentConfig, SpeechLevel
from speechssl.data.augmentation.levels import SILENT_POWER, active_power, mean_power, scale_to_snr
from speechssl.data.augmentation.sources import ClipCache, ClipSource
from speechssl.errors import AudioError, ConfigError
from speechssl.lengths import seconds_to_samples

MAX_RIR_SECONDS = 20.0
"""What is longer is taken for something other than an impulse response."""


@dataclass(frozen=True, kw_only=True)
class AppliedEffect:
    """An effect that was drawn, with its values; one that could not be had has the only value `skipped`, a reason."""

    name: str
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """`waveform` f32 `[S']` and the effects that made it, in order."""

    waveform: Waveform
    effects: tuple[AppliedEffect, ...]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Effect -> parameters, for JSON."""
        return {effect.name: effect.parameters for effect in self.effects}


class _Skip(Exception):
    """The effect cannot be had for this waveform; the message is the reason."""


class Augmenter:
    """Augments waveforms at one sampling rate.

    Each effect draws from a random stream of its own, made of the seed, the utterance's id, the epoch and the
    effect's name. So neither order nor process nor resume matters, and switching one effect on leaves the draws of
    the others as they were.
    """

    def __init__(self, config: AugmentConfig, *, sample_rate: int, seed: int) -> None:
        """Effects of `config` for waveforms at `sample_rate` Hz.

        Raises:
            ConfigError: a manifest is missing or empty, a band does not fit the sampling rate, or this machine lacks
                a codec.
        """
        self.config = config
        self.sample_rate = sample_rate
        self.seed = seed
        self.problems: dict[str, str] = {}
        """Noises and impulse responses that could not be used so far: id -> reason."""
        self._cache = ClipCache(config.cache_megabytes)
        self._noises = self._source("noise", config.noise.probability, config.noise.manifest)
        self._talkers = self._source("babble", config.babble.probability, config.babble.manifest)
        self._rirs = self._source("reverberation", config.reverberation.probability, config.reverberation.manifest)
        self._check()

    def __call__(self, waveform: Waveform, *, utterance_id: str, epoch: int) -> Waveform:
        """The waveform f32 `[S]` augmented: finite, contiguous f32 `[S']`, S' at most `max_length_factor` S.

        The same array where no effect was drawn; the given one is never written to.

        Raises:
            AudioError: the storage of the noises cannot be reached; a bad noise raises nothing.
        """
        return self.apply(waveform, utterance_id=utterance_id, epoch=epoch).waveform

    def apply(self, waveform: Waveform, *, utterance_id: str, epoch: int) -> Augmented:
        """The augmented waveform and what was done to it."""
        applied = []
        for name in EFFECTS:
            probability = getattr(self.config, name).probability
            if probability == 0 or len(waveform) == 0:
                continue
            random = random_stream(self.seed, utterance_id, epoch, name)
            if random.random() >= probability:
                continue
            try:
                waveform, parameters = _METHODS[name](self, waveform, random, utterance_id)
            except _Skip as reason:
                parameters = {"skipped": str(reason)}
            applied.append(AppliedEffect(name=name, parameters=parameters))
        return Augmented(waveform=np.ascontiguousarray(waveform, dtype=np.float32), effects=tuple(applied))

    def _source(self, effect: str, probability: float, manifest: Path | None) -> ClipSource | None:
        if probability == 0 or manifest is None:
            return None
        return ClipSource(
            manifest,
            key=f"augment.{effect}.manifest",
            sample_rate=self.sample_rate,
            cache=self._cache,
            problems=self.problems,
        )

    def _check(self) -> None:
        nyquist = self.sample_rate / 2
        for key, probability, lowest in (
            ("band_limit.low_hz", self.config.band_limit.probability, self.config.band_limit.low_hz[1]),
            ("band_mask.width_hz", self.config.band_mask.probability, self.config.band_mask.width_hz[1]),
        ):
            if probability > 0 and lowest >= nyquist:
                raise ConfigError(
                    f"augment.{key}: must be below {nyquist:g} Hz, half of the sampling rate, but is {lowest:g} Hz"
                )
        if self.config.codec.probability > 0:
            for name in self.config.codec.names:
                try:
                    check_codec(name)
                except AudioError as error:
                    raise ConfigError(f"augment.codec.names: {error}") from None

    def _speed(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        factor = float(random.choice(self.config.speed.factors))
        return effects.change_speed(waveform, factor), {"factor": factor}

    def _reverberation(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        assert self._rirs is not None, "reverberation has a manifest where its probability is above 0"
        drawn = self._rirs.impulse_response(random, max_seconds=MAX_RIR_SECONDS)
        if drawn is None:
            raise _Skip("no usable impulse response was drawn")
        direct = int(np.abs(drawn.waveform).argmax())
        tail = max(1, seconds_to_samples(self.config.reverberation.max_rir_seconds, self.sample_rate))
        return effects.reverberate(waveform, drawn.waveform[: direct + tail]), {"rir": drawn.utterance_id}

    def _noise(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        assert self._noises is not None, "noise has a manifest where its probability is above 0"
        config = self.config.noise
        snr_db = float(random.uniform(*config.snr_db))
        power = self._speech_power(waveform, config.speech_level)
        drawn = self._noises.segment(len(waveform), random)
        if drawn is None:
            raise _Skip("no usable noise was drawn")
        mixed = waveform + scale_to_snr(drawn.waveform, speech_power=power, snr_db=snr_db)
        return mixed, {"noise": drawn.utterance_id, "snr_db": snr_db}

    def _babble(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        assert self._talkers is not None, "babble has a manifest where its probability is above 0"
        config = self.config.babble
        snr_db = float(random.uniform(*config.snr_db))
        num_talkers = int(random.integers(config.num_talkers[0], config.num_talkers[1] + 1))
        power = self._speech_power(waveform, config.speech_level)
        together = np.zeros(len(waveform), dtype=np.float32)
        ids = []
        for _ in range(num_talkers):
            drawn = self._talkers.segment(len(waveform), random, accept=lambda other: other.id != utterance_id)
            if drawn is not None:
                together += scale_to_snr(drawn.waveform, speech_power=1.0, snr_db=0.0)
                ids.append(drawn.utterance_id)
        if mean_power(together) <= SILENT_POWER:
            raise _Skip("no usable talker was drawn")
        mixed = waveform + scale_to_snr(together, speech_power=power, snr_db=snr_db)
        return mixed, {"talkers": ids, "snr_db": snr_db}

    def _gain(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        louder, gain_db = effects.change_gain(waveform, float(random.uniform(*self.config.gain.gain_db)))
        return louder, {"gain_db": gain_db}

    def _band_limit(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        low_hz = float(random.uniform(*self.config.band_limit.low_hz))
        high_hz = float(random.uniform(*self.config.band_limit.high_hz))
        limited = effects.limit_band(waveform, low_hz=low_hz, high_hz=high_hz, sample_rate=self.sample_rate)
        return limited, {"low_hz": low_hz, "high_hz": high_hz}

    def _codec(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        name = self.config.codec.names[int(random.integers(len(self.config.codec.names)))]
        compression = float(random.uniform(*self.config.codec.compression))
        decoded = encode_decode(waveform, name, sample_rate=self.sample_rate, compression=compression)
        return decoded, {"codec": name} | ({"compression": compression} if CODECS[name].has_compression else {})

    def _time_mask(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        config = self.config.time_mask
        spans: list[tuple[int, int]] = []
        dropped = 0
        for _ in range(int(random.integers(config.num_masks[0], config.num_masks[1] + 1))):
            length = seconds_to_samples(float(random.uniform(*config.mask_seconds)), self.sample_rate)
            place = float(random.random())
            if 0 < length and dropped + length <= config.max_fraction * len(waveform):
                start = int(place * (len(waveform) - length + 1))
                spans.append((start, start + length))
                dropped += length
        if not spans:
            raise _Skip("the utterance is too short for its share of masks")
        seconds = [[start / self.sample_rate, end / self.sample_rate] for start, end in sorted(spans)]
        return effects.silence_spans(waveform, spans), {"masks_seconds": seconds}

    def _band_mask(self, waveform: Waveform, random: np.random.Generator, utterance_id: str) -> "_Result":
        config = self.config.band_mask
        bands = []
        for _ in range(int(random.integers(config.num_bands[0], config.num_bands[1] + 1))):
            width = float(random.uniform(*config.width_hz))
            low = float(random.uniform(0, self.sample_rate / 2 - width))
            bands.append((low, low + width))
        stopped = effects.stop_bands(waveform, bands, sample_rate=self.sample_rate)
        return stopped, {"bands_hz": [list(band) for band in bands]}

    def _speech_power(self, waveform: Waveform, level: SpeechLevel) -> float:
        power = active_power(waveform, self.sample_rate) if level == "active" else mean_power(waveform)
        if power <= SILENT_POWER:
            raise _Skip("the utterance is silent, so that no ratio to it exists")
        return power


_Result = tuple[Waveform, dict[str, Any]]
_METHODS: dict[str, Callable[[Augmenter, Waveform, np.random.Generator, str], _Result]] = {
    "speed": Augmenter._speed,
    "reverberation": Augmenter._reverberation,
    "babble": Augmenter._babble,
    "noise": Augmenter._noise,
    "gain": Augmenter._gain,
    "band_limit": Augmenter._band_limit,
    "codec": Augmenter._codec,
    "time_mask": Augmenter._time_mask,
    "band_mask": Augmenter._band_mask,
}


def random_stream(seed: int, utterance_id: str, epoch: int, effect: str) -> np.random.Generator:
    """Random numbers of one effect on one utterance in one epoch: the same in every process, on every machine."""
    key = f"{seed}\0{epoch}\0{effect}\0{utterance_id}".encode()
    return np.random.default_rng(int.from_bytes(blake2b(key, digest_size=16).digest(), "little"))
