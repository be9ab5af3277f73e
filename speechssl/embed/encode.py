"""Recordings through the encoder: batches in, finite vectors out, whatever the recordings are like.

Shapes: B utterances, T frames, D model dim.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.data import iterate_once
from speechssl.encoder import SpeechEncoder, mean_over_time, select_layer
from speechssl.errors import AudioError
from speechssl.lengths import receptive_field
from speechssl.manifest import Manifest
from speechssl.types import AudioBatch, Utterance

logger = logging.getLogger(__name__)

Pool = Literal["mean", "none"]
Precision = Literal["fp32", "bf16"]


def embed_manifest(
    manifest: Manifest,
    encoder: SpeechEncoder,
    *,
    layer: int | None = None,
    pool: Pool = "mean",
    batch_seconds: float = 60.0,
    precision: Precision = "fp32",
    on_error: Callable[[Utterance, AudioError], None] | None = None,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Every usable utterance's id with its vector `[D]`, or with its frames `[T, D]`, longest first.

    An utterance that cannot be read, gives no frame, does not fit in memory even alone, or comes out as no finite
    number goes to `on_error` (a warning in the log without it).
    """
    places = {utterance_id: row for row, utterance_id in enumerate(manifest.column("id").to_pylist())}

    def failed(utterance: Utterance, error: AudioError) -> None:
        if on_error is None:
            logger.warning("left out %s: %s", utterance.id, error)
        else:
            on_error(utterance, error)

    was_training = encoder.training
    encoder.eval()
    try:
        for batch in iterate_once(
            manifest,
            batch_seconds=batch_seconds,
            sample_rate=encoder.config.sample_rate,
            min_num_samples=receptive_field(encoder.strided_layers),
            on_error=failed,
        ):
            for utterance_id, vectors in _encode(batch, encoder, layer, pool, precision):
                if isinstance(vectors, str):
                    utterance = manifest[places[utterance_id]]
                    failed(utterance, AudioError(f"{utterance.audio_filepath}: {vectors}"))
                else:
                    yield utterance_id, vectors
    finally:
        encoder.train(was_training)


@torch.inference_mode()
def _encode(
    batch: AudioBatch, encoder: SpeechEncoder, layer: int | None, pool: Pool, precision: Precision
) -> list[tuple[str, NDArray[np.float32] | str]]:
    """Vectors or frames of every utterance of a batch, or in words why there are none.

    A batch that does not fit in memory is halved until it does.
    """
    try:
        moved = batch.to(encoder.device)
        with torch.autocast(encoder.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            output = encoder(moved.waveform, moved.num_samples, layers=layer is not None)
        frames = select_layer(output, layer).float()
        rows: list[NDArray[np.float32]]
        if pool == "mean":
            rows = list(mean_over_time(frames, output.num_frames).cpu().numpy())
        else:
            rows = [row[:n].copy() for row, n in zip(frames.cpu().numpy(), output.num_frames.tolist(), strict=True)]
        return [(name, _checked(row)) for name, row in zip(batch.utterance_ids, rows, strict=True)]
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)):
            raise
        size = len(batch.utterance_ids)
    if size == 1:
        return [
            (
                batch.utterance_ids[0],
                f"{batch.seconds:.0f} s do not fit in memory; cut the recording into shorter spans",
            )
        ]
    halves = (_part(batch, 0, size // 2), _part(batch, size // 2, size))
    return [pair for half in halves for pair in _encode(half, encoder, layer, pool, precision)]


def _checked(vectors: NDArray[np.float32]) -> NDArray[np.float32] | str:
    return vectors if np.isfinite(vectors).all() else "its embedding is not finite; listen to it, or use fp32"


def _part(batch: AudioBatch, first: int, last: int) -> AudioBatch:
    num_samples = batch.num_samples[first:last]
    return AudioBatch(
        utterance_ids=batch.utterance_ids[first:last],
        waveform=batch.waveform[first:last, : int(num_samples.max())],
        num_samples=num_samples,
        sample_rate=batch.sample_rate,
    )
