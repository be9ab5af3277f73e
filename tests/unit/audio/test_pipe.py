"""Audio from a pipe: wav and raw samples, in whatever pieces they come, and resampling over seams."""

import io
import struct

import numpy as np
import pytest
import soundfile

from speechssl.audio import PipeFormat, PipeReader, resample, resample_blocks
from speechssl.errors import AudioError, ConfigError

NOISE = (0.3 * np.random.default_rng(0).standard_normal((1000, 2))).clip(-1, 1).astype(np.float32)


class Dribble(io.RawIOBase):
    """A pipe that gives a few bytes at a time and cannot seek."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        piece = self._data[: min(self._size, len(buffer))]
        self._data = self._data[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def wav(subtype: str, *, format: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, NOISE, 8000, format=format, subtype=subtype)
    return file.getvalue()


def collect(reader: PipeReader) -> np.ndarray:
    return np.concatenate(list(reader))


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
@pytest.mark.parametrize("format", ["WAV", "WAVEX"])
def test_wav_from_a_pipe_is_what_libsndfile_reads_from_a_file(subtype: str, size: int, format: str) -> None:
    data = wav(subtype, format=format)
    reader = PipeReader(Dribble(data, size))
    assert (reader.sample_rate, reader.format.num_channels) == (8000, 2)
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_array_equal(collect(reader), (expected[:, 0] + expected[:, 1]) * np.float32(0.5))
    assert reader.num_samples == 1000


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_length_that_the_sender_did_not_know_is_ignored(size: int) -> None:
    data = wav("PCM_16")
    place = data.index(b"data") + 4
    assert len(collect(PipeReader(Dribble(data[:place] + struct.pack("<I", size) + data[place + 4 :], 64)))) == 1000


def test_what_follows_the_samples_is_not_heard() -> None:
    assert len(collect(PipeReader(Dribble(wav("PCM_16") + b"LIST" + bytes(400), 64)))) == 1000


def test_raw_samples_need_no_header_and_half_a_sample_is_dropped() -> None:
    values = np.arange(-50, 50, dtype="<i2") * 300
    reader = PipeReader(
        Dribble(values.tobytes() + b"\1", 3), format=PipeFormat(encoding="s16le", sample_rate=16000, num_channels=1)
    )
    np.testing.assert_array_equal(collect(reader), values.astype(np.float32) / 32768)


def test_first_samples_come_before_the_pipe_ends() -> None:
    reader = PipeReader(Dribble(wav("PCM_16"), 200))
    assert 0 < len(next(iter(reader))) <= 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends after 0 bytes of a wav header"),
        (b"fLaC" + bytes(60), "does not begin with a wav header; for raw samples give their encoding"),
        (wav("PCM_16")[:30], "ends after"),
        (b"RIFF....WAVEdata....", "no fmt and data parts"),
        (wav("IMA_ADPCM"), "wav of code 17 with 4 bits is not read from a pipe"),
    ],
)
def test_unusable_header_is_explained(data: bytes, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        PipeReader(Dribble(data, 16))


def test_unusable_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="encoding must be one of"):
        PipeFormat(encoding="mp3", sample_rate=16000, num_channels=1)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="16 Hz"):
        PipeFormat(encoding="s16le", sample_rate=16, num_channels=1)


def test_noise_taken_for_floats_is_found() -> None:
    reader = PipeReader(io.BytesIO(b"\xff" * 40), format=PipeFormat(encoding="f32le", sample_rate=8000, num_channels=1))
    with pytest.raises(AudioError, match="is its encoding really f32le"):
        list(reader)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(8000, 16000), (44100, 16000), (16000, 16000), (48000, 16000)])
def test_resampling_goes_on_over_seams(from_rate: int, to_rate: int) -> None:
    waveform = np.sin(np.arange(30_011) ** 1.3 / 300).astype(np.float32)
    blocks = np.split(waveform, [1, 500, 501, 20_000])
    joined = np.concatenate(list(resample_blocks(blocks, from_rate=from_rate, to_rate=to_rate)))
    np.testing.assert_allclose(joined, resample(waveform, from_rate=from_rate, to_rate=to_rate), atol=1e-5)
    assert list(resample_blocks([], from_rate=from_rate, to_rate=to_rate)) == []
