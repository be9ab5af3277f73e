"""The moving average of weights."""

import pytest
import torch
from torch import nn

from speechssl.training.ema import WeightAverage, averaging_decay


def test_decay_is_warmed_up_and_a_function_of_the_step() -> None:
    assert averaging_decay(0.999, 0) == pytest.approx(0.1)
    assert averaging_decay(0.999, 90) == pytest.approx(0.91)
    assert averaging_decay(0.999, 10**6) == 0.999


def test_average_is_that_computed_by_hand() -> None:
    linear = nn.Linear(1, 1, bias=False)
    linear.weight.data.fill_(1.0)
    average = WeightAverage(linear, decay=0.5)
    expected = 1.0
    for step, value in enumerate([3.0, -1.0, 5.0]):
        linear.weight.data.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(next(average.model.parameters())) == pytest.approx(expected)
    assert linear.weight.item() == 5.0


def test_shared_parameters_are_not_copied_and_buffers_are() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.9, shared=[model[0].weight])
    assert average.model[0].weight is model[0].weight  # type: ignore[index]
    assert average.model[0].bias is not model[0].bias  # type: ignore[index]
    model(torch.randn(8, 2) + 4)
    average.update(0)
    assert torch.equal(average.model[1].running_mean, model[1].running_mean)  # type: ignore[index]
