"""What a shard stores of a recording: the file as it is, or a span of it encoded anew.

Shapes: S samples.
"""

import io
import os
import zlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from speechssl import audio
from speechssl.audio import RecordingError, Waveform
from speechssl.types import Utterance

AudioFormat = Literal["flac", "wav", "opus", "copy"]
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
OPUS_KILOBITS = (6.0, 256.0)

_EXTENSIONS = {
    "FLAC": "flac", "WAV": "wav", "WAVEX": "wav", "RF64": "wav", "OGG": "ogg", "MP3": "mp3", "MPEG": "mp3",
    "AIFF": "aiff", "AU": "au", "matroska,webm": "webm", "mov,mp4,m4a,3gp,3g2,mj2": "m4a", "aac": "aac",
}  # fmt: skip
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The bytes of a recording for a shard; `num_samples` at `sample_rate` is what they decode to."""

    content: bytes
    extension: str
    sample_rate: int
    num_samples: int
    is_clipped: bool = False


def copy_recording(path: str, *, decode: bool = True) -> Stored:
    """A recording's file as it is; with `decode` all of it is decoded once, so that a damaged one is found.

    Raises:
        RecordingError: it cannot be read.
    """
    info = audio.probe(path)
    if decode:
        audio.read(path)
    with audio.opened(path) as source:
        if isinstance(source, str):
            with open(source, "rb") as file:
                content = file.read()
        else:
            source.seek(0)
            content = source.read()
    extension = _EXTENSIONS.get(info.format) or os.path.splitext(audio.locate(path).file)[1][1:].lower()
    return Stored(content=content, extension=extension, sample_rate=info.sample_rate, num_samples=info.num_samples)


def encode_span(
    utterance: Utterance,
    audio_format: AudioFormat,
    *,
    sample_rate: int | None = None,
    opus_kilobits: float | None = None,
) -> Stored:
    """The span of an utterance as a recording of its own, mono, at `sample_rate` Hz (the utterance's own when None).

    flac and wav keep samples of up to 24 bits exactly. What has no exact form in 24 bits (resampled, decoded from a
    lossy format, or floating point) is rounded to 16 bits; beyond full scale it is clipped. Ogg's stream number, which
    is random elsewhere, is 0, so that equal samples make equal bytes. `opus_kilobits` a second are what it aims at, the
    encoder's choice when None.

    Raises:
        RecordingError: it cannot be read.
    """
    import soundfile

    rate = sample_rate or utterance.sample_rate
    waveform = audio.read_utterance(utterance, rate)
    buffer = io.BytesIO()
    if audio_format == "opus":
        low, high = OPUS_KILOBITS
        level = None if opus_kilobits is None else (high - opus_kilobits) / (high - low)
        soundfile.write(buffer, waveform, rate, format="OGG", subtype="OPUS", compression_level=level)
        content = number_ogg_stream(buffer.getvalue())
        num_samples = audio.probe_source(utterance.audio_filepath, io.BytesIO(content)).num_samples
        return Stored(content=content, extension="opus", sample_rate=rate, num_samples=num_samples)
    samples, subtype, is_clipped = to_integers(waveform)
    try:
        soundfile.write(buffer, samples, rate, format=audio_format.upper(), subtype=subtype)
    except soundfile.SoundFileError as error:
        raise RecordingError(
            f"{utterance.audio_filepath}: cannot be written as {audio_format} at {rate} Hz ({error}); choose another"
            " sample rate or format",
            "unreadable",
        ) from None
    return Stored(
        content=buffer.getvalue(),
        extension=audio_format,
        sample_rate=rate,
        num_samples=len(waveform),
        is_clipped=is_clipped,
    )


def to_integers(waveform: Waveform) -> tuple[npt.NDArray[Any], str, bool]:
    """Samples `[S]` as integers: 16 bits where that is exact, 24 (in i32, upper bits) where only that is, else rounded.

    Returns:
        The integers, libsndfile's name of their width, and whether any lay beyond full scale.
    """
    scaled = waveform.astype(np.float64) * (1 << 15)
    is_clipped = bool(scaled.max(initial=0) >= 1 << 15 or scaled.min(initial=0) < -(1 << 15))
    if is_clipped or not _all_whole(scaled * (1 << 8)):
        return np.clip(np.rint(scaled), -(1 << 15), (1 << 15) - 1).astype(np.int16), "PCM_16", is_clipped
    if _all_whole(scaled):
        return scaled.astype(np.int16), "PCM_16", False
    return (scaled * (1 << 16)).astype(np.int32), "PCM_24", False


def _all_whole(values: npt.NDArray[np.float64]) -> bool:
    return bool((values == np.rint(values)).all())


def number_ogg_stream(content: bytes, number: int = 0) -> bytes:
    """Give the pages of an Ogg file of one stream that stream number, and the checksums that follow from it (RFC 3533).

    Ogg's checksum is zlib's with the bits in reverse order, no inversion and a start of 0.
    """
    pages = bytearray(content)
    start = 0
    while pages[start : start + 4] == b"OggS":
        num_segments = pages[start + 26]
        stop = start + 27 + num_segments + sum(pages[start + 27 : start + 27 + num_segments])
        pages[start + 14 : start + 18] = number.to_bytes(4, "little")
        pages[start + 22 : start + 26] = bytes(4)
        checksum = ~zlib.crc32(bytes(pages[start:stop]).translate(_REVERSED), 0xFFFFFFFF) & 0xFFFFFFFF
        pages[start + 22 : start + 26] = checksum.to_bytes(4, "little").translate(_REVERSED)[::-1]
        start = stop
    return bytes(pages)
