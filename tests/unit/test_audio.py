"""Promises of `speechssl.audio`, on real files of every kind that users have."""

import copy
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import audio
from speechssl.audio import AudioInfo, RecordingError, read_compact, to_float
from speechssl.audio.mp3 import _libmpg123
from speechssl.audio.quick import read_quickly
from speechssl.audio.sndfile import open_soundfile, read_soundfile
from speechssl.errors import AudioError
from speechssl.types import Utterance


def tone(seconds: float = 1.0, sample_rate: int = 16000, frequency: float = 440.0) -> np.ndarray:
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write(path: Path, samples: np.ndarray, sample_rate: int = 16000, **kwargs: str) -> Path:
    soundfile.write(path, samples, sample_rate, **kwargs)
    return path


def write_media(path: Path, samples: np.ndarray, codec: str) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = 16000
        resampler = av.AudioResampler(format=stream.codec_context.format, frame_size=stream.codec_context.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.wav", {}),
        ("a.flac", {}),
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {}),
    ],
)
def test_reading_gives_as_many_samples_as_probing_says(tmp_path: Path, name: str, arguments: dict[str, str]) -> None:
    path = write(tmp_path / name, tone(), **arguments)
    info = audio.probe(path)
    assert (info.sample_rate, info.num_channels) == (16000, 1)
    waveform = audio.read(path)
    assert waveform.dtype == np.float32 and waveform.shape == (info.num_samples,)
    assert abs(info.duration - 1.0) < 0.05
    assert abs(waveform[4000:12000].std() - 0.5 / np.sqrt(2)) < 0.02  # codecs ring at the ends


@pytest.mark.parametrize(("name", "codec"), [("a.g722", "g722"), ("a.m4a", "aac"), ("a.webm", "libopus")])
def test_media_containers_are_read_through_pyav(tmp_path: Path, name: str, codec: str) -> None:
    path = write_media(tmp_path / name, tone(), codec)
    info = audio.probe(path)
    waveform = audio.read(path, sample_rate=16000)
    assert abs(info.duration - 1.0) < 0.15
    assert abs(len(waveform) - info.duration * 16000) <= 1
    assert 0.3 < np.abs(waveform).max() < 0.7
    assert audio.read(path, offset=0.25, duration=0.5, sample_rate=16000).shape == (8000,)


def test_a_span_is_the_same_as_cutting_the_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone(2.0))
    whole = audio.read(path)
    np.testing.assert_array_equal(audio.read(path, offset=0.5, duration=0.75), whole[8000:20000])
    np.testing.assert_array_equal(audio.read(path, offset=1.5), whole[24000:])


@pytest.mark.parametrize(
    ("name", "arguments", "sample_rate"),
    [
        ("a.mp3", {}, 44100),
        ("a.ogg", {"subtype": "VORBIS"}, 16000),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 48000),
        ("a.aiff", {}, 44100),
    ],
)
def test_a_span_of_speech_is_the_same_as_cutting_the_whole(
    tmp_path: Path, corpora: Path, name: str, arguments: dict[str, str], sample_rate: int
) -> None:
    speech = audio.read(
        corpora / "librispeech_train100_251spk" / "audio" / "103-1240-0000.ogg", sample_rate=sample_rate
    )
    path = write(tmp_path / name, np.tile(speech, 3), sample_rate, **arguments)  # far enough for mp3 to be entered late
    whole = audio.read(path)
    seconds = len(whole) / sample_rate
    for offset in (0.1, 0.9, 10.03, seconds - 3.3, seconds - 0.7, seconds - 0.31):
        span = audio.read(path, offset=offset, duration=0.3)
        start = round(offset * sample_rate)
        np.testing.assert_allclose(span, whole[start : start + len(span)], atol=2e-6)


def test_reading_on_gives_the_same_as_reading_at_once(tmp_path: Path, corpora: Path) -> None:
    speech = audio.read(corpora / "librispeech_train100_251spk" / "audio" / "103-1240-0000.ogg", sample_rate=44100)
    path = str(write(tmp_path / "a.mp3", speech, 44100))
    with open_soundfile(path, path) as file:
        pieces = [file.read(5000, dtype="float32") for _ in range(40)]
    np.testing.assert_allclose(np.concatenate(pieces), audio.read(path)[: 40 * 5000], atol=2e-6)


