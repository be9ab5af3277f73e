"""The exponential moving average of a model's weights (Polyak and Juditsky 1992; warmed up as in TensorFlow's)."""

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn


def averaging_decay(decay: float, step: int) -> float:
    """The decay after update number `step` (from 0): min(decay, (1 + step) / (10 + step)).

    So a short run is not held back by the random weights that it began with. A pure function of the step.
    """
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """Keeps `model`, a copy of `trained`, at the moving average of its weights.

    All state is in `model`: stored with it in a checkpoint, an average goes on as if never interrupted.
    """

    def __init__(self, trained: nn.Module, *, decay: float, shared: Collection[nn.Parameter] = ()) -> None:
        """Copy `trained`; the parameters in `shared` never change and are not copied."""
        self.decay = decay
        memo = {id(parameter): parameter for parameter in shared}
        self.model = copy.deepcopy(trained, memo)  # type: ignore[arg-type]
        pairs = [*zip(self.model.parameters(), trained.parameters(), strict=True)]
        own = [(average, value) for average, value in pairs if average is not value]
        self._averages: list[Tensor] = [average for average, _ in own]
        self._values: list[Tensor] = [value for _, value in own]
        self._buffers = [*zip(self.model.buffers(), trained.buffers(), strict=True)]
        for average in self._averages:
            average.requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after update number `step`; buffers are copied."""
        torch._foreach_lerp_(self._averages, self._values, 1 - averaging_decay(self.decay, step))
        for average, value in self._buffers:
            average.copy_(value)
