"""Decode every span once, in threads: digest, measures, fingerprint.

Shapes: S samples, C channels.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from speechssl import audio
from speechssl.audio import RecordingError, Waveform
from speechssl.audio.media import is_media, read_media
from speechssl.audio.sndfile import read_soundfile
from speechssl.manifest.audit.fingerprint import SAMPLE_RATE, fingerprint
from speechssl.manifest.audit.measures import MEASURES, measure
from speechssl.manifest.audit.rows import Rows
from speechssl.manifest.audit.store import Record, Scanned, Store, key_of
from speechssl.manifest.scan import map_in_threads
from speechssl.progress import Progress
from speechssl.types import Utterance

_SPANS_AT_ONCE = 256


def scan(
    rows: Rows,
    store: Store,
    scratch: Path,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Scanned, dict[int, RecordingError]]:
    """What decoding tells of every span, and why it failed where it did, by span.

    Spans whose record is in the store are not decoded again. What is decoded is written to the store in parts, so a
    scan that is stopped goes on from there.
    """
    first_rows = rows.first_row.tolist()
    keys = np.fromiter((key_of(rows.utterance(row)) for row in first_rows), np.uint64, rows.num_spans)
    wanted = store.missing(keys)
    failures: dict[int, RecordingError] = {}

    def decode(span: int) -> tuple[int, Record | RecordingError]:
        return span, decode_span(rows.utterance(first_rows[span]), int(keys[span]))

    def in_parts() -> Iterator[tuple[int, Record | RecordingError]]:  # small ones, so that Ctrl-C need not wait long
        for start in range(0, len(wanted), _SPANS_AT_ONCE):
            part = wanted[start : start + _SPANS_AT_ONCE].tolist()
            yield from map_in_threads(decode, part, num_items=len(part), num_workers=num_workers)

    try:
        for done, (span, record) in enumerate(in_parts(), start=1):
            if isinstance(record, RecordingError):
                failures[span] = record
            else:
                store.add(record)
            if progress is not None and (done % 16 == 0 or done == len(wanted)):
                progress(done, len(wanted))
    finally:
        store.flush()
    return store.collect(keys, scratch), failures


def decode_span(utterance: Utterance, key: int) -> Record | RecordingError:
    """Everything that decoding tells of one span, or why it cannot be decoded."""
    try:
        channels, sample_rate = read_channels(utterance)
    except RecordingError as error:
        return error
    mono = audio_mono(channels)
    values = measure(channels, sample_rate)
    return Record(
        key=key,
        digest=digest_of(mono),
        measures=np.array([values[name] for name in MEASURES], dtype=np.float32),
        frames=fingerprint(audio.resample(mono, from_rate=sample_rate, to_rate=SAMPLE_RATE)),
    )


def read_channels(utterance: Utterance) -> tuple[Waveform, int]:
    """Samples f32 `[S, C]` of a row's span with all of its channels, and the rate in Hz; raises like `audio.read`."""
    path = utterance.audio_filepath
    duration = utterance.duration if utterance.duration > 0 else None
    with audio.opened(path) as source:
        if is_media(path, source):
            samples, sample_rate = read_media(path, source, utterance.offset, duration)
        else:
            samples, sample_rate = read_soundfile(path, source, utterance.offset, duration)
    if samples.shape[0] == 0:
        raise RecordingError(f"{path}: holds no samples; replace or remove it", "empty")
    if not np.isfinite(samples).all():
        raise RecordingError(f"{path}: holds NaN or infinite samples; export the recording again", "non_finite")
    return samples, sample_rate


def audio_mono(channels: Waveform) -> Waveform:
    """Mean of the channels, f32 `[S]`."""
    mixed = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1, dtype=np.float32)
    return np.ascontiguousarray(mixed)


def digest_of(waveform: Waveform) -> int:
    """64 bits of a hash of the samples; among ten million recordings two unlike ones share it with a chance of 1e-6."""
    content = (waveform + np.float32(0)).tobytes()  # -0 becomes 0
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
