"""Clips -> padded tensors.

Shapes: B utterances, S samples, L labels.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.audio import to_float
from speechssl.data.dataset import Clip, random_crop
from speechssl.data.slots import empty
from speechssl.types import AudioBatch, LabeledBatch


def collate_audio(
    clips: Sequence[Clip],
    *,
    sample_rate: int,
    lengths: Literal["pad", "crop"] = "pad",
    random: np.random.Generator | None = None,
) -> AudioBatch:
    """Join clips into a batch of f32.

    With `lengths="pad"` shorter clips end in zeros; with `"crop"` all are cut at random to the shortest, so that no
    padding is computed and attention needs no mask (`random` is then required).
    """
    waveforms = [clip.waveform for clip in clips]
    if lengths == "crop":
        assert random is not None, "cropping needs a source of randomness"
        shortest = min(map(len, waveforms))
        waveforms = [random_crop(waveform, shortest, random) for waveform in waveforms]
    padded = empty((len(waveforms), max(map(len, waveforms))), np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        to_float(waveform, out=row[: len(waveform)])
        row[len(waveform) :] = 0
    return AudioBatch(
        utterance_ids=tuple(clip.utterance.id for clip in clips),
        waveform=torch.from_numpy(padded),
        num_samples=torch.tensor([len(waveform) for waveform in waveforms]),
        sample_rate=sample_rate,
        source_seconds=sum(clip.source_seconds for clip in clips),
    )


def collate_labeled(
    clips: Sequence[Clip], labels: Sequence[Sequence[int] | NDArray[np.int32]], *, sample_rate: int
) -> LabeledBatch:
    """Join clips and their label sequences; label padding is 0 and lies beyond `target_lengths`."""
    targets = np.zeros((len(labels), max(map(len, labels), default=0)), dtype=np.int64)
    for row, values in zip(targets, labels, strict=True):
        row[: len(values)] = values
    return LabeledBatch(
        audio=collate_audio(clips, sample_rate=sample_rate),
        targets=torch.from_numpy(targets),
        target_lengths=torch.tensor([len(values) for values in labels]),
        references=tuple(clip.utterance.text or "" for clip in clips),
    )


def batch_bytes(batch_seconds: float, sample_rate: int) -> int:
    """Memory that the waveforms of a full batch need, with a little more for rounded durations."""
    return int(1.02 * batch_seconds * sample_rate * 4) + (1 << 16)
