"""Texts to labels: the vocabulary, and which utterances can be learnt from."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from speechssl.asr import load_vocabulary
from speechssl.audio import resampled_length
from speechssl.ctc import find_infeasible
from speechssl.encoder import SpeechEncoder
from speechssl.errors import ConfigError, ManifestError, TrainingError
from speechssl.finetune.config import FinetuneConfig
from speechssl.manifest import Manifest
from speechssl.text import Vocabulary, choose_vocabulary, describe_characters, normalize
from speechssl.types import Utterance

NO_TEXT, LACKED, TOO_SHORT = "no text after the normalizer", "the vocabulary lacks", "too short for its text"
"""How the reasons for leaving an utterance out begin."""


@dataclass(frozen=True, kw_only=True)
class LabeledData:
    """Training or validation texts made ready.

    `manifest` holds the usable rows, `labels[i]` the label ids of row i, `left_out` the reason for each id that is
    not usable, `unknown_characters` what the vocabulary lacks (counts over all rows).
    """

    manifest: Manifest
    labels: tuple[tuple[int, ...], ...]
    left_out: Mapping[str, str]
    unknown_characters: Mapping[str, int]


def build_vocabulary(manifest: Manifest, config: FinetuneConfig) -> Vocabulary:
    """The vocabulary that is given, or one made of the training texts and no other as `config.units` says."""
    if config.vocabulary is not None:
        return load_vocabulary(config.vocabulary)
    texts = [normalize(utterance.text, config.normalizer) for utterance in manifest if utterance.text is not None]
    try:
        return choose_vocabulary(
            texts, config.units, normalizer=config.normalizer, min_count=config.min_character_count
        )
    except ConfigError as error:
        raise ManifestError(f"{config.train_manifest}: {error}") from error


def prepare_training(
    manifest: Manifest, vocabulary: Vocabulary, encoder: SpeechEncoder, config: FinetuneConfig
) -> LabeledData:
    """The rows that can be learnt from, with labels, and the reason for every other.

    Left out are rows without text, with characters that the vocabulary lacks, and with more labels than their audio
    has frames for: no alignment exists, so their loss would be infinite. Lengths come from the manifest; no audio is
    read.

    Raises:
        TrainingError: no row is left.
    """
    rows: list[int] = []
    labels: list[tuple[int, ...]] = []
    left_out: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    for row, utterance in enumerate(manifest):
        text = normalize(utterance.text or "", config.normalizer)
        missing = vocabulary.unknown_characters(text)
        unknown.update(missing)
        if not text:
            left_out[utterance.id] = f"{NO_TEXT} {config.normalizer!r}"
        elif missing:
            left_out[utterance.id] = f"{LACKED} {describe_characters(missing)}"
        else:
            encoded = tuple(vocabulary.encode(text))
            short = find_infeasible([(utterance.id, num_frames_of(utterance, encoder), encoded)])
            if short:
                left_out[utterance.id] = f"{TOO_SHORT}: {short[0]}"
            else:
                rows.append(row)
                labels.append(encoded)
    if not rows:
        raise TrainingError(
            f"{config.train_manifest}: none of the {len(manifest)} utterances can be learnt from: "
            f"{summarize(left_out)}; correct the texts, or choose another normalizer or encoder"
        )
    return LabeledData(
        manifest=manifest.take(rows), labels=tuple(labels), left_out=left_out, unknown_characters=dict(unknown)
    )


def prepare_validation(manifest: Manifest, vocabulary: Vocabulary, config: FinetuneConfig) -> LabeledData:
    """All rows; characters that the vocabulary lacks are counted as errors by WER and CER, and left out of the loss.
    The texts become what a model without errors would write: by the vocabulary's policy, or in phonemes.

    Raises:
        ManifestError: a row has no text.
    """
    missing = [utterance.id for utterance in manifest if utterance.text is None]
    if missing:
        raise ManifestError(
            f"{config.valid_manifest}: {len(missing)} of {len(manifest)} utterances have no text, the first is "
            f"{missing[0]!r}; validation needs the text of all, so leave those rows out"
        )
    texts = [normalize(utterance.text or "", config.normalizer) for utterance in manifest]
    unknown: Counter[str] = Counter()
    for text in texts:
        unknown.update(vocabulary.unknown_characters(text))
    labels = tuple(tuple(vocabulary.encode(text, skip_unknown=True)) for text in texts)
    if vocabulary.policy is not None or vocabulary.pronunciations is not None:
        column = manifest.table.schema.get_field_index("text")
        written = pa.array([vocabulary.written(text) for text in texts], pa.string())
        manifest = Manifest(manifest.table.set_column(column, "text", written), manifest.folder)
    return LabeledData(manifest=manifest, labels=labels, left_out={}, unknown_characters=dict(unknown))


def num_frames_of(utterance: Utterance, encoder: SpeechEncoder, *, length_factor: float = 1.0) -> int:
    """Frames that the encoder makes of an utterance by its manifest, or of one `length_factor` times as long."""
    rate = encoder.config.sample_rate
    num_samples = resampled_length(utterance.num_samples, from_rate=utterance.sample_rate, to_rate=rate)
    return encoder.num_frames(int(num_samples * length_factor))


def summarize(left_out: Mapping[str, str], limit: int = 5) -> str:
    """The first reasons, and how many more there are."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:limit])
    return shown if len(left_out) <= limit else f"{shown}; and {len(left_out) - limit} more"
