"""Logistic regression on frozen vectors: what is chosen is chosen inside the training part, the test part only counts.

Shapes: R seeds, N test utterances, L layers, D dimensions.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechssl.scoring.bootstrap import interval

Labels = NDArray[np.str_]

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of C, the inverse of the penalty, on standardised vectors
DEFAULT_STRENGTH = 0.1  # where a class has too few examples to cross-validate
MAX_FOLDS = 5
MIN_GROUPS = 5


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What cross-validation inside the training part chose, and its accuracy there (None where it was impossible)."""

    layer: int
    strength: float
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """Test value of one layer, whichever layer was chosen, with its interval."""

    layer: str
    value: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"layer": self.layer, "value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """Test accuracy of one representation; all rates are fractions.

    `accuracy` is the mean over seeds, `interval` a bootstrap over seeds and test utterances (or groups of them). Per
    seed there are `seed_accuracies` and what was chosen: `layers` (none for hand-made features) and `strengths`.
    `layerwise` has the test accuracy of every layer; nothing was chosen by it.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    seed_accuracies: tuple[float, ...]
    layers: tuple[str, ...]
    strengths: tuple[float, ...]
    dimension: int
    layerwise: tuple[LayerScore, ...] = ()

    @property
    def layer(self) -> str | None:
        """The layer chosen most often; None for hand-made features."""
        return most_chosen(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "seed_accuracies": list(self.seed_accuracies),
            "seed_std": float(np.std(self.seed_accuracies, ddof=1)) if len(self.seed_accuracies) > 1 else 0.0,
            "num_seeds": len(self.seed_accuracies),
            "layer": self.layer,
            "layers": list(self.layers),
            "strengths": list(self.strengths),
            "dimension": self.dimension,
            "layerwise": [score.to_dict() for score in self.layerwise],
        }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Accuracy of `name` minus that of `baseline`, with the interval of the same resampled seeds and utterances."""

    name: str
    baseline: str
    difference: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "interval": list(self.interval)}


def most_chosen(layers: Sequence[str]) -> str | None:
    """The layer that most seeds chose, the first by name of equals; None where there was nothing to choose."""
    return max(sorted(set(layers)), key=layers.count) if layers else None


def differences(
    values: Mapping[str, float],
    replicates: Mapping[str, NDArray[np.float64]],
    baselines: Sequence[str],
    confidence: float,
) -> list[Difference]:
    """Every encoder's value minus every baseline's, on the same replicates `[num_bootstrap]`."""
    return [
        Difference(
            name=name,
            baseline=baseline,
            difference=values[name] - values[baseline],
            interval=interval(replicates[name] - replicates[baseline], confidence),
        )
        for name in values
        if name not in baselines
        for baseline in baselines
    ]


def choose(
    vectors: NDArray[np.float32],
    labels: Labels,
    groups: Labels | None,
    *,
    seed: int,
) -> Choice:
    """Layer and strength of regularisation with the best cross-validated accuracy on training vectors `[N, L, D]`.

    A tie goes to the lower layer and the stronger penalty. Groups are never on both sides of a fold.
    """
    return best_choice(choose_each(vectors, labels, groups, seed=seed))


def best_choice(choices: Sequence[Choice]) -> Choice:
    """The choice of the best layer; the last where none could be cross-validated."""
    best = choices[0]
    for choice in choices[1:]:
        if choice.accuracy is None or best.accuracy is None or choice.accuracy > best.accuracy + 1e-9:
            best = choice
    return best


def choose_each(vectors: NDArray[np.float32], labels: Labels, groups: Labels | None, *, seed: int) -> list[Choice]:
    """For each layer of training vectors `[N, L, D]`, the strength with the best cross-validated accuracy."""
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold

    counts = [
        len(set(groups[labels == name])) if groups is not None else (labels == name).sum() for name in set(labels)
    ]
    folds = min(MAX_FOLDS, int(min(counts)))
    if folds < 2:
        return [Choice(layer=n, strength=DEFAULT_STRENGTH, accuracy=None) for n in range(vectors.shape[1])]
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    choices = []
    for layer in range(vectors.shape[1]):
        search = GridSearchCV(classifier(), {"logisticregression__C": list(STRENGTHS)}, cv=splitter, refit=False)
        with quiet():
            search.fit(vectors[:, layer], labels, groups=groups)
        strength = float(search.best_params_["logisticregression__C"])
        choices.append(Choice(layer=layer, strength=strength, accuracy=float(search.best_score_)))
    return choices


def count_hits(
    train: NDArray[np.float32],
    train_labels: Labels,
    test: NDArray[np.float32],
    test_labels: Labels,
    *,
    strength: float,
) -> NDArray[np.float64]:
    """1.0 for every test vector that a classifier of the training vectors labels rightly, else 0.0: `[N]`."""
    model = classifier().set_params(logisticregression__C=strength)
    with quiet():
        model.fit(train, train_labels)
    return np.asarray(model.predict(test) == test_labels, dtype=np.float64)


def bootstrap_accuracies(
    hits: Sequence[NDArray[np.float64]],
    groups: Labels | None,
    *,
    num_bootstrap: int,
    seed: int,
) -> tuple[NDArray[np.float64], str]:
    """Accuracies `[representations, num_bootstrap]` under resampling of seeds and test utterances together.

    `hits` are `[R, N]`, one for each representation; a replicate draws the same for all of them, so differences are
    paired. Whole groups are drawn where there are at least five. Returns also what was drawn, in words.
    """
    num_test = hits[0].shape[1]
    numbers, unit = np.arange(num_test), "utterances"
    if groups is not None and len(set(groups)) >= MIN_GROUPS:
        numbers, unit = np.unique(groups, return_inverse=True)[1], "groups"
    rates = bootstrap_rates(hits, np.ones(num_test), numbers, num_bootstrap=num_bootstrap, seed=seed)
    return rates, unit


def bootstrap_rates(
    counts: Sequence[NDArray[np.float64]],
    sizes: NDArray[np.float64],
    units: NDArray[np.int64],
    *,
    num_bootstrap: int,
    seed: int,
) -> NDArray[np.float64]:
    """Rates `[representations, num_bootstrap]` of counts `[R, N]` each over sizes `[N]`, seeds and units resampled.

    `units` numbers the unit from 0 on that each of the N belongs to; all N of a unit are drawn together, and a
    replicate draws the same for all representations.
    """
    num_seeds, num_units = len(counts[0]), int(units.max()) + 1
    random = np.random.default_rng(seed)
    seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_bootstrap)
    drawn = random.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_bootstrap)
    total = drawn @ np.bincount(units, weights=sizes, minlength=num_units) * num_seeds
    rates = []
    for matrix in counts:
        sums = np.stack([np.bincount(units, weights=row, minlength=num_units) for row in matrix])  # [R, units]
        rates.append(((seeds @ sums) * drawn).sum(axis=1) / np.maximum(total, 1e-12))
    return np.stack(rates)


def draw_balanced(labels: Labels, size: int, random: np.random.Generator) -> NDArray[np.int64]:
    """At most `size` rows with as equal a share of every label as there is: round after round, one of each."""
    queues: Mapping[str, list[int]] = {
        str(name): list(random.permutation(np.flatnonzero(labels == name))) for name in np.unique(labels)
    }
    names = list(queues)
    chosen: list[int] = []
    while len(chosen) < size and any(queues.values()):
        for name in random.permutation(names):
            if queues[name] and len(chosen) < size:
                chosen.append(int(queues[name].pop()))
    return np.sort(np.array(chosen, dtype=np.int64))


def classifier() -> Any:
    """Standardisation and logistic regression, untrained."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, tol=1e-3))


@contextmanager
def quiet() -> Iterator[None]:
    """Separable training vectors never converge under a weak penalty; cross-validation settles what that is worth."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*failed to converge.*")
        warnings.filterwarnings("ignore", message=".*least populated class.*")
        yield
