"""With the same weights the encoder computes what transformers, fairseq2 and torchaudio compute, layer by layer."""

import pytest
import torch
from torch import Tensor, nn

from speechssl.encoder import SpeechEncoder
from speechssl.types import EncoderOutput
from tests.parity.models import (
    LENGTHS,
    STYLES,
    fairseq2_config,
    hidden_outputs,
    hidden_states,
    our_encoder,
    relative_error,
    transformers_config,
    waveforms,
)
from tests.parity.weights import (
    Pair,
    check_complete,
    copy_weights,
    fairseq2_encoder,
    torchaudio_encoder,
    transformers_encoder,
)

EQUAL = [6000, 6000]
FP32, FP64 = 1e-5, 1e-12


def transformers_peer(encoder: SpeechEncoder, style: str) -> nn.Module:
    from transformers import Wav2Vec2Model

    peer = Wav2Vec2Model(transformers_config(style)).eval()
    pairs = list(transformers_encoder(encoder, peer))
    return copied(pairs, encoder, peer, except_ours=set())


def torchaudio_peer(encoder: SpeechEncoder, style: str) -> nn.Module:
    from torchaudio.models import wav2vec2_model

    config = encoder.config
    peer = wav2vec2_model(
        extractor_mode="group_norm" if style == "base" else "layer_norm",
        extractor_conv_layer_config=[(config.conv_dim, kernel, stride) for kernel, stride in config.conv_layers],
        extractor_conv_bias=config.conv_bias, encoder_embed_dim=config.model_dim, encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=config.position_kernel, encoder_pos_conv_groups=config.position_groups,
        encoder_num_layers=config.num_layers, encoder_num_heads=config.num_heads, encoder_attention_dropout=0.0,
        encoder_ff_interm_features=config.feed_forward_dim, encoder_ff_interm_dropout=0.0, encoder_dropout=0.0,
        encoder_layer_norm_first=style == "large", encoder_layer_drop=0.0, aux_num_out=None,
    ).eval()  # fmt: skip
    pairs = list(torchaudio_encoder(encoder, peer))
    return copied(pairs, encoder, peer, except_ours={"mask_embedding"})


def fairseq2_peer(encoder: SpeechEncoder, style: str) -> nn.Module:
    config = fairseq2_config(style)
    from fairseq2.models.wav2vec2 import create_wav2vec2_model

    whole = create_wav2vec2_model(config).eval()
    peer = nn.ModuleDict({"frontend": whole.encoder_frontend, "encoder": whole.encoder, "masker": whole.masker})
    pairs = list(fairseq2_encoder(encoder, whole.encoder_frontend, whole.encoder, whole.masker))
    return copied(pairs, encoder, peer, except_ours=set())


def copied(pairs: list[Pair], encoder: SpeechEncoder, peer: nn.Module, *, except_ours: set[str]) -> nn.Module:
    check_complete(pairs, [encoder], peer, except_ours=except_ours)
    copy_weights(pairs)
    return peer


def transformers_outputs(peer: nn.Module, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, list[Tensor]]:
    mask = torch.arange(waveform.shape[1])[None, :] < num_samples[:, None]
    output = peer(waveform, attention_mask=mask.long(), output_hidden_states=True)
    return output.last_hidden_state, hidden_states(output)


def torchaudio_outputs(peer: nn.Module, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, list[Tensor]]:
    context, _ = peer(waveform, num_samples)
    layers, _ = peer.extract_features(waveform, num_samples)
    return context, layers


def fairseq2_outputs(peer: nn.Module, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, list[Tensor]]:
    from fairseq2.nn import BatchLayout

    layers = hidden_outputs(peer["encoder"].layers)
    seqs, layout = peer["frontend"](waveform, BatchLayout.of(waveform, num_samples.tolist()))
    return peer["encoder"](seqs, layout), [seqs, *layers]


PEERS = {
    "transformers": (transformers_peer, transformers_outputs),
    "fairseq2": (fairseq2_peer, fairseq2_outputs),
    "torchaudio": (torchaudio_peer, torchaudio_outputs),
}


