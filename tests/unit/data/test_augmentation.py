"""Promises of the augmentation: measured levels, kept times, and choices that depend on seed, id and epoch alone."""

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.signal import correlate

from speechssl.audio import UnreachableError, read
from speechssl.cli import main
from speechssl.config import from_dict
from speechssl.data.augmentation import (
    CODECS,
    AugmentConfig,
    Augmenter,
    BabbleConfig,
    BandLimitConfig,
    BandMaskConfig,
    CodecConfig,
    GainConfig,
    NoiseConfig,
    ReverberationConfig,
    SpeedConfig,
    TimeMaskConfig,
    effects,
    levels,
    sources,
)
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest, build_manifest

RATE = 16_000
Waveform = NDArray[np.float32]


@pytest.fixture(scope="module")
def speech(corpora: Path) -> list[Waveform]:
    """Three seconds of each of three readers."""
    folder = corpora / "librispeech_train100_251spk" / "audio"
    return [read(path, sample_rate=RATE, offset=1.0, duration=3.0) for path in sorted(folder.iterdir())[:3]]


@pytest.fixture(scope="module")
def manifests(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Manifests of real noises, impulse responses and other talkers."""
    folder = tmp_path_factory.mktemp("manifests")
    paths = {"noise": "noise_rir/audio/speechbrain", "rir": "noise_rir/audio/rir", "short": "noise_rir/audio/opensfx"}
    for name, source in paths.items():
        build_manifest(corpora / source, output=folder / f"{name}.jsonl", num_workers=1)
    talkers = build_manifest(corpora / "fsdd", num_workers=1).manifest
    talkers.take(np.arange(0, len(talkers), 200)).save(folder / "talkers.jsonl")
    return {name: folder / f"{name}.jsonl" for name in (*paths, "talkers")}


@pytest.fixture(scope="module")
def everything(manifests: dict[str, Path]) -> AugmentConfig:
    """Every effect, half of the time each."""
    return all_effects(manifests, 0.5)


def all_effects(manifests: dict[str, Path], probability: float) -> AugmentConfig:
    return AugmentConfig(
        speed=SpeedConfig(probability=probability, factors=(0.8, 0.9, 1.1, 1.3)),
        reverberation=ReverberationConfig(probability=probability, manifest=manifests["rir"]),
        babble=BabbleConfig(probability=probability, manifest=manifests["talkers"]),
        noise=NoiseConfig(probability=probability, manifest=manifests["short"]),
        gain=GainConfig(probability=probability),
        band_limit=BandLimitConfig(probability=probability),
        codec=CodecConfig(probability=probability, names=("mulaw", "gsm", "vorbis")),
        time_mask=TimeMaskConfig(probability=probability),
        band_mask=BandMaskConfig(probability=probability),
    )


def write_manifest(folder: Path, clips: dict[str, NDArray[np.floating]], *, rate: int = RATE) -> Path:
    audio = folder / "audio"
    audio.mkdir()
    for name, samples in clips.items():
        soundfile.write(audio / f"{name}.wav", samples, rate, subtype="FLOAT")
    build_manifest(audio, output=folder / "clips.jsonl", num_workers=1)
    return folder / "clips.jsonl"


def white_noise(seconds: float, *, seed: int = 0) -> Waveform:
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


def decibels(ratio: float) -> float:
    return float(10 * np.log10(ratio))


def power(waveform: NDArray[np.floating]) -> float:
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def band_power(waveform: Waveform, low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft(waveform.astype(np.float64))) ** 2
    frequency = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return float(spectrum[(frequency >= low) & (frequency < high)].sum())


# Levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noises", ["noise", "short"])
def test_measured_snr_of_real_mixtures_is_the_one_drawn(
    speech: list[Waveform], manifests: dict[str, Path], noises: str
) -> None:
    config = AugmentConfig(noise=NoiseConfig(probability=1, manifest=manifests[noises], snr_db=(-5, 25)))
    augmenter = Augmenter(config, sample_rate=RATE, seed=0)
    drawn = []
    for epoch in range(8):
        for number, clean in enumerate(speech):
            result = augmenter.apply(clean, utterance_id=f"u{number}", epoch=epoch)
            measured = decibels(power(clean) / power(result.waveform.astype(np.float64) - clean))
            drawn.append(result.to_dict()["noise"]["snr_db"])
            assert abs(measured - drawn[-1]) < 0.1
    assert min(drawn) < 2 and max(drawn) > 18  # the range is used


def test_active_speech_level_leaves_pauses_out(speech: list[Waveform], manifests: dict[str, Path]) -> None:
    """With as much silence again the whole-clip power falls by 3 dB, the active power stays."""
    talk = speech[0]
    padded = np.concatenate([talk, np.zeros_like(talk)])
    assert decibels(levels.mean_power(talk) / levels.mean_power(padded)) == pytest.approx(3.01, abs=0.01)
    assert levels.active_power(padded, RATE) == pytest.approx(levels.active_power(talk, RATE), rel=1e-6)
    config = NoiseConfig(probability=1, manifest=manifests["noise"], snr_db=(5, 5), speech_level="active")
    mixed = Augmenter(AugmentConfig(noise=config), sample_rate=RATE, seed=0)(padded, utterance_id="u", epoch=0)
    frames = talk[: len(talk) // 400 * 400].reshape(-1, 400).astype(np.float64)  # 25 ms, by hand
    powers = (frames**2).mean(axis=1)
    active = powers[powers >= powers.max() / 1000].mean()
    assert abs(decibels(active / power(mixed.astype(np.float64) - padded)) - 5) < 0.1


def test_the_noise_is_a_stretch_of_the_recorded_one(speech: list[Waveform], corpora: Path, tmp_path: Path) -> None:
    noise = read(corpora / "noise_rir/audio/speechbrain/noise5.flac", sample_rate=RATE)
    manifest = write_manifest(tmp_path, {"n": noise})
    config = AugmentConfig(noise=NoiseConfig(probability=1, manifest=manifest, snr_db=(0, 0)))
    augmenter = Augmenter(config, sample_rate=RATE, seed=0)
    starts = set()
    for epoch in range(4):
        added = augmenter(speech[0], utterance_id="u", epoch=epoch) - speech[0]
        place = int(np.argmax(np.abs(correlate(noise, added, mode="valid", method="fft"))))
        stretch = noise[place : place + len(added)]
        assert np.corrcoef(stretch, added)[0, 1] > 0.9999
        starts.add(place)
    assert len(starts) == 4


def test_a_noise_at_another_rate_is_resampled(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * 44100) / 44100)
    manifest = write_manifest(tmp_path, {"tone": tone}, rate=44100)
    augmenter = Augmenter(AugmentConfig(noise=NoiseConfig(probability=1, manifest=manifest)), sample_rate=RATE, seed=0)
    speech = white_noise(1.0)
    added = augmenter(speech, utterance_id="u", epoch=0) - speech
    assert band_power(added, 950, 1050) > 0.99 * band_power(added, 0, 8000)


def test_a_short_noise_goes_round_without_clicks() -> None:
    """A tone whose period does not fit its length: joined bluntly, it would jump at each seam."""
    tone = np.sin(2 * np.pi * 100.3 * np.arange(4000) / RATE).astype(np.float32)
    steepest = np.abs(np.diff(tone)).max()
    assert np.abs(np.diff(np.tile(tone, 4))).max() > 5 * steepest
    looped = levels.repeat(tone, 40_000, start=1234, fade_samples=320)
    assert len(looped) == 40_000 and np.abs(np.diff(looped)).max() < 2 * steepest
    noise = white_noise(0.25)
    seam = levels.repeat(noise, 4000 - 320, start=0, fade_samples=320)[:320]
    assert abs(decibels(power(seam) / power(noise))) < 1  # constant power through the fade
    assert len(levels.repeat(noise[:1], 7, start=3, fade_samples=320)) == 7


def test_babble_has_the_drawn_ratio_and_other_talkers_only(speech: list[Waveform], manifests: dict[str, Path]) -> None:
    own = str(Manifest.load(manifests["talkers"]).column("id")[3])
    config = BabbleConfig(probability=1, manifest=manifests["talkers"], num_talkers=(2, 5), snr_db=(3, 12))
    augmenter = Augmenter(AugmentConfig(babble=config), sample_rate=RATE, seed=0)
    heard = set()
    for epoch in range(20):
        result = augmenter.apply(speech[0], utterance_id=own, epoch=epoch)
        drawn = result.to_dict()["babble"]
        heard |= set(drawn["talkers"])
        assert 2 <= len(drawn["talkers"]) <= 5
        measured = decibels(power(speech[0]) / power(result.waveform.astype(np.float64) - speech[0]))
        assert abs(measured - drawn["snr_db"]) < 0.1
    assert own not in heard and len(heard) == 14


@pytest.mark.parametrize(("gain_db", "peak", "expected"), [(-9, 0.5, -9), (6, 0.25, 6), (20, 0.5, 6.02), (6, 1.5, 0)])
def test_gain_is_the_decibels_asked_for_and_never_clips(gain_db: float, peak: float, expected: float) -> None:
    noise = white_noise(0.5)
    noise *= peak / np.abs(noise).max()
    louder, applied = effects.change_gain(noise, gain_db)
    assert decibels(power(louder) / power(noise)) == pytest.approx(expected, abs=0.01)
    assert applied == pytest.approx(expected, abs=0.01)
    assert np.abs(louder).max() <= max(1.0, peak) * (1 + 1e-6)


# Times and frequencies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1, 1.234])
def test_speed_changes_tempo_and_pitch_together(factor: float) -> None:
    time = np.arange(RATE) / RATE
    faster = effects.change_speed(np.sin(2 * np.pi * 440 * time).astype(np.float32), factor)
    assert len(faster) == int(RATE / factor)
    spectrum = np.abs(np.fft.rfft(faster * np.hanning(len(faster)), 1 << 19))
    assert np.argmax(spectrum) * RATE / (1 << 19) == pytest.approx(440 * factor, rel=1e-3)


def test_real_rooms_keep_the_times_and_the_energy(speech: list[Waveform], corpora: Path) -> None:
    for path in sorted((corpora / "noise_rir/audio/rir").glob("*.flac")):
        if path.stem == "lhotse_real_8ch":  # the mean of eight channels is no impulse response
            continue
        rir = read(path, sample_rate=RATE)
        wet = effects.reverberate(speech[0], rir)
        assert len(wet) == len(speech[0]) and not np.allclose(wet, speech[0], atol=1e-3)
        assert abs(decibels(power(wet) / power(speech[0]))) < 0.001
        late = np.abs(correlate(wet, speech[0], mode="same", method="fft"))
        # the direct sound: within a millisecond of where it was, though impulse responses begin up to 137 ms late
        assert abs(int(np.argmax(late)) - len(wet) // 2) <= 16, path.name


def test_an_echo_comes_after_the_direct_sound_counted_by_hand() -> None:
    rir = np.zeros(500, dtype=np.float32)
    rir[100], rir[150] = 0.8, 0.4  # direct sound, and an echo half as strong 50 samples later
    clicks = np.zeros(1000, dtype=np.float32)
    clicks[[200, 990]] = 1
    wet = effects.reverberate(clicks, rir)
    assert sorted(np.flatnonzero(np.abs(wet) > 1e-3)) == [200, 250, 990]  # the last echo is beyond the end
    assert wet[250] / wet[200] == pytest.approx(0.5, rel=1e-4)


def test_a_telephone_band_is_cut_off_steeply_and_left_alone_within() -> None:
    noise = white_noise(4.0)
    limited = effects.limit_band(noise, low_hz=300, high_hz=3400, sample_rate=RATE)
    change = {
        band: decibels(band_power(limited, *band) / band_power(noise, *band))
        for band in ((20, 150), (500, 3000), (5000, 8000))
    }
    assert change[20, 150] < -40 and change[5000, 8000] < -30
    assert abs(change[500, 3000]) < 0.3
    untouched = effects.limit_band(noise, low_hz=0, high_hz=7990, sample_rate=RATE)
    assert np.array_equal(untouched, noise)


def test_masked_bands_are_gone_and_the_others_are_not() -> None:
    noise = white_noise(4.0)
    stopped = effects.stop_bands(noise, [(1000, 1400), (0, 200), (7900, 8000)], sample_rate=RATE)
    assert decibels(band_power(stopped, 1080, 1300) / band_power(noise, 1080, 1300)) < -20
    assert decibels(band_power(stopped, 50, 150) / band_power(noise, 50, 150)) < -15
    assert abs(decibels(band_power(stopped, 2000, 7500) / band_power(noise, 2000, 7500))) < 0.2


@pytest.mark.parametrize("name", CODECS)
def test_codecs_keep_the_times_and_change_the_sound(speech: list[Waveform], name: str) -> None:
    config = AugmentConfig(codec=CodecConfig(probability=1, names=(name,)))  # type: ignore[arg-type]
    augmenter = Augmenter(config, sample_rate=RATE, seed=0)
    clean = speech[1][: 2 * RATE + 77]
    for factor in (1.0, 4.0):  # 4: beyond full scale, where encoders clip
        decoded = augmenter(clean * np.float32(factor), utterance_id="u", epoch=0)
        assert decoded.shape == clean.shape
        correlation = correlate(decoded, clean, mode="same", method="fft")
        assert int(np.argmax(correlation)) == len(clean) // 2  # no delay at all
        similarity = np.corrcoef(decoded, clean)[0, 1]
        assert 0.9 < similarity < 0.999999
        assert abs(decibels(power(decoded) / power(clean * factor))) < 1
        if CODECS[name].sample_rate == 8000:  # type: ignore[index]
            assert band_power(decoded, 4200, 8000) < 1e-3 * band_power(decoded, 0, 4000)


def test_a_long_waveform_passes_the_vorbis_encoder() -> None:
    config = AugmentConfig(codec=CodecConfig(probability=1, names=("vorbis",)))
    decoded = Augmenter(config, sample_rate=RATE, seed=0)(white_noise(60.0), utterance_id="u", epoch=0)
    assert len(decoded) == 60 * RATE and power(decoded[-RATE:]) > 1e-3


def test_time_masks_are_silent_within_their_share_and_elsewhere_nothing_changes() -> None:
    config = TimeMaskConfig(probability=1, num_masks=(1, 8), mask_seconds=(0.01, 0.2), max_fraction=0.1)
    augmenter = Augmenter(AugmentConfig(time_mask=config), sample_rate=RATE, seed=0)
    noise = white_noise(2.0)
    shares = []
    for epoch in range(50):
        result = augmenter.apply(noise, utterance_id="u", epoch=epoch)
        masked = np.zeros(len(noise), dtype=bool)
        for start, end in result.to_dict()["time_mask"].get("masks_seconds", []):
            masked[round(start * RATE) : round(end * RATE)] = True
        assert not result.waveform[masked].any()
        assert np.array_equal(result.waveform[~masked], noise[~masked])
        shares.append(masked.mean())
    assert 0.05 < np.mean(shares) and max(shares) <= 0.1


# Any waveform -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    num_samples=st.sampled_from([1, 2, 10, 399, 8000]),
    scale=st.sampled_from([0.0, 1e-30, 1e-4, 0.3, 1.0, 50.0]),
    seed=st.integers(0, 10_000),
)
def test_any_waveform_stays_finite_and_within_its_length(
    manifests: dict[str, Path], num_samples: int, scale: float, seed: int
) -> None:
    augmenter = _augmenters.setdefault(
        manifests["noise"], Augmenter(all_effects(manifests, 0.5), sample_rate=RATE, seed=1)
    )
    waveform = (scale * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)
    before = waveform.copy()
    waveform.flags.writeable = False
    result = augmenter(waveform, utterance_id=f"u{seed}", epoch=0)
    assert result.dtype == np.float32 and result.ndim == 1 and result.flags.c_contiguous
    assert np.isfinite(result).all()
    config = augmenter.config
    low, high = config.min_length_factor * num_samples - 1, config.max_length_factor * num_samples
    assert max(1, low) <= len(result) <= high
    assert np.array_equal(waveform, before)


_augmenters: dict[Path, Augmenter] = {}


@settings(max_examples=60, deadline=None)
@given(num_samples=st.integers(1, 3000), factor=st.floats(0.5, 2.0))
def test_results_are_never_longer_than_promised(num_samples: int, factor: float) -> None:
    config = AugmentConfig(speed=SpeedConfig(probability=1, factors=(factor,)))
    changed = effects.change_speed(np.zeros(num_samples, dtype=np.float32), factor)
    assert max(1, num_samples * config.min_length_factor - 1.5) <= len(changed)
    assert len(changed) <= num_samples * config.max_length_factor


def test_silence_gets_no_noise_and_says_so(manifests: dict[str, Path]) -> None:
    result = Augmenter(all_effects(manifests, 1.0), sample_rate=RATE, seed=0).apply(
        np.zeros(RATE, dtype=np.float32), utterance_id="u", epoch=0
    )
    assert power(result.waveform) < 1e-8  # codecs may leave their smallest step
    assert result.to_dict()["noise"] == {"skipped": "the utterance is silent, so that no ratio to it exists"}


def test_nothing_switched_on_returns_the_waveform() -> None:
    config = AugmentConfig()
    waveform = white_noise(0.1)
    assert not config.enabled and config.max_length_factor == config.min_length_factor == 1.0
    assert Augmenter(config, sample_rate=RATE, seed=0)(waveform, utterance_id="u", epoch=0) is waveform


# Determinism ------------------------------------------------------------------------------------------------------


def digest(augmenter: Augmenter, waveform: Waveform, utterance_id: str, epoch: int = 0) -> str:
    return hashlib.sha256(augmenter(waveform, utterance_id=utterance_id, epoch=epoch).tobytes()).hexdigest()


def test_order_repetition_caches_and_pickling_change_nothing(everything: AugmentConfig) -> None:
    waveform = white_noise(0.5)
    ids = [f"speaker/clip {number}" for number in range(12)]
    first = Augmenter(everything, sample_rate=RATE, seed=7)
    expected = {name: digest(first, waveform, name, 3) for name in ids}
    assert {name: digest(first, waveform, name, 3) for name in reversed(ids)} == expected
    uncached = Augmenter(replace(everything, cache_megabytes=0), sample_rate=RATE, seed=7)
    copied = pickle.loads(pickle.dumps(first))
    for name in ids[::-2]:
        assert digest(uncached, waveform, name, 3) == digest(copied, waveform, name, 3) == expected[name]
    assert len(set(expected.values())) == 12


def test_another_process_draws_the_same(everything: AugmentConfig, manifests: dict[str, Path]) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from test_augmentation import *\n"
        f"manifests = {{name: Path(path) for name, path in { ({n: str(p) for n, p in manifests.items()})!r}.items()}}\n"
        "augmenter = Augmenter(all_effects(manifests, 0.5), sample_rate=RATE, seed=7)\n"
        "print(*[digest(augmenter, white_noise(0.5), f'u{number}') for number in range(4)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "123"}
    )
    augmenter = Augmenter(everything, sample_rate=RATE, seed=7)
    expected = [digest(augmenter, white_noise(0.5), f"u{number}") for number in range(4)]
    assert done.stdout.split() == expected, done.stderr


def test_seed_epoch_and_utterance_each_change_the_draws(manifests: dict[str, Path]) -> None:
    config = AugmentConfig(noise=NoiseConfig(probability=1, manifest=manifests["short"]))
    waveform = white_noise(0.2)
    one, other = (Augmenter(config, sample_rate=RATE, seed=seed) for seed in (0, 1))
    found = {digest(one, waveform, "a", 0), digest(one, waveform, "a", 1), digest(one, waveform, "b", 0)}
    found |= {digest(other, waveform, "a", 0), digest(one, waveform, "a0", 0), digest(one, waveform, "", 0)}
    assert len(found) == 6


def test_an_effect_draws_the_same_whatever_else_is_on(everything: AugmentConfig) -> None:
    alone = AugmentConfig(speed=everything.speed)
    waveform = white_noise(0.1)
    drawn = [
        [
            Augmenter(config, sample_rate=RATE, seed=0)
            .apply(waveform, utterance_id=f"u{number}", epoch=0)
            .to_dict()
            .get("speed")
            for number in range(20)
        ]
        for config in (alone, everything)
    ]
    assert drawn[0] == drawn[1]


def test_effects_happen_as_often_as_their_probabilities_say() -> None:
    config = AugmentConfig(
        speed=SpeedConfig(probability=0.7, factors=(0.9, 1.0, 1.1)),
        gain=GainConfig(probability=0.2),
        time_mask=TimeMaskConfig(probability=0.5, mask_seconds=(0.0001, 0.0002)),
    )
    augmenter = Augmenter(config, sample_rate=RATE, seed=0)
    waveform = white_noise(0.01)
    results = [augmenter.apply(waveform, utterance_id=f"u{n % 500}", epoch=n // 500).to_dict() for n in range(2000)]
    for name, probability in (("speed", 0.7), ("gain", 0.2), ("time_mask", 0.5)):
        share = np.mean([name in result for result in results])
        assert abs(share - probability) < 4 * np.sqrt(probability * (1 - probability) / 2000)
    together = np.mean(["speed" in result and "gain" in result for result in results])
    assert abs(together - 0.14) < 0.031  # independent of each other
    factors = [result["speed"]["factor"] for result in results if "speed" in result]
    for factor in (0.9, 1.0, 1.1):
        assert abs(np.mean(np.array(factors) == factor) - 1 / 3) < 0.05
    gains = [result["gain"]["gain_db"] for result in results if "gain" in result]
    assert min(gains) < -11 and abs(float(np.median(gains)) + 3) < 1  # even between -12 and 6


# Bad sources ------------------------------------------------------------------------------------------------------


def test_a_damaged_noise_is_passed_over_counted_and_never_ends_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_manifest(tmp_path, {"good": white_noise(1.0, seed=5), "gone": white_noise(1.0)})
    (tmp_path / "audio/gone.wav").unlink()
    augmenter = Augmenter(AugmentConfig(noise=NoiseConfig(probability=1, manifest=manifest)), sample_rate=RATE, seed=0)
    waveform = white_noise(0.2)
    drawn = [augmenter.apply(waveform, utterance_id=f"u{n}", epoch=0).to_dict()["noise"] for n in range(30)]
    assert sum(result.get("noise") == "good" for result in drawn) >= 28
    assert list(augmenter.problems) == ["gone"] and "gone.wav: no such file" in augmenter.problems["gone"]
    assert caplog.text.count("augment.noise.manifest: passed over gone") == 1
    again = Augmenter(augmenter.config, sample_rate=RATE, seed=0)  # also without knowing yet which one is bad
    assert again.apply(waveform, utterance_id="u29", epoch=0).to_dict()["noise"] == drawn[29]


def test_noises_that_cannot_be_reached_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_manifest(tmp_path, {"noise": white_noise(1.0)})
    augmenter = Augmenter(AugmentConfig(noise=NoiseConfig(probability=1, manifest=manifest)), sample_rate=RATE, seed=0)

    def fail(utterance: object, sample_rate: int) -> None:
        raise UnreachableError("s3://noises: no answer", "unreadable")

    monkeypatch.setattr(sources, "read_utterance", fail)
    with pytest.raises(UnreachableError, match="no answer"):
        augmenter(white_noise(0.2), utterance_id="u", epoch=0)
    assert augmenter.problems == {}


def test_without_any_usable_source_the_effect_is_left_out_with_the_reason(tmp_path: Path) -> None:
    silent = np.zeros(RATE, dtype=np.float32)
    manifest = write_manifest(tmp_path, {"silent": silent})
    config = AugmentConfig(
        noise=NoiseConfig(probability=1, manifest=manifest),
        reverberation=ReverberationConfig(probability=1, manifest=manifest),
    )
    waveform = white_noise(0.2)
    result = Augmenter(config, sample_rate=RATE, seed=0).apply(waveform, utterance_id="u", epoch=0)
    assert np.array_equal(result.waveform, waveform)
    assert result.to_dict() == {
        "reverberation": {"skipped": "no usable impulse response was drawn"},
        "noise": {"skipped": "no usable noise was drawn"},
    }


def test_what_is_no_mono_impulse_response_is_passed_over(tmp_path: Path) -> None:
    stereo = np.stack([white_noise(0.1), white_noise(0.1, seed=1)], axis=1)
    manifest = write_manifest(tmp_path, {"music": white_noise(21.0), "pair": stereo})
    config = AugmentConfig(reverberation=ReverberationConfig(probability=1, manifest=manifest))
    augmenter = Augmenter(config, sample_rate=RATE, seed=0)
    for number in range(5):
        augmenter(white_noise(0.2), utterance_id=f"u{number}", epoch=0)
    assert "21.0 s is no impulse response; they are at most 20 s long" in augmenter.problems["music"]
    assert "has 2 channels, whose mean is no impulse response" in augmenter.problems["pair"]


def test_of_a_long_noise_only_the_span_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = white_noise(90.0)
    manifest = write_manifest(tmp_path, {"long": long})
    augmenter = Augmenter(AugmentConfig(noise=NoiseConfig(probability=1, manifest=manifest)), sample_rate=RATE, seed=0)
    spans = []
    monkeypatch.setattr(sources, "read", lambda path, **span: spans.append(span["duration"]) or read(path, **span))
    waveform = white_noise(2.0, seed=1)
    added = augmenter(waveform, utterance_id="u", epoch=0) - waveform
    place = int(np.argmax(correlate(long, added, mode="valid", method="fft")))
    assert spans == [2.0]
    assert np.corrcoef(long[place : place + len(added)], added)[0, 1] > 0.9999


def test_the_cache_keeps_to_its_bound_and_drops_the_least_used() -> None:
    cache = sources.ClipCache(0.001)  # 250 samples
    loads = []

    def get(name: str, num_samples: int = 100) -> None:
        cache.get((name, 0), lambda: loads.append(name) or np.zeros(num_samples, dtype=np.float32))  # type: ignore[func-returns-value]

    for name in ("a", "b", "a", "c", "a", "b"):
        get(name)
        assert cache.num_bytes <= 1000
    assert loads == ["a", "b", "c", "b"]
    get("large", 1000)
    assert cache.num_bytes <= 1000


# Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speed": {"probability": 1.5}}, "speed: probability must be from 0 to 1, but is 1.5"),
        ({"speed": {"factors": [0.9, 3]}}, r"speed: factors must be between 0.5 and 2.0, but are \[0.9, 3.0\]"),
        (
            {"noise": {"probability": 0.5}},
            "noise: manifest must name a manifest of noises .* make one with `speechssl",
        ),
        ({"noise": {"snr_db": [20, 0]}}, r"noise: snr_db must be two values .* lower one first, but is \[20.0, 0.0\]"),
        ({"noise": {"speech_level": "peak"}}, "noise.speech_level: must be"),
        ({"reverberation": {"probability": 1}}, "reverberation: manifest must name a manifest of room impulse"),
        ({"band_limit": {"low_hz": [0, 4000]}}, r"band_limit: low_hz \[0.0, 4000.0\] must lie a tenth below high_hz"),
        ({"codec": {"names": ["mp4"]}}, r"codec.names\[0\]: must be"),
        ({"codec": {"compression": [0, 1]}}, "codec: compression must be two values from 0 to 0.95"),
        ({"time_mask": {"max_fraction": 0}}, "time_mask: max_fraction must be above 0"),
        ({"noise": {"snr": [0, 10]}}, "unknown key 'noise.snr'; did you mean 'noise.snr_db'"),
        ({"cache_megabytes": -1}, "cache_megabytes must be at least 0"),
    ],
)
def test_wrong_settings_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(AugmentConfig, values)


def test_missing_manifests_and_impossible_bands_are_found_before_training(tmp_path: Path) -> None:
    def make(**parts: object) -> Augmenter:
        return Augmenter(AugmentConfig(**parts), sample_rate=8000, seed=0)  # type: ignore[arg-type]

    missing = tmp_path / "none.jsonl"
    with pytest.raises(ConfigError, match=re.escape(f"augment.noise.manifest: {missing}: no such manifest")):
        make(noise=NoiseConfig(probability=0.1, manifest=missing))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"augment.reverberation.manifest: .*empty.jsonl"):
        make(reverberation=ReverberationConfig(probability=0.1, manifest=tmp_path / "empty.jsonl"))
    with pytest.raises(ConfigError, match="augment.band_mask.width_hz: must be below 4000 Hz, half of the sampling"):
        make(band_mask=BandMaskConfig(probability=0.1, width_hz=(100, 5000)))
    make(noise=NoiseConfig(manifest=missing))  # switched off: not looked at


def test_the_configuration_in_the_guide_is_one(repository: Path) -> None:
    text = (repository / "docs/augmentation.md").read_text().split("```yaml\n")[1].split("```")[0]
    config = from_dict(AugmentConfig, yaml.safe_load(text)["data"]["augment"])
    assert config.enabled and config.noise.snr_db == (0.0, 20.0)


# To listen to -----------------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    return write_manifest(tmp_path, {f"u{number}": white_noise(0.3, seed=number) for number in range(9)})


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def test_the_preview_writes_what_training_hears(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_recipe: Callable[[str], Path]
) -> None:
    recipe = make_recipe("data: {augment: {speed: {probability: 1, factors: [1.1]}, gain: {probability: 1}}}")
    heard = tmp_path / "heard"
    assert run("manifest", "augment", recordings, "--output", heard, "--count", 3, "--recipe", recipe) == 0
    out = capsys.readouterr().out
    assert "3 utterances, as they are and augmented" in out and '"speed": {"factor": 1.1}' in out
    listed = json.loads((heard / "augmented.json").read_text())
    assert [entry["utterance_id"] for entry in listed] == ["u0", "u4", "u8"]
    config = AugmentConfig(speed=SpeedConfig(probability=1, factors=(1.1,)), gain=GainConfig(probability=1))
    expected = Augmenter(config, sample_rate=RATE, seed=0).apply(
        read(tmp_path / "audio/u4.wav"), utterance_id="u4", epoch=0
    )
    assert listed[1]["effects"] == expected.to_dict()
    written = soundfile.read(heard / listed[1]["augmented"], dtype="float32")[0]
    assert np.abs(written - expected.waveform).max() < 1e-4  # 16 bits
    assert np.abs(soundfile.read(heard / listed[1]["original"])[0] - read(tmp_path / "audio/u4.wav")).max() < 1e-4


@pytest.fixture
def make_recipe(tmp_path: Path) -> Callable[[str], Path]:
    def make(text: str) -> Path:
        (tmp_path / "recipe.yaml").write_text(text)
        return tmp_path / "recipe.yaml"

    return make


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "nothing to apply: name a training configuration with --recipe, or switch effects on"),
        ("data: {batch_seconds: 3}", "recipe.yaml: has no mapping data.augment"),
        ("data: {augment: {speed: {probability: 0}}}", "no effect has a probability above 0"),
        ("data: {augment: {sped: {probability: 1}}}", "unknown key 'sped'; did you mean 'speed'"),
    ],
)
def test_the_preview_says_what_is_missing(
    recordings: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make_recipe: Callable[[str], Path],
    recipe: str | None,
    message: str,
) -> None:
    words = [] if recipe is None else ["--recipe", make_recipe(recipe)]
    assert run("manifest", "augment", recordings, "--output", tmp_path / "heard", *words) == 2
    assert message in capsys.readouterr().err


def test_the_preview_passes_over_unreadable_utterances(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("manifest", "augment", recordings, "--output", tmp_path / "heard", "--augment.gain.probability", 1)
    (tmp_path / "audio/u0.wav").unlink()
    assert run(*words, "--count", 2) == 0
    out = capsys.readouterr().out
    assert "passed over u0: " in out and "1 utterances" in out
    (tmp_path / "audio/u8.wav").unlink()
    assert run(*words, "--count", 2) == 2
    assert "none of 2 utterances can be read" in capsys.readouterr().err
