"""The weighted sum of layers."""

import torch

from speechssl.nn.layer_mix import LayerMix


def test_weights_are_equal_at_first_and_follow_the_softmax() -> None:
    mix = LayerMix(4)
    assert torch.equal(mix.weights, torch.full((4,), 0.25))
    mix.scores.data = torch.tensor([0.0, 0.0, torch.log(torch.tensor(2.0)), 0.0])
    torch.testing.assert_close(mix.weights, torch.tensor([0.2, 0.2, 0.4, 0.2]))


def test_scale_of_a_layer_does_not_matter() -> None:
    layers = [torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    mix = LayerMix(3)
    torch.testing.assert_close(mix(layers), mix([layers[0], 1000 * layers[1] + 7, layers[2]]), rtol=0, atol=1e-3)


def test_one_layer_with_all_the_weight_is_that_layer_normalised() -> None:
    layers = [torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    mix = LayerMix(2)
    mix.scores.data = torch.tensor([-50.0, 50.0])
    expected = (layers[1] - layers[1].mean(-1, keepdim=True)) / layers[1].std(-1, keepdim=True, unbiased=False)
    torch.testing.assert_close(mix(layers), expected, rtol=1e-3, atol=1e-4)
