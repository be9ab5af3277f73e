import math

import pytest
import torch
from torch import nn

from speechssl.training.optim import (
    OptimConfig,
    apply_update,
    build_optimizer,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
)


def rates(max_steps: int, **values: object) -> list[float]:
    config = OptimConfig(peak_lr=8.0, **values)  # type: ignore[arg-type]
    return [learning_rate(config, step, max_steps) for step in range(max_steps)]


def test_linear_by_hand() -> None:
    assert rates(6, schedule="linear", warmup_steps=2) == pytest.approx([4, 8, 6, 4, 2, 0])
    assert rates(6, schedule="linear", warmup_steps=2, final_scale=0.5) == pytest.approx([4, 8, 7, 6, 5, 4])


def test_polynomial_by_hand() -> None:
    assert rates(6, schedule="polynomial", power=2.0, warmup_steps=2) == pytest.approx([4, 8, 4.5, 2, 0.5, 0])


def test_cosine_by_hand() -> None:
    half = 8 * 0.5
    expected = [8 / 3, 16 / 3, 8, half * (1 + math.sqrt(0.5)), half, half * (1 - math.sqrt(0.5)), 0]
    assert rates(7, schedule="cosine", warmup_steps=3) == pytest.approx(expected)


def test_constant_by_hand() -> None:
    assert rates(5, schedule="constant", warmup_steps=0) == [8, 8, 8, 8, 8]
    assert rates(5, schedule="constant", warmup_fraction=0.4) == [4, 8, 8, 8, 8]


def test_tri_stage_by_hand() -> None:
    """One tenth up, four tenths held, half down to 1/32 by halving every step."""
    got = rates(10, schedule="tri_stage", warmup_fraction=0.1, hold_fraction=0.4, final_scale=1 / 32)
    assert got == pytest.approx([8, 8, 8, 8, 8, 4, 2, 1, 0.5, 0.25])


def test_a_rate_depends_on_the_step_alone_and_stays_at_its_end() -> None:
    config = OptimConfig(peak_lr=1.0, schedule="linear", final_scale=0.1, warmup_steps=3)
    assert learning_rate(config, 50, 10) == pytest.approx(0.1)
    assert learning_rate(config, 0, 2) == pytest.approx(1 / 3)  # a run shorter than its warm-up


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peak_lr": 0.0}, "peak_lr must be above 0, but is 0.0"),
        ({"schedule": "tri_stage"}, "final_scale must be above 0 for the exponential decay of tri_stage"),
        ({"warmup_fraction": 1.5}, "warmup_fraction must be between 0 and 1, but is 1.5"),
        ({"betas": (0.9, 1.0)}, "betas must be between 0 and 1"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative, but is -1"),
    ],
)
def test_senseless_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**values)  # type: ignore[arg-type]


def model_with_gradients(scale: float = 1.0) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * scale
    return model


CONFIG = OptimConfig(peak_lr=0.1, weight_decay=0.01)


@pytest.mark.parametrize(("num_targets", "clip_norm"), [(None, None), (None, 0.5), (7, 0.5), (7, None), (7, 1e9)])
def test_the_fused_update_equals_plain_adamw_on_averaged_clipped_gradients(
    num_targets: int | None, clip_norm: float | None
) -> None:
    model, reference = model_with_gradients(), model_with_gradients()
    plain = torch.optim.AdamW(
        reference.parameters(), lr=0.1, betas=CONFIG.betas, eps=CONFIG.eps, weight_decay=0.01, foreach=False
    )
    for parameter in reference.parameters():
        assert parameter.grad is not None
        parameter.grad /= num_targets or 1
    expected = torch.nn.utils.clip_grad_norm_(reference.parameters(), clip_norm or math.inf)
    plain.step()
    norm, skipped = apply_update(
        build_optimizer([{"params": model.parameters()}], CONFIG),
        loss=torch.tensor(1.0),
        num_targets=None if num_targets is None else torch.tensor(num_targets),
        clip_norm=clip_norm,
    )
    assert skipped == 0
    torch.testing.assert_close(norm, expected)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_an_update_that_is_not_finite_is_skipped_whole(bad: float, where: str) -> None:
    model = model_with_gradients()
    optimizer = build_optimizer([{"params": model.parameters()}], CONFIG)
    apply_update(optimizer, loss=torch.tensor(1.0), num_targets=None, clip_norm=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    state = {name: t.clone() for name, t in optimizer_tensors(optimizer, {"m": model}).items()}
    if where == "gradient":
        assert model.weight.grad is not None
        model.weight.grad[1, 1] = bad
    loss = torch.tensor(bad if where == "loss" else 1.0)
    norm, skipped = apply_update(optimizer, loss=loss, num_targets=torch.tensor(3), clip_norm=1.0)
    assert skipped == 1
    assert where == "loss" or not norm.isfinite()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(state[name], t) for name, t in optimizer_tensors(optimizer, {"m": model}).items())


def test_groups_scale_the_rate_and_frozen_parameters_stay_put() -> None:
    model = model_with_gradients()
    model.bias.grad = None
    optimizer = build_optimizer(
        [{"params": [model.weight], "lr_scale": 0.5, "weight_decay": 0.0}, {"params": [model.bias]}], CONFIG
    )
    set_learning_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.01]
    bias = model.bias.detach().clone()
    apply_update(optimizer, loss=torch.tensor(1.0), num_targets=None, clip_norm=1.0)
    assert torch.equal(model.bias, bias)


def test_optimizer_state_is_named_by_parameter_and_round_trips() -> None:
    model = model_with_gradients()
    model.bias.grad = None  # frozen so far: has no state
    optimizer = build_optimizer([{"params": model.parameters()}], CONFIG)
    apply_update(optimizer, loss=torch.tensor(1.0), num_targets=None, clip_norm=1.0)
    tensors = optimizer_tensors(optimizer, {"model": model})
    assert sorted(tensors) == ["exp_avg/model.weight", "exp_avg_sq/model.weight", "step/model.weight"]
    fresh = build_optimizer([{"params": model.parameters()}], CONFIG)
    load_optimizer_tensors(fresh, {"model": model}, {name: t.clone() for name, t in tensors.items()})
    again = optimizer_tensors(fresh, {"model": model})
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_an_update_without_any_gradient_says_so() -> None:
    optimizer = build_optimizer([{"params": nn.Linear(2, 2).parameters()}], CONFIG)
    with pytest.raises(RuntimeError, match="is everything frozen"):
        apply_update(optimizer, loss=torch.tensor(1.0), num_targets=None, clip_norm=1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_update_on_a_gpu_skips_and_clips_without_waiting() -> None:
    model = model_with_gradients().cuda()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = build_optimizer([{"params": model.parameters()}], CONFIG)
    good, bad, count = (torch.tensor(value, device="cuda") for value in (1.0, math.nan, 3.0))
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, first = apply_update(optimizer, loss=good, num_targets=count, clip_norm=1.0)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        _, second = apply_update(optimizer, loss=bad, num_targets=count, clip_norm=1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (first.item(), second.item()) == (0.0, 1.0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
