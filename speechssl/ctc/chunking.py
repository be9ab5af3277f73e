"""Logits of recordings of any length: overlapping pieces of bounded size, stitched at the frames.

Shapes: S samples, T frames, N vocabulary.

Frame t sees the samples `[t * stride, t * stride + field)`. The frames of a recording are cut into chunks; each is
computed from a piece that holds the frames of its neighbours on both sides too (the context), and the frames of the
context are then dropped. The frames that are left follow on each other exactly as those of the whole would, so whatever
decodes them sees one sequence: no word is cut or doubled at a seam. What differs from one whole pass is what reaches
further than the context: attention, and statistics over the input (waveform normalisation, norms over time).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.lengths import StridedLayers, frame_stride, output_length, receptive_field, seconds_to_samples

Logits = Callable[[Tensor], Tensor]
"""Waveform `[S]` -> logits `[T, N]` on the CPU, in one piece."""


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """How long recordings are cut, in seconds.

    Attributes:
        whole_seconds: recordings up to this long are one piece.
        chunk_seconds: of longer ones, what a piece contributes.
        left_seconds: context before that, computed and dropped.
        right_seconds: context behind it. In a stream, results wait for it.
    """

    whole_seconds: float
    chunk_seconds: float
    left_seconds: float
    right_seconds: float

    def __post_init__(self) -> None:
        if self.chunk_seconds <= 0:
            raise ConfigError(f"chunk_seconds must be above 0, but is {self.chunk_seconds}")
        for name in ("whole_seconds", "left_seconds", "right_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, but is {getattr(self, name)}")

    @property
    def piece_seconds(self) -> float:
        """The longest piece that is computed at once: what bounds the memory."""
        return max(self.whole_seconds, self.left_seconds + self.chunk_seconds + self.right_seconds)


class ChunkedLogits:
    """Takes samples as they come and gives the logits of the frames that are settled.

    Holds the samples of one piece, or of `whole_seconds` until it is clear that the recording is longer.
    """

    def __init__(self, logits: Logits, chunking: Chunking, *, layers: StridedLayers, sample_rate: int) -> None:
        self._logits = logits
        self._layers = layers
        self._stride, self._field = frame_stride(layers), receptive_field(layers)
        self._whole = seconds_to_samples(chunking.whole_seconds, sample_rate)
        self._chunk, self._left, self._right = (
            seconds_to_samples(seconds, sample_rate) // self._stride
            for seconds in (chunking.chunk_seconds, chunking.left_seconds, chunking.right_seconds)
        )
        self._chunk = max(self._chunk, 1)
        self._waiting: list[NDArray[np.float32]] = []  # samples from number `_first` on
        self._first = 0
        self.num_samples = 0
        """Samples taken so far."""
        self.num_frames = 0
        """Frames given so far."""

    @property
    def num_kept_samples(self) -> int:
        """Samples that are held at the moment."""
        return self.num_samples - self._first

    def push(self, samples: NDArray[np.float32]) -> Iterator[Tensor]:
        """Take f32 `[S]` at the model's rate; yield the logits `[T, N]` that no later sample changes."""
        self._waiting.append(samples)
        self.num_samples += len(samples)
        if self.num_samples <= self._whole:
            return
        while True:
            last = self.num_frames + self._chunk + self._right  # frames that the piece reaches to
            if (last - 1) * self._stride + self._field > self.num_samples:
                return
            yield self._piece(self.num_frames + self._chunk, last)

    def finish(self) -> Iterator[Tensor]:
        """Yield what is left when the recording has ended; nothing where it is too short for a frame."""
        total = output_length(self.num_samples, self._layers)
        if self.num_samples <= self._whole and total:
            yield self._piece(total, total, whole=True)
        while self.num_frames < total:
            end = min(self.num_frames + self._chunk, total)
            yield self._piece(end, min(end + self._right, total))

    def _piece(self, end: int, last: int, *, whole: bool = False) -> Tensor:
        """Logits of the frames `num_frames <= t < end`, computed with those up to `last`."""
        start = self.num_frames
        first = max(start - self._left, 0)
        held = np.concatenate(self._waiting) if len(self._waiting) != 1 else self._waiting[0]
        begin = first * self._stride - self._first
        stop = len(held) if whole else (last - 1) * self._stride + self._field - self._first
        logits = self._logits(torch.from_numpy(np.ascontiguousarray(held[begin:stop])))
        self.num_frames = end
        keep_from = max(end - self._left, 0) * self._stride - self._first
        self._waiting = [held[keep_from:].copy()]
        self._first += keep_from
        return logits[start - first : end - first]
