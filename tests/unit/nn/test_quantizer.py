"""The Gumbel-softmax quantizer against equation 1, written out in loops."""

import math

import pytest
import torch
from torch import Tensor

from speechssl.nn.quantizer import GumbelQuantizer, perplexity, sample_gumbel

C, G, V, Q = 5, 2, 4, 6
TAU = 0.7


def make(**more: float) -> GumbelQuantizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GumbelQuantizer(C, num_codebooks=G, num_entries=V, quantized_dim=Q, **more)


def inputs(dtype: torch.dtype = torch.float32, batch: int = 2, places: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, places, C, generator=generator).to(dtype)
    uniform = torch.rand(batch, places, G, V, generator=generator).to(dtype)
    return latents, torch.ones(batch, places, dtype=torch.bool), -torch.log(-torch.log(uniform))


def logits_of(quantizer: GumbelQuantizer, latent: Tensor) -> list[list[float]]:
    """l in R^{G x V} of one latent vector."""
    weight, bias = quantizer.logits.weight, quantizer.logits.bias
    return [
        [float(sum(weight[g * V + v, c] * latent[c] for c in range(C)) + bias[g * V + v]) for v in range(V)]
        for g in range(G)
    ]


def equation_1(logits: list[float], noise: list[float], tau: float) -> list[float]:
    """p_v = exp((l_v + n_v) / tau) / sum_k exp((l_k + n_k) / tau)."""
    exponentials = [math.exp((value + noise[v]) / tau) for v, value in enumerate(logits)]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_choice_is_the_largest_probability_of_equation_1() -> None:
    quantizer = make().double().train()
    latents, valid, noise = inputs(torch.float64)
    output = quantizer(latents, valid, temperature=TAU, gumbel=noise)
    for b in range(2):
        for m in range(3):
            logits = logits_of(quantizer, latents[b, m])
            expected: list[float] = []
            for g in range(G):
                p = equation_1(logits[g], noise[b, m, g].tolist(), TAU)
                code = max(range(V), key=lambda v: p[v])
                assert int(output.codes[b, m, g]) == code
                expected += quantizer.codebooks[g, code].tolist()  # one entry a codebook, concatenated
            assert output.quantized[b, m].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("double")
