"""Utterance vectors of frozen representations: hand-made features, and every layer of encoders.

Shapes: B utterances, S samples, T frames, D model dim.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.data import OnError
from speechssl.encoder import SpeechEncoder, mean_over_time
from speechssl.frames import FeatureName, Layer, feature_frames, layer_outputs
from speechssl.manifest import Manifest

Pooling = Literal["mean", "segments"]

BASELINES = ("log_mel", "mfcc", "random")
NUM_SEGMENTS = 3

LayerVectors = dict[str, NDArray[np.float32]]  # utterance id -> [layers, D]


def feature_vectors(
    manifest: Manifest, name: FeatureName, *, pool: Pooling, on_error: OnError, batch_seconds: float = 60.0
) -> LayerVectors:
    """Pooled log-mel energies (80 bands), or 13 MFCCs with their first and second differences, as `[1, D]` each."""
    found = feature_frames(manifest, name, batch_seconds=batch_seconds, on_error=on_error)
    return {utterance_id: pool_frames(frames[0], pool)[None] for utterance_id, frames in found}


def encoder_vectors(
    manifest: Manifest,
    encoder: SpeechEncoder,
    *,
    layers: Iterable[Layer],
    pool: Pooling,
    on_error: OnError,
    batch_seconds: float = 60.0,
) -> LayerVectors:
    """Pooled outputs of some layers of a frozen encoder, `[layers, D]` (`[layers, 3 D]` with segments) each."""
    vectors: LayerVectors = {}
    outputs = layer_outputs(manifest, encoder, layers=list(layers), batch_seconds=batch_seconds, on_error=on_error)
    for ids, chosen, num_frames in outputs:
        pooled = [_pool_batch(frames, num_frames, pool) for frames in chosen]
        stacked = torch.stack(pooled, dim=1).cpu().numpy()  # [B, layers, D]
        vectors |= dict(zip(ids, stacked, strict=True))
    return vectors


def pool_frames(frames: NDArray[np.float32], pool: Pooling) -> NDArray[np.float32]:
    """Frames `[T, D]` -> their mean `[D]`, or the means of three equal parts of time one after the other, `[3 D]`."""
    if pool == "mean":
        return np.asarray(frames.mean(axis=0), dtype=np.float32)
    return np.concatenate([frames[first:last].mean(axis=0) for first, last in segments(len(frames))]).astype(np.float32)


def segments(num_frames: int) -> list[tuple[int, int]]:
    """Thirds of the frames as (first, one past the last); with fewer than three frames some are in two thirds."""
    starts = [number * num_frames // NUM_SEGMENTS for number in range(NUM_SEGMENTS)]
    return [(start, max(start + 1, end)) for start, end in zip(starts, [*starts[1:], num_frames], strict=True)]


def _pool_batch(frames: Tensor, num_frames: Tensor, pool: Pooling) -> Tensor:
    if pool == "mean":
        return mean_over_time(frames, num_frames)
    rows = [
        torch.cat([row[first:last].float().mean(dim=0) for first, last in segments(count)])
        for row, count in zip(frames, num_frames.tolist(), strict=True)
    ]
    return torch.stack(rows)