@pytest.mark.parametrize("sample_rate", [8000, 12000, 16000, 24000])
def test_opus_is_decoded_at_the_rate_asked_for(tmp_path: Path, corpora: Path, sample_rate: int) -> None:
    speech = audio.read(corpora / "librispeech_train100_251spk" / "audio" / "103-1240-0000.ogg", sample_rate=48000)
    path = write(tmp_path / "a.opus", speech[:100001], 48000, format="OGG", subtype="OPUS")
    resampled = audio.resample(audio.read(path), from_rate=48000, to_rate=sample_rate)
    direct = audio.read(path, sample_rate=sample_rate)
    assert direct.shape == resampled.shape
    spectra = [np.fft.rfft(x * np.hanning(len(x)))[: int(0.8 * len(x) / 2)] for x in (direct, resampled)]
    error = np.linalg.norm(spectra[0] - spectra[1]) / np.linalg.norm(spectra[1])
    assert error < 0.003, "the same sound but for the upper edge of the band"
    span = audio.read(path, sample_rate=sample_rate, offset=0.5, duration=0.25)
    start = sample_rate // 2
    np.testing.assert_allclose(span, direct[start : start + sample_rate // 4], atol=2e-3)


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.au", "a.flac"])
@pytest.mark.parametrize("num_channels", [1, 2, 3])
def test_sixteen_bits_become_the_same_floats_everywhere(tmp_path: Path, name: str, num_channels: int) -> None:
    values = np.random.default_rng(0).integers(-32768, 32768, (5000, num_channels)).astype(np.int16)
    soundfile.write(tmp_path / name, values, 16000, subtype="PCM_16")
    expected = (values.astype(np.float64) / 32768).astype(np.float32).mean(axis=1, dtype=np.float32)
    np.testing.assert_array_equal(audio.read(tmp_path / name), expected)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
@pytest.mark.parametrize("span", [(0.0, None), (1.25, None), (0.0, 0.5), (0.5, 0.25)])
def test_small_files_give_the_bits_that_libsndfile_gives(
    tmp_path: Path, corpora: Path, name: str, span: tuple[float, float | None]
) -> None:
    if name == "a.flac":
        pytest.importorskip("miniaudio")
    speech = audio.read(corpora / "librispeech_train100_251spk" / "audio" / "103-1240-0000.ogg")
    path = str(write(tmp_path / name, np.stack([speech, -speech / 3], axis=1)))
    found = read_quickly(path, None, *span)
    if found is None:
        assert name == "a.flac" and span[1] is not None, "only what dr_flac cannot be trusted with"
        return
    samples, rate = read_soundfile(path, path, *span)
    assert found[0].dtype == np.int16
    np.testing.assert_array_equal(to_float(found[0]), samples)
    assert found[1] == rate


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("sample_rate", [None, 16000, 8000])
def test_compact_samples_are_the_same_samples(
    tmp_path: Path, name: str, num_channels: int, sample_rate: int | None
) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (9000, num_channels))
    path = write(tmp_path / name, values)
    compact = read_compact(path, sample_rate=sample_rate, offset=0.125)
    if name == "a.wav":
        assert (compact.dtype == np.int16) == (num_channels == 1 and sample_rate != 8000), "only what is stored so"
    np.testing.assert_array_equal(to_float(compact), audio.read(path, sample_rate=sample_rate, offset=0.125))


@pytest.mark.parametrize("span", [(0.0, None), (1.25, None), (0.0, 0.5), (0.5, 0.25)])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_mp3_by_libmpg123_is_what_libsndfile_gives(
    tmp_path: Path, corpora: Path, span: tuple[float, float | None], num_channels: int
) -> None:
    need_libmpg123()
    speech = audio.read(corpora / "librispeech_train100_251spk" / "audio" / "103-1240-0000.ogg")
    values = np.stack([speech, -speech[::-1]][:num_channels], axis=1)
    content = write(tmp_path / "a.mp3", values, 22050).read_bytes()
    tags = {"none": (b"", b""), "id3": (b"ID3\x03\0\0\0\0\1\0" + bytes(128), b"TAG" + 125 * b"x")}
    for before, after in tags.values():
        (tmp_path / "b.mp3").write_bytes(before + content + after)
        path = str(tmp_path / "b.mp3")
        samples, rate = read_soundfile(path, path, *span)
        for found in (read_quickly(path, None, *span), read_quickly(path, io.BytesIO(before + content), *span)):
            assert found is not None and found[1] == rate and found[0].shape == samples.shape
            np.testing.assert_allclose(found[0], samples, rtol=0, atol=1e-6)


def test_only_a_sound_mp3_is_taken(tmp_path: Path) -> None:
    need_libmpg123()
    content = write(tmp_path / "a.mp3", np.random.default_rng(0).uniform(-0.5, 0.5, 40000)).read_bytes()
    half, other = len(content) // 2, write(tmp_path / "b.mp3", tone(), 44100).read_bytes()
    odd = {
        "junk": content[:half] + bytes(100) + content[half:],
        "cut": content[:half],
        "two rates": content[:half] + other[half:],
        "empty": b"ID3\x03\0\0\0\0\1\0" + bytes(128),
        "one byte": b"\xff",
    }
    for name, damaged in odd.items():
        assert read_quickly(name, io.BytesIO(damaged), 0.0, None) is None, name


def need_libmpg123() -> None:
    if _libmpg123() is None:
        pytest.skip("the system has no libmpg123")


def test_chunks_beside_the_samples_of_a_wav_change_nothing(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-32768, 32768, 1000).astype(np.int16)
    content = write(tmp_path / "a.wav", values).read_bytes()
    note, tail = b"LIST\x05\0\0\0notes\0", b"id3 \x02\0\0\0ab"
    for pieces in ((content[:36], note, content[36:]), (content, tail), (content[:12], note, content[12:], tail)):
        joined = bytearray(b"".join(pieces))
        joined[4:8] = (len(joined) - 8).to_bytes(4, "little")
        (tmp_path / "b.wav").write_bytes(joined)
        found = read_quickly(str(tmp_path / "b.wav"), None, 0.0, None)
        assert found is not None
        np.testing.assert_array_equal(found[0][:, 0], values)
    (tmp_path / "b.wav").write_bytes(content[:36] + note + content[36:])  # the size in front is no longer true
    assert read_quickly(str(tmp_path / "b.wav"), None, 0.0, None) is None


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_damage_in_small_files_is_judged_by_libsndfile(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 40000))
    content = path.read_bytes()
    random = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(content)
        damaged[random.integers(len(damaged) if name == "a.flac" else 40)] ^= 1 << random.integers(8)
        path.write_bytes(damaged[: random.integers(len(damaged) // 2, 2 * len(damaged))])
        outcomes = []
        for reading in (lambda: audio.read(path), lambda: read_soundfile(str(path), str(path), 0.0, None)[0][:, 0]):
            try:
                outcomes.append(reading().tobytes())
            except RecordingError as error:
                outcomes.append(error.kind.encode())
        assert outcomes[0] == outcomes[1]


def test_huge_samples_are_refused_before_they_overflow(tmp_path: Path) -> None:
    samples = np.full((100, 2), 3e38, dtype=np.float32)
    fails(write(tmp_path / "a.wav", samples, subtype="FLOAT"), "100 of 100 samples are NaN or inf", "non_finite")


def test_only_the_span_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 32000))
    path.write_bytes(path.read_bytes()[:30000])  # the second half is gone
    assert audio.read(path, duration=0.25).shape == (4000,)
    with pytest.raises(AudioError, match="truncated"):
        audio.read(path)


def test_stereo_at_96_khz_becomes_the_mean_at_16_khz(tmp_path: Path) -> None:
    left = tone(0.5, 96000)
    path = write(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), 96000, subtype="FLOAT")
    assert audio.probe(path) == AudioInfo(sample_rate=96000, num_samples=48000, num_channels=2, format="WAV")
    waveform = audio.read(path, sample_rate=16000)
    assert waveform.shape == (8000,)
    np.testing.assert_allclose(waveform[500:-500], tone(0.5)[500:-500] / 2, atol=1e-3)


