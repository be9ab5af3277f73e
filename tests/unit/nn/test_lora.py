"""Low-rank adapters begin as nothing, merge into what they compute, and leave the weights under them alone."""

import pytest
import torch
from torch import nn

from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.nn.context_encoder import ContextVariant
from speechssl.nn.lora import LowRankLinear, adapter_parameters, add_adapters, merge_adapters

SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 16}
VARIANTS = {
    "transformer": ContextVariant(),
    "rotary conformer": ContextVariant(layer="conformer", positions="none", attention_positions="rotary"),
    "gated bias": ContextVariant(attention_positions="gated_bias"),
}


def make_encoder(variant: str = "transformer") -> SpeechEncoder:
    config = encoder_config("tiny", {**SMALL, "variant": VARIANTS[variant]})
    return SpeechEncoder(config, seed=1).eval()


def adapt(encoder: SpeechEncoder, **options: object) -> int:
    values = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": "all", "seed": 0, **options}
    return add_adapters(encoder.context_encoder.layers, **values)  # type: ignore[arg-type]


def context(encoder: nn.Module) -> torch.Tensor:
    waveform = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output: torch.Tensor = encoder(waveform, torch.tensor([8000, 5000])).context
    return output


@pytest.mark.parametrize("variant", VARIANTS)
def test_fresh_adapters_change_nothing_at_all(variant: str) -> None:
    encoder = make_encoder(variant)
    before = context(encoder)
    assert adapt(encoder) == (12 if "conformer" in variant else 8)
    assert torch.equal(context(encoder), before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_weights_compute_what_adapters_did(variant: str) -> None:
    encoder = make_encoder(variant)
    plain = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    before = context(encoder)
    adapt(encoder)
    generator = torch.Generator().manual_seed(3)
    for parameter in adapter_parameters(encoder):
        parameter.data.normal_(std=0.2, generator=generator)
    adapted = context(encoder)
    assert (adapted - before).abs().max() > 0.1
    merged = merge_adapters(encoder)
    assert merged.state_dict().keys() == plain.keys()
    assert not any(isinstance(module, LowRankLinear) for module in merged.modules())
    torch.testing.assert_close(context(merged), adapted, rtol=0, atol=1e-5)
    # in the precision in which rounding does not hide a difference
    torch.testing.assert_close(in_double(merge_adapters(encoder.double())), in_double(encoder), rtol=0, atol=1e-6)
    for name, tensor in plain.items():  # the weights under the adapters are as they were
        assert torch.equal(encoder.state_dict()[name].to(tensor.dtype), tensor)


def in_double(encoder: nn.Module) -> torch.Tensor:
    waveform = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)).double()
    frames = waveform[:, : 32 * 40].view(2, 40, 32)
    with torch.no_grad():
        output, _ = encoder.context_encoder(frames, None)  # type: ignore[operator]
    return output


def test_merging_one_layer_is_exact_to_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(24, 12)
    adapted = LowRankLinear(linear, rank=3, alpha=6.0, dropout=0.0, generator=generator)
    adapted.up.data.normal_(generator=generator)
    x = torch.randn(5, 24, generator=generator)
    by_hand = linear(x) + 2.0 * (x @ adapted.down.T @ adapted.up.T)
    torch.testing.assert_close(adapted(x), by_hand, rtol=0, atol=1e-6)
    torch.testing.assert_close(adapted.merged()(x), by_hand, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("targets", "count"), [("attention", 4), ("feed_forward", 4), ("all", 8)])
def test_targets_are_the_layers_they_name(targets: str, count: int) -> None:
    encoder = make_encoder()
    assert adapt(encoder, targets=targets) == count
    names = [name for name, module in encoder.named_modules() if isinstance(module, LowRankLinear)]
    assert all(("attention" in name) or (targets != "attention") for name in names)


def test_a_conformer_s_projections_are_adapted_too() -> None:
    encoder = make_encoder("rotary conformer")
    assert adapt(encoder, targets="feed_forward") == 8  # two feed-forward parts a layer


def test_dropout_acts_on_the_adapter_alone_and_in_training_alone() -> None:
    linear = nn.Linear(16, 16)
    adapted = LowRankLinear(linear, rank=2, alpha=2.0, dropout=0.5, generator=torch.Generator().manual_seed(0))
    x = torch.ones(1, 16)
    assert torch.equal(adapted(x), linear(x))  # nothing of the frozen path is dropped
    adapted.up.data.fill_(1.0)
    torch.manual_seed(0)
    assert not torch.equal(adapted(x), adapted(x))
    adapted.eval()
    assert torch.equal(adapted(x), adapted(x))
