"""The front end's convolutions as matrix products, for the CPU (wav2vec 2.0, section 2).

A strided convolution over frames of C channels that lie one after the other in memory is a matrix product of
overlapping rows: of a kernel of 3 with stride 2, the taps 0 and 1 are a row of 2 C numbers that no other row shares,
and tap 2 is every other frame. So nothing is copied, each product runs at the speed of the processor's matrix kernels,
and backward is three more of them. Against `conv1d` it takes six tenths of the time on one core.

The first layer has one input channel, so its output's mean and variance follow from those of the 10 samples it sees:
group norm becomes part of its weights (`fold_group_norm`), and its output is never stored but made again from the
waveform in backward, as is every GELU. Rows are worked off one by one up to their own length, so padding costs nothing.

Shapes: B utterances, S samples, T frames, C channels, K taps.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.lengths import StridedLayers, output_length

SEGMENT = 2048
"""Frames of the second layer that are made in one piece."""

_gelu_backward = torch.ops.aten.gelu_backward.grad_input


def blocks(kernel: int, stride: int) -> list[tuple[int, int]]:
    """Taps in pieces of at most `stride`, whose windows do not overlap: (first, number) of each."""
    return [(first, min(stride, kernel - first)) for first in range(0, kernel, stride)]


def windows(x: Tensor, first: int, taps: int, stride: int, count: int) -> Tensor:
    """A view of contiguous `[T, C]`: row t holds the frames `stride t + first` and on, `[count, taps C]`."""
    channels = x.shape[1]
    return x.as_strided((count, taps * channels), (stride * channels, 1), x.storage_offset() + first * channels)


def flat_weight(weight: Tensor) -> Tensor:
    """A convolution's weight `[C', C, K]` -> `[K C, C']`, in the order of `windows`."""
    return weight.permute(2, 1, 0).reshape(-1, weight.shape[0])


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, kernel: int, stride: int, *, out: Tensor | None = None
) -> Tensor:
    """Convolve contiguous `[T, C]` with a flat weight `[K C, C']` -> `[T', C']`, which is `out` where given."""
    count, channels = output_length(x.shape[0], ((kernel, stride),)), x.shape[1]
    y = x.new_empty(count, weight.shape[1]) if out is None else out
    for first, taps in blocks(kernel, stride):
        seen = windows(x, first, taps, stride, count)
        part = weight[first * channels : (first + taps) * channels]
        if first:
            y.addmm_(seen, part)
        elif bias is None:
            torch.mm(seen, part, out=y)
        else:
            torch.addmm(bias, seen, part, out=y)
    return y


def conv_backward(grad: Tensor, x: Tensor, weight: Tensor, weight_grad: Tensor, kernel: int, stride: int) -> Tensor:
    """Add the weight's gradient to `weight_grad`; the gradient of `x`, `[T, C]`, from that of the result `[T', C']`."""
    count, channels = grad.shape[0], x.shape[1]
    x_grad = torch.empty_like(x)
    covered = count * stride
    if stride > kernel:  # gaps that no window sees
        x_grad.zero_()
    elif covered < x.shape[0]:
        x_grad[covered:] = 0
    for first, taps in blocks(kernel, stride):
        part = slice(first * channels, (first + taps) * channels)
        weight_grad[part].addmm_(windows(x, first, taps, stride, count).T, grad)
        target = windows(x_grad, first, taps, stride, count)
        if first or stride > kernel:
            target.addmm_(grad, weight[part].T)
        else:
            torch.mm(grad, weight[part].T, out=target)
    return x_grad


def sample_windows(waveform: Tensor, kernel: int, stride: int) -> Tensor:
    """The first layer's windows with a one at the end, `[S]` -> `[T, K + 1]`."""
    return F.pad(waveform.unfold(0, kernel, stride), (0, 1), value=1.0)


