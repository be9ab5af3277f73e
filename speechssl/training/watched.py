"""What the monitor remembers of a run, and where healthy ends.

Perplexities are in 1..V, `code_usage` is perplexity / V, losses are in nats per target, norms are those of the
averaged gradient before clipping.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FIRST_UPDATES = 20
"""Their mean loss is what later ones are held against."""
_AVERAGE_DECAY = 0.95  # about the last 20 updates
_FAST_DECAY, _SLOW_DECAY = 0.8, 0.995
_RECENT = 20
_BEGINNING = 3
_SPIKES_AMONG = 50
_SPOKEN_CER = 0.8


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where healthy ends. The defaults leave room: a healthy early phase passes, a collapsed run does not.

    Attributes:
        min_code_perplexity: of the chosen or the average codes, absolute.
        min_code_usage: the same as a share of the codebook.
        max_trivial_loss: contrastive loss (nats) below which, with hardly any code in use, the task is trivial.
        max_trivial_accuracy: accuracy above which it is.
        chance_accuracy: of a guess among the target and the distractors.
        chance_steps: updates after which accuracy must be clearly above chance.
        min_latent_std: of the latents over time.
        explosion_factor: gradient norm against its own long average.
        min_exploding_norm: smaller norms never count as exploding.
        min_gradient_norm: below it the gradient has vanished.
        max_non_finite: updates without finite loss and gradient among the last 20.
        divergence_ratio: rise of the average loss above its best, relative; and at least `divergence_margin`.
        divergence_margin: the same, absolute.
        plateau_steps: updates in which the loss must fall by `plateau_improvement`, while it is still above
            `plateau_level` times its first value.
        plateau_improvement: relative.
        plateau_level: relative to the loss of the first updates.
        max_blank_fraction: share of frames that CTC labels blank.
        blank_steps: updates for which it may stay above.
        min_spoken_fraction: share of frames that CTC labels otherwise, which shows that it has learnt to speak.
        spike_factor: gradient norm against its own long average that makes an update a spike.
        spike_loss: the loss against that of the first three updates that makes one.
        max_spikes: spikes among the last 50 updates that say that the learning rate is too high.
        max_infeasible_share: share of the utterances that have fewer frames than their labels need.
        overfit_ratio: validation loss against its best that counts as risen.
        overfit_validations: validations in a row that must not bring a better model.
    """

    min_code_perplexity: float = 2.5
    min_code_usage: float = 0.03
    max_trivial_loss: float = 0.05
    max_trivial_accuracy: float = 0.98
    chance_accuracy: float = 0.01
    chance_steps: int = 2000
    min_latent_std: float = 0.02
    explosion_factor: float = 30.0
    min_exploding_norm: float = 10.0
    min_gradient_norm: float = 1e-6
    max_non_finite: int = 5
    divergence_ratio: float = 0.5
    divergence_margin: float = 0.5
    plateau_steps: int = 3000
    plateau_improvement: float = 0.01
    plateau_level: float = 0.7
    max_blank_fraction: float = 0.97
    blank_steps: int = 1500
    min_spoken_fraction: float = 0.1
    spike_factor: float = 10.0
    spike_loss: float = 1.5
    max_spikes: int = 10
    max_infeasible_share: float = 0.05
    overfit_ratio: float = 1.3
    overfit_validations: int = 3

    def __post_init__(self) -> None:
        for name in ("chance_steps", "plateau_steps", "blank_steps", "max_non_finite"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.max_non_finite > _RECENT:
            raise ValueError(f"max_non_finite must be at most {_RECENT}, but is {self.max_non_finite}")


@dataclass(kw_only=True)
class Watched:
    """Running values of the metrics: all that the symptoms may look at."""

    step: int = 0
    averages: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    non_finite: list[bool] = field(default_factory=list)
    first_losses: list[float] = field(default_factory=list)
    best_loss: float | None = None
    plateau_loss: float | None = None
    plateau_since: int = 0
    log_norm_fast: float | None = None
    log_norm_slow: float | None = None
    num_norms: int = 0
    blank_since: int = 0
    was_quiet: bool = False
    has_spoken: bool = False
    spikes: list[bool] = field(default_factory=list)
    validation: dict[str, float] = field(default_factory=dict)
    best_validation: dict[str, float] = field(default_factory=dict)
    best_validation_step: int = 0
    validations_since_best: int = 0

    def add(self, step: int, values: Mapping[str, float], limits: Thresholds) -> None:
        """Take the metrics of one update; `limits` say what begins a plateau."""
        self.step = step
        self.latest = {name: value for name, value in values.items() if math.isfinite(value)}
        bad = any(name in values and name not in self.latest for name in ("loss", "gradient_norm"))
        self.non_finite = [*self.non_finite, bad][-_RECENT:]
        for name, value in self.latest.items():
            old = self.averages.get(name, value)
            self.averages[name] = _AVERAGE_DECAY * old + (1 - _AVERAGE_DECAY) * value
        if "loss" in self.latest:
            self._add_loss(self.latest["loss"], limits.plateau_improvement)
        self._add_spike(bad, limits)
        if self.latest.get("gradient_norm", 0) > 0:
            self._add_norm(math.log(self.latest["gradient_norm"]))
        blank = self.averages.get("blank_fraction", 0.0)
        if blank <= limits.max_blank_fraction:
            self.blank_since = step
        else:
            self.was_quiet = True
        # Before its quiet phase a fresh head writes labels at random, which is not speaking.
        self.has_spoken |= self.was_quiet and blank < 1 - limits.min_spoken_fraction

    def add_validation(self, step: int, values: Mapping[str, float], *, best_metric: str) -> None:
        """Take the metrics of a validation; `best_metric` chooses the checkpoint, lower being better."""
        self.step = step
        self.validation = {name: value for name, value in values.items() if math.isfinite(value)}
        self.has_spoken |= self.validation.get("valid_cer", 1.0) < _SPOKEN_CER
        best = self.best_validation
        is_better = self.validation.get(best_metric, math.inf) < best.get(best_metric, math.inf)
        self.validations_since_best = 0 if is_better else self.validations_since_best + 1
        if is_better:
            self.best_validation_step = step
        for name, value in self.validation.items():
            best[name] = min(value, best.get(name, value))

    def _add_spike(self, bad: bool, limits: Thresholds) -> None:
        """Whether this update is a spike; called before its norm joins the average."""
        norm, loss = self.latest.get("gradient_norm", 0.0), self.latest.get("loss", 0.0)
        is_spike = bad
        if self.log_norm_slow is not None and self.num_norms >= FIRST_UPDATES:
            is_spike |= norm > max(limits.spike_factor * bounded_exp(self.log_norm_slow), 1.0)
        if len(self.first_losses) >= FIRST_UPDATES:
            is_spike |= loss > limits.spike_loss * sum(self.first_losses[:_BEGINNING]) / _BEGINNING
        self.spikes = [*self.spikes, is_spike][-_SPIKES_AMONG:]

    def _add_loss(self, loss: float, improvement: float) -> None:
        average = self.averages["loss"]
        if len(self.first_losses) < FIRST_UPDATES:
            self.first_losses.append(loss)
            self.averages["loss"] = average = sum(self.first_losses) / len(self.first_losses)
            self.best_loss = self.plateau_loss = average
            self.plateau_since = self.step
            return
        self.best_loss = min(average, self.best_loss if self.best_loss is not None else average)
        reference = self.plateau_loss if self.plateau_loss is not None else average
        if average < reference - improvement * abs(reference):
            self.plateau_loss, self.plateau_since = average, self.step

    def _add_norm(self, log_norm: float) -> None:
        fast = log_norm if self.log_norm_fast is None else self.log_norm_fast
        slow = log_norm if self.log_norm_slow is None else self.log_norm_slow
        self.num_norms += 1
        # A plain mean at first, so that the long average does not hang on the very first norm.
        decay = min(_SLOW_DECAY, 1 - 1 / self.num_norms)
        self.log_norm_fast = _FAST_DECAY * fast + (1 - _FAST_DECAY) * log_norm
        self.log_norm_slow = decay * slow + (1 - decay) * log_norm

    @property
    def first_loss(self) -> float:
        """Mean loss of the first updates."""
        return sum(self.first_losses) / max(len(self.first_losses), 1)

    def state(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Watched":
        """Inverse of `state`."""
        return cls(**state)


def bounded_exp(value: float) -> float:
    """The exponential, which does not overflow."""
    return math.exp(min(value, 700.0))