@torch.no_grad()
def compare(peer_name: str, encoder: SpeechEncoder, style: str, batch: tuple[Tensor, Tensor], tolerance: float) -> None:
    make, run = PEERS[peer_name]
    waveform, num_samples = batch
    peer = make(encoder, style).to(waveform.dtype)
    encoder = encoder.to(waveform.dtype)
    ours = encoder(waveform, num_samples, layers=True)
    context, layers = run(peer, waveform, num_samples)
    assert valid(ours, ours.context).dtype == context.dtype == waveform.dtype
    assert relative_error(valid(ours, ours.context), valid(ours, context)) < tolerance
    assert ours.layers is not None
    # torchaudio does not give the transformer's input; transformers norms the last pre-norm layer's output already
    own = ours.layers[len(ours.layers) - len(layers) :]
    if peer_name == "transformers" and style == "large":
        own = [*own[:-1], ours.context]
    errors = [relative_error(valid(ours, a), valid(ours, b)) for a, b in zip(own, layers, strict=True)]
    assert max(errors) < tolerance, errors


def valid(output: EncoderOutput, frames: Tensor) -> Tensor:
    return torch.cat([row[:count] for row, count in zip(frames, output.num_frames.tolist(), strict=True)])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("lengths", [EQUAL, LENGTHS], ids=["equal", "padded"])
def test_every_layer_is_the_peers(peer: str, style: str, lengths: list[int]) -> None:
    """Padded input: the peers let padding into the group norm's statistics, which is our `conv_padding="included"`."""
    compare(peer, our_encoder(style, conv_padding="included"), style, waveforms(lengths), FP32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("peer", PEERS)
def test_every_layer_is_the_peers_in_double_precision(peer: str, style: str) -> None:
    batch = waveforms(LENGTHS, dtype=torch.float64)
    compare(peer, our_encoder(style, conv_padding="included"), style, batch, FP64)


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_masked_statistics_give_the_peers_result_for_each_clip_alone(style: str) -> None:
    encoder = our_encoder(style)
    assert encoder.config.conv_padding == "masked"
    peer = transformers_peer(encoder, style)
    waveform, num_samples = waveforms()
    ours = encoder(waveform, num_samples)
    for row, (length, count) in enumerate(zip(LENGTHS, ours.num_frames.tolist(), strict=True)):
        alone = peer(waveform[row : row + 1, :length]).last_hidden_state[0]
        assert alone.shape[0] == count
        assert relative_error(ours.context[row, :count], alone) < FP32


@torch.no_grad()
def test_the_peers_base_depends_on_padding_and_ours_does_not() -> None:
    """The most reported complaint of the field, and why `conv_padding` has two values."""
    encoder = our_encoder("base")
    peer = transformers_peer(encoder, "base")
    waveform, num_samples = waveforms([7000, 1500])
    alone = peer(waveform[1:, :1500]).last_hidden_state[0]
    theirs, _ = transformers_outputs(peer, waveform, num_samples)
    assert relative_error(theirs[1, : len(alone)], alone) > 0.1
    assert relative_error(encoder(waveform, num_samples).context[1, : len(alone)], alone) < FP32


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_masked_frames_are_replaced_where_transformers_replaces_them(style: str) -> None:
    encoder = our_encoder(style)
    peer = transformers_peer(encoder, style)
    waveform, num_samples = waveforms(EQUAL)
    latents = encoder.extract_latents(waveform, num_samples)
    frame_mask = torch.rand(latents.latents.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.4
    ours = encoder.contextualize(latents.normalized, latents.num_frames, frame_mask=frame_mask).context
    theirs = peer(waveform, mask_time_indices=frame_mask).last_hidden_state
    assert relative_error(ours, theirs) < FP32


@pytest.mark.parametrize("preset", ["base", "large"])
def test_presets_have_the_published_shape(preset: str) -> None:
    """Parameter by parameter that of transformers' published configurations, and so the published counts.

    The papers' "95 M" and "317 M" count the quantizer and projections of pre-training as well.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from speechssl.encoder import encoder_config

    base = Wav2Vec2Config()
    large = Wav2Vec2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096, conv_bias=True,
        feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    with torch.device("meta"):
        peer = Wav2Vec2Model(base if preset == "base" else large)
        ours = SpeechEncoder(encoder_config(preset))
    pairs = list(transformers_encoder(ours, peer))
    check_complete(pairs, [ours], peer, except_ours=set())
    count = sum(parameter.numel() for parameter in ours.parameters())
    assert count == sum(parameter.numel() for parameter in peer.parameters())
    assert count == {"base": 94_371_712, "large": 315_438_720}[preset]
