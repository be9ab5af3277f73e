"""Read a folder that `save_pretrained` wrote; neither transformers nor a network is needed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop.card import read_licence
from speechssl.interop.encoder_names import EncoderNames
from speechssl.interop.files import read_object, read_optional_object
from speechssl.interop.huggingface.encoders import Family, encoder_config, family_of
from speechssl.interop.huggingface.vocabulary import normalizer_of, read_vocabulary
from speechssl.interop.model import ImportedModel, Kind, Origin
from speechssl.interop.weights import Pair, import_tensors, linear, objective_shapes
from speechssl.objectives.contrastive import ContrastiveConfig
from speechssl.text import Vocabulary

PRETRAINING_HEADS = ("quantizer.", "project_hid.", "project_q.")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder.

    Raises:
        CheckpointError: missing or no JSON object.
    """
    return read_object(folder / "config.json")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors, in several files or in one, else `pytorch_model.bin` as data only.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    binary = folder / "pytorch_model.bin"
    try:
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if any(Path(name).name != name for name in names):
                raise CheckpointError(f"{index}: names a file outside of the folder; download the model again")
            return {name: tensor for file in names for name, tensor in load_file(folder / file).items()}
        if (folder / "model.safetensors").is_file():
            return load_file(folder / "model.safetensors")
        if binary.is_file():
            loaded: dict[str, Tensor] = torch.load(binary, map_location="cpu", weights_only=True)
            return loaded
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: its weights are damaged or incomplete ({error}); copy them again") from None
    raise CheckpointError(f"{folder}: holds neither model.safetensors nor pytorch_model.bin; download the model again")


