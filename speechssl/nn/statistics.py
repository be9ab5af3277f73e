"""Normalization over time that padding has no part in.

Shapes: B utterances, S samples, T frames, C latent dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechssl.lengths import is_full, padding_mask


@dataclass(frozen=True)
class TimeStatistics:
    """Mean and biased variance `[C]` over all `count` steps of a recording, by which a part of it is normalized."""

    mean: Tensor
    variance: Tensor
    count: int


def wide(x: Tensor, *, training: bool) -> Tensor:
    """In fp64, for the little that is ill-conditioned; in fp32 in training, in exported programs and on MPS.

    Band energies near their floor, normalized by their own small variance, turn rounding in fp32, which differs with
    the shape of a batch, into 5e-5 of the largest latent; in fp64 nothing of it is left after rounding to fp32.
    Training does without: there it would cost twice the time for nothing.
    """
    narrow = training or torch.compiler.is_compiling() or x.device.type == "mps"
    return x.float() if narrow else x.double()


def masked_mean_and_variance(x: Tensor, lengths: Tensor, *, time_dim: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the valid steps of `time_dim`, kept as size-1 dimensions, in fp32 (fp64 of fp64).

    `x` is `[B, ...]`, `lengths` i64 `[B]`. Rows without a valid step give mean 0 and variance 0.
    """
    x = x if x.dtype == torch.float64 else x.float()
    max_length = x.shape[time_dim]
    if is_full(lengths, max_length):
        mean = x.mean(time_dim, keepdim=True)
        return mean, (x - mean).square().mean(time_dim, keepdim=True)
    shape = [1] * x.dim()
    shape[0], shape[time_dim] = x.shape[0], max_length
    valid = (~padding_mask(lengths, max_length)).view(shape)
    count = valid.sum(time_dim, keepdim=True).clamp(min=1)
    mean = torch.where(valid, x, 0).sum(time_dim, keepdim=True) / count
    variance = torch.where(valid, x - mean, 0).square().sum(time_dim, keepdim=True) / count
    return mean, variance


def normalize_waveform(waveform: Tensor, num_samples: Tensor, *, eps: float = 1e-5, training: bool = False) -> Tensor:
    """Zero mean and unit variance per utterance over its own samples; padding becomes 0. `[B, S]` -> `[B, S]`.

    Outside of `training` the same samples give the same bits, whatever the padding.
    """
    mean, variance = masked_mean_and_variance(wide(waveform, training=training), num_samples, time_dim=1)
    normalized = (waveform - mean.float()) * torch.rsqrt(variance + eps).float()
    if is_full(num_samples, waveform.shape[1]):
        return normalized
    return normalized.masked_fill(padding_mask(num_samples, waveform.shape[1]), 0)


def zero_padding(latents: Tensor, num_frames: Tensor) -> Tensor:
    """Latents `[B, T, C]` with 0 beyond each row's `num_frames` i64 `[B]`."""
    if is_full(num_frames, latents.shape[1]):
        return latents
    return latents.masked_fill(padding_mask(num_frames, latents.shape[1])[:, :, None], 0)
