"""Probe, read and resample recordings. The only place that decodes audio.

wav, flac, ogg/opus and mp3 go through soundfile (libsndfile), g722, m4a, mp4 and webm through PyAV (FFmpeg). Whatever
is wrong with a file becomes an `AudioError` that names it.

Shapes: S samples.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from speechssl.errors import AudioError
from speechssl.lengths import seconds_to_samples
from speechssl.types import Utterance

SOUNDFILE_EXTENSIONS = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"})
MEDIA_EXTENSIONS = frozenset({".g722", ".m4a", ".mp4", ".webm", ".aac"})
AUDIO_EXTENSIONS = SOUNDFILE_EXTENSIONS | MEDIA_EXTENSIONS

SPAN_TOLERANCE_SECONDS = 0.05
"""How far a span may reach past the end of its recording: rounded durations and codec padding, no more."""

Waveform = npt.NDArray[np.float32]
Damage = Literal["missing", "unreadable", "truncated", "empty", "non_finite", "span"]


class RecordingError(AudioError):
    """An `AudioError` that also says in one word what is wrong: `kind`."""

    def __init__(self, message: str, kind: Damage) -> None:
        super().__init__(message)
        self.kind: Damage = kind

    def __reduce__(self) -> tuple[type, tuple[str, Damage]]:
        return RecordingError, (str(self), self.kind)


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a file holds: `sample_rate` in Hz, `num_samples` per channel, `format` as the library names it."""

    sample_rate: int
    num_samples: int
    num_channels: int
    format: str

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """Read a recording's header; media containers without a dependable header are decoded to be counted.

    Raises:
        AudioError: missing, unreadable, truncated as far as the header shows, or empty.
    """
    path = os.fspath(path)
    check_openable(path)
    if _is_media(path):
        return _probe_media(path)
    with _open_soundfile(path) as file:
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
    check_openable(path)
    if offset < 0 or (duration is not None and duration <= 0):
        raise RecordingError(
            f"{path}: span of {duration} s at {offset} s is not a span; need offset >= 0 and duration > 0", "span"
        )
    decode = _read_media if _is_media(path) else _read_soundfile
    samples, file_rate = decode(path, offset, duration)
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


