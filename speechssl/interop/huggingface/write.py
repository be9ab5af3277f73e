"""Write a folder that Hugging Face's `from_pretrained` and pipelines load; needs transformers, as its check does."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig
from speechssl.errors import CheckpointError
from speechssl.interop.card import ModelFacts, kind_of
from speechssl.interop.encoder_names import EncoderNames
from speechssl.interop.gate import Layers, Peer, encoder_of
from speechssl.interop.huggingface.encoders import FAMILIES, encoder_config
from speechssl.interop.huggingface.read import pretraining_pairs
from speechssl.interop.huggingface.vocabulary import special_tokens, write_vocabulary
from speechssl.interop.model import Exportable, PretrainingModel
from speechssl.interop.weights import export_tensors, linear, plain_name
from speechssl.nn.context_encoder import ContextVariant

CLASSES = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "data2vec-audio": "Data2VecAudio",
    "wav2vec2-conformer": "Wav2Vec2Conformer",
    "wav2vec2-bert": "Wav2Vec2Bert",
}
"""How the names of a family's classes begin, by `model_type`."""
_PRETRAINING_FAMILIES = ("wav2vec2", "wav2vec2-conformer")
# of no effect on what an evaluated model computes, or compared as the format has it
_FREE = {"feature_gradient_scale", "conv_padding", "normalize_eps", "variant", "sample_rate"}
_ENDINGS = {"ctc": "ForCTC", "pretraining": "ForPreTraining", "encoder": "Model"}


