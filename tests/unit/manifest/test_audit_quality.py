"""Promises about measures of recordings: each defect is told when it is put into recorded speech, and not otherwise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import audio
from speechssl.audio import Waveform, resample
from speechssl.data.augmentation.codecs import encode_decode
from speechssl.manifest import AuditReport, Manifest, audit_manifests
from speechssl.manifest.audit.findings import QUALITY_KINDS
from speechssl.manifest.audit.measures import MEASURES, active_blocks, bandwidth, block_power, measure
from speechssl.types import Utterance

RATE = 16_000
Write = Callable[[dict[str, Waveform]], Manifest]


@pytest.fixture(scope="module")
def speech(corpora: Path) -> list[Waveform]:
    """Six clean clips of 3 to 5 s at 16 kHz."""
    names = [path for corpus in ("ljspeech_part", "kathleen_en", "kerstin_de")
             for path in sorted((corpora / corpus / "audio").iterdir())[4:6]]  # fmt: skip
    return [audio.read(name, sample_rate=RATE)[: 5 * RATE] for name in names]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A manifest of waveforms `[S]` or `[S, C]`, each a wav of 16 bits named by its id."""

    def make(waveforms: dict[str, Waveform], rate: int = RATE) -> Manifest:
        rows = []
        for name, waveform in waveforms.items():
            soundfile.write(tmp_path / f"{name}.wav", waveform, rate, subtype="PCM_16")
            rows.append(
                Utterance(id=name, audio_filepath=f"{name}.wav", sample_rate=rate, num_samples=len(waveform),
                          duration=len(waveform) / rate)
            )  # fmt: skip
        return Manifest.from_utterances(rows, folder=tmp_path)

    return make


def found(report: AuditReport) -> dict[str, set[str]]:
    """Kinds of findings about recordings, with the ids of each."""
    return {f.kind: set(report.rows.ids(f.rows)) for f in report.findings if f.kind in QUALITY_KINDS}


def level_of(waveform: Waveform) -> float:
    return float(10 ** (measure(waveform[:, None], RATE)["level_dbfs"] / 20))


def with_noise(waveform: Waveform, snr_db: float) -> Waveform:
    random = np.random.default_rng(0).standard_normal(len(waveform)).astype(np.float32)
    return waveform + random * np.float32(level_of(waveform) * 10 ** (-snr_db / 20))


def with_hum(waveform: Waveform, below_db: float, mains: float) -> Waveform:
    time = np.arange(len(waveform)) / RATE
    tones = sum(np.sin(2 * np.pi * mains * k * time + k) / k for k in (1, 2, 3))
    return waveform + (tones * level_of(waveform) * 10 ** (-below_db / 20)).astype(np.float32)


def clipped(waveform: Waveform, share: float = 0.01) -> Waveform:
    top = np.quantile(np.abs(waveform), 1 - share)
    return np.clip(waveform, -top, top).astype(np.float32)


def narrow(waveform: Waveform, rate: int) -> Waveform:
    return resample(resample(waveform, from_rate=RATE, to_rate=rate), from_rate=rate, to_rate=RATE)


SILENCE = np.zeros(round(3.5 * RATE), dtype=np.float32)
DEFECTS: dict[str, tuple[str, Callable[[Waveform], Waveform]]] = {
    "clipped at full scale": ("clipping", lambda w: np.clip(w / np.quantile(np.abs(w), 0.99), -1, 1)),
    "clipped, then attenuated": ("clipping", lambda w: 0.3 * clipped(w)),
    "clipped, then coded": (
        "at_ceiling",
        lambda w: encode_decode(clipped(w, 0.05), "mp3", sample_rate=RATE, compression=0.5),
    ),
    "an offset": ("dc_offset", lambda w: w + np.float32(0.02)),
    "from the telephone": ("narrow_band", lambda w: narrow(w, 8000)),
    "from the telephone, then coded": (
        "narrow_band",
        lambda w: encode_decode(narrow(w, 8000), "vorbis", sample_rate=RATE, compression=0.5),
    ),
    "from 11 kHz": ("narrow_band", lambda w: narrow(w, 11025)),
    "silence before it": ("long_silence", lambda w: np.concatenate([SILENCE, w])),
    "noise as silence after it": (
        "long_silence",
        lambda w: with_noise(np.concatenate([w, SILENCE]), 40),
    ),
    "a word in long silence": ("mostly_silence", lambda w: np.concatenate([w[RATE : 2 * RATE], SILENCE, SILENCE])),
    "far too quiet": ("low_level", lambda w: w * np.float32(0.002 / level_of(w))),
    "in noise": ("noisy", lambda w: with_noise(w, 5)),
    "European hum": ("hum", lambda w: with_hum(w, 12, 50)),
    "American hum": ("hum", lambda w: with_hum(w, 12, 60)),
    "one dead channel": ("dead_channel", lambda w: np.stack([w, 0 * w], axis=1)),
    "mono twice": ("identical_channels", lambda w: np.stack([w, w], axis=1)),
    "nothing": ("silent", lambda w: 0 * w),
}


