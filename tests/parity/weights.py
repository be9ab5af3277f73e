"""Which parameter of a peer is which of ours, to copy weights and to compare gradients.

A correspondence is a list of `Pair`s that covers every parameter on both sides exactly once; `check_complete` says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechssl.encoder import SpeechEncoder
from speechssl.objectives import ContrastiveObjective


@dataclass(frozen=True)
class Pair:
    """`ours[rows]` (all of it when rows is None) is the peer's parameter `theirs`, up to its shape."""

    name: str
    ours: nn.Parameter
    theirs: nn.Parameter
    rows: slice | None = None

    def _part(self, tensor: Tensor) -> Tensor:
        part = tensor if self.rows is None else tensor[self.rows]
        return part.reshape(self.theirs.shape)

    @property
    def value(self) -> Tensor:
        """Our value, in the peer's shape."""
        return self._part(self.ours.detach())

    @property
    def gradient(self) -> Tensor:
        """Our gradient, in the peer's shape; zeros where none flowed."""
        return self._part(torch.zeros_like(self.ours) if self.ours.grad is None else self.ours.grad)

    @property
    def their_gradient(self) -> Tensor:
        """The peer's gradient; zeros where none flowed."""
        return torch.zeros_like(self.theirs) if self.theirs.grad is None else self.theirs.grad


def modules(name: str, ours: nn.Module, theirs: nn.Module) -> Iterator[Pair]:
    """Weight and bias of two layers of one kind."""
    for parameter_name, parameter in theirs.named_parameters(recurse=False):
        yield Pair(f"{name}.{parameter_name}", getattr(ours, parameter_name), parameter)


def attention(name: str, ours: nn.Module, query: nn.Module, key: nn.Module, value: nn.Module) -> Iterator[Pair]:
    """Our joint input projection, whose rows are query, key and value, and the peer's three layers."""
    for place, theirs in enumerate((query, key, value)):
        for parameter_name, parameter in theirs.named_parameters(recurse=False):
            dim = parameter.shape[0]
            rows = slice(place * dim, (place + 1) * dim)
            yield Pair(f"{name}.{place}.{parameter_name}", getattr(ours, parameter_name), parameter, rows)


def positional_convolution(ours: nn.Module, theirs: nn.Module) -> Iterator[Pair]:
    """The weight-normalized convolution, in torch's old or new form."""
    if hasattr(theirs, "parametrizations"):
        magnitude, direction = theirs.parametrizations.weight.original0, theirs.parametrizations.weight.original1
    else:
        magnitude, direction = theirs.weight_g, theirs.weight_v
    yield Pair("positions.magnitude", ours.magnitude, magnitude)
    yield Pair("positions.direction", ours.direction, direction)
    yield Pair("positions.bias", ours.bias, theirs.bias)


def transformers_encoder(ours: SpeechEncoder, theirs: nn.Module) -> Iterator[Pair]:
    """`transformers.Wav2Vec2Model`."""
    for index, (conv, peer) in enumerate(
        zip(ours.feature_encoder.convs, theirs.feature_extractor.conv_layers, strict=True)
    ):
        yield from modules(f"convs.{index}", conv, peer.conv)
        if hasattr(peer, "layer_norm"):
            yield from modules(f"conv_norms.{index}", ours.feature_encoder.norms[index], peer.layer_norm)
    yield from modules("latent_norm", ours.latent_norm, theirs.feature_projection.layer_norm)
    yield from modules("projection", ours.projection, theirs.feature_projection.projection)
    yield Pair("mask_embedding", ours.mask_embedding, theirs.masked_spec_embed)
    yield from positional_convolution(ours.context_encoder.positions, theirs.encoder.pos_conv_embed.conv)
    yield from modules("norm", ours.context_encoder.norm, theirs.encoder.layer_norm)
    yield from _layers_as_in_transformers(ours, theirs.encoder.layers)


def torchaudio_encoder(ours: SpeechEncoder, theirs: nn.Module) -> Iterator[Pair]:
    """`torchaudio.models.Wav2Vec2Model`, which has no mask embedding."""
    for index, (conv, peer) in enumerate(
        zip(ours.feature_encoder.convs, theirs.feature_extractor.conv_layers, strict=True)
    ):
        yield from modules(f"convs.{index}", conv, peer.conv)
        if peer.layer_norm is not None:
            yield from modules(f"conv_norms.{index}", ours.feature_encoder.norms[index], peer.layer_norm)
    yield from modules("latent_norm", ours.latent_norm, theirs.encoder.feature_projection.layer_norm)
    yield from modules("projection", ours.projection, theirs.encoder.feature_projection.projection)
    transformer = theirs.encoder.transformer
    yield from positional_convolution(ours.context_encoder.positions, transformer.pos_conv_embed.conv)
    yield from modules("norm", ours.context_encoder.norm, transformer.layer_norm)
    yield from _layers_as_in_transformers(ours, transformer.layers)


