"""What the CPU computes in a form of its own is what torch's layers compute, forward and backward."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from speechssl.nn import dropped_attention
from speechssl.nn.attention import SelfAttention
from speechssl.nn.dropout import dropout, keep_mask
from speechssl.nn.dropped_attention import DroppedAttention
from speechssl.nn.feature_encoder import ConvFeatureEncoder
from speechssl.nn.group_conv import SameLengthConv, flat_weight
from speechssl.nn.positions import ConvPositions, same_length_conv
from speechssl.nn.statistics import TimeStatistics

LAYERS = ((10, 5), (3, 2), (4, 2), (2, 3), (1, 1))
"""Also a kernel of two strides, one below its stride, and one of 1."""


def gradients(result: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(5), dtype=result.dtype)
    found = torch.autograd.grad((result * weights).sum(), inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def noisy(module: torch.nn.Module) -> list[Tensor]:
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return list(module.parameters())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("norm", "padding"), [("group", "masked"), ("group", "included"), ("layer", "masked")])
@pytest.mark.usefixtures("double")
def test_front_end_and_its_gradients_are_those_of_convolutions(norm: str, padding: str, bias: bool) -> None:
    front_end = ConvFeatureEncoder(LAYERS, 12, norm=norm, bias=bias, padding=padding).double()  # type: ignore[arg-type]
    parameters = noisy(front_end)
    waveform = torch.randn(3, 900, dtype=torch.float64) + 0.5
    lengths = torch.tensor([900, 703, 333])
    ours = front_end(waveform, lengths)[0]
    watched = front_end.convs[2].register_forward_hook(lambda *_: None)  # runs the layers as they are
    theirs = front_end(waveform, lengths)[0]
    watched.remove()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for one, other in zip(gradients(ours, parameters), gradients(theirs, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


def test_given_statistics_are_used() -> None:
    front_end = ConvFeatureEncoder(LAYERS, 4, norm="group", bias=True)
    noisy(front_end)
    waveform, lengths = torch.randn(2, 500), torch.tensor([500, 400])
    given = TimeStatistics(mean=torch.randn(4), variance=torch.rand(4) + 0.5, count=1000)
    ours = front_end(waveform, lengths, given)[0]
    front_end.convs[2].register_forward_hook(lambda *_: None)  # runs the layers as they are
    torch.testing.assert_close(ours, front_end(waveform, lengths, given)[0], rtol=1e-4, atol=1e-5)


def test_hooks_on_the_front_ends_layers_are_called() -> None:
    front_end = ConvFeatureEncoder(LAYERS, 4, norm="group", bias=False)
    seen: list[tuple[int, ...]] = []
    front_end.convs[1].register_forward_hook(lambda _module, _args, output: seen.append(tuple(output.shape)))
    front_end(torch.randn(1, 500), torch.tensor([500]))
    assert seen == [(1, 4, 49)]


def test_a_waveform_gets_its_gradient() -> None:
    front_end = ConvFeatureEncoder(LAYERS, 4, norm="group", bias=False)
    waveform = torch.randn(1, 500, requires_grad=True)
    front_end(waveform, torch.tensor([500]))[0].square().sum().backward()
    assert waveform.grad is not None and waveform.grad.abs().sum() > 0


def test_group_norm_of_a_waveform_far_from_zero_is_exact() -> None:
    """Mean and variance come from those of the samples, where a large offset would leave nothing of fp32's digits."""
    front_end = ConvFeatureEncoder(LAYERS, 4, norm="group", bias=False)
    waveform = 0.01 * torch.randn(1, 2000) + 1.0
    lengths = torch.tensor([2000])
    ours = front_end(waveform, lengths)[0]
    exact = front_end.double()
    exact.convs[0].register_forward_hook(lambda *_: None)
    exact.norms[0].forward = lambda x, _lengths: F.group_norm(x, 4, exact.norms[0].weight, exact.norms[0].bias)
    assert (ours - exact(waveform.double(), lengths)[0]).abs().max() < 1e-3