def test_8_khz_is_resampled_to_what_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(0.5, 8000), 8000)
    assert audio.read(path).shape == (4000,)
    waveform = audio.read(path, sample_rate=16000)
    assert waveform.shape == (8000,)
    np.testing.assert_allclose(waveform[500:-500], tone(0.5)[500:-500], atol=1e-3)


@pytest.mark.parametrize("from_rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("num_samples", [1, 2, 3, 100, 12345])
def test_resampling_gives_exactly_the_announced_length(from_rate: int, num_samples: int) -> None:
    waveform = tone(1.0)[:num_samples]
    resampled = audio.resample(waveform, from_rate=from_rate, to_rate=16000)
    assert len(resampled) == audio.resampled_length(num_samples, from_rate=from_rate, to_rate=16000)
    assert len(resampled) == max(1, int(num_samples * 16000 / from_rate + 0.5))


def test_one_sample_is_a_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.array([0.5], dtype=np.float32))
    assert audio.probe(path).num_samples == 1
    assert audio.read(path).shape == (1,)
    assert audio.read(path, sample_rate=8000).shape == (1,)


def test_an_utterance_is_its_span(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(2.0))
    utterance = Utterance(
        id="a", audio_filepath=str(path), sample_rate=16000, num_samples=8000, offset=0.5, duration=0.5
    )
    np.testing.assert_array_equal(audio.read_utterance(utterance, 16000), audio.read(path)[8000:16000])


