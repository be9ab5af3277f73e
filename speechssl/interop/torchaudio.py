"""torchaudio's wav2vec 2.0, HuBERT and WavLM: what their arguments mean, how their tensors are named, and modules."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.encoder import WAV2VEC2_CONV_LAYERS, EncoderConfig
from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop.encoder_names import (
    EncoderNames,
    front_end_pairs,
    gated_bias_pairs,
    position_pairs,
    transformer_pairs,
)
from speechssl.interop.labels import ctc_parts
from speechssl.interop.model import ImportedModel, Origin
from speechssl.interop.weights import Pair, encoder_shapes, import_tensors, linear
from speechssl.nn.context_encoder import ContextVariant

NAMES = EncoderNames(
    latent_norm="encoder.feature_projection.layer_norm",
    projection="encoder.feature_projection.projection",
    mask_embedding="mask_embedding",
    positions="encoder.transformer.pos_conv_embed.conv",
    norm="encoder.transformer.layer_norm",
    layer="encoder.transformer.layers.{i}",
)
_MASK_EMBEDDING = "mask_generator.mask_embedding"
_HEADS = {"logit_generator.": "HuBERT's projection onto its labels has no place here"}
MARK = "encoder.feature_projection.projection.weight"
Arguments = Mapping[str, Any]
"""Of torchaudio's factory functions `wav2vec2_model` and `wavlm_model`."""


def import_torchaudio(
    module: nn.Module,
    *,
    labels: Sequence[str] | None = None,
    blank: int = 0,
    sample_rate: int = 16_000,
    normalize_waveform: bool | None = None,
    source: str = "torchaudio module",
) -> ImportedModel:
    """A `torchaudio.models.Wav2Vec2Model` in our terms, or the one inside of what a bundle's `get_model()` gives or of
    a `HuBERTPretrainModel`.

    Args:
        module: built by `wav2vec2_model`, `wavlm_model` or one of the functions for a published size.
        labels: of the outputs of `aux`, in order; without them the encoder alone comes over.
        blank: index of the CTC blank among them.
        sample_rate: of the audio that it takes, in Hz.
        normalize_waveform: whether waveforms are brought to zero mean and unit variance first. None: what the wrapper
            of a bundle says, else yes for models with a layer norm on every convolution; the latter is noted.
        source: for messages and the record of the origin.

    Raises:
        CheckpointError: another kind of module, or labels that do not fit.
    """
    inner = module
    if normalize_waveform is None and hasattr(module, "normalize_waveform"):
        normalize_waveform = bool(module.normalize_waveform)
    for name in ("model", "wav2vec2"):
        inner = getattr(inner, name, inner)
    kinds = (type(getattr(inner, "feature_extractor", None)).__name__, type(getattr(inner, "encoder", None)).__name__)
    if kinds != ("FeatureExtractor", "Encoder"):
        raise CheckpointError(
            f"{source}: is a {type(module).__name__} of parts {', '.join(kinds)}, but a"
            " torchaudio.models.Wav2Vec2Model of wav2vec2_model, wavlm_model or their like is needed"
        )
    return imported(
        dict(module.state_dict()),
        _arguments_of_module(inner),
        labels=labels,
        blank=blank,
        sample_rate=sample_rate,
        normalize_waveform=normalize_waveform,
        architecture=None,
        source=source,
        notes=[],
    )


def encoder_config(arguments: Arguments, *, sample_rate: int, normalize_waveform: bool) -> EncoderConfig:
    """The encoder that torchaudio's factories build of these arguments.

    Raises:
        ConfigError: torchaudio has parts that have no place here.
    """
    convs = arguments.get("extractor_conv_layer_config") or [(512, *layer) for layer in WAV2VEC2_CONV_LAYERS]
    if len({dim for dim, _, _ in convs}) > 1:
        raise ConfigError(f"convolutions of different widths {convs} have no place here")
    variant = ContextVariant()
    if "encoder_num_buckets" in arguments:
        variant = ContextVariant(
            attention_positions="gated_bias",
            num_buckets=arguments["encoder_num_buckets"],
            max_distance=arguments["encoder_max_distance"],
        )
    return EncoderConfig(
        sample_rate=sample_rate,
        normalize_waveform=normalize_waveform,
        conv_layers=tuple((int(kernel), int(stride)) for _, kernel, stride in convs),
        conv_dim=int(convs[0][0]),
        conv_norm="group" if arguments["extractor_mode"] == "group_norm" else "layer",
        conv_bias=arguments["extractor_conv_bias"],
        feature_gradient_scale=1.0,  # torchaudio scales none
        model_dim=arguments["encoder_embed_dim"],
        num_layers=arguments["encoder_num_layers"],
        num_heads=arguments["encoder_num_heads"],
        feed_forward_dim=arguments["encoder_ff_interm_features"],
        norm_position="pre" if arguments["encoder_layer_norm_first"] else "post",
        position_kernel=arguments["encoder_pos_conv_kernel"],
        position_groups=arguments["encoder_pos_conv_groups"],
        input_dropout=arguments["encoder_projection_dropout"],
        dropout=arguments["encoder_dropout"],
        attention_dropout=arguments["encoder_attention_dropout"],
        activation_dropout=arguments["encoder_ff_interm_dropout"],
        layer_drop=arguments["encoder_layer_drop"],
        variant=variant,
    )


