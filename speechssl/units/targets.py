"""Units as the targets of masked prediction: the same frames as when they were made, from a batch of waveforms.

Shapes: B utterances, S samples, T frames of the encoder that learns, N frames of what was clustered, E its dimension.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechssl.encoder import SpeechEncoder, select_layer
from speechssl.errors import ConfigError
from speechssl.frames import CONTEXT, FEATURE_RATE, FeatureName, Layer, features
from speechssl.lengths import frame_stride, frame_to_seconds
from speechssl.objectives.cluster import ClusterTargets, at_frames
from speechssl.units.model import read_units, source_of


def open_targets(folder: Path, encoder: SpeechEncoder) -> ClusterTargets:
    """The units in `folder` as targets for `encoder`, at its frames; the first of several seeds.

    `folder` is what `speechssl units` wrote, or the file with the centers in it.

    Raises:
        CheckpointError: there are no units, or the encoder that they were made with cannot be read.
        ConfigError: that encoder has other weights now, or another sample rate than `encoder`; or `folder` is a file
            without centers.
    """
    model = read_units(folder)
    source = source_of(model, checkpoint=None, batch_seconds=60.0, device="cpu")
    rate = encoder.config.sample_rate
    theirs = FEATURE_RATE if source.encoder is None else source.encoder.config.sample_rate
    if theirs != rate:
        raise ConfigError(f"{folder}: its units are those of audio at {theirs} Hz, but the encoder takes {rate} Hz")
    start = frame_to_seconds(0, encoder.strided_layers, rate)
    step = frame_stride(encoder.strided_layers) / rate / source.frame_seconds
    first = (start - float(source.times(1)[0])) / source.frame_seconds
    centers = torch.from_numpy(model.states[0].centers)
    if source.encoder is None:
        return ClusterTargets(centers=centers, frames=_OfFeatures(source.feature, first, step))
    return ClusterTargets(centers=centers, frames=_OfEncoder(source.encoder, source.layers[0], first, step))


class _OfFeatures:
    """Hand-made features. They are computed on the CPU, for which a GPU has to wait."""

    def __init__(self, name: FeatureName, first: float, step: float) -> None:
        self._name = name
        self._first = first
        self._step = step

    def __call__(self, waveform: Tensor, num_samples: Tensor, num_frames: int) -> Tensor:
        """`[B, S]`, i64 `[B]`, T -> `[B, T, E]`."""
        rows = [
            torch.from_numpy(features(np.asarray(row[:count]), self._name))[None]
            for row, count in zip(waveform.cpu(), num_samples.tolist(), strict=True)
        ]
        chosen = [at_frames(row, num_frames, first=self._first, step=self._step) for row in rows]
        return torch.cat(chosen).to(waveform.device)


class _OfEncoder:
    """A layer of a frozen encoder, which moves to where the waveforms are and is never trained."""

    def __init__(self, encoder: SpeechEncoder, layer: Layer, first: float, step: float) -> None:
        self._encoder = encoder.eval().requires_grad_(False)
        self._layer = None if layer == CONTEXT else int(layer)
        self._first = first
        self._step = step

    @torch.no_grad()
    def __call__(self, waveform: Tensor, num_samples: Tensor, num_frames: int) -> Tensor:
        """`[B, S]`, i64 `[B]`, T -> `[B, T, E]`."""
        self._encoder.to(waveform.device)
        output = self._encoder(waveform, num_samples, layers=self._layer is not None)
        return at_frames(select_layer(output, self._layer), num_frames, first=self._first, step=self._step)
