"""The positional convolution is torch's weight-normalized convolution."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from speechssl.nn.positions import ConvPositions


@torch.no_grad()
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kernel", [7, 8])
def test_is_torchs_weight_normalized_convolution(kernel: int) -> None:
    positions = ConvPositions(8, kernel=kernel, groups=4).double()
    positions.magnitude.add_(torch.rand(kernel))
    positions.bias.normal_()
    peer = weight_norm(nn.Conv1d(8, 8, kernel, padding=kernel // 2, groups=4), dim=2).double()
    peer.parametrizations.weight.original0.copy_(positions.magnitude.view(1, 1, -1))
    peer.parametrizations.weight.original1.copy_(positions.direction)
    peer.bias.copy_(positions.bias)
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    expected = nn.functional.gelu(peer(x.transpose(1, 2))[:, :, :11]).transpose(1, 2)
    assert positions(x).shape == x.shape
    torch.testing.assert_close(positions(x), expected, rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_zero_padding_is_as_good_as_the_end_of_the_clip() -> None:
    positions = ConvPositions(8, kernel=6, groups=2)
    x = torch.randn(1, 9, 8)
    padded = torch.cat([x, torch.zeros(1, 5, 8)], dim=1)
    torch.testing.assert_close(positions(padded)[:, :9], positions(x), rtol=1e-5, atol=1e-6)
