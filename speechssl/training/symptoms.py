"""The symptoms that the monitor looks for: each a condition on watched metrics and a message in plain words.

Perplexities are in 1..V, `code_usage` is perplexity / V, losses are in nats per target, norms are those of the
averaged gradient before clipping. A metric that a task does not report is not judged.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["note", "problem", "fatal"]

_AVERAGE_DECAY = 0.95  # about the last 20 updates
_FAST_DECAY, _SLOW_DECAY = 0.8, 0.995
_RECENT = 20
_FIRST = 20
_BEGINNING = 3
_SPIKES_AMONG = 50
_SPOKEN_CER = 0.8
_OVERFIT_LOSS = 0.7  # training this far below the best validation has gone beyond what carries over


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
        if self.log_norm_slow is not None and self.num_norms >= _FIRST:
            is_spike |= norm > max(limits.spike_factor * _exp(self.log_norm_slow), 1.0)
        if len(self.first_losses) >= _FIRST:
            is_spike |= loss > limits.spike_loss * sum(self.first_losses[:_BEGINNING]) / _BEGINNING
        self.spikes = [*self.spikes, is_spike][-_SPIKES_AMONG:]

    def _add_loss(self, loss: float, improvement: float) -> None:
        average = self.averages["loss"]
        if len(self.first_losses) < _FIRST:
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


@dataclass(frozen=True, kw_only=True)
class Symptom:
    """`check` returns a message while the symptom is there; `grace` and `patience` scale the monitor's."""

    kind: str
    check: Callable[[Watched, Thresholds], str | None]
    severity: Severity = "problem"
    grace: float = 1.0
    patience: float = 1.0


def _few_codes(watched: Watched, limits: Thresholds, *, factor: float = 1.0) -> bool:
    average = watched.averages
    return (
        average.get("code_perplexity", math.inf) < factor * limits.min_code_perplexity
        or average.get("prob_perplexity", math.inf) < factor * limits.min_code_perplexity
        or average.get("code_usage", math.inf) < factor * limits.min_code_usage
    )


def _codes_in_words(watched: Watched) -> str:
    average = watched.averages
    entries = ""
    if average.get("code_usage", 0) > 0 and "code_perplexity" in average:
        entries = f" of {average['code_perplexity'] / average['code_usage']:.0f}"
    parts = []
    if "code_perplexity" in average:
        parts.append(f"code perplexity {average['code_perplexity']:.2f}{entries}")
    if "prob_perplexity" in average:
        parts.append(f"probability perplexity {average['prob_perplexity']:.2f}")
    return ", ".join(parts) or f"{average['code_usage']:.1%} of the codebook in use"


def _is_trivial(watched: Watched, limits: Thresholds) -> bool:
    average = watched.averages
    easy = (
        average.get("contrastive_loss", math.inf) < limits.max_trivial_loss
        or average.get("accuracy", 0) > limits.max_trivial_accuracy
    )
    return easy and _few_codes(watched, limits, factor=2.0)


def contrastive_collapse(watched: Watched, limits: Thresholds) -> str | None:
    """Targets became (nearly) the same code, so telling them from distractors is trivial."""
    if not _is_trivial(watched, limits):
        return None
    average = watched.averages
    evidence = [f"{name.replace('_', ' ')} {average[name]:.4f}" for name in ("contrastive_loss", "accuracy")
                if name in average]  # fmt: skip
    return (
        f"the contrastive task has become trivial: {', '.join(evidence)} with {_codes_in_words(watched)}. Nearly all"
        " targets are the same code, so nothing is learned and the low loss means nothing. Begin anew with a larger"
        " diversity_weight, a lower peak_lr or a longer warm-up, more audio in a batch, and an initial logit_std"
        " that makes the first codes decided less by noise"
    )


def code_collapse(watched: Watched, limits: Thresholds) -> str | None:
    """The quantizer uses hardly any of its entries."""
    if not _few_codes(watched, limits) or _is_trivial(watched, limits):
        return None
    return (
        f"the codebooks have collapsed: {_codes_in_words(watched)}. The quantizer uses hardly any of its entries, so"
        " targets carry little. Raise diversity_weight, lower peak_lr or warm up longer, put more audio into a batch,"
        " or use fewer num_entries; a gumbel_temperature_start that falls too fast does the same harm"
    )


