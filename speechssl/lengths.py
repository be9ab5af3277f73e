"""Seconds <-> samples <-> frames, and padding masks. The only place with length arithmetic.

A front end is described by its strided layers, a tuple of `(kernel, stride)` pairs in the unit of its input. Length
functions take Python integers or integer tensors alike.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

# torch is imported where a tensor is at hand: manifests need no more than seconds and samples.

Length = TypeVar("Length", int, "Tensor")
StridedLayers = Sequence[tuple[int, int]]


def seconds_to_samples(seconds: float, sample_rate: int) -> int:
    """Number of samples in `seconds`, rounded to the nearest; the project's one rounding rule."""
    return int(seconds * sample_rate + 0.5)


def samples_to_seconds(num_samples: int, sample_rate: int) -> float:
    """Duration in seconds of `num_samples` at `sample_rate` Hz."""
    return num_samples / sample_rate


def output_length(num_samples: Length, layers: StridedLayers) -> Length:
    """Number of frames that unpadded strided layers make of `num_samples`; 0 where the input is too short.

    Each layer turns n into floor((n - kernel) / stride) + 1.
    """
    from torch import Tensor

    length = num_samples
    for kernel, stride in layers:
        length = (length - kernel) // stride + 1
        if isinstance(length, Tensor):
            length = length.clamp(min=0)
        else:
            length = max(length, 0)
    return length


def input_length(num_frames: int, layers: StridedLayers) -> int:
    """Smallest number of samples from which the layers make `num_frames` frames (the inverse of `output_length`)."""
    length = num_frames
    for kernel, stride in reversed(layers):
        length = (length - 1) * stride + kernel
    return length


def receptive_field(layers: StridedLayers) -> int:
    """Number of samples that one frame sees; also the shortest legal input."""
    return input_length(1, layers)


def frame_stride(layers: StridedLayers) -> int:
    """Number of samples between the starts of neighbouring frames."""
    stride = 1
    for _, layer_stride in layers:
        stride *= layer_stride
    return stride


def frame_to_seconds(frame: float, layers: StridedLayers, sample_rate: int) -> float:
    """Time in seconds of the centre of frame number `frame`."""
    return (frame * frame_stride(layers) + receptive_field(layers) / 2) / sample_rate


_no_padding: ContextVar[bool] = ContextVar("no_padding", default=False)


@contextmanager
def no_padding(known: bool) -> Iterator[None]:
    """Inside, with `known`, no row of any batch is padded: the caller saw the lengths before they went to a device."""
    token = _no_padding.set(known)
    try:
        yield
    finally:
        _no_padding.reset(token)


def is_full(lengths: "Tensor", max_length: int) -> bool:
    """Whether no row is padded.

    Only found out on the CPU, or known inside of `no_padding`: elsewhere asking would wait for the device, so the
    answer is no; so it is while a graph is traced, which must serve every length.
    """
    import torch

    if torch.compiler.is_compiling():
        return False
    return _no_padding.get() or (lengths.device.type == "cpu" and bool((lengths == max_length).all()))


def padding_mask(lengths: "Tensor", max_length: int) -> "Tensor":
    """True where a position lies beyond its row's length: lengths i64 `[B]` -> bool `[B, max_length]`."""
    import torch

    positions = torch.arange(max_length, device=lengths.device)
    return positions[None, :] >= lengths[:, None]