def read_huggingface(folder: str | Path, *, source: str | None = None) -> ImportedModel:
    """Import a model; `source` is its name for messages and for the record, the folder when None.

    Raises:
        CheckpointError: an unknown family, parts that cannot be imported, missing or unexpected tensors.
    """
    folder = Path(folder)
    name = source or str(folder)
    values = read_config(folder)
    family = family_of(values, source=name)
    notes: list[str] = []
    extractor = read_optional_object(folder / "preprocessor_config.json")
    config = encoder_config(values, normalize=_normalizes(extractor, values, notes), source=name)
    config = replace(config, sample_rate=extractor.get("sampling_rate", config.sample_rate))
    tensors = read_tensors(folder)
    has_head = any(key.startswith(family.prefix) for key in tensors)
    names = EncoderNames().within(family.prefix) if has_head else EncoderNames()
    inside = {key: value for key, value in tensors.items() if key.startswith(family.prefix) or not has_head}
    heads = {key: value for key, value in tensors.items() if key not in inside}
    state = _encoder_state(config, family, names, inside, notes, name)
    kind: Kind = "encoder"
    objective: ContrastiveConfig | None = None
    objective_state: dict[str, Tensor] = {}
    if any(key.startswith(PRETRAINING_HEADS) for key in heads):
        kind = "pretraining"
        objective, objective_state = _pretraining(values, config, heads, name)
    head = _Head() if kind == "pretraining" else _ctc_head(folder, values, heads, notes, name)
    kind = "ctc" if head.vocabulary is not None else kind
    if kind == "encoder" and heads and not head.refused:
        notes.append(f"left out {', '.join(sorted(heads))}: a head that has no place here")
    return ImportedModel(
        kind=kind,
        origin=Origin(
            format="huggingface", source=name, architecture=values["model_type"], licence=read_licence(folder)
        ),
        config=config,
        encoder_state=state,
        objective=objective,
        objective_state=objective_state,
        vocabulary=head.vocabulary,
        head_state=head.state,
        head_dropout=values.get("final_dropout", 0.0),
        normalizer="none" if head.vocabulary is None else normalizer_of(head.vocabulary),
        no_text=head.refused,
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class _Head:
    """A CTC layer, or why there is none that can write text."""

    vocabulary: Vocabulary | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    refused: str | None = None


def _ctc_head(
    folder: Path, values: Mapping[str, Any], heads: Mapping[str, Tensor], notes: list[str], source: str
) -> _Head:
    """The layer `lm_head` of a `...ForCTC` model and its labels; without usable labels only the encoder comes in."""
    state = {name.removeprefix("lm_head."): tensor for name, tensor in heads.items() if name.startswith("lm_head.")}
    if set(state) != {"weight", "bias"}:
        return _Head()
    others = sorted(name for name in heads if not name.startswith("lm_head."))
    if others:
        notes.append(f"left out {', '.join(others)}: parts of a head that have no place here")
    try:
        vocabulary, vocabulary_notes = read_vocabulary(folder, num_labels=len(state["bias"]), source=source)
    except CheckpointError as error:
        notes.append(f"left out lm_head.weight and lm_head.bias: {error}")
        return _Head(refused=str(error))
    notes += vocabulary_notes
    notes.append(
        f"its texts are taken as normalised by {normalizer_of(vocabulary)!r}, as its labels suggest; no file says so"
    )
    blank = values.get("pad_token_id")
    if blank is not None and blank != vocabulary.blank:
        notes.append(f"config.json has pad_token_id={blank}; the tokenizer's blank {vocabulary.blank} is taken")
    return _Head(vocabulary=vocabulary, state=state)


def _encoder_state(
    config: EncoderConfig,
    family: Family,
    names: EncoderNames,
    tensors: Mapping[str, Tensor],
    notes: list[str],
    source: str,
) -> dict[str, Tensor]:
    """All tensors of our encoder; what is left out or assumed is added to `notes`."""
    blank = SpeechEncoder(config)
    shapes = {key: tensor.shape for key, tensor in blank.state_dict().items()}
    tensors = dict(tensors)
    assert names.mask_embedding is not None
    if names.mask_embedding not in tensors:  # models that were never masked have none
        tensors[names.mask_embedding] = blank.mask_embedding.detach()
        notes.append("the model has no mask embedding; a random one stands in its place")
    prefix = names.projection.removesuffix(EncoderNames().projection)
    unused = {f"{prefix}{start}": reason for start, reason in family.unused.items()}
    state, left_out = import_tensors(family.pairs(config, names), tensors, shapes, source=source, unused=unused)
    notes += left_out
    return state


def pretraining_pairs() -> list[Pair]:
    """Quantizer and projections of the `...ForPreTraining` models."""
    return [
        *linear("quantizer.logits", "quantizer.weight_proj"),
        Pair(ours="quantizer.codebooks", theirs="quantizer.codevectors"),
        *linear("target_projection", "project_q"),
        *linear("context_projection", "project_hid"),
    ]


def _pretraining(
    values: Mapping[str, Any], config: EncoderConfig, heads: Mapping[str, Tensor], source: str
) -> tuple[ContrastiveConfig, dict[str, Tensor]]:
    objective = ContrastiveConfig(
        num_codebooks=values["num_codevector_groups"],
        num_entries=values["num_codevectors_per_group"],
        quantized_dim=values["codevector_dim"],
        final_dim=values["proj_codevector_dim"],
        mask_probability=values.get("mask_time_prob", 0.65) or 0.65,
        mask_span=values.get("mask_time_length", 10),
        num_distractors=values["num_negatives"],
        logit_temperature=values["contrastive_logits_temperature"],
        diversity_weight=values["diversity_loss_weight"],
        feature_penalty_weight=0.0,  # Hugging Face has none
        feature_dropout=values.get("feat_quantizer_dropout", 0.0),
    )
    state, _ = import_tensors(pretraining_pairs(), heads, objective_shapes(objective, config), source=source)
    return objective, state


def _normalizes(extractor: Mapping[str, Any], values: Mapping[str, Any], notes: list[str]) -> bool:
    """`do_normalize` of the feature extractor."""
    if values["model_type"] == "wav2vec2-bert":
        return False
    if not extractor:
        normalizes = values.get("feat_extract_norm") == "layer"
        notes.append(
            f"there is no preprocessor_config.json; waveforms are {'' if normalizes else 'not '}normalized, as is usual"
            f" for feat_extract_norm={values.get('feat_extract_norm')}"
        )
        return normalizes
    return bool(extractor.get("do_normalize", True))
