import json
import math
import random
from collections.abc import Callable, Iterable

import pytest

from speechssl.config import from_dict
from speechssl.errors import ConfigError
from speechssl.training.monitor import KINDS, Diagnosis, Monitor, MonitorConfig

Stream = Iterable[dict[str, float]]


def healthy(step: int, noise: random.Random) -> dict[str, float]:
    """A contrastive run as it should be, its odd beginning included: perplexity dips, accuracy starts at chance."""
    progress = min(step / 4000, 1.0)
    perplexity = 30 + 200 * progress + 250 * math.exp(-step / 20)
    contrastive = 4.6 - 2.4 * progress + noise.gauss(0, 0.1)
    warm = min(step / 400, 1.0)
    return {
        "loss": contrastive + 0.1 * (1 - perplexity / 320) + 3.0 * math.exp(-step / 30),
        "contrastive_loss": contrastive,
        "accuracy": 0.01 + 0.5 * progress + 0.02 * warm,
        "code_perplexity": perplexity,
        "prob_perplexity": perplexity * 1.1,
        "code_usage": perplexity / 320,
        "latent_std": 0.6 + 0.3 * progress,
        "gradient_norm": (20 * math.exp(-step / 10) + 0.5) * math.exp(noise.gauss(0, 0.5)),
        "temperature": 2.0,
    }


def run(stream: Stream, **settings: object) -> list[Diagnosis]:
    monitor = Monitor(MonitorConfig(**settings))  # type: ignore[arg-type]
    return [found for step, values in enumerate(stream, 1) for found in monitor.observe(step, values)]


def changed(num_steps: int, **changes: Callable[[int], float]) -> Stream:
    noise = random.Random(0)
    for step in range(1, num_steps + 1):
        yield {**healthy(step, noise), **{name: change(step) for name, change in changes.items()}}


def only(found: list[Diagnosis], kind: str) -> Diagnosis:
    assert [diagnosis.kind for diagnosis in found] == [kind]
    return found[0]


def test_a_healthy_run_is_left_alone() -> None:
    assert run(changed(8000)) == []


def test_a_healthy_ctc_run_with_its_blank_phase_is_left_alone() -> None:
    def ctc(step: int) -> dict[str, float]:
        loss = 2.9 + 20 * math.exp(-step / 15) - 2.85 / (1 + math.exp(-(step - 900) / 80))
        blank = 1.0 - 0.3 / (1 + math.exp(-(step - 900) / 80))
        return {"loss": loss, "gradient_norm": 1 + 60 * math.exp(-step / 10), "blank_fraction": blank}

    assert run(ctc(step) for step in range(1, 6000)) == []


def test_a_noisy_spike_is_left_alone() -> None:
    spike = {"loss": lambda s: 30.0 if s == 1000 else 4.0, "gradient_norm": lambda s: 500.0 if s == 1000 else 1.0}
    assert run(changed(2000, **spike)) == []


def test_code_collapse() -> None:
    diagnosis = only(run(changed(1000, code_perplexity=lambda s: 2.1, code_usage=lambda s: 2.1 / 320)), "code_collapse")
    assert diagnosis.step == 350  # 300 of grace, then 50 in a row
    assert "code perplexity 2.10 of 320" in diagnosis.message
    assert "Raise diversity_weight" in diagnosis.message


def test_code_collapse_of_a_small_codebook_later_in_the_run() -> None:
    falling = {"code_perplexity": lambda s: 60.0 if s < 800 else 1.5, "prob_perplexity": lambda s: 50.0,
               "code_usage": lambda s: (60.0 if s < 800 else 1.5) / 64}  # fmt: skip
    assert 850 <= only(run(changed(1200, **falling)), "code_collapse").step < 950


@pytest.mark.parametrize("loss_name", ["contrastive_loss", "accuracy"])
def test_a_contrastive_task_that_became_trivial(loss_name: str) -> None:
    """The most reported failure: the loss falls to zero at once, accuracy goes to 1 and perplexity to 2."""
    value = {"contrastive_loss": 1e-4, "accuracy": 0.999}[loss_name]
    few = {"code_perplexity": lambda s: 2.0, "prob_perplexity": lambda s: 2.0, "code_usage": lambda s: 2 / 320}
    diagnosis = only(run(changed(1000, **{loss_name: lambda s: value}, **few)), "contrastive_collapse")
    assert diagnosis.step < 300  # no need to wait for all of the grace
    assert "has become trivial" in diagnosis.message
    assert "Nearly all targets are the same code" in diagnosis.message


def test_a_small_set_learned_by_heart_is_not_a_collapse() -> None:
    assert run(changed(1500, accuracy=lambda s: 0.999, contrastive_loss=lambda s: 0.01)) == []


def test_accuracy_at_chance() -> None:
    diagnosis = only(run(changed(2600, accuracy=lambda s: 0.0098)), "accuracy_at_chance")
    assert 2000 <= diagnosis.step <= 2100
    assert "still at chance after" in diagnosis.message and "guessing gives 0.0100" in diagnosis.message
    many = run(changed(2600, accuracy=lambda s: 0.05, chance_accuracy=lambda s: 1 / 21))
    assert only(many, "accuracy_at_chance").step <= 2100


