"""Write a folder that fairseq2 loads by name: an asset card, weights, and a recognizer's character tokenizer."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig
from speechssl.errors import CheckpointError
from speechssl.interop.card import ModelFacts
from speechssl.interop.encoder_names import wav2vec2_pairs
from speechssl.interop.fairseq2 import OBJECTIVE_PAIRS, encoder_names
from speechssl.interop.fairseq2_cards import CARD_FILE, CARD_KEY
from speechssl.interop.gate import Layers, Peer, encoder_of
from speechssl.interop.labels import write_sentencepiece
from speechssl.interop.model import Exportable, PretrainingModel
from speechssl.interop.torchaudio_write import check_expressed
from speechssl.interop.weights import export_tensors, linear
from speechssl.objectives.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.text import Vocabulary

MODEL_FILE, TOKENIZER_FILE = "model.safetensors", "tokenizer.model"
_COUNTER = "quantizer.num_updates"


def write_fairseq2(model: Exportable, folder: Path, facts: ModelFacts) -> tuple[str, ...]:
    """Write `fairseq2.yaml` (the asset card), `model.safetensors` and, for a recognizer, `tokenizer.model`.

    An encoder alone goes out as a pre-training model whose quantizer and projections are new, since fairseq2 has no
    other kind; its recipes leave those out when they fine-tune.

    Returns:
        What fairseq2 has no place for.

    Raises:
        CheckpointError: fairseq2 is missing, or has no model that computes this.
    """
    from safetensors.torch import save_file

    check_expressed(model, "fairseq2", gated_bias=False)
    config = encoder_of(model).config
    if config.conv_dim == config.model_dim:
        raise CheckpointError(
            f"fairseq2 leaves out the projection where conv_dim equals model_dim={config.model_dim}, ours has one"
        )
    if config.sample_rate != 16_000:
        raise CheckpointError(f"sample_rate is {config.sample_rate}, but fairseq2's wav2vec 2.0 takes 16000 Hz")
    notes = _notes(model)
    card: dict[str, Any] = {
        "name": asset_name(facts.name),
        "model_family": "wav2vec2_asr" if isinstance(model, CtcModel) else "wav2vec2",
        "model_arch": "base_10h" if isinstance(model, CtcModel) else "base",
        "checkpoint": MODEL_FILE,
        CARD_KEY: {"normalize_waveform": config.normalize_waveform},
    }
    if isinstance(model, CtcModel):
        card["model_config"] = _asr_config(model)
        notes += write_sentencepiece(_reordered(model.vocabulary), folder / TOKENIZER_FILE)
        if (folder / TOKENIZER_FILE).is_file():
            card |= {"tokenizer_family": "char_tokenizer", "tokenizer": TOKENIZER_FILE}
    else:
        card["model_config"] = _pretraining_config(config, _objective(model).config)
    (folder / CARD_FILE).write_text(yaml.safe_dump(card, sort_keys=False, allow_unicode=True), encoding="utf-8")
    blank = _blank(folder)
    shapes = {name: tensor.shape for name, tensor in blank.items() if name != _COUNTER}
    state = export_tensors(*_tensors(model), shapes)
    state |= {name: tensor for name, tensor in blank.items() if name == _COUNTER}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / MODEL_FILE)
    return notes


def fairseq2_peer(folder: Path, model: Exportable) -> tuple[str, Peer]:
    """fairseq2 loading the card and running the model. Clips are normalized one by one where the model wants that."""
    fairseq2 = _fairseq2()
    from fairseq2.models.hub import load_model
    from fairseq2.nn import BatchLayout

    theirs = load_model(_card(folder), dtype=torch.float32).eval()
    config = encoder_of(model).config
    columns = _columns(model.vocabulary) if isinstance(model, CtcModel) else []

    @torch.no_grad()
    def run(waveform: Tensor, num_samples: Tensor) -> Layers:
        waveform = waveform.clone()
        if config.normalize_waveform:
            for row, length in zip(waveform, num_samples.tolist(), strict=True):
                row[:length] = functional.layer_norm(row[:length], (length,))
        layers: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda _module, inputs: layers.update({name: inputs[0]})

        front = theirs.encoder_frontend
        latents, layout, _ = front.extract_features(waveform, BatchLayout.of(waveform, num_samples.tolist()))
        layers["latents"] = latents
        hooks = [part.register_forward_pre_hook(keep(f"layer {i}")) for i, part in enumerate(theirs.encoder.layers)]
        context = theirs.encoder(front.process_features(latents.clone(), layout)[0], layout)
        for hook in hooks:
            hook.remove()
        layers["context"] = context
        if isinstance(model, CtcModel):
            logits, _ = theirs(waveform, BatchLayout.of(waveform, num_samples.tolist()))
            layers["logits"] = torch.empty_like(logits)
            layers["logits"][..., columns] = logits
        elif isinstance(model, PretrainingModel):
            layers["code logits"] = theirs.quantizer.entry_proj(latents)
            layers["target projection"] = theirs.final_target_proj(_expected_codes(theirs.quantizer, layers))
            layers["context projection"] = theirs.final_proj(context)
        return layers

    return f"fairseq2 {fairseq2.__version__}, {type(theirs).__name__}", run


def usage(model: Exportable) -> str:
    """How to load the folder."""
    is_ctc, config = isinstance(model, CtcModel), encoder_of(model).config
    family = "wav2vec2.asr import get_wav2vec2_asr_model_hub" if is_ctc else "wav2vec2 import get_wav2vec2_model_hub"
    hub = family.rpartition(" ")[2]
    normalize = (
        "\n\nIt takes waveforms with zero mean and unit variance: set `normalize_audio: true` in fairseq2's recipes."
        if config.normalize_waveform
        else ""
    )
    return (
        "Let fairseq2 find the card, then load it by its name, here and in recipes:\n\n"
        "```bash\nexport FAIRSEQ2_USER_ASSET_DIR=path/of/this/folder\n```\n\n"
        "```python\nimport soundfile  # its libsndfile serves fairseq2\nimport yaml\n"
        f"from fairseq2.models.{family}\n\n"
        f'name = yaml.safe_load(open("path/of/this/folder/{CARD_FILE}"))["name"]\n'
        f"model = {hub}().load_model(name).eval()\n```{normalize}\n\n"
        f'With speechssl: `speechssl.load_{"asr" if is_ctc else "encoder"}("path/of/this/folder/{CARD_FILE}")`.'
    )


def asset_name(name: str) -> str:
    """A name that fairseq2 takes for an asset."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_") or "speechssl_model"


