"""Recordings through the encoder: batches in, finite vectors out, whatever the recordings are like.

Shapes: B utterances, T frames, D model dim, K layers, E embedding dim.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.data import OnError, iterate_once
from speechssl.embed.rows import FileRows
from speechssl.errors import AudioError
from speechssl.extraction import (
    ChunkSettings,
    Extractor,
    collect,
    encode_batch,
    encode_long,
    open_long,
)
from speechssl.extraction.audio_blocks import array_blocks, content_hash, file_blocks
from speechssl.extraction.long import LongFrames
from speechssl.lengths import receptive_field
from speechssl.manifest import Manifest
from speechssl.types import AudioBatch, Utterance

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One recording: vectors f32 `[K, E]` or frames `[K, T, D]`; what went in.

    `vectors` is None where they were known, and where they lie in `stored`: the frames of a long recording, if
    `encode_rows` was told where to put them.
    """

    id: str
    vectors: NDArray[np.float32] | None
    num_samples: int
    content_sha256: str
    stored: FileRows | None = None


@dataclass(frozen=True, kw_only=True)
class EncodeSettings:
    """How to compute; of these only `chunks` and `precision` show in the results.

    `batch_seconds` of audio, padding included, are encoded at a time; `num_workers` processes read ahead.
    """

    chunks: ChunkSettings = ChunkSettings()
    precision: Precision = "fp32"
    batch_seconds: float = 60.0
    num_workers: int = 0


def encode_rows(
    manifest: Manifest,
    extractor: Extractor,
    settings: EncodeSettings,
    *,
    on_error: OnError | None = None,
    is_known: Callable[[str, str], bool] | None = None,
    frames_folder: Path | None = None,
) -> Iterator[Encoded]:
    """Every usable utterance: first the long ones, one by one, then the others in batches, longest first.

    An utterance that cannot be read, gives no frame, does not fit in memory even alone, or comes out as no finite
    number goes to `on_error` (a warning in the log without it). What `is_known` by its id and the SHA-256 of its
    samples is not encoded. Frames of long recordings are put into files in `frames_folder`, where it is given.

    Raises:
        UnreachableError: the storage cannot be reached.
    """
    failed = on_error or _warn
    known = is_known or (lambda name, digest: False)
    is_long = manifest.durations > settings.chunks.whole_seconds
    if is_long.any():
        for utterance in manifest.filter(is_long):
            try:
                yield _encode_long_file(utterance, extractor, settings, known, frames_folder)
            except AudioError as error:
                failed(utterance, error)
        manifest = manifest.filter(~is_long)
    places = {name: row for row, name in enumerate(manifest.column("id").to_pylist())}
    batches = iterate_once(
        manifest,
        batch_seconds=settings.batch_seconds,
        sample_rate=extractor.sample_rate,
        min_num_samples=receptive_field(extractor.encoder.strided_layers),
        on_error=failed,
        num_workers=settings.num_workers,
    )
    for batch in batches:
        for found in _encode_new(batch, extractor, settings, known):
            if isinstance(found, Encoded):
                yield found
            else:
                name, reason = found
                utterance = manifest[places[name]]
                failed(utterance, AudioError(f"{utterance.audio_filepath}: {reason}"))


def _warn(utterance: Utterance, error: AudioError) -> None:
    logger.warning("left out %s: %s", utterance.id, error)


def _encode_long_file(
    utterance: Utterance,
    extractor: Extractor,
    settings: EncodeSettings,
    is_known: Callable[[str, str], bool],
    frames_folder: Path | None,
) -> Encoded:
    def open_blocks() -> Iterator[NDArray[np.float32]]:
        return file_blocks(
            utterance.audio_filepath, extractor.sample_rate, offset=utterance.offset, duration=utterance.duration
        )

    recording = open_long(extractor, open_blocks, settings.chunks, bf16=settings.precision == "bf16")
    vectors: NDArray[np.float32] | None = None
    stored: FileRows | None = None
    ends: NDArray[np.float32] = np.zeros(2, dtype=np.float32)
    if is_known(utterance.id, recording.content_sha256):
        pass
    elif extractor.pooling is None and frames_folder is not None:
        stored = _stored(recording, extractor, frames_folder)
        ends = stored.ends
    else:
        vectors = collect(extractor, recording)
        ends = np.array([vectors.min(), vectors.max()])
    if not np.isfinite(ends).all():
        raise AudioError(f"{utterance.audio_filepath}: {_NOT_FINITE}")
    return Encoded(
        id=utterance.id,
        vectors=vectors,
        num_samples=recording.num_samples,
        content_sha256=recording.content_sha256,
        stored=stored,
    )