def fold_group_norm(weight: Tensor, scale: Tensor, shift: Tensor, seen: Tensor, *, eps: float) -> Tensor:
    """Weight and bias of the first convolution that make its group norm, with one group a channel.

    Over the frames of an utterance, channel c of the convolution has mean `w_c . m` and variance `w_c' V w_c`, where m
    and V are mean and covariance of the windows of samples. A bias of the convolution would cancel.

    Args:
        weight: `[C, K]`.
        scale: of the norm, `[C]`.
        shift: of the norm, `[C]`.
        seen: the windows, `[T, K + 1]`.
        eps: of the norm.

    Returns:
        `[K + 1, C]`, to be multiplied with `seen`.
    """
    with torch.no_grad():  # in double: a difference of large numbers where speech hardly changes within a window
        exact = seen[:, :-1].double()
        mean = exact.mean(dim=0)
        centred = exact - mean
        covariance = centred.T @ centred / len(exact)
    wide = weight.double()
    variance = ((wide @ covariance) * wide).sum(dim=1).clamp(min=0)
    gain = scale.double() * torch.rsqrt(variance + eps)
    return torch.cat([(wide * gain[:, None]).T, (shift.double() - gain * (wide @ mean))[None]]).to(weight.dtype)


class ConvStack(torch.autograd.Function):
    """All convolutions of the front end, each followed by GELU; by a layer norm before that where there are any.

    Saved for backward are each layer's values before GELU (before the layer norm, where there is one) but the first's,
    which are made again.
    """

    @staticmethod
    def forward(
        ctx: Any, keep: bool, seen: list[Tensor], layers: StridedLayers, eps: float | None, max_frames: int,
        first: Tensor, *parameters: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Latents `[B, max_frames, C]`, zero beyond each row's end.

        Args:
            keep: whether there will be a backward.
            seen: the first layer's windows of each utterance, `[T, K + 1]` of `sample_windows`.
            layers: (kernel, stride) of the layers after the first.
            eps: of the layer norms; None where there are none.
            max_frames: T of the result.
            first: the first layer's weight with its bias, `[K + 1, C]`, or `[B, K + 1, C]` of each utterance.
            parameters: flat weight, bias, norm scale and norm shift of each layer, the first without the first two.
        """
        saved: list[Tensor] = []
        dtype = next((value.dtype for value in parameters[2:] if value is not None), first.dtype)
        output = first.new_zeros(len(seen), max_frames, first.shape[-1], dtype=dtype)
        for row, frames in enumerate(seen):
            first_weight = first if first.dim() == 2 else first[row]
            if layers:
                y, x = _two_layers(frames, first_weight, parameters[:6], layers[0], eps, dtype, keep)
                saved += [y] if keep else []
            else:
                x = _activate(frames @ first_weight, parameters[:2], eps)
            for index, layer in enumerate(layers[1:], start=1):
                weight, bias, *norm = parameters[2 + 4 * index : 6 + 4 * index]
                assert weight is not None
                y = conv(x, weight, bias, *layer)
                saved += [y] if keep else []
                x = _activate(y, norm, eps, keep=keep)
            output[row, : len(x)] = x
        ctx.save_for_backward(first, *parameters, *seen, *saved)
        ctx.layout = (layers, eps, len(parameters))
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        """Row by row, layer by layer from the end."""
        layers, eps, num_parameters = ctx.layout
        first, *others = ctx.saved_tensors
        parameters, others = others[:num_parameters], others[num_parameters:]
        num_rows, depth = len(grad_output), len(layers)
        seen, saved = others[:num_rows], others[num_rows:]
        first_grad = torch.zeros_like(first)
        grads = [None if value is None else torch.zeros_like(value) for value in parameters]
        for row, frames in enumerate(seen):
            values = saved[row * depth : (row + 1) * depth]
            first_weight, first_weight_grad = (x if x.dim() == 2 else x[row] for x in (first, first_grad))
            grad = grad_output[row, : len(values[-1] if values else frames)]
            for index in range(depth, 0, -1):
                at = 4 * index  # of the norm; weight and bias lie two before it, the norm of the layer before, four
                grad = _activate_backward(grad, values[index - 1], parameters[at : at + 2], grads[at : at + 2], eps)
                weight_grad, bias_grad = grads[at - 2], grads[at - 1]
                assert weight_grad is not None
                if bias_grad is not None:
                    bias_grad += grad.sum(dim=0)
                if index > 1:
                    x = _activate(values[index - 2], parameters[at - 4 : at - 2], eps, keep=True)
                    grad = conv_backward(grad, x, parameters[at - 2], weight_grad, *layers[index - 1])
            for start, stop, begin, end in _segments(len(grad), layers[0]) if layers else [(0, 0, 0, len(frames))]:
                y = frames[begin:end] @ first_weight
                part, weight_grad = grad, grads[2] if layers else None
                if weight_grad is not None:
                    x = _activate(y, parameters[:2], eps, keep=True).to(grad.dtype)
                    part = conv_backward(grad[start:stop], x, parameters[2], weight_grad, *layers[0])
                part = _activate_backward(part.to(first.dtype), y, parameters[:2], grads[:2], eps)
                first_weight_grad.addmm_(frames[begin:end].T, part)
        return None, None, None, None, None, first_grad, *grads


def _segments(count: int, layer: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """`count` frames of the second layer in pieces: first and one past the last, and the same of the frames seen."""
    kernel, stride = layer
    starts = range(0, count, SEGMENT)
    pieces = [(start, min(start + SEGMENT, count)) for start in starts]
    return [(start, stop, start * stride, (stop - 1) * stride + kernel) for start, stop in pieces]


def _two_layers(
    frames: Tensor, first: Tensor, parameters: Any, layer: tuple[int, int], eps: float | None, dtype: torch.dtype,
    keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The first two layers, piece by piece, so that the long output of the first stays in the cache.

    Returns:
        The second layer's values before its norm and GELU, and after (the same memory unless `keep`).
    """
    weight, bias, *norm = parameters[2:]
    count = output_length(len(frames), (layer,))
    values = frames.new_empty(count, weight.shape[1], dtype=dtype)
    result = torch.empty_like(values) if keep else values
    for start, stop, begin, end in _segments(count, layer):
        x = _activate(frames[begin:end] @ first, parameters[:2], eps).to(dtype)
        y = conv(x, weight, bias, *layer, out=values[start:stop])
        if eps is None:
            torch.ops.aten.gelu.out(y, out=result[start:stop])
        else:
            result[start:stop] = _activate(y, norm, eps, keep=True)
    return values, result


def _activate(y: Tensor, norm: Any, eps: float | None, *, keep: bool = False) -> Tensor:
    """Layer norm, where there is one, and GELU; in place unless `keep`."""
    if eps is not None:
        y = F.layer_norm(y, y.shape[1:], norm[0], norm[1], eps)
    elif keep:
        return F.gelu(y)
    return torch.ops.aten.gelu_(y)  # type: ignore[no-any-return]


def _activate_backward(grad: Tensor, y: Tensor, norm: Any, norm_grads: Any, eps: float | None) -> Tensor:
    """Gradient before GELU and layer norm; adds to those of the norm."""
    if eps is None:
        return _gelu_backward(grad, y, grad_input=torch.empty_like(y))  # type: ignore[no-any-return]
    normalized, mean, inverse = torch.ops.aten.native_layer_norm(y, y.shape[1:], norm[0], norm[1], eps)
    inner = torch.ops.aten.gelu_backward(grad, normalized)
    grad_y, scale_grad, shift_grad = torch.ops.aten.native_layer_norm_backward(
        inner, y, y.shape[1:], mean, inverse, norm[0], norm[1], [True, True, True]
    )
    norm_grads[0] += scale_grad
    norm_grads[1] += shift_grad
    return grad_y  # type: ignore[no-any-return]