def write_huggingface(model: Exportable, folder: Path, facts: ModelFacts) -> tuple[str, ...]:
    """Write `config.json`, `model.safetensors`, `preprocessor_config.json` and a recognizer's tokenizer.

    Returns:
        What Hugging Face has no place for.

    Raises:
        CheckpointError: transformers is missing, or has no family that computes what the model does.
    """
    transformers = _transformers()
    encoder = encoder_of(model)
    family = family_for(encoder.config, facts.architecture)
    kind = kind_of(model)
    if kind == "pretraining" and family not in _PRETRAINING_FAMILIES:
        raise CheckpointError(
            f"transformers has no {CLASSES[family]}ForPreTraining, so the quantizer has no place; export the encoder"
            f" alone, or one of these families: {', '.join(_PRETRAINING_FAMILIES)}"
        )
    values = huggingface_config(model, family)
    _check_expressed(encoder.config, values)
    their_config = getattr(transformers, f"{CLASSES[family]}Config")(**values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the tensors that their model holds and never uses
        theirs = getattr(transformers, f"{CLASSES[family]}{_ENDINGS[kind]}")(their_config)
    theirs.load_state_dict(_their_tensors(model, family, theirs.state_dict()))
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
    if isinstance(model, CtcModel) and model.vocabulary.special:
        silent = ", ".join(repr(model.vocabulary.tokens[label]) for label in model.vocabulary.special)
        notes.append(
            f"the labels {silent} are never written here; transformers' pipeline writes them if they win a frame"
        )
    return tuple(notes)


def family_for(config: EncoderConfig, architecture: str | None = None) -> str:
    """The family (`model_type`) that computes what an encoder of this configuration does.

    Args:
        config: of the encoder.
        architecture: the family that it came from, which is kept where it computes the same (`hubert`).

    Raises:
        CheckpointError: there is none.
    """
    if config.front_end == "log_mel":
        raise CheckpointError(
            "the encoder takes log-mel features (front_end=log_mel, as the preset tiny and the shipped model), which no"
            " Hugging Face speech model computes; train with front_end=waveform (preset small, base or large), or"
            " export to another format"
        )
    if config.front_end == "fbank":
        return "wav2vec2-bert"
    variant = config.variant
    if variant.layer == "conformer":
        return "wav2vec2-conformer"
    if variant.attention_positions == "gated_bias":
        return "wavlm"
    if variant.positions == "stacked_convolution":
        return "data2vec-audio"
    if architecture == "hubert" or variant.positions == "batch_norm_convolution" or not config.latent_norm:
        return "hubert"
    return "wav2vec2"


def huggingface_config(model: Exportable, family: str) -> dict[str, Any]:
    """The fields of `config.json`."""
    config = encoder_of(model).config
    variant = config.variant
    values: dict[str, Any] = {
        "model_type": family,
        "hidden_size": config.model_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.feed_forward_dim,
        "hidden_act": variant.activation,
        "feat_proj_dropout": config.input_dropout,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "layerdrop": config.layer_drop,
        "final_dropout": 0.0,
        "mask_time_prob": 0.05,
        "mask_time_length": 10,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if family == "wav2vec2-bert":
        values["feature_projection_input_dim"] = config.latent_dim
    else:
        values |= {
            "conv_dim": [config.conv_dim] * len(config.conv_layers),
            "conv_kernel": [kernel for kernel, _ in config.conv_layers],
            "conv_stride": [stride for _, stride in config.conv_layers],
            "conv_bias": config.conv_bias,
            "feat_extract_norm": config.conv_norm,
            "num_conv_pos_embeddings": config.position_kernel,
            "num_conv_pos_embedding_groups": config.position_groups,
            "do_stable_layer_norm": config.norm_position == "pre",
        }
    values |= _variant_config(config, family)
    if isinstance(model, CtcModel):
        values |= _ctc_config(model)
    elif isinstance(model, PretrainingModel):
        values |= _pretraining_config(model)
    return values


def huggingface_peer(folder: Path, model: Exportable) -> tuple[str, Peer]:
    """transformers running what was written, from waveforms through its own feature extractor."""
    transformers = _transformers()
    kind = kind_of(model)
    auto = {"ctc": "AutoModelForCTC", "pretraining": "AutoModelForPreTraining", "encoder": "AutoModel"}[kind]
    theirs = getattr(transformers, auto).from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    rate = encoder_of(model).config.sample_rate

    @torch.no_grad()
    def run(waveform: Tensor, num_samples: Tensor) -> Layers:
        clips = [row[:length].numpy() for row, length in zip(waveform, num_samples.tolist(), strict=True)]
        inputs = extractor(clips, sampling_rate=rate, padding=True, return_tensors="pt", return_attention_mask=True)
        output = theirs(**inputs, output_hidden_states=True)
        states = output.hidden_states
        layers: dict[str, Tensor] = {}
        if kind == "encoder" and output.get("extract_features") is not None:
            layers["latents"] = output.extract_features
        layers |= {f"layer {index}": state for index, state in enumerate(states[:-1])}
        layers["context"] = states[-1]  # the last one is taken after the norm that may follow the layers
        if kind == "ctc":
            layers["logits"] = output.logits
        elif kind == "pretraining":
            layers |= _pretraining_layers(theirs, inputs)
            layers["context projection"] = output.projected_states
        return layers

    return f"transformers {transformers.__version__}, {type(theirs).__name__}", run


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


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise CheckpointError(
            "an export to Hugging Face is checked by running it there, which needs transformers; install it with"
            " `pip install 'speechssl[hf]'`"
        ) from None
    return transformers


def _variant_config(config: EncoderConfig, family: str) -> dict[str, Any]:
    variant = config.variant
    if family == "hubert":
        return {
            "feat_proj_layer_norm": config.latent_norm,
            "conv_pos_batch_norm": variant.positions == "batch_norm_convolution",
        }
    if family == "wavlm":
        return {"num_buckets": variant.num_buckets, "max_bucket_distance": variant.max_distance}
    if family == "data2vec-audio":
        return {
            "num_conv_pos_embeddings": variant.num_position_layers,
            "conv_pos_kernel_size": config.position_kernel,
        }
    if variant.layer == "conformer":
        kind = variant.attention_positions
        return {
            "position_embeddings_type": None if kind == "none" else kind,
            "conv_depthwise_kernel_size": variant.conformer_kernel,
            "conformer_conv_dropout": config.dropout,
            "rotary_embedding_base": int(variant.rotary_base),
            "left_max_position_embeddings": variant.max_left,
            "right_max_position_embeddings": variant.max_right,
        }
    return {}


def _ctc_config(model: CtcModel) -> dict[str, Any]:
    vocabulary = model.vocabulary
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    names = special_tokens(vocabulary)
    return {
        "vocab_size": len(vocabulary),
        "final_dropout": model.dropout,
        "ctc_loss_reduction": "mean",
        **{f"{name}_id": None if token is None else ids[token] for name, token in names.items() if name != "unk_token"},
    }


def _pretraining_config(model: PretrainingModel) -> dict[str, Any]:
    objective = model.objective.config
    return {
        "num_codevector_groups": objective.num_codebooks,
        "num_codevectors_per_group": objective.num_entries,
        "codevector_dim": objective.quantized_dim,
        "proj_codevector_dim": objective.final_dim,
        "num_negatives": objective.num_distractors,
        "contrastive_logits_temperature": objective.logit_temperature,
        "diversity_loss_weight": objective.diversity_weight,
        "feat_quantizer_dropout": objective.feature_dropout,
        "mask_time_prob": objective.mask_probability,
        "mask_time_length": objective.mask_span,
    }


def _check_expressed(config: EncoderConfig, values: Mapping[str, Any]) -> None:
    """What is written must read back as the same architecture."""
    back = encoder_config(values, normalize=config.normalize_waveform, source="export")
    names = [field.name for field in fields(EncoderConfig) if field.name not in _FREE]
    if config.front_end == "fbank":
        names = [name for name in names if not name.startswith(("conv_", "position_", "normalize_"))]
    else:
        names = [name for name in names if not name.startswith("mel_") and name != "num_mels"]
    if config.variant.positions == "none":
        names = [name for name in names if not name.startswith("position_")]
    differing = [
        f"{name}={getattr(config, name)!r} (it would be {getattr(back, name)!r})"
        for name in names
        if getattr(config, name) != getattr(back, name)
    ]
    differing += [
        f"variant.{name}={getattr(config.variant, name)!r} (it would be {getattr(back.variant, name)!r})"
        for name in _used(config.variant)
        if getattr(config.variant, name) != getattr(back.variant, name)
    ]
    if differing:
        raise CheckpointError(
            f"transformers' {CLASSES[values['model_type']]} computes something else: it has no {', '.join(differing)}"
        )


def _used(variant: ContextVariant) -> list[str]:
    """The fields of a variant that change what it computes."""
    names = ["layer", "activation", "positions", "attention_positions"]
    if variant.positions == "stacked_convolution":
        names.append("num_position_layers")
    if variant.layer == "conformer":
        names += ["conformer_kernel", "conformer_norm", "conformer_causal", "output_norm"]
    by_kind = {
        "gated_bias": ["num_buckets", "max_distance"], "rotary": ["rotary_base"],
        "relative_key": ["max_left", "max_right"],
    }  # fmt: skip
    return names + by_kind.get(variant.attention_positions, [])


def _their_tensors(model: Exportable, family: str, blank: Mapping[str, Tensor]) -> dict[str, Tensor]:
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


def _pretraining_layers(theirs: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Logits of the codes, and the projected mean of the codebooks under their softmax."""
    latents = getattr(theirs, theirs.base_model_prefix)(**inputs).extract_features
    logits = theirs.quantizer.weight_proj(latents)
    groups = theirs.config.num_codevector_groups
    codebooks = theirs.quantizer.codevectors.unflatten(1, (groups, -1))[0]  # [G, V, Q / G]
    weights = logits.unflatten(-1, (groups, -1)).softmax(dim=-1)
    expected = torch.einsum("btgv,gvq->btgq", weights, codebooks).flatten(2)
    return {"code logits": logits, "target projection": theirs.project_q(expected)}
