"""Recordings of any length, block by block: an hour takes no more memory than a minute.

Shapes: S samples.
"""

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from speechssl.audio.files import Source, opened
from speechssl.audio.media import _frame_samples, _open_media, _to_float, is_media
from speechssl.audio.recording import SPAN_TOLERANCE_SECONDS, RecordingError, Waveform, locate_span
from speechssl.audio.sndfile import open_soundfile, probe_soundfile, skip_to
from speechssl.lengths import seconds_to_samples


def read_blocks(
    path: str | os.PathLike[str], *, block_seconds: float = 30.0, offset: float = 0.0, duration: float | None = None
) -> Iterator[Waveform]:
    """Decode a span at the file's own rate in blocks f32 `[S]` that follow on each other; the last may be shorter.

    Joined they are what `read` gives. The file is opened once and decoded from front to back.

    Raises:
        AudioError: like `read`; also in the middle, when what is damaged is reached.
    """
    path = os.fspath(path)
    assert offset >= 0 and block_seconds > 0 and (duration is None or duration > 0), "a span, in blocks"
    with opened(path) as source:
        blocks = _media_blocks if is_media(path, source) else _soundfile_blocks
        for samples in blocks(path, source, block_seconds, offset, duration):
            block = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
            if not np.isfinite(block).all():
                raise RecordingError(
                    f"{path}: samples are NaN or infinite; export the recording again, or leave it out", "non_finite"
                )
            yield np.ascontiguousarray(block, dtype=np.float32)


def read_sample_rate(path: str | os.PathLike[str]) -> int:
    """Rate in Hz from the header alone; `probe` would decode some containers to count their samples.

    Raises:
        AudioError: like `probe`, as far as the header shows.
    """
    path = os.fspath(path)
    with opened(path) as source:
        if not is_media(path, source):
            return probe_soundfile(path, source).sample_rate
        with _open_media(path, source) as container:
            return int(container.streams.audio[0].rate)


def _soundfile_blocks(
    path: str, source: Source, block_seconds: float, offset: float, duration: float | None
) -> Iterator[Waveform]:
    """Samples f32 `[S, channels]`."""
    with open_soundfile(path, source) as file:
        start, left = locate_span(path, offset, duration, num_samples=file.frames, sample_rate=file.samplerate)
        skip_to(file, start)
        block_size = max(1, seconds_to_samples(block_seconds, file.samplerate))
        while left > 0:
            samples = file.read(min(left, block_size), dtype="float32", always_2d=True)
            if len(samples) < min(left, block_size):
                raise _truncated(path, left - len(samples))
            left -= len(samples)
            yield samples


def _media_blocks(
    path: str, source: Source, block_seconds: float, offset: float, duration: float | None
) -> Iterator[Waveform]:
    """Samples f32 `[S, channels]`; what lies before the span is decoded and let go."""
    with _open_media(path, source) as container:
        stream = container.streams.audio[0]
        rate = int(stream.rate)
        start = seconds_to_samples(offset, rate)
        stop = None if duration is None else start + max(1, seconds_to_samples(duration, rate))
        block_size = max(1, seconds_to_samples(block_seconds, rate))
        pieces: list[npt.NDArray[np.float32]] = []
        waiting = position = delivered = 0
        for frame in container.decode(stream):
            samples = _to_float(_frame_samples(frame).T)
            cut = samples[max(0, start - position) : None if stop is None else max(0, stop - position)]
            position += len(samples)
            if len(cut):
                pieces.append(cut)
                waiting += len(cut)
                delivered += len(cut)
            if waiting >= block_size:
                yield np.concatenate(pieces)
                pieces, waiting = [], 0
            if stop is not None and position >= stop:
                break
        if pieces:
            yield np.concatenate(pieces)
    if stop is None or stop - start - delivered > SPAN_TOLERANCE_SECONDS * rate or not delivered:
        locate_span(path, offset, duration, num_samples=position, sample_rate=rate)  # says what is wrong, if anything


def _truncated(path: str, num_missing: int) -> RecordingError:
    return RecordingError(
        f"{path}: truncated: its last {num_missing} samples cannot be decoded; copy the file again or leave it out",
        "truncated",
    )
