"""From raw scores of words to probabilities that they are right: fitting, measuring, storing.

A word's raw score is the geometric mean of its labels' posteriors (`ScoredWord.score`). Networks are too sure of
themselves, so the score is mapped: by a temperature and a bias on its log odds (Platt 1999, Guo et al. 2017), or by an
isotonic step function, which needs many words. The expected calibration error (ECE) is the mean distance between
confidence and share of right words over ten bins of equal width, weighted by their words (Guo et al. 2017).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import CheckpointError, ConfigError, ManifestError
from speechssl.files import write_text

CONFIDENCE_FILE = "confidence.json"
Method = Literal["temperature", "isotonic"]
NUM_BINS = 10
NUM_FOLDS = 5
MIN_WORDS = 20
_EDGE = 1e-4
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Words whose confidence lies in `low <= c < high` (the last bin holds 1): how many, how sure, how often right."""

    low: float
    high: float
    num_words: int
    mean_confidence: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How far confidences can be believed: `ece`, and the bins that hold words."""

    ece: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A map from raw scores to confidences, monotone.

    `temperature`: `sigmoid(log_odds(score) / temperature + bias)`. `isotonic`: linear between `points` (score,
    confidence).
    """

    method: Method
    temperature: float = 1.0
    bias: float = 0.0
    points: tuple[tuple[float, float], ...] = ()

    def apply(self, score: float) -> float:
        """The confidence of one word."""
        return float(self.apply_all(np.array([score]))[0])

    def apply_all(self, scores: Floats) -> Floats:
        """The confidences `[words]`, between 0 and 1."""
        if self.method == "isotonic":
            xs, ys = np.array(self.points).T
            return np.asarray(np.interp(scores, xs, ys), dtype=np.float64)
        return _sigmoid(_log_odds(scores) / self.temperature + self.bias)

    def save(self, directory: Path, *, facts: dict[str, Any]) -> Path:
        """Write `confidence.json` beside a model; `facts` say what it was fitted on."""
        points = [list(point) for point in self.points]
        values = {"method": self.method, "temperature": self.temperature, "bias": self.bias, "points": points}
        path = directory / CONFIDENCE_FILE
        write_text(path, json.dumps({**values, **facts}, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, directory: Path) -> "Calibration | None":
        """The map beside a model; None where none was fitted.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = directory / CONFIDENCE_FILE
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            points = tuple((float(x), float(y)) for x, y in values["points"])
            if values["method"] not in get_args(Method) or (values["method"] == "isotonic" and not points):
                raise ValueError(f"method {values['method']!r} with {len(points)} points")
            return cls(
                method=values["method"], temperature=float(values["temperature"]), bias=float(values["bias"]),
                points=points,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: not a calibration of confidences: {error}; remove it or run speechssl calibrate again"
            ) from error


def fit(scores: Sequence[float], correct: Sequence[bool], *, method: Method = "temperature") -> Calibration:
    """Fit a calibration to the words of a development set.

    Args:
        scores: raw scores.
        correct: whether each word was right.
        method: `temperature` has two numbers to fit; `isotonic` follows the data and wants hundreds of words.

    Raises:
        ConfigError: unknown method.
        ManifestError: fewer than `MIN_WORDS` words, or all of them right, or all wrong.
    """
    if method not in get_args(Method):
        raise ConfigError(f"method must be one of {', '.join(get_args(Method))}, but is {method!r}")
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if len(x) < MIN_WORDS or y.min() == y.max():
        raise ManifestError(
            f"cannot calibrate on {len(x)} recognised words of which {int(y.sum())} are right; it takes at least"
            f" {MIN_WORDS}, right and wrong ones: give a larger development manifest"
        )
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        found = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(x, y)
        points = zip(found.X_thresholds_.tolist(), found.y_thresholds_.tolist(), strict=True)
        return Calibration(method="isotonic", points=tuple(points))
    from scipy.optimize import minimize

    # right words count as a little less than certain, wrong ones as a little more than impossible (Platt's targets)
    target = np.where(y > 0, (y.sum() + 1) / (y.sum() + 2), 1 / (len(y) - y.sum() + 2))
    odds = _log_odds(x)

    def loss(values: Floats) -> float:
        z = np.exp(values[0]) * odds + values[1]
        return float(np.mean(np.logaddexp(0, z) - target * z))

    best = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10, "maxiter": 4000})
    return Calibration(method="temperature", temperature=float(np.exp(-best.x[0])), bias=float(best.x[1]))


def cross_validated(
    scores: Sequence[float], correct: Sequence[bool], groups: Sequence[str], *, method: Method = "temperature"
) -> Floats:
    """Confidences of words by calibrations that have not seen them: utterances are dealt into five parts, each mapped
    by what the others gave.

    Raises:
        ManifestError: too few words, as `fit`.
    """
    names = sorted(set(groups))
    part = {name: number % NUM_FOLDS for number, name in enumerate(names)}
    fold = np.array([part[name] for name in groups])
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(correct, dtype=bool)
    found = np.zeros(len(x))
    for number in range(min(NUM_FOLDS, len(names))):
        held = fold == number
        found[held] = fit(x[~held].tolist(), y[~held].tolist(), method=method).apply_all(x[held])
    return found


def reliability(confidences: Sequence[float] | Floats, correct: Sequence[bool]) -> Reliability:
    """ECE and its bins."""
    x, y = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    place = np.minimum((x * NUM_BINS).astype(int), NUM_BINS - 1)
    bins = []
    for number in range(NUM_BINS):
        inside = place == number
        if inside.any():
            bins.append(
                ReliabilityBin(
                    low=number / NUM_BINS,
                    high=(number + 1) / NUM_BINS,
                    num_words=int(inside.sum()),
                    mean_confidence=float(x[inside].mean()),
                    accuracy=float(y[inside].mean()),
                )
            )
    ece = sum(b.num_words * abs(b.mean_confidence - b.accuracy) for b in bins) / max(len(x), 1)
    return Reliability(ece=float(ece), bins=tuple(bins))


def _log_odds(scores: Floats) -> Floats:
    clipped = np.clip(scores, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), dtype=np.float64)
