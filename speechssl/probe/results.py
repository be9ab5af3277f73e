"""What a task other than classification gives back: one value for each representation, layer by layer.

Shapes: R seeds, L layers, N units of the test part (utterances, triples), B replicates.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.files import write_text
from speechssl.probe.classify import Difference, LayerScore, bootstrap_rates, most_chosen
from speechssl.scoring.bootstrap import interval

RESULT_NAME = "probe.json"
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one representation reached on the test part.

    `values` `[R, L]` of every seed and layer, `replicates` `[L, B]` of every layer under resampling (the same draws for
    all representations), `chosen_replicates` `[B]` those of the layers that were chosen, `chosen` the index of the
    layer of every seed. `layers` names them, empty for hand-made features; where a task weighs all layers at once it
    has none either. `extra` is more to tell, for JSON.
    """

    layers: tuple[str, ...]
    values: Floats
    replicates: Floats
    chosen_replicates: Floats
    chosen: tuple[int, ...]
    dimension: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seed_values(self) -> Floats:
        """The value of every seed at the layer chosen for it, `[R]`."""
        return np.array([row[layer] for row, layer in zip(self.values, self.chosen, strict=True)])


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """Test value of one representation, a fraction; fields as in `ProbeScore`."""

    name: str
    value: float
    interval: tuple[float, float]
    seed_values: tuple[float, ...]
    layers: tuple[str, ...]
    dimension: int
    layerwise: tuple[LayerScore, ...]
    extra: Mapping[str, Any]

    @property
    def layer(self) -> str | None:
        """The layer chosen most often; None for hand-made features."""
        return most_chosen(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "value": self.value,
            "interval": list(self.interval),
            "seed_values": list(self.seed_values),
            "seed_std": float(np.std(self.seed_values, ddof=1)) if len(self.seed_values) > 1 else 0.0,
            "num_seeds": len(self.seed_values),
            "layer": self.layer,
            "layers": list(self.layers),
            "dimension": self.dimension,
            "layerwise": [score.to_dict() for score in self.layerwise],
            **self.extra,
        }


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Values of every representation and differences of encoders from baselines.

    `metric` names the value, `better` says whether higher or lower is; `chance` is what knowing nothing reaches, where
    that is known. `notes` are what a reader must know beside the figures.
    """

    task: str
    metric: str
    better: Literal["higher", "lower"]
    label: str
    chance: float | None
    scores: tuple[TaskScore, ...]
    differences: tuple[Difference, ...]
    num_train: int
    num_test: int
    unit: str
    num_classes: int | None
    num_seeds: int
    confidence: float
    interval_over: str
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    unlabelled: int

    def score(self, name: str) -> TaskScore:
        """The score of one representation."""
        return next(score for score in self.scores if score.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for the report."""
        return {
            **vars(self),
            "scores": [score.to_dict() for score in self.scores],
            "differences": [difference.to_dict() for difference in self.differences],
            "notes": list(self.notes),
            "skipped": [list(pair) for pair in self.skipped],
        }


def score_of(name: str, outcome: Outcome, *, confidence: float, layerwise: bool) -> TaskScore:
    """An outcome as a score."""
    layers: tuple[LayerScore, ...] = ()
    if outcome.layers and layerwise:
        layers = tuple(
            LayerScore(layer=layer, value=float(outcome.values[:, n].mean()), interval=interval(rates, confidence))
            for n, (layer, rates) in enumerate(zip(outcome.layers, outcome.replicates, strict=True))
        )
    return TaskScore(
        name=name,
        value=float(outcome.seed_values.mean()),
        interval=interval(outcome.chosen_replicates, confidence),
        seed_values=tuple(float(value) for value in outcome.seed_values),
        layers=tuple(outcome.layers[n] for n in outcome.chosen) if outcome.layers else (),
        dimension=outcome.dimension,
        layerwise=layers,
        extra=outcome.extra,
    )


def write_result(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `probe.json`, whole or not at all."""
    write_text(folder / RESULT_NAME, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def ratio_outcome(
    errors: Floats,
    sizes: Floats,
    chosen: Sequence[int],
    units: NDArray[Any],
    *,
    layers: tuple[str, ...],
    dimension: int,
    num_bootstrap: int,
    seed: int,
    extra: Mapping[str, Any] | None = None,
) -> Outcome:
    """The outcome of a rate: counts `[R, L, N]` over sizes `[N]`, resampled over seeds and whole units.

    `units` names the unit that each of the N belongs to; all N of a unit are drawn together.
    """
    picked = np.stack([matrix[layer] for matrix, layer in zip(errors, chosen, strict=True)])  # [R, N]
    matrices = [errors[:, layer] for layer in range(errors.shape[1])]
    *replicates, chosen_replicates = bootstrap_rates(
        [*matrices, picked],
        sizes,
        np.unique(units, return_inverse=True)[1],
        num_bootstrap=num_bootstrap,
        seed=seed,
    )
    return Outcome(
        layers=layers,
        values=errors.sum(axis=2) / sizes.sum(),
        replicates=np.stack(replicates),
        chosen_replicates=chosen_replicates,
        chosen=tuple(chosen),
        dimension=dimension,
        extra=extra or {},
    )
