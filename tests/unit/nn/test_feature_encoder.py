"""Front ends: statistics that know of padding, and frames that see only their own samples."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from speechssl.encoder import WAV2VEC2_CONV_LAYERS
from speechssl.lengths import output_length
from speechssl.nn.feature_encoder import ConvFeatureEncoder, MaskedGroupNorm
from speechssl.nn.mel_features import FbankFeatureEncoder, LogMelFeatureEncoder
from speechssl.nn.statistics import masked_mean_and_variance, normalize_waveform

LENGTHS = [3000, 2222, 800]


def group() -> nn.Module:
    return ConvFeatureEncoder(WAV2VEC2_CONV_LAYERS, 12, norm="group", bias=False)


def layer() -> nn.Module:
    return ConvFeatureEncoder(WAV2VEC2_CONV_LAYERS, 12, norm="layer", bias=True)


def log_mel() -> nn.Module:
    return LogMelFeatureEncoder(sample_rate=16_000, num_mels=20, window_samples=400, hop_samples=160, stack=2)


def fbank() -> nn.Module:
    return FbankFeatureEncoder(sample_rate=16_000, num_mels=20, window_samples=400, hop_samples=160, stack=2)


FRONT_ENDS = [group, layer, log_mel]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("lengths", [[9, 9], [9, 4], [9, 0]])
def test_mean_and_variance_are_those_of_the_valid_steps(lengths: list[int]) -> None:
    x = noise(2, 3, 9)
    mean, variance = masked_mean_and_variance(x, torch.tensor(lengths), time_dim=2)
    for row, length in enumerate(lengths):
        own = x[row, :, :length]
        expected = own.mean(dim=1) if length else torch.zeros(3)
        torch.testing.assert_close(mean[row, :, 0], expected)
        torch.testing.assert_close(variance[row, :, 0], own.var(dim=1, unbiased=False) if length else torch.zeros(3))


def test_waveforms_are_normalized_over_their_own_samples() -> None:
    waveform = 5 + 3 * noise(2, 1000)
    normalized = normalize_waveform(waveform, torch.tensor([1000, 400]))
    for row, length in enumerate([1000, 400]):
        assert float(normalized[row, :length].mean()) == pytest.approx(0, abs=1e-5)
        assert float(normalized[row, :length].std(unbiased=False)) == pytest.approx(1, rel=1e-4)
    assert not normalized[1, 400:].any()


def test_group_norm_without_padding_is_torchs() -> None:
    norm = MaskedGroupNorm(4)
    peer = nn.GroupNorm(4, 4)
    x = noise(2, 4, 30)
    assert torch.equal(norm(x, torch.tensor([30, 30])), peer(x))
    included = MaskedGroupNorm(4, padding="included")
    assert torch.equal(included(x, torch.tensor([30, 7])), peer(x))


def test_masked_group_norm_gives_each_row_what_it_gets_alone() -> None:
    norm = MaskedGroupNorm(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = noise(2, 4, 30)
    together = norm(x, torch.tensor([30, 7]))
    torch.testing.assert_close(together[1:, :, :7], norm(x[1:, :, :7], torch.tensor([7])), rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("make", FRONT_ENDS)
@pytest.mark.parametrize("padding", [0.0, 100.0, float("nan"), float("inf")])
def test_padding_content_does_not_change_latents(make: Callable[[], nn.Module], padding: float) -> None:
    front_end = make()
    waveform, lengths = noise(3, 3000), torch.tensor(LENGTHS)
    waveform[torch.arange(3000) >= lengths[:, None]] = padding
    latents, num_frames = front_end(waveform, lengths)
    assert num_frames.tolist() == [output_length(length, front_end.strided_layers) for length in LENGTHS]
    for row, (length, count) in enumerate(zip(LENGTHS, num_frames.tolist(), strict=True)):
        alone, _ = front_end(waveform[row : row + 1, :length], lengths[row : row + 1])
        assert alone.shape[1] == count
        assert float((latents[row, :count] - alone[0]).norm() / alone.norm()) < 1e-5
        assert not latents[row, count:].any()


@torch.no_grad()
def test_log_mel_is_torchaudios_mel_spectrogram() -> None:
    from torchaudio.transforms import MelSpectrogram

    front_end = log_mel()
    transform = MelSpectrogram(
        16_000, n_fft=400, hop_length=160, f_min=20.0, n_mels=20, power=2.0, center=False, norm="slaney",
        mel_scale="slaney",
    )  # fmt: skip
    waveform = noise(1, 4000)
    features = transform(waveform).clamp(min=1e-5).log()[0].T  # [10 ms frames, mels]
    features = (features - features.mean(dim=0)) / (features.var(dim=0, unbiased=False) + 1e-3).sqrt()
    latents, _ = front_end(waveform, torch.tensor([4000]))
    assert latents.shape[1] == len(features) // 2
    torch.testing.assert_close(latents[0], features[: 2 * latents.shape[1]].reshape(-1, 40), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("make", [group, layer])
def test_a_later_sample_moves_only_frames_that_see_it(make: Callable[[], nn.Module]) -> None:
    """Kernel 400, stride 320: sample 2100 lies under frame 6 (1920 to 2319) alone."""
    front_end = layer() if make is layer else make()
    if make is group:
        front_end.norms[0].forward = lambda x, _lengths: x  # its statistics see the whole clip
    first = noise(1, 4000)
    second = first.clone()
    second[0, 2100] += 1
    lengths = torch.tensor([4000])
    changed = (front_end(first, lengths)[0] != front_end(second, lengths)[0]).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [6]


@torch.no_grad()
@pytest.mark.parametrize("make", [log_mel, fbank])
def test_bands_without_energy_do_not_feel_the_batch(make: Callable[[], nn.Module]) -> None:
    """Speech that was once at 8 kHz: above 4 kHz there is rounding alone, which the logarithm makes large."""
    import soxr

    front_end = make().eval()
    words = [0.05 * noise(2400 + 160 * row, seed=row).numpy() for row in range(12)]
    clips = [torch.from_numpy(soxr.resample(word, 8000, 16_000)) for word in words]
    lengths = torch.tensor([len(clip) for clip in clips])
    padded = torch.zeros(len(clips), 16_000)
    for row, clip in enumerate(clips):
        padded[row, : len(clip)] = clip
    together, num_frames = front_end(normalize_waveform(padded, lengths), lengths)
    for row, (clip, count) in enumerate(zip(clips, num_frames.tolist(), strict=True)):
        alone, _ = front_end(normalize_waveform(clip[None], lengths[row : row + 1]), lengths[row : row + 1])
        assert float((together[row, :count] - alone[0]).abs().max() / alone.abs().max()) < 3e-7


def test_log_mel_of_silence_is_finite_and_flat() -> None:
    latents, _ = log_mel()(torch.zeros(1, 2000), torch.tensor([2000]))
    assert not latents.any()