def fails(path: Path | str, message: str, kind: str) -> None:
    """Both reading and probing, or reading alone, name the file, the reason and its kind."""
    with pytest.raises(AudioError, match=message) as caught:
        audio.probe(path)
        audio.read(path)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, RecordingError) and caught.value.kind == kind


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere.wav", "no such file", "missing")


def test_a_folder_is_not_a_recording(tmp_path: Path) -> None:
    fails(tmp_path, "is a folder", "unreadable")


def test_text_named_wav_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_text("hello, I am a transcript\n")
    fails(path, "is text, not audio", "unreadable")


def test_random_bytes_named_flac_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(bytes(range(128, 256)) * 10)
    fails(path, "not a recording that soundfile knows", "unreadable")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.g722"])
def test_zero_bytes_are_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    fails(tmp_path / name, "is empty", "empty")


def test_a_header_without_samples_is_empty(tmp_path: Path) -> None:
    fails(write(tmp_path / "a.wav", np.zeros(0, dtype=np.float32)), "holds no samples", "empty")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, np.random.default_rng(0).uniform(-0.5, 0.5, 16000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(path, "truncated", "truncated")


@pytest.mark.parametrize("sample_rate", [1, 999, 2**31 - 1])
def test_a_rate_that_cannot_be_is_refused(tmp_path: Path, sample_rate: int) -> None:
    path = write(tmp_path / "a.wav", tone())
    content = bytearray(path.read_bytes())
    content[24:28] = sample_rate.to_bytes(4, "little")
    path.write_bytes(content)
    fails(path, f"its header says {sample_rate} Hz", "unreadable")


def test_a_length_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone())
    content = bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] | 0x0F, 0xFF, 0xFF, 0xFF, 0xFF])  # the 36 bits of STREAMINFO's total
    path.write_bytes(content)
    fails(path, "its header promises 68719476735 samples", "truncated")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_samples_are_counted(tmp_path: Path, value: float) -> None:
    samples = tone()
    samples[100:103] = value
    fails(write(tmp_path / "a.wav", samples, subtype="FLOAT"), "3 of 16000 samples are NaN or inf", "non_finite")


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ({"offset": 1.0}, "starts at 1.000 s but the recording is 1.000 s long"),
        ({"offset": 0.5, "duration": 1.0}, "ends at 1.500 s but the recording is 1.000 s long"),
        ({"offset": -0.5}, "need offset >= 0"),
        ({"duration": 0.0}, "duration > 0"),
    ],
)
def test_a_span_outside_of_the_recording_is_refused(tmp_path: Path, span: dict[str, float], message: str) -> None:
    path = write(tmp_path / "a.wav", tone())
    with pytest.raises(AudioError, match=message):
        audio.read(path, **span)


def test_a_rounded_duration_may_reach_a_little_past_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone())
    assert audio.read(path, duration=1.01).shape == (16000,)


def test_a_file_without_permission_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        path = write(Path(folder) / "a.wav", tone())
        path.chmod(0)
        if os.geteuid() != 0:
            fails(path, "permission denied", "unreadable")
            return
        # Root may read anything: ask as somebody else, in a process of its own.
        Path(folder).chmod(0o755)
        program = (
            "import os, sys; from speechssl import audio; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "try: audio.probe(sys.argv[1])\n"
            "except audio.RecordingError as error: print(error.kind, error)"
        )
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"unreadable {path}: permission denied")


def test_errors_survive_the_way_between_processes(tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        audio.probe(tmp_path / "nowhere.wav")
    twin = copy.copy(caught.value)  # by the same protocol as multiprocessing's queues
    assert (str(twin), twin.kind) == (str(caught.value), "missing")


def test_importing_audio_loads_no_decoder() -> None:
    program = "import sys, speechssl.audio; print([n for n in ('av', 'soundfile', 'soxr') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bare_samples_are_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "talk.raw"
    path.write_bytes(bytes(3200))
    for refused in (audio.probe, audio.read):
        with pytest.raises(AudioError, match=r"talk.raw: bare samples say neither their rate .* make it a .wav"):
            refused(path)


def test_sphere_files_are_read(tmp_path: Path) -> None:
    """NIST's container, as TIMIT and older corpora have it."""
    samples = (0.1 * np.random.default_rng(0).standard_normal(1600)).astype(np.float32)
    path = tmp_path / "talk.sph"
    soundfile.write(path, samples, 16_000, format="NIST", subtype="PCM_16")
    assert ".sph" in audio.AUDIO_EXTENSIONS and audio.probe(path).num_samples == 1600
    np.testing.assert_allclose(audio.read(path), samples, atol=2**-15)
