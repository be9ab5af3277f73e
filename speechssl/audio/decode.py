"""Probe and read recordings. The only place that decodes audio.

wav, flac, ogg/opus and mp3 go through soundfile (libsndfile), the plainest of them by a quicker way (`quick`); g722,
m4a, mp4 and webm through PyAV (FFmpeg). Whatever is wrong with a file becomes an `AudioError` that names it.

Shapes: S samples.
"""

import os
from typing import cast

import numpy as np

from speechssl.audio.files import Source, opened
from speechssl.audio.media import MEDIA_EXTENSIONS, is_media, probe_media, read_media
from speechssl.audio.quick import read_quickly
from speechssl.audio.recording import AudioInfo, RecordingError, StoredSamples, Waveform, mix, to_float
from speechssl.audio.resampling import resample
from speechssl.audio.sndfile import SOUNDFILE_EXTENSIONS as SOUNDFILE_EXTENSIONS
from speechssl.audio.sndfile import probe_soundfile, read_soundfile
from speechssl.types import Utterance

ALMOST_INFINITE = 1e30
"""Samples as large as this would overflow when they are mixed or resampled."""
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
    return probe_soundfile(path, source)


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
    return to_float(read_compact(path, sample_rate=sample_rate, offset=offset, duration=duration))


def read_compact(
    path: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
    offset: float = 0.0,
    duration: float | None = None,
) -> Waveform | StoredSamples:
    """Like `read`, but what is stored as 16 bits and need not be changed stays so where that is quicker.

    Then the result is i16 `[S]` with full scale 32768, of which `to_float` makes what `read` gives. It takes half of
    the memory, may be a view of all of the file, and cannot be written to.
    """
    path = os.fspath(path)
    if offset < 0 or (duration is not None and duration <= 0):
        raise RecordingError(
            f"{path}: span of {duration} s at {offset} s is not a span; need offset >= 0 and duration > 0", "span"
        )
    found: tuple[Waveform | StoredSamples, int] | None = read_quickly(path, None, offset, duration, sample_rate)
    if found is None:
        with opened(path) as source:
            found = read_quickly(path, source, offset, duration, sample_rate)
            found = found or _read(path, source, offset, duration, sample_rate)
    samples, rate = found
    if samples.dtype == np.int16 and samples.shape[1] == 1 and sample_rate in (None, rate):
        return cast(StoredSamples, samples[:, 0])
    waveform = mix(to_float(samples))
    if sample_rate is not None and sample_rate != rate:
        waveform = resample(waveform, from_rate=rate, to_rate=sample_rate)
    return np.ascontiguousarray(waveform, dtype=np.float32)


def _read(
    path: str, source: Source, offset: float, duration: float | None, sample_rate: int | None
) -> tuple[Waveform, int]:
    """Samples f32 `[S, channels]`, all finite, and their rate; `sample_rate` Hz where the codec can deliver that."""
    if is_media(path, source):
        samples, rate = read_media(path, source, offset, duration)
    else:
        samples, rate = read_soundfile(path, source, offset, duration, sample_rate=sample_rate)
    if len(samples) == 0:
        raise RecordingError(f"{path}: holds no samples; replace or remove it", "empty")
    if not (samples.min() > -ALMOST_INFINITE and samples.max() < ALMOST_INFINITE):
        bad = int(np.count_nonzero(~(np.abs(samples) < ALMOST_INFINITE).all(axis=1)))
        raise RecordingError(
            f"{path}: {bad} of {len(samples)} samples are NaN or infinite; export the recording again, or leave it"
            " out with `speechssl manifest validate --audio --quarantine`",
            "non_finite",
        )
    return samples, rate


def read_utterance(utterance: Utterance, sample_rate: int) -> Waveform:
    """The span of one manifest row as mono f32 `[S]` at `sample_rate` Hz; raises like `read`.

    A duration of zero means to the end of the file.
    """
    return to_float(read_utterance_compact(utterance, sample_rate))


def read_utterance_compact(utterance: Utterance, sample_rate: int) -> Waveform | StoredSamples:
    """Like `read_utterance`, but 16-bit samples stay as `read_compact` gives them."""
    duration = utterance.duration if utterance.duration > 0 else None
    return read_compact(utterance.audio_filepath, sample_rate=sample_rate, offset=utterance.offset, duration=duration)
