"""The context network: attention written out, LayerDrop, dropout and padding."""

import math
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.nn.attention import SelfAttention
from speechssl.nn.context_encoder import ContextEncoder, ContextVariant, TransformerLayer

DIM, HEADS = 8, 2


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(**more: Any) -> ContextEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ContextEncoder(
            DIM,
            **{"num_layers": 4, "num_heads": HEADS, "hidden_dim": 16, "norm_position": "post", "position_kernel": 4,
               "position_groups": 2, **more},
        )  # fmt: skip


@torch.no_grad()
def test_attention_is_the_softmax_of_scaled_products() -> None:
    attention = SelfAttention(DIM, HEADS, dropout=0.0).double()
    x = noise(1, 5, DIM).double()
    allowed = torch.tensor([True, True, True, True, False])
    output = attention(x, allowed[None, None, None, :])
    query, key, value = attention.input_projection(x)[0].chunk(3, dim=-1)
    size = DIM // HEADS
    for t in range(5):
        joined: list[Tensor] = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = [math.exp(float(query[t, part] @ key[s, part]) / math.sqrt(size)) for s in range(4)]
            joined.append(sum(score * value[s, part] for s, score in enumerate(scores)) / sum(scores))
        expected = attention.output_projection(torch.cat(joined))
        torch.testing.assert_close(output[0, t], expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_norms_stand_where_the_names_say(norm_position: Any) -> None:
    layer = TransformerLayer(
        DIM, num_heads=HEADS, hidden_dim=16, norm_position=norm_position, dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0,
    )  # fmt: skip
    x = 5 * noise(1, 6, DIM) + 3
    output = layer(x, None)
    is_normalized = torch.allclose(output.mean(dim=-1), torch.zeros(1, 6), atol=1e-5)
    assert is_normalized == (norm_position == "post")


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_leaving_out_the_padding_is_masking_it(norm_position: str) -> None:
    """Valid frames and all gradients are those of padded layers whose attention is masked."""
    encoder = make(norm_position=norm_position).double()
    x = noise(3, 9, DIM).double().requires_grad_()
    padding = torch.arange(9) >= torch.tensor([4, 9, 1])[:, None]
    scale = noise(3, 9, DIM).double().masked_fill(padding[:, :, None], 0)
    results = []
    for leaves_out in (True, False):
        encoder.looks_across_frames_in_attention_only = leaves_out
        context, layers = encoder(x, padding, layers=True)
        loss = (context * scale).sum() + sum((layer * scale).square().sum() for layer in layers)
        inputs = [x, *encoder.parameters()]
        results.append([context[~padding], *torch.autograd.grad(loss, inputs)])
    for packed, masked in zip(*results, strict=True):
        torch.testing.assert_close(packed, masked, rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_padding_changes_nothing(norm_position: str) -> None:
    encoder = make(norm_position=norm_position).eval()
    x = noise(2, 9, DIM)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[1, 5:] = True
    x[1, 5:] = float("nan")
    context, layers = encoder(x, padding, layers=True)
    alone, alone_layers = encoder(x[1:, :5], None, layers=True)
    torch.testing.assert_close(context[1:, :5], alone, rtol=1e-5, atol=1e-6)
    assert layers is not None and alone_layers is not None
    for together, single in zip(layers, alone_layers, strict=True):
        torch.testing.assert_close(together[1:, :5], single, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_layer_drop_skips_layers_but_loses_none_of_the_outputs() -> None:
    encoder = make(layer_drop=0.5).train()
    x = noise(1, 7, DIM)
    skipped = 0
    torch.manual_seed(0)
    for _ in range(50):
        _, layers = encoder(x, None, layers=True)
        assert layers is not None and len(layers) == 5
        for place, layer in enumerate(encoder.layers):
            if torch.equal(layers[place + 1], layers[place]):
                skipped += 1
            else:
                assert torch.equal(layers[place + 1], layer(layers[place], None))
    assert 70 < skipped < 130  # of 200


@torch.no_grad()
def test_evaluation_skips_and_drops_nothing() -> None:
    options = {"dropout": 0.5, "attention_dropout": 0.5, "activation_dropout": 0.5, "layer_drop": 0.9}
    encoder = make(**options)
    x = noise(1, 7, DIM)
    state = torch.get_rng_state()
    context, _ = encoder.eval()(x, None)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(context, make().eval()(x, None)[0])
    assert not torch.equal(context, encoder.train()(x, None)[0])


@torch.no_grad()
def test_layers_begin_with_the_transformers_input_and_end_with_its_output() -> None:
    for norm_position in ("post", "pre"):
        encoder = make(norm_position=norm_position).eval()
        x = noise(1, 7, DIM)
        context, layers = encoder(x, None, layers=True)
        assert layers is not None and len(layers) == 5
        summed = x + encoder.positions(x)
        assert torch.equal(layers[0], encoder.norm(summed) if norm_position == "post" else summed)
        assert torch.equal(context, layers[-1] if norm_position == "post" else encoder.norm(layers[-1]))
        assert encoder(x, None)[1] is None


VARIANTS = {
    "plain": {},
    "gated_bias": {"variant": ContextVariant(attention_positions="gated_bias")},
    "conformer": {"variant": ContextVariant(layer="conformer", positions="none", conformer_norm="layer")},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("padded", [False, True])
def test_activations_that_are_computed_again_give_the_same_gradients(name: str, padded: bool) -> None:
    """With every kind of dropout; what is kept for the backward pass is little more than a layer's input."""
    rates = {"dropout": 0.2, "attention_dropout": 0.2, "activation_dropout": 0.2, "layer_drop": 0.3}
    padding = torch.tensor([[False] * 12, [False] * 7 + [True] * 5]) if padded else None
    found: list[tuple[Tensor, list[Tensor | None], int]] = []
    for checkpoints in (False, True):
        network = make(norm_position="pre", **rates, **VARIANTS[name]).train()
        if checkpoints:
            network.checkpoint_activations()
        kept: dict[int, int] = {}

        def keep(tensor: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[tensor.data_ptr()] = tensor.nbytes
            return tensor

        x = noise(2, 12, DIM).requires_grad_()
        torch.manual_seed(2)  # skips one of the four plain layers
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            context, _ = network(x, padding)
        size = sum(kept.values())
        context.square().sum().backward()
        found.append((context.detach(), [x.grad, *(parameter.grad for parameter in network.parameters())], size))
    (plain, gradients, many), (again, same, few) = found
    assert torch.equal(plain, again)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(gradients, same, strict=True))  # type: ignore[arg-type]
    assert few < 0.5 * many


def test_batch_norms_are_not_computed_twice() -> None:
    network = make(variant=ContextVariant(layer="conformer", positions="none", conformer_norm="batch"))
    with pytest.raises(ConfigError, match="batch norms, whose running statistics would then be wrong"):
        network.checkpoint_activations()


def test_nothing_is_computed_again_where_nothing_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make().eval()
    network.checkpoint_activations()
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", None)
    assert network(noise(1, 5, DIM), None)[0].shape == (1, 5, DIM)