def torchaudio_pairs(config: EncoderConfig) -> list[Pair]:
    """Our encoder's tensors and theirs; ours under `mask_embedding` is theirs of that name, which is no part of a
    `Wav2Vec2Model`.
    """
    pairs = [*front_end_pairs(config, NAMES), *position_pairs(NAMES), *linear("context_encoder.norm", NAMES.norm)]
    layers = transformer_pairs(config, NAMES)
    if config.variant.attention_positions != "gated_bias":
        return pairs + layers
    ours, theirs = "context_encoder.layers.{i}.attention", f"{NAMES.layer}.attention"
    layers = [pair for pair in layers if ".attention.input_projection." not in pair.ours]
    layers = [
        Pair(ours=pair.ours, theirs=pair.theirs.replace("attention.out_proj", "attention.attention.out_proj"))
        for pair in layers
    ]
    for i in range(config.num_layers):
        mine, other = ours.format(i=i), theirs.format(i=i)
        layers += [
            Pair(ours=f"{mine}.input_projection.{kind}", theirs=f"{other}.attention.in_proj_{kind}")
            for kind in ("weight", "bias")
        ]
    return [*pairs, *layers, *gated_bias_pairs(config, theirs)]


def imported(
    tensors: Mapping[str, Tensor],
    arguments: Arguments,
    *,
    labels: Sequence[str] | None,
    blank: int,
    sample_rate: int,
    normalize_waveform: bool | None,
    architecture: str | None,
    source: str,
    notes: list[str],
) -> ImportedModel:
    """The model of a state; see `import_torchaudio`. `notes` are those that came up before.

    Raises:
        CheckpointError: the weights have other parts than `arguments` say, or labels do not fit.
    """
    if normalize_waveform is None:
        normalize_waveform = arguments["extractor_mode"] == "layer_norm"
        notes.append(f"nothing tells whether waveforms are normalized; taken to be {normalize_waveform}")
    try:
        config = encoder_config(arguments, sample_rate=sample_rate, normalize_waveform=normalize_waveform)
    except (ConfigError, KeyError) as error:
        raise CheckpointError(f"{source}: {error}") from None
    inside, outside = split_parts(tensors, source)
    head = {name.removeprefix("aux."): inside.pop(name) for name in ("aux.weight", "aux.bias") if name in inside}
    if _MASK_EMBEDDING in outside:
        inside["mask_embedding"] = outside.pop(_MASK_EMBEDDING)
    else:
        inside["mask_embedding"] = torch.rand(config.model_dim, generator=torch.Generator().manual_seed(0))
        notes.append("torchaudio keeps no mask embedding in its encoders; a random one stands in its place")
    state, left_out = import_tensors(
        torchaudio_pairs(config), {**inside, **outside}, encoder_shapes(config), source=source, unused=_HEADS
    )
    found = ctc_parts(
        head, labels, blank=blank, source=source, remedy="name them: import_torchaudio(module, labels=...)"
    )
    is_wavlm = config.variant.attention_positions == "gated_bias"
    return ImportedModel(
        kind="encoder" if found.vocabulary is None else "ctc",
        origin=Origin(
            format="torchaudio", source=source, architecture=architecture or ("wavlm" if is_wavlm else "wav2vec2")
        ),
        config=config,
        encoder_state=state,
        vocabulary=found.vocabulary,
        head_state=found.state,
        normalizer=found.normalizer,
        no_text=found.no_text,
        notes=(*notes, *left_out, *found.notes),
    )


def split_parts(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of the `Wav2Vec2Model`, and those beside it in a HuBERT with its pre-training parts."""
    prefix = next((name.removesuffix(MARK) for name in tensors if name.endswith(MARK)), None)
    if prefix is None:
        raise CheckpointError(
            f"{source}: no state of a torchaudio.models.Wav2Vec2Model: it has no {MARK}; its tensors begin with"
            f" {', '.join(sorted(tensors)[:3]) or 'nothing'}"
        )
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    outer = prefix.removesuffix("wav2vec2.")
    outside = {name.removeprefix(outer): tensor for name, tensor in tensors.items() if not name.startswith(prefix)}
    return inside, outside


def _arguments_of_module(module: Any) -> dict[str, Any]:
    convs = module.feature_extractor.conv_layers
    projection, transformer = module.encoder.feature_projection, module.encoder.transformer
    layer = transformer.layers[0]
    arguments = {
        "extractor_mode": "group_norm" if isinstance(convs[0].layer_norm, nn.GroupNorm) else "layer_norm",
        "extractor_conv_layer_config": [
            (part.conv.out_channels, part.conv.kernel_size[0], part.conv.stride[0]) for part in convs
        ],
        "extractor_conv_bias": convs[0].conv.bias is not None,
        "encoder_embed_dim": projection.projection.out_features,
        "encoder_projection_dropout": projection.dropout.p,
        "encoder_pos_conv_kernel": transformer.pos_conv_embed.kernel_size,
        "encoder_pos_conv_groups": transformer.pos_conv_embed.conv.groups,
        "encoder_num_layers": len(transformer.layers),
        "encoder_num_heads": layer.attention.num_heads,
        "encoder_attention_dropout": layer.attention.dropout,
        "encoder_ff_interm_features": layer.feed_forward.intermediate_dense.out_features,
        "encoder_ff_interm_dropout": layer.feed_forward.intermediate_dropout.p,
        "encoder_dropout": transformer.dropout.p,
        "encoder_layer_norm_first": layer.layer_norm_first,
        "encoder_layer_drop": transformer.layer_drop,
    }
    if hasattr(layer.attention, "gru_rel_pos_const"):
        arguments["encoder_num_buckets"] = layer.attention.num_buckets
        arguments["encoder_max_distance"] = layer.attention.max_distance
    return arguments