@pytest.mark.parametrize("kernel", [1, 3, 8, 9, 19, 32])
def test_grouped_convolution_and_its_gradients_are_those_of_conv1d(kernel: int) -> None:
    torch.manual_seed(1)
    weight = torch.randn(12, 3, kernel, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 21, 12, dtype=torch.float64, requires_grad=True)
    ours = SameLengthConv.apply(x, flat_weight(weight, 4))  # type: ignore[no-untyped-call]
    theirs = same_length_conv(x.transpose(1, 2), weight, None, 4).transpose(1, 2)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(gradients(ours, [x, weight]), gradients(theirs, [x, weight]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("lengths", [[9, 9], [9, 5], [1]])
def test_attention_with_dropout_is_that_of_torch_with_the_same_mask(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    projected = torch.randn(sum(lengths), 3, 4, 5, dtype=torch.float64, requires_grad=True)
    kept, share = keep_mask((4 * sum(length**2 for length in lengths),), 0.3)
    monkeypatch.setattr(dropped_attention, "keep_mask", lambda *_: (kept, share))
    ours = DroppedAttention.apply(projected, lengths, 0.3)  # type: ignore[no-untyped-call]
    theirs = []
    for rows, keep in zip(projected.split(lengths), kept.split([4 * n**2 for n in lengths]), strict=True):
        query, key, value = rows.permute(1, 2, 0, 3)
        weights = (query @ key.transpose(1, 2) / 5**0.5).softmax(dim=-1) * keep.view(4, len(rows), -1) / share
        theirs.append((weights @ value).transpose(0, 1))
    torch.testing.assert_close(ours, torch.cat(theirs))
    torch.testing.assert_close(gradients(ours, [projected]), gradients(torch.cat(theirs), [projected]))


def test_attention_drops_in_training_only() -> None:
    attention = SelfAttention(8, 2, dropout=0.5)
    x = torch.randn(1, 6, 8)
    assert not torch.equal(attention.train()(x, None), attention(x, None))
    assert torch.equal(attention.eval()(x, None), attention(x, None))


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(3)
    x = torch.ones(1000, 1001)
    y = dropout(x, p, True)
    dropped = (y == 0).float()
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(float(dropped.mean()) - p) < 5 * deviation + 1 / 131072
    assert torch.allclose(y[y != 0], torch.tensor(1 / (1 - p)), rtol=1e-3)
    # neighbours are drawn from the same 64 bits: they must not go together
    assert abs(float((dropped[:, :-1] * dropped[:, 1:]).mean()) - p**2) < 0.003


def test_dropout_follows_torchs_seed_and_drops_the_gradient_alike() -> None:
    x = torch.ones(50, 50, requires_grad=True)
    torch.manual_seed(7)
    first = dropout(x, 0.4, True)
    torch.manual_seed(7)
    again = dropout(x, 0.4, True)
    assert torch.equal(first, again)
    assert not torch.equal(first, dropout(x, 0.4, True))
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(gradient, first)


@pytest.mark.parametrize("draw", [lambda x: dropout(x, 0.0, True), lambda x: dropout(x, 0.5, False)])
def test_dropout_that_is_off_changes_nothing(draw: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 4)
    assert torch.equal(draw(x), x)


@torch.no_grad()
def test_positions_under_autocast_stay_close_to_fp32() -> None:
    torch.manual_seed(1)
    positions = ConvPositions(32, kernel=16, groups=4)
    x = torch.randn(1, 40, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = positions(x.bfloat16())
    exact = positions(x)
    assert float((low.float() - exact).norm() / exact.norm()) < 0.02


def test_weights_kept_for_evaluation_follow_every_change_of_the_parameters() -> None:
    torch.manual_seed(1)
    positions = ConvPositions(8, kernel=4, groups=2)
    front_end = ConvFeatureEncoder(LAYERS, 4, norm="group", bias=False)
    x, waveform, lengths = torch.randn(1, 9, 8), torch.randn(1, 500), torch.tensor([500])

    def results() -> list[Tensor]:
        with torch.no_grad():
            return [positions(x), front_end(waveform, lengths)[0]]

    def exact() -> list[Tensor]:  # with a gradient nothing is kept
        return [positions(x).detach(), front_end(waveform, lengths)[0].detach()]

    before = results()
    assert all(map(torch.equal, before, results()))
    with torch.no_grad():
        positions.magnitude.mul_(2)
        front_end.convs[1].weight.mul_(2)
    torch.testing.assert_close(results(), exact())
    assert not any(map(torch.equal, before, results()))
    positions.load_state_dict({name: value * 3 for name, value in positions.state_dict().items()})
    torch.testing.assert_close(results(), exact())
    positions.double()
    assert positions(x.double()).dtype == torch.float64
    with torch.no_grad():
        assert positions(x.double()).dtype == torch.float64
