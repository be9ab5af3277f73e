"""Probe and read recordings. The only place that decodes audio.

wav, flac, ogg/opus and mp3 go through soundfile (libsndfile), g722, m4a, mp4 and webm through PyAV (FFmpeg). Whatever
is wrong with a file becomes an `AudioError` that names it.

Shapes: S samples.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from speechssl.audio.files import Source, opened, read_head
from speechssl.audio.media import MEDIA_EXTENSIONS, is_media, probe_media, read_media
from speechssl.audio.recording import AudioInfo, RecordingError, Waveform, locate_span
from speechssl.audio.resampling import resample
from speechssl.types import Utterance

SOUNDFILE_EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"})
AUDIO_EXTENSIONS = SOUNDFILE_EXTENSIONS | MEDIA_EXTENSIONS


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Read a recording's header; media containers without a dependable header are decoded to be counted.

    Raises:
        AudioError: missing, unreadable, truncated as far as the header shows, or empty.
    """
    path = os.fspath(path)
    with opened(path, sparsely=True) as source:
        return probe_source(path, source)


def probe_source(path: str, source: Source) -> AudioInfo:
    """`probe` of a recording that is open already; `path` is its name in errors."""
    if is_media(path, source):
        return probe_media(path, source)
    with _open_soundfile(path, source) as file:
        info = AudioInfo(
            sample_rate=file.samplerate, num_samples=file.frames, num_channels=file.channels, format=file.format
        )
    if info.num_samples <= 0:
        raise RecordingError(
            f"{path}: holds no samples (an empty or cut-off {info.format} file); replace or remove it", "empty"
        )
    return info


def read(
    path: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    offset: float = 0.0,
    duration: float | None = None,
) -> Waveform:
    """Decode a span of a recording to mono f32 `[S]`; only the span is decoded.

    Args:
        path: The recording.
        sample_rate: Rate in Hz of the result; the file's own when None. Resampled with soxr at high quality.
        offset: Where the span starts, in seconds.
        duration: Length of the span in seconds; to the end when None.

    Returns:
        The mean of the channels. At the file's own rate and without a span, exactly `probe(path).num_samples` long.

    Raises:
        AudioError: missing, unreadable, truncated, empty, non-finite, or the span lies outside of the recording.
    """
    path = os.fspath(path)
    if offset < 0 or (duration is not None and duration <= 0):
        raise RecordingError(
            f"{path}: span of {duration} s at {offset} s is not a span; need offset >= 0 and duration > 0", "span"
        )
    with opened(path) as source:
        decode = read_media if is_media(path, source) else _read_soundfile
        samples, file_rate = decode(path, source, offset, duration)
    if samples.shape[0] == 0:
        raise RecordingError(f"{path}: holds no samples; replace or remove it", "empty")
    waveform = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(waveform).all():
        bad = int(np.count_nonzero(~np.isfinite(waveform)))
        raise RecordingError(
            f"{path}: {bad} of {len(waveform)} samples are NaN or infinite; export the recording again, or leave it"
            " out with `speechssl manifest validate --audio --quarantine`",
            "non_finite",
        )
    if sample_rate is not None and sample_rate != file_rate:
        waveform = resample(waveform, from_rate=file_rate, to_rate=sample_rate)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def read_utterance(utterance: Utterance, sample_rate: int) -> Waveform:
    """The span of one manifest row as mono f32 `[S]` at `sample_rate` Hz; raises like `read`.

    A duration of zero means to the end of the file.
    """
    duration = utterance.duration if utterance.duration > 0 else None
    return read(utterance.audio_filepath, sample_rate=sample_rate, offset=utterance.offset, duration=duration)


def _read_soundfile(path: str, source: Source, offset: float, duration: float | None) -> tuple[Waveform, int]:
    """Samples f32 `[S, channels]` of the span, and the file's rate."""
    with _open_soundfile(path, source) as file:
        start, count = locate_span(path, offset, duration, num_samples=file.frames, sample_rate=file.samplerate)
        if start:
            file.seek(start)
        samples = file.read(count, dtype="float32", always_2d=True)
        sample_rate = int(file.samplerate)
    if len(samples) < count:
        raise RecordingError(
            f"{path}: truncated: {len(samples)} of {count} samples could be decoded; copy the file again or leave it"
            " out",
            "truncated",
        )
    return samples, sample_rate


@contextmanager
def _open_soundfile(path: str, source: Source) -> Iterator[Any]:
    """A `soundfile.SoundFile` of `source`; its errors, in opening or later, become `AudioError` and name `path`."""
    import soundfile

    try:
        with soundfile.SoundFile(source) as file:
            if "should be" in file.extra_info and file.format.startswith(("WAV", "RF64", "AIFF")):
                _check_chunk_sizes(path, file.extra_info)
            yield file
    except soundfile.SoundFileError as error:
        raise _soundfile_error(path, source, str(error)) from None


def _check_chunk_sizes(path: str, log: str) -> None:
    """Find a wav whose data chunk promises more than the file holds, from libsndfile's log of the header.

    Sizes of 2 GiB and more are the placeholders of programs that write to a pipe and are no sign of damage.
    """
    for line in log.splitlines():
        name, _, value = line.partition(":")
        words = value.replace("(should be", " ").replace(")", " ").split()
        if name.strip() not in ("data", "SSND") or "should be" not in line or len(words) < 2:
            continue
        if words[0].isdigit() and words[1].isdigit() and int(words[1]) < int(words[0]) < 0x7FFFF000:
            raise RecordingError(
                f"{path}: truncated: its header promises {words[0]} bytes of audio but {words[1]} are there; copy the"
                " file again or leave it out",
                "truncated",
            )


def _soundfile_error(path: str, source: Source, message: str) -> RecordingError:
    """What libsndfile's message means for the user."""
    reason = message.split(": ")[-1].strip().rstrip(".")
    if "lost sync" in reason or "malformed" in reason or "psf" in reason.lower():
        text = f"{path}: truncated or damaged ({reason}); copy the file again or leave it out"
        return RecordingError(text, "truncated")
    if "not recognised" in reason or "unknown format" in reason.lower():
        head = read_head(source, 64)
        looks_like_text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
        what = "is text, not audio" if looks_like_text else "is not a recording that soundfile knows"
        text = f"{path}: {what}, whatever its name says; convert it to wav or flac, or remove it"
    else:
        text = f"{path}: cannot be decoded ({reason}); convert it to wav or flac, or remove it"
    return RecordingError(text, "unreadable")
