"""Opus by libopus itself: what libsndfile gives, or nothing."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl import audio
from speechssl.audio import decode, opus
from speechssl.audio.opus import read_opus
from speechssl.errors import AudioError

pytestmark = pytest.mark.skipif(opus._libopus() is None, reason="there is no libopus, neither PyAV's nor the system's")

TOLERANCE = 1e-6
"""Both are libopus, of other versions and builds; what was seen is 1e-8."""


def encode(rate: int, num_channels: int = 1, seconds: float = 1.7) -> bytes:
    random = np.random.default_rng(rate + num_channels)
    time = np.arange(int(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 300 * time)[:, None] * 0.3 + random.normal(size=(len(time), num_channels)) * 0.05
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, rate, format="OGG", subtype="OPUS")
    return buffer.getvalue()


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray]:
    """What libsndfile gives."""

    def read(path: Path, **values: float | int | None) -> np.ndarray:
        with monkeypatch.context() as patched:
            patched.setattr(decode, "read_quickly", lambda *arguments: None)
            return audio.read(path, **values)  # type: ignore[arg-type]

    return read


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("rate", opus.OPUS_RATES)
def test_samples_are_those_of_libsndfile(
    rate: int, num_channels: int, tmp_path: Path, slowly: Callable[..., np.ndarray]
) -> None:
    path = tmp_path / "a.opus"
    path.write_bytes(encode(rate, num_channels))
    for wanted in (None, 8000, 16000, 22050):
        for duration in (None, 0.013, 0.5):
            assert read_opus(str(path), path.read_bytes(), 0.0, duration, wanted) is not None
            found = audio.read(path, sample_rate=wanted, duration=duration)
            expected = slowly(path, sample_rate=wanted, duration=duration)
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    later = audio.read(path, offset=0.7, duration=0.4)  # left to libsndfile
    np.testing.assert_array_equal(later, slowly(path, offset=0.7, duration=0.4))


def test_real_speech_sounds_as_libsndfile_decodes_it(
    corpora: Path, tmp_path: Path, slowly: Callable[..., np.ndarray]
) -> None:
    for number, clip in enumerate(sorted((corpora / "librispeech_train100_251spk/audio").iterdir())[:6]):
        samples, rate = soundfile.read(clip)
        path = tmp_path / f"{number}.opus"
        soundfile.write(path, samples, rate, format="OGG", subtype="OPUS")
        np.testing.assert_allclose(audio.read(path), slowly(path), atol=TOLERANCE)
        assert len(audio.read(path)) == audio.probe(path).num_samples


CONTENT = encode(16000)


@settings(max_examples=400, deadline=None)
@given(
    place=st.integers(0, len(CONTENT) - 1), value=st.integers(1, 255), cut=st.integers(0, len(CONTENT)),
    kind=st.sampled_from(["flip", "cut", "drop", "append", "twice"]),
)  # fmt: skip
def test_what_is_damaged_is_left_to_libsndfile(place: int, value: int, cut: int, kind: str) -> None:
    damaged = bytearray(CONTENT)
    if kind == "flip":
        damaged[place] ^= value
    elif kind == "cut":
        damaged = damaged[: min(cut, len(CONTENT) - 1)]
    elif kind == "drop":
        del damaged[place : place + value]
    elif kind == "append":
        damaged += bytes([value])
    else:
        damaged = damaged * 2
    assert read_opus("a.opus", bytes(damaged), 0.0, None, None) is None


def test_pages_out_of_order_or_missing_are_left_to_libsndfile() -> None:
    starts = [place for place in range(len(CONTENT)) if CONTENT.startswith(b"OggS", place)]
    pages = [CONTENT[a:b] for a, b in zip(starts, [*starts[1:], len(CONTENT)], strict=True)]
    assert len(pages) >= 4
    for chosen in ([*pages[:2], *pages[3:]], pages[:-1], [*pages[:2], pages[3], pages[2], *pages[4:]], pages[1:]):
        assert read_opus("a.opus", b"".join(chosen), 0.0, None, None) is None


def test_a_span_beyond_the_end_is_refused_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "a.opus"
    path.write_bytes(CONTENT)
    with pytest.raises(AudioError, match="truncated, or the manifest's duration is wrong"):
        audio.read(path, duration=5.0)


def test_all_is_well_without_libopus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.opus"
    path.write_bytes(CONTENT)
    found = audio.read(path)
    monkeypatch.setattr(opus, "_libopus", lambda: None)
    np.testing.assert_allclose(audio.read(path), found, atol=TOLERANCE)