def _layers_as_in_transformers(ours: SpeechEncoder, layers: nn.ModuleList) -> Iterator[Pair]:
    for index, (layer, peer) in enumerate(zip(ours.context_encoder.layers, layers, strict=True)):
        name = f"layers.{index}"
        heads = peer.attention
        yield from attention(
            f"{name}.attention", layer.attention.input_projection, heads.q_proj, heads.k_proj, heads.v_proj
        )
        yield from modules(f"{name}.attention.output", layer.attention.output_projection, heads.out_proj)
        yield from modules(f"{name}.attention_norm", layer.attention_norm, peer.layer_norm)
        yield from modules(f"{name}.expand", layer.feed_forward.expand, peer.feed_forward.intermediate_dense)
        yield from modules(f"{name}.contract", layer.feed_forward.contract, peer.feed_forward.output_dense)
        yield from modules(f"{name}.feed_forward_norm", layer.feed_forward_norm, peer.final_layer_norm)


def fairseq2_encoder(ours: SpeechEncoder, frontend: nn.Module, encoder: nn.Module, masker: nn.Module) -> Iterator[Pair]:
    """The parts of `fairseq2.models.wav2vec2.Wav2Vec2Model` that make the encoder."""
    for index, (conv, peer) in enumerate(
        zip(ours.feature_encoder.convs, frontend.feature_extractor.layers, strict=True)
    ):
        yield from modules(f"convs.{index}", conv, peer.conv)
        norm = peer.layer_norm if peer.layer_norm is not None else peer.group_norm
        if norm is not None:
            yield from modules(f"conv_norms.{index}", ours.feature_encoder.norms[index], norm)
    yield from modules("latent_norm", ours.latent_norm, frontend.post_extract_layer_norm)
    yield from modules("projection", ours.projection, frontend.model_dim_proj)
    yield Pair("mask_embedding", ours.mask_embedding, masker.temporal_mask_embed)
    yield from positional_convolution(ours.context_encoder.positions, frontend.pos_encoder.conv)
    norm = encoder.layer_norm if frontend.layer_norm is None else frontend.layer_norm
    yield from modules("norm", ours.context_encoder.norm, norm)
    for index, (layer, peer) in enumerate(zip(ours.context_encoder.layers, encoder.layers, strict=True)):
        name = f"layers.{index}"
        heads = peer.self_attn
        yield from attention(
            f"{name}.attention", layer.attention.input_projection, heads.q_proj, heads.k_proj, heads.v_proj
        )
        yield from modules(f"{name}.attention.output", layer.attention.output_projection, heads.output_proj)
        yield from modules(f"{name}.attention_norm", layer.attention_norm, peer.self_attn_layer_norm)
        yield from modules(f"{name}.expand", layer.feed_forward.expand, peer.ffn.inner_proj)
        yield from modules(f"{name}.contract", layer.feed_forward.contract, peer.ffn.output_proj)
        yield from modules(f"{name}.feed_forward_norm", layer.feed_forward_norm, peer.ffn_layer_norm)


def transformers_pretraining(
    encoder: SpeechEncoder, objective: ContrastiveObjective, theirs: nn.Module
) -> Iterator[Pair]:
    """`transformers.Wav2Vec2ForPreTraining`."""
    yield from transformers_encoder(encoder, theirs.wav2vec2)
    yield from modules("quantizer.logits", objective.quantizer.logits, theirs.quantizer.weight_proj)
    yield Pair("quantizer.codebooks", objective.quantizer.codebooks, theirs.quantizer.codevectors)
    yield from modules("target_projection", objective.target_projection, theirs.project_q)
    yield from modules("context_projection", objective.context_projection, theirs.project_hid)


def fairseq2_pretraining(encoder: SpeechEncoder, objective: ContrastiveObjective, theirs: nn.Module) -> Iterator[Pair]:
    """`fairseq2.models.wav2vec2.Wav2Vec2Model`."""
    yield from fairseq2_encoder(encoder, theirs.encoder_frontend, theirs.encoder, theirs.masker)
    yield from modules("quantizer.logits", objective.quantizer.logits, theirs.quantizer.entry_proj)
    yield Pair("quantizer.codebooks", objective.quantizer.codebooks, theirs.quantizer.entries)
    yield from modules("target_projection", objective.target_projection, theirs.final_target_proj)
    yield from modules("context_projection", objective.context_projection, theirs.final_proj)


def copy_weights(pairs: list[Pair]) -> None:
    """Our weights into the peer."""
    with torch.no_grad():
        for pair in pairs:
            pair.theirs.copy_(pair.value)


def check_complete(pairs: list[Pair], ours: list[nn.Module], theirs: nn.Module, *, except_ours: set[str]) -> None:
    """Every parameter on either side is in exactly one pair (ours by rows), but for those named in `except_ours`."""
    seen = [id(pair.theirs) for pair in pairs]
    assert sorted(seen) == sorted(id(parameter) for parameter in theirs.parameters())
    counted: dict[int, int] = {}
    for pair in pairs:
        counted[id(pair.ours)] = counted.get(id(pair.ours), 0) + pair.theirs.numel()
    for module in ours:
        for name, parameter in module.named_parameters():
            assert name in except_ours or counted.get(id(parameter)) == parameter.numel(), name


def randomize(module: nn.Module, *, seed: int) -> None:
    """Noise on every parameter: a fresh norm has weight 1 and bias 0, which would hide one that is left out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((0.1 * noise).to(parameter.dtype))
