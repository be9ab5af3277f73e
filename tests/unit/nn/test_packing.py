"""Packing takes the padding out and puts it back, forward and backward."""

import torch

from speechssl.nn.packing import Packing

PADDING = torch.arange(5) >= torch.tensor([3, 5, 1])[:, None]


def test_valid_frames_stand_one_after_the_other() -> None:
    x = torch.randn(3, 5, 2)
    packing = Packing.of(PADDING)
    assert packing == Packing((3, 5, 1), 5)
    rows = packing.pack(x)
    assert torch.equal(rows, x[~PADDING][None])
    assert torch.equal(packing.unpack(rows), x.masked_fill(PADDING[:, :, None], 0))


def test_gradients_go_the_same_way_back() -> None:
    packing = Packing.of(PADDING)
    x = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(1, 9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(packing.pack, x)
    assert torch.autograd.gradcheck(packing.unpack, rows)
