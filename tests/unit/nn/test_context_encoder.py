"""The context network: attention written out, LayerDrop, dropout and padding."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from speechssl.nn.attention import SelfAttention
from speechssl.nn.context_encoder import ContextEncoder, TransformerLayer

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
