"""Write a state that torchaudio's `wav2vec2_model` or `wavlm_model` takes, with the arguments to build it."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from speechssl.asr import CtcModel
from speechssl.errors import CheckpointError
from speechssl.interop.card import ModelFacts, kind_of
from speechssl.interop.gate import Layers, Peer, encoder_of
from speechssl.interop.model import Exportable
from speechssl.interop.torchaudio import torchaudio_pairs
from speechssl.interop.torchaudio_files import DESCRIPTION_FILE, MODEL_FILE
from speechssl.interop.weights import export_tensors, linear


def write_torchaudio(model: Exportable, folder: Path, facts: ModelFacts) -> tuple[str, ...]:
    """Write `model.safetensors` and `torchaudio.json`: the factory's name and arguments, and a recognizer's labels.

    Returns:
        What torchaudio has no place for.

    Raises:
        CheckpointError: torchaudio is missing, or has no model that computes this.
    """
    from safetensors.torch import save_file

    config = encoder_of(model).config
    if kind_of(model) == "pretraining":
        raise CheckpointError(
            "torchaudio has no pre-training parts of wav2vec 2.0, so the quantizer has no place; export the encoder"
            " alone"
        )
    check_expressed(model, "torchaudio")
    is_wavlm = config.variant.attention_positions == "gated_bias"
    description: dict[str, Any] = {
        "factory": "wavlm_model" if is_wavlm else "wav2vec2_model",
        "arguments": _arguments(model),
        "sample_rate": config.sample_rate,
        "normalize_waveform": config.normalize_waveform,
    }
    if facts.architecture is not None:
        description["architecture"] = facts.architecture
    if isinstance(model, CtcModel):
        description |= {"labels": list(model.vocabulary.tokens), "blank": model.vocabulary.blank}
    theirs = _build(description)
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    ours = {name: value for name, value in encoder_of(model).state_dict().items() if name != "mask_embedding"}
    pairs = [pair for pair in torchaudio_pairs(config) if pair.ours in ours]
    if isinstance(model, CtcModel):
        ours |= {f"aux.{name}": tensor for name, tensor in model.head.state_dict().items()}
        pairs += linear("aux", "aux")
    save_file({k: v.contiguous() for k, v in export_tensors(pairs, ours, shapes).items()}, folder / MODEL_FILE)
    (folder / DESCRIPTION_FILE).write_text(
        json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return _notes(model)


def check_expressed(model: Exportable, tool: str, *, gated_bias: bool = True) -> None:
    """Refuse what a tool that knows wav2vec 2.0, HuBERT and (with `gated_bias`) WavLM alone does not compute.

    Raises:
        CheckpointError: names all of it.
    """
    config = encoder_of(model).config
    variant = config.variant
    wanted = {"layer": "transformer", "activation": "gelu", "positions": "convolution"}
    attention = ("none", "gated_bias") if gated_bias else ("none",)
    missing = [
        f"variant.{name}={getattr(variant, name)!r}" for name in wanted if getattr(variant, name) != wanted[name]
    ]
    if variant.attention_positions not in attention:
        missing.append(f"variant.attention_positions={variant.attention_positions!r}")
    if config.norm_position == "pre" and not variant.output_norm:
        missing.append("variant.output_norm=False")
    if config.front_end != "waveform":
        missing.insert(0, f"front_end={config.front_end!r}")
    elif not config.latent_norm:
        missing.append("latent_norm=False")
    if missing:
        raise CheckpointError(
            f"{tool} has no encoder with {', '.join(missing)}; it has wav2vec 2.0 and HuBERT on waveforms"
            f"{' and WavLM' if gated_bias else ''}. Export to another format, such as onnx or huggingface"
        )


def torchaudio_peer(folder: Path, model: Exportable) -> tuple[str, Peer]:
    """torchaudio running what was written. Clips are normalized one by one where the model wants that."""
    import torchaudio
    from safetensors.torch import load_file

    description = json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    theirs = _build(description)
    theirs.load_state_dict(load_file(folder / MODEL_FILE))
    theirs.eval()
    is_wavlm = description["factory"] == "wavlm_model"

    @torch.no_grad()
    def run(waveform: Tensor, num_samples: Tensor) -> Layers:
        waveform = waveform.clone()
        if description["normalize_waveform"]:
            for row, length in zip(waveform, num_samples.tolist(), strict=True):
                row[:length] = functional.layer_norm(row[:length], (length,))
        is_padded = bool((num_samples < waveform.shape[1]).any())
        if is_wavlm and is_padded:
            return _wavlm_layers(theirs, waveform, num_samples)
        features, _ = theirs.feature_extractor(waveform, None)
        layers = {"latents": theirs.encoder.feature_projection.layer_norm(features)}
        transformer = theirs.encoder.transformer

        def keep(name: str) -> Any:
            return lambda _module, inputs: layers.update({name: inputs[0]})

        hooks = [layer.register_forward_pre_hook(keep(f"layer {i}")) for i, layer in enumerate(transformer.layers)]
        hooks.append(transformer.register_forward_hook(lambda _m, _i, output: layers.update(context=output)))
        output, _ = theirs(waveform, num_samples if is_padded else None)
        for hook in hooks:
            hook.remove()
        if theirs.aux is not None:
            layers["logits"] = output
        return layers

    return f"torchaudio {torchaudio.__version__}, {description['factory']}", run


def usage(model: Exportable) -> str:
    """How to load the folder."""
    is_ctc, config = isinstance(model, CtcModel), encoder_of(model).config
    normalize = "waveform = torch.nn.functional.layer_norm(waveform, waveform.shape)  # a clip at a time\n"
    run = (
        "logits, _ = model(waveform)  # [1, T, labels]; the labels stand in description\n"
        if is_ctc
        else "layers, _ = model.extract_features(waveform)  # every layer's [1, T, D]\n"
    )
    return (
        "```python\nimport json\n\nimport torch\nimport torchaudio\nfrom safetensors.torch import load_file\n\n"
        f'description = json.load(open("path/of/this/folder/{DESCRIPTION_FILE}"))\n'
        'model = getattr(torchaudio.models, description["factory"])(**description["arguments"]).eval()\n'
        f'model.load_state_dict(load_file("path/of/this/folder/{MODEL_FILE}"))\n'
        f"# waveform: [1, S] at {config.sample_rate} Hz\n"
        f"{normalize if config.normalize_waveform else ''}{run}```\n\n"
        f'With speechssl: `speechssl.load_{"asr" if is_ctc else "encoder"}("path/of/this/folder")`.'
    )


def _build(description: dict[str, Any]) -> Any:
    from torchaudio import models

    return getattr(models, description["factory"])(**description["arguments"])


def _arguments(model: Exportable) -> dict[str, Any]:
    config = encoder_of(model).config
    arguments = {
        "extractor_mode": f"{config.conv_norm}_norm",
        "extractor_conv_layer_config": [(config.conv_dim, *layer) for layer in config.conv_layers],
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.model_dim,
        "encoder_projection_dropout": config.input_dropout,
        "encoder_pos_conv_kernel": config.position_kernel,
        "encoder_pos_conv_groups": config.position_groups,
        "encoder_num_layers": config.num_layers,
        "encoder_num_heads": config.num_heads,
        "encoder_attention_dropout": config.attention_dropout,
        "encoder_ff_interm_features": config.feed_forward_dim,
        "encoder_ff_interm_dropout": config.activation_dropout,
        "encoder_dropout": config.dropout,
        "encoder_layer_norm_first": config.norm_position == "pre",
        "encoder_layer_drop": config.layer_drop,
        "aux_num_out": len(model.vocabulary) if isinstance(model, CtcModel) else None,
    }
    if config.variant.attention_positions == "gated_bias":
        arguments["encoder_num_buckets"] = config.variant.num_buckets
        arguments["encoder_max_distance"] = config.variant.max_distance
    return arguments


def _notes(model: Exportable) -> tuple[str, ...]:
    config = encoder_of(model).config
    notes = ["the mask embedding: torchaudio's encoders hold none, so training with masks starts from a new one"]
    if config.feature_gradient_scale != 1:
        notes.append(
            f"feature_gradient_scale={config.feature_gradient_scale}: torchaudio scales no gradient, which matters to"
            " further training only"
        )
    if config.normalize_waveform:
        notes.append("normalize_waveform: the caller brings each clip to zero mean and unit variance, as above")
    if config.variant.attention_positions == "gated_bias":
        notes.append(
            "padded batches: torchaudio's WavLM takes no lengths, so give it one clip at a time. The gate put its"
            " padded batch through torchaudio's layers with their key_padding_mask"
        )
    if isinstance(model, CtcModel):
        notes.append(f"texts: torchaudio has no tokenizer; {DESCRIPTION_FILE} lists the labels and the blank's index")
    return tuple(notes)


def _wavlm_layers(theirs: Any, waveform: Tensor, num_samples: Tensor) -> Layers:
    """What `Transformer.forward` does, with the mask that it does not hand on."""
    features, num_frames = theirs.feature_extractor(waveform, num_samples)
    layers = {"latents": theirs.encoder.feature_projection.layer_norm(features)}
    x, _ = theirs.encoder._preprocess(features, num_frames)
    transformer = theirs.encoder.transformer
    x, bias = transformer._preprocess(x), None
    padding = torch.arange(x.shape[1])[None, :] >= num_frames[:, None]
    mask = torch.zeros(padding.shape).masked_fill(padding, -torch.inf)
    for i, layer in enumerate(transformer.layers):
        layers[f"layer {i}"] = x
        x, bias = layer(x, None, position_bias=bias, key_padding_mask=mask)
    layers["context"] = x if transformer.layer_norm_first else transformer.layer_norm(x)
    if theirs.aux is not None:
        layers["logits"] = theirs.aux(layers["context"])
    return layers
