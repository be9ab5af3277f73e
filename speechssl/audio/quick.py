"""Small files of the plainest kinds, read at once: 16-bit wav, 16-bit flac where miniaudio is installed, opus and mp3.

The samples are bit for bit those that libsndfile gives, those of opus to 1e-8 and of mp3 to 1e-7. Of a clip of a few
seconds it takes a quarter of the time for wav, six tenths for flac, half for opus and four fifths for mp3. Whatever is
unusual or damaged is left to libsndfile, which also says what is wrong.

Shapes: S samples.
"""

import io
import os
import struct
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from speechssl.audio.files import Source
from speechssl.audio.mp3 import is_mp3, read_mp3
from speechssl.audio.opus import is_opus, read_opus
from speechssl.audio.recording import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, StoredSamples, Waveform, locate_span

SMALL_BYTES = 4 << 20
"""Files up to this size (two minutes of 16 kHz wav) are read whole even for a span."""
LIKELY_SAMPLES_PER_BYTE = 64
_OPUS_HEAD_BYTES = 36
_WAV_LAYOUT = struct.Struct("<HHIIHH")
"""Kind, channels, rate, bytes a second, bytes of a sample of all channels, bits."""


def read_quickly(
    path: str, source: Source | None, offset: float, duration: float | None, sample_rate: int | None = None
) -> tuple[StoredSamples | Waveform, int] | None:
    """Samples i16 `[S, channels]` of the span, as stored, and the file's rate; None where libsndfile must do it.

    Of opus and mp3 they are f32, those of opus at `sample_rate` where the codec delivers that.

    `source` is what `path` was opened as; None for a first attempt at a local file, before anything is checked. The
    samples may be a view of the whole file and cannot be written to.

    Raises:
        RecordingError: the span lies outside of the recording.
    """
    content = _content(path) if source is None else source.getvalue() if isinstance(source, io.BytesIO) else b""
    if content.startswith(b"RIFF"):
        return _read_wav(path, content, offset, duration)
    if content.startswith(b"fLaC"):
        return _read_flac(path, content, offset, duration)
    if is_opus(content):
        return read_opus(path, content, offset, duration, sample_rate)
    if is_mp3(content):
        return read_mp3(path, content, offset, duration)
    return None


def _content(path: str) -> bytes:
    """The whole of a local file; nothing where it is large, cannot be opened or is not of such a kind by its name."""
    if not path.endswith((".wav", ".flac", ".mp3", ".opus", ".ogg", ".oga")):
        return b""
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > SMALL_BYTES:
                return b""
            head = b"" if path.endswith((".wav", ".flac", ".mp3")) else file.read(_OPUS_HEAD_BYTES)
            return head + file.read(size) if not head or is_opus(head) else b""
    except OSError:
        return b""


def _read_wav(path: str, content: bytes, offset: float, duration: float | None) -> tuple[StoredSamples, int] | None:
    """Of PCM with one or two channels, whose header, chunks and size all agree."""
    found = _wav_chunks(content)
    if found is None:
        return None
    layout, start_byte, num_bytes = found
    tag, num_channels, rate, _, block_bytes, width = _WAV_LAYOUT.unpack_from(content, layout)
    if tag != 1 or width != 16 or num_channels not in (1, 2) or block_bytes != 2 * num_channels:
        return None
    num_samples, rest = divmod(num_bytes, block_bytes)
    if rest or not num_samples or not _is_likely_rate(rate):
        return None
    start, count = locate_span(path, offset, duration, num_samples=num_samples, sample_rate=rate)
    values = np.frombuffer(content, "<i2", count * num_channels, start_byte + start * block_bytes)
    return values.reshape(count, num_channels), rate


def _wav_chunks(content: bytes) -> tuple[int, int, int] | None:
    """Where the layout and the samples of a wav begin, and how many bytes of samples there are, all within the file."""
    if int.from_bytes(content[4:8], "little") + 8 != len(content) or content[8:12] != b"WAVE":
        return None
    layout, place = 0, 12
    while place + 8 <= len(content):
        name, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        if place + 8 + size > len(content):
            return None
        if name == b"fmt ":
            if layout or size < _WAV_LAYOUT.size:
                return None
            layout = place + 8
        elif name == b"data":
            return (layout, place + 8, size) if layout else None
        place += 8 + size + size % 2
    return None


def _read_flac(path: str, content: bytes, offset: float, duration: float | None) -> tuple[StoredSamples, int] | None:
    """With dr_flac. It leaves out damaged frames without a word, so only what reaches to the file's end is certain."""
    decoder = _dr_flac()
    if decoder is None:
        return None
    lib, ffi = decoder
    flac = lib.ma_dr_flac_open_memory(content, len(content), ffi.NULL)
    if flac == ffi.NULL:
        return None
    try:
        num_samples, num_channels, rate = flac.totalPCMFrameCount, flac.channels, flac.sampleRate
        is_likely = 0 < num_samples * num_channels <= LIKELY_SAMPLES_PER_BYTE * len(content) and _is_likely_rate(rate)
        if flac.bitsPerSample != 16 or not is_likely:
            return None
        start, count = locate_span(path, offset, duration, num_samples=num_samples, sample_rate=rate)
        if start + count < num_samples or (start and not lib.ma_dr_flac_seek_to_pcm_frame(flac, start)):
            return None
        values = np.empty((count, num_channels), dtype=np.int16)
        done = lib.ma_dr_flac_read_pcm_frames_s16(flac, count, ffi.from_buffer("ma_dr_flac_int16[]", values))
    finally:
        lib.ma_dr_flac_close(flac)
    return (values, rate) if done == count else None


def _is_likely_rate(sample_rate: int) -> bool:
    return MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE


@cache
def _dr_flac() -> tuple[Any, Any] | None:
    """miniaudio's `lib` and `ffi`, if it is installed and holds the functions."""
    try:
        module = import_module("miniaudio")
        module.lib.ma_dr_flac_open_memory, module.lib.ma_dr_flac_read_pcm_frames_s16  # noqa: B018
    except (ImportError, AttributeError):
        return None
    return module.lib, module.ffi