def _stored(recording: LongFrames, extractor: Extractor, folder: Path) -> FileRows:
    rows = FileRows(
        folder,
        num_layers=len(extractor.wanted.keys),
        num_rows=recording.num_frames,
        dimension=extractor.dimension,
    )
    for frames in recording.pieces:
        rows.add(extractor.normalized(frames).cpu().numpy())
    return rows


def _encode_new(
    batch: AudioBatch, extractor: Extractor, settings: EncodeSettings, is_known: Callable[[str, str], bool]
) -> Iterator[Encoded | tuple[str, str]]:
    """What came of each utterance of a batch: its vectors, or in words why there are none."""
    lengths = batch.num_samples.tolist()
    digests = [content_hash([row[:length].numpy()]) for row, length in zip(batch.waveform, lengths, strict=True)]
    new = []
    for place, (name, digest) in enumerate(zip(batch.utterance_ids, digests, strict=True)):
        if is_known(name, digest):
            yield Encoded(id=name, vectors=None, num_samples=lengths[place], content_sha256=digest)
        else:
            new.append(place)
    if not new:
        return
    for place, vectors in zip(new, _encode(_part(batch, new), extractor, settings), strict=True):
        if isinstance(vectors, str):
            yield batch.utterance_ids[place], vectors
        else:
            yield Encoded(
                id=batch.utterance_ids[place],
                vectors=vectors,
                num_samples=lengths[place],
                content_sha256=digests[place],
            )


_NOT_FINITE = "its embedding is not finite; listen to it, or use fp32"


def _encode(batch: AudioBatch, extractor: Extractor, settings: EncodeSettings) -> list[NDArray[np.float32] | str]:
    """Vectors or frames of every utterance of a batch, or in words why there are none.

    A batch that does not fit in memory is halved until it does; what is too long for one piece is cut.
    """
    bf16 = settings.precision == "bf16"
    size = len(batch.utterance_ids)
    if settings.chunks.is_long(int(batch.num_samples.max()), batch.sample_rate):
        if size > 1:
            return [found for place in range(size) for found in _encode(_part(batch, [place]), extractor, settings)]
        waveform = batch.waveform[0, : int(batch.num_samples[0])].numpy()
        long = encode_long(extractor, lambda: array_blocks(waveform, batch.sample_rate), settings.chunks, bf16=bf16)
        return [_checked(long.vectors)]
    try:
        return [_checked(row) for row in encode_batch(extractor, batch.waveform, batch.num_samples, bf16=bf16)]
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise
    if size == 1:
        return [f"{batch.seconds:.0f} s do not fit in memory; lower whole_seconds, so that it is cut into chunks"]
    parts = (list(range(size // 2)), list(range(size // 2, size)))
    return [found for part in parts for found in _encode(_part(batch, part), extractor, settings)]


def _checked(vectors: NDArray[np.float32]) -> NDArray[np.float32] | str:
    ends = (vectors.min(), vectors.max())  # of an hour's frames without a copy; NaN is passed on
    return vectors if np.isfinite(ends).all() else _NOT_FINITE


def _part(batch: AudioBatch, places: list[int]) -> AudioBatch:
    num_samples = batch.num_samples[places]
    return AudioBatch(
        utterance_ids=tuple(batch.utterance_ids[place] for place in places),
        waveform=batch.waveform[places, : int(num_samples.max())],
        num_samples=num_samples,
        sample_rate=batch.sample_rate,
    )
