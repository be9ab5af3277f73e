"""Front ends without weights: mel features, normalized per utterance, neighbours stacked into frames 20 ms apart.

`LogMelFeatureEncoder` costs a hundredth of the convolutions, which is what makes pre-training on a small machine
possible. `FbankFeatureEncoder` is w2v-BERT 2.0's.

Shapes: B utterances, S samples, T frames, C latent dim.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.lengths import output_length
from speechssl.nn.statistics import TimeStatistics, masked_mean_and_variance, wide, zero_padding


class LogMelFeatureEncoder(nn.Module):
    """Log-mel features, normalized per utterance and mel bin, `stack` neighbouring frames joined into one.

    25 ms windows every 10 ms without centring (so a frame never sees padding), Hann window, power spectrum, mel
    filters as in torchaudio, natural logarithm. Computed without gradient in fp32, whatever autocast says, and outside
    of training in fp64 (see `wide`).
    """

    mel_filters: Tensor
    window: Tensor

    def __init__(
        self, *, sample_rate: int, num_mels: int, window_samples: int, hop_samples: int, stack: int, floor: float = 1e-5
    ) -> None:
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        self.strided_layers = ((window_samples, hop_samples), (stack, stack))
        self.dim = num_mels * stack
        self.stack = stack
        self.floor = floor
        filters = melscale_fbanks(
            window_samples // 2 + 1, 20.0, sample_rate / 2, num_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("mel_filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(window_samples), persistent=False)

    normalizes_over_time = True

    @torch.no_grad()
    def unnormalized(self, waveform: Tensor) -> Tensor:
        """The features before they are normalized: `[B, S]` -> `[B, 10 ms frames, mel bins]`."""
        with full_precision(waveform.device.type):
            (window_samples, hop_samples), _ = self.strided_layers
            frames = wide(waveform, training=self.training).unfold(
                1, window_samples, hop_samples
            )  # [B, 10 ms frames, window]
            spectrum = torch.fft.rfft(frames * self.window)
            power = torch.view_as_real(spectrum).square().sum(dim=-1)  # abs() would take a needless root
            return (power @ self.mel_filters.to(power.dtype)).clamp(min=self.floor).log()

    @torch.no_grad()
    def forward(
        self, waveform: Tensor, num_samples: Tensor, statistics: TimeStatistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """`waveform` `[B, S]`, `num_samples` i64 `[B]` -> latents `[B, T, C]` (zero in the padding), frames `[B]`.

        `statistics` are those of the recording that the waveforms are parts of.
        """
        with full_precision(waveform.device.type):
            features = self.unnormalized(waveform)
            lengths = output_length(num_samples, self.strided_layers[:1])
            mean, variance, _ = _statistics(features, lengths, statistics)
            features = ((features - mean) * torch.rsqrt(variance + 1e-3)).float()
            return _stacked(features, lengths, self.stack)


class FbankFeatureEncoder(nn.Module):
    """Kaldi's log-mel filter bank, normalized per utterance and mel bin, `stack` neighbouring frames joined into one.

    What w2v-BERT 2.0 takes: samples as 16-bit numbers, per window the mean removed and pre-emphasis of 0.97, Povey
    window, power spectrum of the next power of two, mel filters that are triangles on the mel scale, natural
    logarithm; unbiased variance. Computed without gradient in fp32, whatever autocast says, and outside of training in
    fp64 (see `wide`).
    """

    mel_filters: Tensor
    window: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        num_mels: int,
        window_samples: int,
        hop_samples: int,
        stack: int,
        floor: float = 2**-23,
    ) -> None:
        super().__init__()
        from torchaudio.compliance.kaldi import get_mel_banks

        self.strided_layers = ((window_samples, hop_samples), (stack, stack))
        self.dim = num_mels * stack
        self.stack = stack
        self.floor = floor
        self.fft_size = 1 << (window_samples - 1).bit_length()
        filters, _ = get_mel_banks(num_mels, self.fft_size, float(sample_rate), 20.0, 0.0, 100.0, -500.0, 1.0)
        self.register_buffer("mel_filters", F.pad(filters, (0, 1)).T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(window_samples, periodic=False) ** 0.85, persistent=False)

    normalizes_over_time = True

    @torch.no_grad()
    def unnormalized(self, waveform: Tensor) -> Tensor:
        """The features before they are normalized: `[B, S]` -> `[B, 10 ms frames, mel bins]`."""
        with full_precision(waveform.device.type):
            (window_samples, hop_samples), _ = self.strided_layers
            frames = (
                wide(waveform, training=self.training).unfold(1, window_samples, hop_samples) * 2**15
            )  # [B, 10 ms frames, window]
            frames = frames - frames.mean(dim=2, keepdim=True)
            frames = frames - 0.97 * torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
            spectrum = torch.fft.rfft(frames * self.window, n=self.fft_size)
            power = torch.view_as_real(spectrum).square().sum(dim=-1)
            return (power @ self.mel_filters.to(power.dtype)).clamp(min=self.floor).log()

    @torch.no_grad()
    def forward(
        self, waveform: Tensor, num_samples: Tensor, statistics: TimeStatistics | None = None
    ) -> tuple[Tensor, Tensor]:
        """`waveform` `[B, S]`, `num_samples` i64 `[B]` -> latents `[B, T, C]` (zero in the padding), frames `[B]`.

        `statistics` are those of the recording that the waveforms are parts of.
        """
        with full_precision(waveform.device.type):
            features = self.unnormalized(waveform)
            lengths = output_length(num_samples, self.strided_layers[:1])
            mean, variance, counts = _statistics(features, lengths, statistics)
            unbiased = counts.to(torch.float32) / (counts - 1).clamp(min=1)
            features = ((features - mean) * torch.rsqrt(variance * unbiased[:, None, None] + 1e-7)).float()
            return _stacked(features, lengths, self.stack)


def stack_frames(features: Tensor, stack: int) -> Tensor:
    """Join each `stack` neighbouring frames; what is left over at the end goes. `[B, T, C]` -> `[B, T', stack C]`."""
    if torch.compiler.is_compiling():
        # a slice would tie an exported program to odd or even lengths; this convolution only copies
        num_features = features.shape[2]
        copies = torch.eye(stack * num_features, device=features.device, dtype=features.dtype)
        kernel = copies.view(-1, stack, num_features).transpose(1, 2)
        return F.conv1d(features.transpose(1, 2), kernel, stride=stack).transpose(1, 2)
    num_frames = features.shape[1] // stack
    return features[:, : num_frames * stack].reshape(features.shape[0], num_frames, -1)


def full_precision(device_type: str) -> AbstractContextManager[Any]:
    """No autocast inside; nothing where a program is exported, which is in fp32 and could not be stored with it."""
    exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return nullcontext() if exporting() else torch.autocast(device_type, enabled=False)


def _statistics(features: Tensor, lengths: Tensor, given: TimeStatistics | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and number `[B]` of the frames that `features` `[B, T', C']` are normalized by."""
    if given is not None:
        return given.mean, given.variance, torch.full_like(lengths, given.count)
    return *masked_mean_and_variance(features, lengths, time_dim=1), lengths


def _stacked(features: Tensor, lengths: Tensor, stack: int) -> tuple[Tensor, Tensor]:
    """Latents and their lengths."""
    num_frames = output_length(lengths, ((stack, stack),))
    return zero_padding(stack_frames(features, stack), num_frames), num_frames