def _fairseq2() -> Any:
    try:
        import fairseq2
        import soundfile  # noqa: F401  (its wheel carries the libsndfile that fairseq2 needs)
    except ImportError as error:
        raise CheckpointError(
            f"an export to fairseq2 is checked by running it there, but it cannot be imported ({error}); install it"
            " with `pip install 'speechssl[fairseq2]'`"
        ) from None
    return fairseq2


def _card(folder: Path) -> Any:
    """The asset card as fairseq2 reads it."""
    _fairseq2()
    from fairseq2.assets import AssetCard, FileAssetMetadataLoader
    from fairseq2.runtime.dependency import get_dependency_resolver

    source = get_dependency_resolver().resolve(FileAssetMetadataLoader).load(folder.absolute() / CARD_FILE)
    name = next(iter(source.asset_names))
    return AssetCard(name.removesuffix("@"), source.maybe_get_metadata(name))


def _blank(folder: Path) -> dict[str, Tensor]:
    """The state of a new model of the card's configuration."""
    card = _card(folder)
    from fairseq2.models.wav2vec2 import create_wav2vec2_model, get_wav2vec2_model_hub
    from fairseq2.models.wav2vec2.asr import create_wav2vec2_asr_model, get_wav2vec2_asr_model_hub

    is_asr = card.field("model_family").as_(str) == "wav2vec2_asr"
    hub = get_wav2vec2_asr_model_hub() if is_asr else get_wav2vec2_model_hub()
    with torch.random.fork_rng(devices=[]):
        blank = (create_wav2vec2_asr_model if is_asr else create_wav2vec2_model)(hub.get_model_config(card))
    return dict(blank.state_dict())


def _tensors(model: Exportable) -> tuple[list[Any], dict[str, Tensor]]:
    """Pairs and tensors of the whole model."""
    encoder = encoder_of(model)
    pairs = wav2vec2_pairs(encoder.config, encoder_names(encoder.config.norm_position))
    ours = dict(encoder.state_dict())
    if isinstance(model, CtcModel):
        rows = _columns(model.vocabulary)
        ours |= {f"head.{name}": tensor[rows] for name, tensor in model.head.state_dict().items()}
        return [*pairs, *linear("head", "final_proj")], ours
    return [*pairs, *OBJECTIVE_PAIRS], {**ours, **_objective(model).state_dict()}


