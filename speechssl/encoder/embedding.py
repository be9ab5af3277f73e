"""Embeddings of recordings: read at the encoder's rate, batched or cut into chunks, and taken out of the encoder.

Shapes: S samples, T frames, D model dim, E embedding dim.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.encoder.config import EncoderConfig
from speechssl.errors import AudioError
from speechssl.extraction import ChunkSettings, Extractor, encode_batch, encode_long
from speechssl.extraction.audio_blocks import array_blocks
from speechssl.lengths import receptive_field
from speechssl.types import Utterance

Waveform = NDArray[np.float32]
Recording = str | Path | NDArray[Any] | Tensor | Utterance


def embed_recordings(
    recordings: Iterable[Recording],
    extractor: Extractor,
    *,
    config: EncoderConfig,
    sample_rate: int | None,
    batch_seconds: float,
    chunks: ChunkSettings,
) -> list[NDArray[np.float32]]:
    """What `extractor` takes of each recording, `[E]` or `[T, D]`; arguments and errors as `SpeechEncoder.embed`."""
    results: list[NDArray[np.float32]] = []
    pending: list[Waveform] = []
    for recording in recordings:
        pending.append(waveform_of(recording, config, sample_rate=sample_rate))
        if max(map(len, pending)) * len(pending) >= batch_seconds * config.sample_rate:
            results += _embed_waveforms(pending, extractor, chunks)
            pending = []
    if pending:
        results += _embed_waveforms(pending, extractor, chunks)
    return results


def waveform_of(recording: Recording, config: EncoderConfig, *, sample_rate: int | None) -> Waveform:
    """One recording f32 `[S]` at the encoder's rate, long enough for a frame; `sample_rate` in Hz is an array's.

    Raises:
        AudioError: it cannot be read or is too short, or an array has no rate or several channels.
    """
    from speechssl.audio import read, read_utterance, resample

    rate = config.sample_rate
    name: str | Path
    if isinstance(recording, (np.ndarray, Tensor)):
        if sample_rate is None:
            raise AudioError("an array needs its sampling rate: embed(array, sample_rate=16000)")
        array = recording.detach().cpu().float().numpy() if isinstance(recording, Tensor) else recording
        waveform = np.asarray(array, dtype=np.float32)
        if waveform.ndim != 1:
            raise AudioError(f"the array must be one channel of shape [S], but has shape {list(waveform.shape)}")
        waveform, name = resample(waveform, from_rate=sample_rate, to_rate=rate), "the array"
    elif isinstance(recording, Utterance):
        waveform, name = read_utterance(recording, rate), f"{recording.audio_filepath} ({recording.id})"
    else:
        waveform, name = read(recording, sample_rate=rate), recording
    if len(waveform) < receptive_field(config.strided_layers):
        raise too_short(name, len(waveform), config)
    return waveform


def too_short(name: str | Path, num_samples: int, config: EncoderConfig) -> AudioError:
    """The error of a recording that does not fill the encoder's receptive field."""
    shortest, rate = receptive_field(config.strided_layers), config.sample_rate
    return AudioError(
        f"{name} has {num_samples} samples at {rate} Hz, but the encoder needs at least {shortest}"
        f" ({shortest / rate * 1000:.1f} ms); leave out or join shorter clips"
    )


def _embed_waveforms(
    waveforms: Sequence[Waveform], extractor: Extractor, chunks: ChunkSettings
) -> list[NDArray[np.float32]]:
    rate = extractor.sample_rate
    found: list[NDArray[np.float32] | None] = [None] * len(waveforms)
    short = []
    for place, waveform in enumerate(waveforms):
        if chunks.is_long(len(waveform), rate):
            found[place] = encode_long(extractor, partial(array_blocks, waveform, rate), chunks).vectors[0]
        else:
            short.append(place)
    if short:
        num_samples = torch.tensor([len(waveforms[place]) for place in short])
        padded = torch.zeros(len(short), int(num_samples.max()))
        for row, place in zip(padded, short, strict=True):
            row[: len(waveforms[place])] = torch.from_numpy(np.ascontiguousarray(waveforms[place]))
        for place, vectors in zip(short, encode_batch(extractor, padded, num_samples), strict=True):
            found[place] = vectors[0]
    return [vectors for vectors in found if vectors is not None]