def test_gradient_is_that_of_the_softmax_straight_through() -> None:
    """Section 2: the forward pass takes the hard choice, the backward pass the gradient of the Gumbel softmax."""
    quantizer = make().double().train()
    latents, valid, noise = inputs(torch.float64)
    latents.requires_grad_()
    output = quantizer(latents, valid, temperature=TAU, gumbel=noise)
    direction = torch.randn(output.quantized.shape, generator=torch.Generator().manual_seed(2)).double()
    (output.quantized * direction).sum().backward()

    expected_latents = torch.zeros_like(latents)
    expected_codebooks = torch.zeros_like(quantizer.codebooks)
    expected_bias = torch.zeros(G, V, dtype=torch.float64)
    with torch.no_grad():
        for b in range(2):
            for m in range(3):
                logits = logits_of(quantizer, latents[b, m])
                for g in range(G):
                    p = equation_1(logits[g], noise[b, m, g].tolist(), TAU)
                    part = direction[b, m, g * Q // G : (g + 1) * Q // G]
                    gain = [float(quantizer.codebooks[g, v] @ part) for v in range(V)]  # d output / d choice_v
                    expected_codebooks[g, int(output.codes[b, m, g])] += part
                    for v in range(V):
                        # the softmax' Jacobian: d p_u / d l_v = p_u ([u = v] - p_v) / tau
                        slope = sum(gain[u] * p[u] * ((u == v) - p[v]) / TAU for u in range(V))
                        expected_bias[g, v] += slope
                        expected_latents[b, m] += slope * quantizer.logits.weight[g * V + v]
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, expected_latents, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(quantizer.codebooks.grad, expected_codebooks, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(quantizer.logits.bias.grad, expected_bias.flatten(), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_temperature_changes_the_gradient_but_not_the_choice() -> None:
    quantizer = make().train()
    latents, valid, noise = inputs(places=50)
    cold = quantizer(latents, valid, temperature=0.1, gumbel=noise)
    warm = quantizer(latents, valid, temperature=2.0, gumbel=noise)
    assert torch.equal(cold.codes, warm.codes)


@torch.no_grad()
def test_evaluation_takes_the_largest_logit_and_draws_nothing() -> None:
    quantizer = make().eval()
    latents, valid, noise = inputs()
    state = torch.get_rng_state()
    output = quantizer(latents, valid, temperature=TAU)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(output.codes, quantizer.logits(latents).view(2, 3, G, V).argmax(dim=-1))
    assert torch.equal(quantizer(latents, valid, temperature=TAU, gumbel=noise).quantized, output.quantized)


@torch.no_grad()
def test_codes_are_drawn_with_the_softmax_probabilities() -> None:
    """The Gumbel-max trick: adding the noise and taking the largest samples from softmax(logits)."""
    quantizer = make(logit_std=1.0).train()
    latents = torch.randn(1, 1, C, generator=torch.Generator().manual_seed(3))
    many = latents.expand(1, 20_000, C)
    valid = torch.ones(1, 20_000, dtype=torch.bool)
    output = quantizer(many, valid, temperature=1.0, generator=torch.Generator().manual_seed(4))
    probabilities = torch.softmax(quantizer.logits(latents).view(G, V), dim=-1)
    for g in range(G):
        shares = torch.bincount(output.codes[0, :, g], minlength=V) / 20_000
        # four standard deviations of a share
        assert bool(((shares - probabilities[g]).abs() < 4 * (probabilities[g] / 20_000).sqrt() + 1e-4).all())


def test_noise_is_standard_gumbel_and_comes_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    noise = sample_gumbel((200_000,), like=torch.zeros(1), generator=torch.Generator().manual_seed(0))
    again = sample_gumbel((200_000,), like=torch.zeros(1), generator=torch.Generator().manual_seed(0))
    assert torch.equal(noise, again)
    assert torch.equal(torch.get_rng_state(), state)
    assert bool(noise.isfinite().all())
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)  # Euler's constant
    assert float(noise.std()) == pytest.approx(math.pi / math.sqrt(6), abs=0.01)


def test_perplexity_is_between_one_and_the_number_of_entries() -> None:
    one_hot = torch.eye(8)[:1]
    assert float(perplexity(one_hot)) == pytest.approx(1.0, abs=1e-5)
    assert float(perplexity(torch.full((1, 8), 1 / 8))) == pytest.approx(8.0, rel=1e-5)
    half = torch.tensor([[0.5, 0.5, 0, 0]])
    assert float(perplexity(half)) == pytest.approx(2.0, rel=1e-5)


@torch.no_grad()
def test_perplexities_are_those_of_the_valid_places_without_noise() -> None:
    quantizer = make().train()
    latents, valid, noise = inputs(batch=2, places=9)
    valid[0, 4:] = False
    output = quantizer(latents, valid, temperature=TAU, gumbel=noise)
    logits = quantizer.logits(latents).view(2, 9, G, V)[valid]  # [N, G, V]
    for g in range(G):
        average = torch.softmax(logits[:, g], dim=-1).mean(dim=0)
        shares = torch.bincount(logits[:, g].argmax(dim=-1), minlength=V) / len(logits)
        entropy = -sum(float(p) * math.log(float(p)) for p in average)
        hard_entropy = -sum(float(p) * math.log(float(p)) for p in shares if p > 0)
        assert float(output.prob_perplexity[g]) == pytest.approx(math.exp(entropy), rel=1e-5)
        assert float(output.code_perplexity[g]) == pytest.approx(math.exp(hard_entropy), rel=1e-5)


@torch.no_grad()
def test_initial_logits_have_the_asked_standard_deviation() -> None:
    latents = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    for logit_std, expected in ((None, 8.0), (6.0, 6.0)):
        quantizer = GumbelQuantizer(64, num_codebooks=2, num_entries=160, quantized_dim=8, logit_std=logit_std)
        assert float(quantizer.logits(latents).std()) == pytest.approx(expected, rel=0.05)


def test_dims_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="quantized_dim must be divisible by num_codebooks=2, but is 5"):
        GumbelQuantizer(4, num_codebooks=2, num_entries=3, quantized_dim=5)