@pytest.mark.corpora
@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_found_in_every_clip(name: str, speech: list[Waveform], write: Write) -> None:
    kind, spoil = DEFECTS[name]
    report = audit_manifests({"m": write({f"c{n}": spoil(clip) for n, clip in enumerate(speech)})})
    assert found(report).get(kind) == {f"c{n}" for n in range(len(speech))}


@pytest.mark.corpora
def test_clean_clips_have_no_finding(speech: list[Waveform], write: Write) -> None:
    clips = {f"c{n}": clip for n, clip in enumerate(speech)}
    stereo = {f"s{n}": np.stack([clip, 0.8 * clip], axis=1) for n, clip in enumerate(speech)}
    assert found(audit_manifests({"m": write(clips)})) == {}
    assert found(audit_manifests({"m": write(stereo)})) == {}


@pytest.mark.corpora
@pytest.mark.parametrize("snr_db", [5, 10, 20, 30])
def test_the_signal_to_noise_ratio_is_near_the_one_that_was_mixed(snr_db: float, speech: list[Waveform]) -> None:
    told = [measure(with_noise(clip, snr_db)[:, None], RATE)["snr_db"] for clip in speech]
    assert np.median(told) == pytest.approx(snr_db, abs=4)


@pytest.mark.corpora
def test_clipping_is_found_in_one_of_two_channels(speech: list[Waveform]) -> None:
    clip = speech[0]
    both = np.stack([clip, clipped(clip)], axis=1)
    assert measure(both, RATE)["flat_runs"] > 10
    assert measure(both[:, :1], RATE)["flat_runs"] < 3


@pytest.mark.corpora
def test_silences_are_measured_where_they_are(speech: list[Waveform]) -> None:
    clip = speech[0]
    alone = measure(clip[:, None], RATE)
    values = measure(np.concatenate([SILENCE[: 2 * RATE], clip, SILENCE[:RATE]])[:, None], RATE)
    assert values["leading_silence"] == pytest.approx(2 + alone["leading_silence"], abs=0.1)
    assert values["trailing_silence"] == pytest.approx(1 + alone["trailing_silence"], abs=0.1)
    assert values["longest_silence"] == values["leading_silence"]
    assert values["seconds"] == pytest.approx(3 + len(clip) / RATE)


def test_a_band_of_noise_has_the_bandwidth_that_it_was_made_with() -> None:
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(5 * RATE))
    frequency = np.fft.rfftfreq(5 * RATE, 1 / RATE)
    for edge in (3000, 5000, 7000):
        waveform = np.fft.irfft(np.where(frequency < edge, spectrum, 0)).astype(np.float32) * np.float32(0.1)
        assert bandwidth(waveform, RATE) == pytest.approx(edge, abs=200)


def test_a_click_is_no_activity() -> None:
    waveform = np.zeros(RATE, dtype=np.float32)
    waveform[8000] = 1
    assert not active_blocks(block_power(waveform, RATE)).any()


@pytest.mark.parametrize("num_samples", [1, 100, 400, 16_000])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_recordings_of_any_length_and_rate_are_measured(num_samples: int, rate: int) -> None:
    for channels in (np.zeros((num_samples, 1)), 0.1 * np.random.default_rng(0).standard_normal((num_samples, 2))):
        values = measure(channels.astype(np.float32), rate)
        assert list(values) == list(MEASURES)
        assert np.isfinite(list(values.values())).all()