def resampled_length(num_samples: int, *, from_rate: int, to_rate: int) -> int:
    """Number of samples that `resample` returns: rounded to the nearest, and at least one."""
    if from_rate == to_rate:
        return num_samples
    return max(1, (2 * num_samples * to_rate + from_rate) // (2 * from_rate))


def resample(waveform: Waveform, *, from_rate: int, to_rate: int) -> Waveform:
    """Change the rate of a mono waveform f32 `[S]` with soxr (HQ), to exactly `resampled_length` samples."""
    if from_rate == to_rate:
        return waveform
    import soxr

    divisor = gcd(from_rate, to_rate)
    result = soxr.resample(waveform, from_rate // divisor, to_rate // divisor, quality="HQ")
    length = resampled_length(len(waveform), from_rate=from_rate, to_rate=to_rate)
    if len(result) < length:  # a clip shorter than the filter loses its last sample
        result = np.pad(result, (0, length - len(result)))
    return np.asarray(result[:length], dtype=np.float32)


def _is_media(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in MEDIA_EXTENSIONS


def check_openable(path: str) -> None:
    """Say plainly what the operating system objects to; libsndfile only says `System error`."""
    try:
        with open(path, "rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        raise RecordingError(
            f"{path}: no such file; check the path, relative ones are relative to the manifest", "missing"
        ) from None
    except PermissionError:
        raise RecordingError(
            f"{path}: permission denied; make the file readable for this user (chmod +r)", "unreadable"
        ) from None
    except IsADirectoryError:
        raise RecordingError(
            f"{path}: is a folder, not a recording; use `speechssl manifest build` on folders", "unreadable"
        ) from None
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be opened ({error.strerror or error}); check the disk", "unreadable"
        ) from None
    if empty:
        raise RecordingError(f"{path}: is empty (0 bytes); replace or remove it", "empty")


@contextmanager
def _open_soundfile(path: str) -> Iterator[Any]:
    """A `soundfile.SoundFile`; its errors, in opening or later, become `AudioError`."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            if "should be" in file.extra_info and file.format.startswith(("WAV", "RF64", "AIFF")):
                _check_chunk_sizes(path, file.extra_info)
            yield file
    except soundfile.SoundFileError as error:
        raise _soundfile_error(path, str(error)) from None


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


def _soundfile_error(path: str, message: str) -> RecordingError:
    """What libsndfile's message means for the user."""
    reason = message.split(": ")[-1].strip().rstrip(".")
    if "lost sync" in reason or "malformed" in reason or "psf" in reason.lower():
        text = f"{path}: truncated or damaged ({reason}); copy the file again or leave it out"
        return RecordingError(text, "truncated")
    if "not recognised" in reason or "unknown format" in reason.lower():
        with open(path, "rb") as file:
            head = file.read(64)
        looks_like_text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)
        what = "is text, not audio" if looks_like_text else "is not a recording that soundfile knows"
        text = f"{path}: {what}, whatever its name says; convert it to wav or flac, or remove it"
    else:
        text = f"{path}: cannot be decoded ({reason}); convert it to wav or flac, or remove it"
    return RecordingError(text, "unreadable")


def _read_soundfile(path: str, offset: float, duration: float | None) -> tuple[Waveform, int]:
    """Samples f32 `[S, channels]` of the span, and the file's rate."""
    with _open_soundfile(path) as file:
        start, count = _span(path, offset, duration, num_samples=file.frames, sample_rate=file.samplerate)
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


def _span(path: str, offset: float, duration: float | None, *, num_samples: int, sample_rate: int) -> tuple[int, int]:
    """First sample and number of samples of a span within a recording of `num_samples`."""
    if num_samples <= 0:
        raise RecordingError(f"{path}: holds no samples (empty or cut off); replace or remove it", "empty")
    start = seconds_to_samples(offset, sample_rate)
    if start >= num_samples:
        raise RecordingError(
            f"{path}: the span starts at {offset:.3f} s but the recording is {num_samples / sample_rate:.3f} s long;"
            " correct the manifest's offset",
            "span",
        )
    if duration is None:
        return start, num_samples - start
    count = max(1, seconds_to_samples(duration, sample_rate))
    missing = start + count - num_samples
    if missing > SPAN_TOLERANCE_SECONDS * sample_rate:
        raise RecordingError(
            f"{path}: the span ends at {offset + duration:.3f} s but the recording is"
            f" {num_samples / sample_rate:.3f} s long; it is truncated, or the manifest's duration is wrong",
            "span",
        )
    return start, min(count, num_samples - start)


@contextmanager
def _open_media(path: str) -> Iterator[Any]:
    """A PyAV container with an audio stream; its errors become `AudioError`."""
    try:
        import av
    except ImportError:
        raise RecordingError(
            f"{path}: reading this format needs PyAV; install it with `pip install av`", "unreadable"
        ) from None
    try:
        is_g722 = path.lower().endswith(".g722")  # a raw stream without a header: FFmpeg must be told
        with av.open(path, format="g722" if is_g722 else None) as container:
            if not container.streams.audio:
                raise RecordingError(f"{path}: holds no audio stream; remove it", "unreadable")
            yield container
    except (av.FFmpegError, EOFError) as error:
        raise RecordingError(
            f"{path}: cannot be decoded ({error}); truncated, damaged or no recording at all: replace or remove it",
            "unreadable",
        ) from None


def _probe_media(path: str) -> AudioInfo:
    if path.lower().endswith(".g722"):  # 64 kbit/s: every byte holds two samples at 16 kHz
        return AudioInfo(sample_rate=16000, num_samples=2 * os.path.getsize(path), num_channels=1, format="G722")
    with _open_media(path) as container:
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


def _read_media(path: str, offset: float, duration: float | None) -> tuple[Waveform, int]:
    """Samples f32 `[S, channels]` of the span, and the file's rate. Decodes from the start: seeking is inexact."""
    pieces: list[npt.NDArray[Any]] = []
    num_samples = 0
    with _open_media(path) as container:
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
    start, count = _span(path, offset, duration, num_samples=num_samples, sample_rate=sample_rate)
    return _to_float(raw[start : start + count]), sample_rate


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