def test_latent_collapse() -> None:
    diagnosis = only(run(changed(1000, latent_std=lambda s: 0.5 if s < 500 else 1e-4)), "latent_collapse")
    assert "the latents have collapsed" in diagnosis.message and "feature_penalty_weight" in diagnosis.message


def test_gradient_explosion() -> None:
    found = run(changed(700, gradient_norm=lambda s: 1.0 if s < 500 else 1.0 * 1.5 ** (s - 500)))
    diagnosis = only(found, "gradient_explosion")
    assert 505 < diagnosis.step < 540
    assert "times its long average" in diagnosis.message and "Lower peak_lr" in diagnosis.message


def test_vanishing_gradient() -> None:
    diagnosis = only(run(changed(1200, gradient_norm=lambda s: 1.0 if s < 400 else 1e-9)), "vanishing_gradient")
    assert "the gradient has vanished" in diagnosis.message and "not frozen" in diagnosis.message


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite(name: str, bad: float) -> None:
    found = run(changed(60, **{name: lambda s: bad if s >= 10 else 1.0}))
    assert [(d.kind, d.step, d.severity) for d in found] == [
        ("skipped_update", 10, "note"),
        ("non_finite", 14, "fatal"),
    ]
    assert "5 of the last 14 updates" in found[1].message


def test_a_single_skipped_update_is_only_noted() -> None:
    found = run(changed(500, gradient_norm=lambda s: math.nan if s == 200 else 1.0))
    assert only(found, "skipped_update").severity == "note"
    assert not Monitor(MonitorConfig(action="stop")).must_stop(found[0])


def test_divergence() -> None:
    diagnosis = only(run(changed(1500, loss=lambda s: 3.0 if s < 800 else 3.0 + (s - 800) / 50)), "divergence")
    assert "after a best of 3.000" in diagnosis.message and "earlier checkpoint" in diagnosis.message


def test_loss_plateau() -> None:
    diagnosis = only(run(changed(4000, loss=lambda s: 4.6)), "loss_plateau")
    assert "has not fallen for" in diagnosis.message
    assert run(changed(9000, loss=lambda s: 2.0 + 2.6 * math.exp(-s / 300))) == []  # learned all it could


def test_blank_plateau() -> None:
    found = run({"loss": 2.9 - s / 1e4, "blank_fraction": 0.999} for s in range(1, 2000))
    diagnosis = only(found, "blank_plateau")
    assert 1500 <= diagnosis.step <= 1600
    assert "labels 99.9% of the frames blank" in diagnosis.message


def test_what_a_task_does_not_report_is_not_judged() -> None:
    assert run({} for _ in range(500)) == []
    assert run({"loss": 1.0 / (1 + s / 100)} for s in range(3000)) == []


def test_a_kind_can_be_ignored_and_comes_again_only_after_it_was_away() -> None:
    collapsed = {"latent_std": lambda s: 1e-4 if s < 600 or s > 1000 else 0.5}
    assert run(changed(1500, **collapsed), ignore=("latent_collapse",)) == []
    assert [d.kind for d in run(changed(1500, **collapsed))] == ["latent_collapse"] * 2


def test_action_stop_ends_the_run_for_problems_and_both_actions_for_fatal_ones() -> None:
    problem = Diagnosis(kind="divergence", step=1, message="m")
    fatal = Diagnosis(kind="non_finite", step=1, message="m", severity="fatal")
    warn, stop = Monitor(MonitorConfig()), Monitor(MonitorConfig(action="stop"))
    assert [warn.must_stop(problem), stop.must_stop(problem), warn.must_stop(fatal)] == [False, True, True]


def test_the_state_goes_through_json_and_on_as_if_never_stopped() -> None:
    two_troubles = {"latent_std": lambda s: 0.5 if s < 420 else 1e-4, "loss": lambda s: 3.0 + max(0, s - 500) / 50}
    streams = list(changed(900, **two_troubles))
    whole = run(streams)
    assert len(whole) == 2
    monitor, found = Monitor(MonitorConfig()), []
    for step, values in enumerate(streams, 1):
        found += monitor.observe(step, values)
        if step % 37 == 0:
            state = json.loads(json.dumps(monitor.state()))
            monitor = Monitor(MonitorConfig())
            monitor.load_state(state)
            assert monitor.state() == state
    assert found == whole


def test_senseless_settings_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="unknown kind 'code_colapse'; the kinds are skipped_update, non_finite"):
        from_dict(MonitorConfig, {"ignore": ["code_colapse"]})
    with pytest.raises(ConfigError, match="plateau_steps must be at least 1, but is 0"):
        from_dict(MonitorConfig, {"plateau_steps": 0})
    assert len(KINDS) == len(set(KINDS)) == 16