def accuracy_at_chance(watched: Watched, limits: Thresholds) -> str | None:
    """The contrastive task is not being learned."""
    average = watched.averages
    chance = average.get("chance_accuracy", limits.chance_accuracy)
    if watched.step < limits.chance_steps or average.get("accuracy", 1.0) > 1.5 * chance:
        return None
    return (
        f"the contrastive accuracy is still at chance after {watched.step} updates: {average['accuracy']:.4f}, where"
        f" guessing gives {chance:.4f}. Raise peak_lr, check that the audio is speech at the right sample rate and not"
        " silence, and that mask_probability and mask_span leave enough unmasked frames to predict from"
    )


def latent_collapse(watched: Watched, limits: Thresholds) -> str | None:
    """The feature encoder gives the same vector at all times."""
    spread = watched.averages.get("latent_std", math.inf)
    if spread >= limits.min_latent_std:
        return None
    return (
        f"the latents have collapsed: their standard deviation over time is {spread:.2g} (healthy: above"
        f" {limits.min_latent_std:g}). The feature encoder says the same whatever it hears. Lower"
        " feature_penalty_weight and peak_lr, lower feature_gradient_scale, and check that the audio is not silent"
    )


def gradient_explosion(watched: Watched, limits: Thresholds) -> str | None:
    """The gradient is far above its own long average."""
    if watched.log_norm_fast is None or watched.log_norm_slow is None or watched.num_norms < 2 * _FIRST:
        return None
    now, before = _exp(watched.log_norm_fast), _exp(watched.log_norm_slow)
    if now < limits.min_exploding_norm or now < limits.explosion_factor * before:
        return None
    return (
        f"the gradient is exploding: its norm is {now:.3g}, {now / before:.0f} times its long average {before:.3g}."
        " Lower peak_lr, warm up longer, set clip_norm (or lower it), or use precision fp32"
    )


def vanishing_gradient(watched: Watched, limits: Thresholds) -> str | None:
    """There is nothing left to follow."""
    norm = watched.averages.get("gradient_norm", math.inf)
    if norm >= limits.min_gradient_norm:
        return None
    return (
        f"the gradient has vanished: its norm is {norm:.2g}, so the weights no longer move. Check that the part to be"
        " trained is not frozen and that the loss depends on it; if the model collapsed before, begin anew with a"
        " lower peak_lr"
    )


def non_finite(watched: Watched, limits: Thresholds) -> str | None:
    """Losses or gradients are NaN or infinite again and again."""
    count = sum(watched.non_finite)
    if count < limits.max_non_finite:
        return None
    return (
        f"loss or gradient was NaN or infinite in {count} of the last {len(watched.non_finite)} updates; those updates"
        " were skipped. Lower peak_lr, set clip_norm, use precision fp32, and validate the manifest with --audio for"
        " recordings that are silent or not finite"
    )


def skipped_update(watched: Watched, limits: Thresholds) -> str | None:
    """One update could not be made."""
    if not (watched.non_finite and watched.non_finite[-1]):
        return None
    return (
        "loss or gradient is NaN or infinite; the update was skipped and the weights are as before. Once in a while"
        " this does no harm; if it repeats, lower peak_lr or set clip_norm"
    )


def divergence(watched: Watched, limits: Thresholds) -> str | None:
    """The loss rises again, far above its best."""
    average, best = watched.averages.get("loss"), watched.best_loss
    if average is None or best is None or len(watched.first_losses) < _FIRST:
        return None
    if average - best < max(limits.divergence_ratio * abs(best), limits.divergence_margin):
        return None
    return (
        f"the loss diverges: its average is {average:.3f} after a best of {best:.3f}. Go on from an earlier checkpoint"
        " or begin anew with a lower peak_lr, a longer warm-up or a smaller clip_norm"
    )


def loss_plateau(watched: Watched, limits: Thresholds) -> str | None:
    """The loss has not moved for long, near to where it began."""
    average = watched.averages.get("loss", -math.inf)
    waited = watched.step - watched.plateau_since
    if waited < limits.plateau_steps or average < limits.plateau_level * watched.first_loss:
        return None
    return (
        f"the loss has not fallen for {waited} updates: {average:.3f}, after {watched.first_loss:.3f} at the start."
        " Nothing is being learned. Try a higher peak_lr (then a lower one), check the data by ear, and check that the"
        " parts to be trained are not frozen"
    )