def _objective(model: Exportable) -> ContrastiveObjective:
    if isinstance(model, PretrainingModel):
        return model.objective
    config = encoder_of(model).config
    return ContrastiveObjective(ContrastiveConfig(), latent_dim=config.latent_dim, model_dim=config.model_dim)


def _columns(vocabulary: Vocabulary) -> list[int]:
    """Our label ids in fairseq2's order, whose CTC blank is label 0."""
    return [vocabulary.blank, *(label for label in range(len(vocabulary)) if label != vocabulary.blank)]


def _reordered(vocabulary: Vocabulary) -> Vocabulary:
    from dataclasses import replace

    order = _columns(vocabulary)
    return replace(
        vocabulary,
        tokens=tuple(vocabulary.tokens[label] for label in order),
        blank=0,
        separator=None if vocabulary.separator is None else order.index(vocabulary.separator),
        special=tuple(sorted(order.index(label) for label in vocabulary.special)),
    )


def _encoder_values(config: EncoderConfig) -> dict[str, Any]:
    return {
        "model_dim": config.model_dim,
        "feature_dim": config.conv_dim,
        "use_fbank": False,
        "first_pass_dropout_p": config.input_dropout,
        "layer_norm_features": config.norm_position == "post",
        "feature_extractor_layer_descs": [[config.conv_dim, kernel, stride] for kernel, stride in config.conv_layers],
        "feature_extractor_bias": config.conv_bias,
        "feature_extractor_layer_norm_convs": config.conv_norm == "layer",
        "feature_grad_scale": config.feature_gradient_scale,
        "pos_encoder_type": "conv",
        "pos_encoder_depth": 1,
        "pos_conv_kernel_size": config.position_kernel,
        "num_pos_conv_groups": config.position_groups,
        "use_conformer": False,
        "num_encoder_layers": config.num_layers,
        "num_encoder_attn_heads": config.num_heads,
        "ffn_inner_dim": config.feed_forward_dim,
        "dropout_p": config.dropout,
        "attn_dropout_p": config.attention_dropout,
        "ffn_inner_dropout_p": config.activation_dropout,
        "layer_drop_p": config.layer_drop,
        "norm_order": config.norm_position.upper(),
    }


def _asr_config(model: CtcModel) -> dict[str, Any]:
    return {
        "encoder_config": _encoder_values(model.encoder.config),
        "target_vocab_size": len(model.vocabulary),
        "final_dropout_p": model.dropout,
    }


def _pretraining_config(config: EncoderConfig, objective: ContrastiveConfig) -> dict[str, Any]:
    return {
        "encoder_config": _encoder_values(config),
        "final_dim": objective.final_dim,
        "temporal_mask_span_len": objective.mask_span,
        "max_temporal_mask_prob": objective.mask_probability,
        "quantized_dim": objective.quantized_dim,
        "num_codebooks": objective.num_codebooks,
        "num_codebook_entries": objective.num_entries,
        "codebook_sampling_temperature": [
            objective.gumbel_temperature_start,
            objective.gumbel_temperature_end,
            objective.gumbel_temperature_decay,
        ],
        "num_distractors": objective.num_distractors,
        "logit_temp": objective.logit_temperature,
    }


def _notes(model: Exportable) -> tuple[str, ...]:
    notes = []
    if isinstance(model, PretrainingModel):
        objective = model.objective.config
        notes.append(
            f"diversity_weight={objective.diversity_weight} and feature_penalty_weight="
            f"{objective.feature_penalty_weight}: fairseq2 takes them from its recipe"
        )
        if objective.feature_dropout:
            notes.append(f"feature_dropout={objective.feature_dropout}: fairseq2 has none before its quantizer")
    elif isinstance(model, CtcModel):
        if model.vocabulary.blank != 0:
            notes.append(f"the order of the labels: the blank, label {model.vocabulary.blank} before, comes first")
    else:
        notes.append(
            "an encoder without objective: the quantizer and the projections are new, so pre-training would start those"
            " anew. Fine-tuning does not use them"
        )
    return tuple(notes)


def _expected_codes(quantizer: Any, layers: Mapping[str, Tensor]) -> Tensor:
    """The codebooks' mean under the softmax of the logits `[B, T, Q]`."""
    groups, entries = quantizer.num_codebooks, quantizer.num_codebook_entries
    logits = layers["code logits"]
    weights = logits.view(*logits.shape[:2], groups, entries).softmax(dim=-1)
    codebooks = quantizer.entries.view(groups, entries, -1)
    return torch.einsum("btgv,gvq->btgq", weights, codebooks).flatten(2)
