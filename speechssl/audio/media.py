"""Containers and codecs that libsndfile does not know, through PyAV (FFmpeg).

Shapes: S samples.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from speechssl.audio.files import Source, num_bytes, read_head
from speechssl.audio.recording import AudioInfo, RecordingError, Waveform, locate_span
from speechssl.lengths import seconds_to_samples

MEDIA_EXTENSIONS = frozenset({".g722", ".m4a", ".mp4", ".webm", ".aac"})


def is_media(path: str, source: Source) -> bool:
    """Whether it is for PyAV: by the name, and by the first bytes where the name tells nothing, as in an archive.

    Raw g722 has no header and is known by its name alone.
    """
    if os.path.splitext(path)[1].lower() in MEDIA_EXTENSIONS:
        return True
    if isinstance(source, str):
        return False
    head = read_head(source, 12)
    is_adts = len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0  # AAC's frame header; mp3 has layer bits
    return head[4:8] == b"ftyp" or head.startswith(b"\x1a\x45\xdf\xa3") or is_adts


def probe_media(path: str, source: Source) -> AudioInfo:
    """Facts of a media file; where the header is not dependable it is decoded to be counted."""
    if path.lower().endswith(".g722"):  # 64 kbit/s: every byte holds two samples at 16 kHz
        return AudioInfo(sample_rate=16000, num_samples=2 * num_bytes(source), num_channels=1, format="G722")
    with _open_media(path, source) as container:
        stream = container.streams.audio[0]
        num_samples = sum(frame.samples for frame in container.decode(stream))
        info = AudioInfo(
            sample_rate=stream.rate,
            num_samples=num_samples,
            num_channels=stream.codec_context.channels,
            format=container.format.name,
        )
    if info.num_samples == 0:
        raise RecordingError(f"{path}: holds no samples; replace or remove it", "empty")
    return info


def read_media(path: str, source: Source, offset: float, duration: float | None) -> tuple[Waveform, int]:
    """Samples f32 `[S, channels]` of the span, and the file's rate. Decodes from the start: seeking is inexact."""
    pieces: list[npt.NDArray[Any]] = []
    num_samples = 0
    with _open_media(path, source) as container:
        stream = container.streams.audio[0]
        sample_rate = int(stream.rate)
        stop = None
        if duration is not None:
            stop = seconds_to_samples(offset, sample_rate) + max(1, seconds_to_samples(duration, sample_rate))
        for frame in container.decode(stream):
            pieces.append(_frame_samples(frame))
            num_samples += pieces[-1].shape[1]
            if stop is not None and num_samples >= stop:
                break
    if not pieces:
        raise RecordingError(f"{path}: holds no samples; replace or remove it", "empty")
    raw = np.concatenate(pieces, axis=1).T
    start, count = locate_span(path, offset, duration, num_samples=num_samples, sample_rate=sample_rate)
    return _to_float(raw[start : start + count]), sample_rate


@contextmanager
def _open_media(path: str, source: Source) -> Iterator[Any]:
    """A PyAV container with an audio stream; its errors become `AudioError` and name `path`."""
    try:
        import av
    except ImportError:
        raise RecordingError(
            f"{path}: reading this format needs PyAV; install it with `pip install av`", "unreadable"
        ) from None
    try:
        is_g722 = path.lower().endswith(".g722")  # a raw stream without a header: FFmpeg must be told
        with av.open(source, format="g722" if is_g722 else None) as container:
            if not container.streams.audio:
                raise RecordingError(f"{path}: holds no audio stream; remove it", "unreadable")
            yield container
    except (av.FFmpegError, EOFError) as error:
        raise RecordingError(
            f"{path}: cannot be decoded ({error}); truncated, damaged or no recording at all: replace or remove it",
            "unreadable",
        ) from None


def _frame_samples(frame: Any) -> npt.NDArray[Any]:
    """Samples `[channels, S]` of a decoded frame, in the type of the codec."""
    samples: npt.NDArray[Any] = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T


def _to_float(samples: npt.NDArray[Any]) -> Waveform:
    """Full scale becomes 1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return ((samples.astype(np.float32) - 128) / 128).astype(np.float32)
    full_scale = float(np.iinfo(samples.dtype).max) + 1
    return (samples / full_scale).astype(np.float32)