def blank_plateau(watched: Watched, limits: Thresholds) -> str | None:
    """A CTC model says nothing but blank."""
    waited = watched.step - watched.blank_since
    if waited < limits.blank_steps:
        return None
    blank = watched.averages["blank_fraction"]
    return (
        f"the model still labels {blank:.1%} of the frames blank after {waited} updates of saying nothing. CTC often"
        " begins so, but not for so long: raise peak_lr, freeze the encoder for fewer steps, give the output layer a"
        " higher rate, and check that texts belong to their recordings"
    )


def blank_collapse(watched: Watched, limits: Thresholds) -> str | None:
    """A CTC model that had learnt to speak says nothing but blank again."""
    blank = watched.averages.get("blank_fraction", 0.0)
    if not watched.has_spoken or blank <= limits.max_blank_fraction:
        return None
    return (
        f"the model has fallen silent: it had learnt to write labels, and now calls {blank:.1%} of the frames blank."
        " An update that was too large has thrown away what was learnt. Begin anew with a lower peak_lr, a longer"
        " warm-up or a smaller clip_norm; the best checkpoint so far is kept"
    )


def learning_rate_too_high(watched: Watched, limits: Thresholds) -> str | None:
    """Loss or gradient of a CTC run jump again and again."""
    count = sum(watched.spikes)
    if count < limits.max_spikes or "blank_fraction" not in watched.averages:
        return None
    return (
        f"the learning rate is too high: in {count} of the last {len(watched.spikes)} updates the loss or the gradient"
        f" jumped (loss now {watched.averages.get('loss', math.nan):.3g}, {watched.first_loss:.3g} at the start)."
        " Begin anew with a third of peak_lr, or warm up longer and set clip_norm"
    )


def audio_too_short(watched: Watched, limits: Thresholds) -> str | None:
    """Many utterances have fewer frames than their labels need."""
    share = watched.averages.get("infeasible_share", 0.0)
    if share <= limits.max_infeasible_share:
        return None
    return (
        f"{share:.1%} of the utterances are too short for their texts as they reach the model, and are left out of the"
        " loss: CTC needs a frame for each label, and one more between equal ones. Play them less fast"
        " (augment.speed), check that texts belong to their recordings, take an encoder with more frames a second, or"
        " a vocabulary of longer units"
    )


def overfitting(watched: Watched, limits: Thresholds) -> str | None:
    """Training goes on to improve, validation gets worse."""
    loss, best = watched.validation.get("valid_loss"), watched.best_validation.get("valid_loss")
    trained = watched.averages.get("loss")
    if loss is None or best is None or trained is None or watched.validations_since_best < limits.overfit_validations:
        return None
    if loss < limits.overfit_ratio * best or trained > _OVERFIT_LOSS * best:
        return None
    return (
        f"the model learns its training texts by heart: the validation loss rose to {loss:.3f} after a best of"
        f" {best:.3f}, while the training loss is {trained:.3f}; the best model, of step"
        f" {watched.best_validation_step}, is kept. Train for fewer updates, use more masking, dropout, LayerDrop or"
        " augmentation, a lower peak_lr or adapters, or more labelled speech"
    )


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


# The order is that of the reports when several are found at once: causes before consequences.
SYMPTOMS = (
    Symptom(kind="skipped_update", check=skipped_update, severity="note", grace=0.0, patience=0.0),
    Symptom(kind="non_finite", check=non_finite, severity="fatal", grace=0.0, patience=0.0),
    Symptom(kind="latent_collapse", check=latent_collapse, grace=0.25),
    Symptom(kind="contrastive_collapse", check=contrastive_collapse, grace=0.25),
    Symptom(kind="code_collapse", check=code_collapse),
    Symptom(kind="accuracy_at_chance", check=accuracy_at_chance),
    Symptom(kind="gradient_explosion", check=gradient_explosion, grace=0.25, patience=0.1),
    Symptom(kind="vanishing_gradient", check=vanishing_gradient, grace=0.25),
    Symptom(kind="learning_rate_too_high", check=learning_rate_too_high, grace=0.25, patience=0.0),
    Symptom(kind="divergence", check=divergence),
    Symptom(kind="loss_plateau", check=loss_plateau),
    Symptom(kind="blank_collapse", check=blank_collapse),
    Symptom(kind="blank_plateau", check=blank_plateau),
    Symptom(kind="audio_too_short", check=audio_too_short, patience=0.5),
)

VALIDATION_SYMPTOMS = (Symptom(kind="overfitting", check=overfitting, severity="note", grace=0.0, patience=0.0),)
"""Looked for after each validation."""

DATA_KINDS = ("vocabulary_mismatch",)
"""Found in the data before training, beside `audio_too_short`."""
