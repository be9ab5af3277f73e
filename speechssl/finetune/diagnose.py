"""What can be said of a fine-tuning before its first update: of its data, and when its monitor should speak."""

from dataclasses import replace

from speechssl.ctc.loss import required_frames
from speechssl.encoder import SpeechEncoder
from speechssl.finetune.config import FinetuneConfig
from speechssl.finetune.labels import LACKED, TOO_SHORT, LabeledData, num_frames_of
from speechssl.text import describe_characters
from speechssl.training.monitor import Diagnosis, MonitorConfig

MAX_LOST_SHARE = 0.02
"""Of the training utterances, or of the validation's characters, that may be lost for one reason."""
_QUIET_SHARE = 0.4
"""Share of a short run, after the encoder has been let go, in which CTC may say nothing but blank."""


def diagnose_data(
    train_data: LabeledData, valid_data: LabeledData, encoder: SpeechEncoder, config: FinetuneConfig
) -> list[Diagnosis]:
    """What is wrong with the texts, their lengths and the vocabulary; nothing where all is well."""
    checks = (
        _lost_to_vocabulary(train_data),
        _unknown_in_validation(valid_data),
        _lost_to_length(train_data, encoder),
        _lost_to_speed(train_data, encoder, config),
    )
    return [diagnosis for diagnosis in checks if diagnosis is not None]


def monitor_for(config: FinetuneConfig) -> MonitorConfig:
    """The monitor's limits, in the measure of a run that is shorter than those that they were made for.

    A run of 300 updates would otherwise be over before the monitor may speak. While only the head is trained, blanks
    may last longer.
    """
    monitor, steps = config.training.monitor, config.training.max_steps
    after_freezing = max(1, int(_QUIET_SHARE * (steps - config.freeze_steps)))
    return replace(
        monitor,
        blank_steps=min(monitor.blank_steps, after_freezing) + config.freeze_steps,
        grace_steps=min(monitor.grace_steps, max(1, steps // 5)),
        patience_steps=min(monitor.patience_steps, max(1, steps // 20)),
        plateau_steps=min(monitor.plateau_steps, max(1, steps // 2)) + config.freeze_steps,
    )


def _share(data: LabeledData, reason: str) -> tuple[float, str | None]:
    """Share of all rows that were left out for a reason, and the id of one of them."""
    lost = [name for name, why in data.left_out.items() if why.startswith(reason)]
    return len(lost) / max(len(data.left_out) + len(data.manifest), 1), lost[0] if lost else None


def _lost_to_vocabulary(data: LabeledData) -> Diagnosis | None:
    share, example = _share(data, LACKED)
    if share <= MAX_LOST_SHARE:
        return None
    return _diagnosis(
        "vocabulary_mismatch",
        f"{share:.1%} of the training texts are lost because they hold characters that the vocabulary lacks:"
        f" {describe_characters(data.unknown_characters)} (in {example!r} for one). Choose the normalizer that the"
        " vocabulary was made for, leave vocabulary out to make one of these texts, or lower min_character_count",
    )


def _unknown_in_validation(data: LabeledData) -> Diagnosis | None:
    unknown = sum(data.unknown_characters.values())
    total = unknown + sum(map(len, data.labels))
    if unknown <= MAX_LOST_SHARE * total:
        return None
    return _diagnosis(
        "vocabulary_mismatch",
        f"{unknown / total:.1%} of the characters of the validation texts are not in the vocabulary, so that the model"
        f" can never write them: {describe_characters(data.unknown_characters)}. They count as errors. Validate on"
        " texts of the training's language and spelling, or choose a normalizer that makes both alike",
    )


def _lost_to_length(data: LabeledData, encoder: SpeechEncoder) -> Diagnosis | None:
    share, example = _share(data, TOO_SHORT)
    if share <= MAX_LOST_SHARE:
        return None
    return _diagnosis(
        "audio_too_short",
        f"{share:.1%} of the training utterances are too short for their texts ({example!r} for one) and are left out:"
        f" CTC needs a frame for each label, and this encoder makes {encoder.config.frame_rate:.3g} a second. Check"
        " that texts belong to their recordings (`speechssl manifest audit`), take an encoder with more frames a"
        " second, or a vocabulary of longer units",
    )


def _lost_to_speed(data: LabeledData, encoder: SpeechEncoder, config: FinetuneConfig) -> Diagnosis | None:
    """Utterances that fit as they are, but not when played at the fastest speed."""
    factor = config.data.augment.min_length_factor
    if factor == 1:
        return None
    tight = [
        utterance.id
        for utterance, labels in zip(data.manifest, data.labels, strict=True)
        if num_frames_of(utterance, encoder, length_factor=factor) < required_frames(labels)
    ]
    share = len(tight) / len(data.manifest)
    if share <= MAX_LOST_SHARE:
        return None
    return _diagnosis(
        "audio_too_short",
        f"{share:.1%} of the training utterances ({tight[0]!r} for one) are too short for their texts when they are"
        f" played {1 / factor:.3g} times as fast, as data.augment.speed may do, and are then left out of the loss. Take"
        " smaller factors; metrics.jsonl counts them as infeasible_utterances",
    )


def _diagnosis(kind: str, message: str) -> Diagnosis:
    return Diagnosis(kind=kind, step=0, message=message)
