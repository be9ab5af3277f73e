"""Write a folder that Hugging Face's `from_pretrained` and pipelines load; needs transformers, as its check does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.asr import CtcModel
from speechssl.errors import CheckpointError
from speechssl.interop.card import ModelFacts, kind_of
from speechssl.interop.encoder_names import EncoderNames
from speechssl.interop.gate import encoder_of
from speechssl.interop.huggingface.describe import CLASSES, check_expressed, family_for, huggingface_config
from speechssl.interop.huggingface.encoders import FAMILIES
from speechssl.interop.huggingface.peer import import_transformers
from speechssl.interop.huggingface.read import pretraining_pairs
from speechssl.interop.huggingface.vocabulary import write_vocabulary
from speechssl.interop.model import Exportable, PretrainingModel
from speechssl.interop.weights import export_tensors, linear, plain_name

_PRETRAINING_FAMILIES = ("wav2vec2", "wav2vec2-conformer")
_ENDINGS = {"ctc": "ForCTC", "pretraining": "ForPreTraining", "encoder": "Model"}


def write_huggingface(model: Exportable, folder: Path, facts: ModelFacts) -> tuple[str, ...]:
    """Write `config.json`, `model.safetensors`, `preprocessor_config.json` and a recognizer's tokenizer.

    Returns:
        What Hugging Face has no place for.

    Raises:
        CheckpointError: transformers is missing, or has no family that computes what the model does.
    """
    transformers = import_transformers()
    encoder = encoder_of(model)
    family = family_for(encoder.config, facts.architecture)
    kind = kind_of(model)
    if kind == "pretraining" and family not in _PRETRAINING_FAMILIES:
        raise CheckpointError(
            f"transformers has no {CLASSES[family]}ForPreTraining, so the quantizer has no place; export the encoder"
            f" alone, or one of these families: {', '.join(_PRETRAINING_FAMILIES)}"
        )
    values = huggingface_config(model, family)
    check_expressed(encoder.config, values)
    their_config = getattr(transformers, f"{CLASSES[family]}Config")(**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the tensors that their model holds and never uses
        theirs = getattr(transformers, f"{CLASSES[family]}{_ENDINGS[kind]}")(their_config)
    theirs.load_state_dict(their_tensors(model, family, theirs.state_dict()))
    theirs.save_pretrained(folder, safe_serialization=True)
    _write_extractor(model, family, folder, transformers)
    notes = []
    if encoder.config.feature_gradient_scale != 1:
        notes.append(
            f"feature_gradient_scale={encoder.config.feature_gradient_scale}: transformers scales no gradient, which"
            " matters to further training only"
        )
    if isinstance(model, PretrainingModel) and model.objective.config.feature_penalty_weight:
        notes.append(
            f"feature_penalty_weight={model.objective.config.feature_penalty_weight} and the schedule of the Gumbel"
            " temperature: transformers' pre-training has no such penalty and takes the temperature from its caller"
        )
    if isinstance(model, CtcModel) and family == "wav2vec2-bert":
        notes.append(
            "of a clip with an odd number of 10 ms windows transformers' pipeline also decodes the last frame, half of"
            " which is padding; here it is left out, so that text may end with one more label"
        )
    if isinstance(model, CtcModel) and model.vocabulary.special:
        silent = ", ".join(repr(model.vocabulary.tokens[label]) for label in model.vocabulary.special)
        notes.append(
            f"the labels {silent} are never written here; transformers' pipeline writes them if they win a frame"
        )
    return tuple(notes)


def usage(model: Exportable) -> str:
    """How to load the folder."""
    kind = kind_of(model)
    if kind == "ctc":
        return (
            "```python\nfrom transformers import pipeline\n\n"
            'recognize = pipeline("automatic-speech-recognition", model="path/of/this/folder")\n'
            'print(recognize("recording.wav")["text"])\n```\n\n'
            'With speechssl: `speechssl.load_asr("path/of/this/folder").transcribe("recording.wav").text`.'
        )
    name = "AutoModelForPreTraining" if kind == "pretraining" else "AutoModel"
    rate = encoder_of(model).config.sample_rate
    return (
        f"```python\nfrom transformers import AutoFeatureExtractor, {name}\n\n"
        'extractor = AutoFeatureExtractor.from_pretrained("path/of/this/folder")\n'
        f'model = {name}.from_pretrained("path/of/this/folder").eval()\n'
        f'inputs = extractor(waveform, sampling_rate={rate}, return_tensors="pt")\n'
        "output = model(**inputs, output_hidden_states=True)\n```\n\n"
        'With speechssl: `speechssl.load_encoder("path/of/this/folder").embed("recording.wav")`.'
    )


def their_tensors(model: Exportable, family: str, blank: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their names; those that their model holds and never uses keep their first values."""
    kind = kind_of(model)
    prefix = "" if kind == "encoder" else FAMILIES[family].prefix
    names = EncoderNames().within(prefix) if prefix else EncoderNames()
    pairs = FAMILIES[family].pairs(encoder_of(model).config, names)
    ours = dict(encoder_of(model).state_dict())
    if isinstance(model, CtcModel):
        pairs = [*pairs, *linear("lm_head", "lm_head")]
        ours |= {f"lm_head.{name}": tensor for name, tensor in model.head.state_dict().items()}
    elif isinstance(model, PretrainingModel):
        pairs = [*pairs, *pretraining_pairs()]
        ours |= model.objective.state_dict()
    unused = tuple(f"{prefix}{start}" for start in FAMILIES[family].unused)
    kept = {name: tensor for name, tensor in blank.items() if unused and plain_name(name).startswith(unused)}
    shapes = {name: tensor.shape for name, tensor in blank.items() if name not in kept}
    return {**export_tensors(pairs, ours, shapes), **kept}


def _write_extractor(model: Exportable, family: str, folder: Path, transformers: Any) -> None:
    """`preprocessor_config.json`, and with it the tokenizer of a recognizer."""
    config = encoder_of(model).config
    if family == "wav2vec2-bert":
        extractor = transformers.SeamlessM4TFeatureExtractor(
            feature_size=config.num_mels,
            num_mel_bins=config.num_mels,
            sampling_rate=config.sample_rate,
            stride=config.mel_stack,
        )
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=config.sample_rate,
            padding_value=0.0,
            do_normalize=config.normalize_waveform,
            return_attention_mask=True,
        )
    if isinstance(model, CtcModel):
        tokenizer = write_vocabulary(model.vocabulary, folder)
        name = "Wav2Vec2BertProcessor" if family == "wav2vec2-bert" else "Wav2Vec2Processor"
        getattr(transformers, name)(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    else:
        extractor.save_pretrained(folder)
