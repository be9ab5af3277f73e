"""The symptoms that the monitor looks for: each a condition on watched metrics and a message in plain words.

Perplexities are in 1..V, `code_usage` is perplexity / V, losses are in nats per target, norms are those of the
averaged gradient before clipping. A metric that a task does not report is not judged.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from speechssl.training.watched import FIRST_UPDATES, Thresholds, Watched, bounded_exp

Severity = Literal["note", "problem", "fatal"]

_OVERFIT_LOSS = 0.7  # training this far below the best validation has gone beyond what carries over


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
    if watched.log_norm_fast is None or watched.log_norm_slow is None or watched.num_norms < 2 * FIRST_UPDATES:
        return None
    now, before = bounded_exp(watched.log_norm_fast), bounded_exp(watched.log_norm_slow)
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
    if average is None or best is None or len(watched.first_losses) < FIRST_UPDATES:
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
