"""Tiny models of both published styles, ours and the peers', with the same shape and no dropout.

BASE style: group norm over time, no conv bias, post-norm. LARGE style (large-lv60): layer norm on every convolution,
bias, pre-norm ("stable layer norm").
"""

from typing import Any

import torch
from torch import Tensor, nn

from speechssl.encoder import EncoderConfig, SpeechEncoder
from tests.parity.weights import randomize

CONV_DIM, MODEL_DIM, NUM_LAYERS, NUM_HEADS, FEED_FORWARD_DIM = 24, 32, 3, 4, 56
POSITION_KERNEL, POSITION_GROUPS = 16, 4
STYLES = ("base", "large")
LENGTHS = [7000, 5200, 3333]  # samples; 21, 16 and 10 frames


def our_encoder(style: str, **overrides: Any) -> SpeechEncoder:
    """Ours, with noise on every weight."""
    config = EncoderConfig(
        conv_dim=CONV_DIM, conv_norm="group" if style == "base" else "layer", conv_bias=style == "large",
        model_dim=MODEL_DIM, num_layers=NUM_LAYERS, num_heads=NUM_HEADS, feed_forward_dim=FEED_FORWARD_DIM,
        norm_position="post" if style == "base" else "pre", position_kernel=POSITION_KERNEL,
        position_groups=POSITION_GROUPS, input_dropout=0.0, dropout=0.0, attention_dropout=0.0, layer_drop=0.0,
        **overrides,
    )  # fmt: skip
    encoder = SpeechEncoder(config, seed=1).eval()
    randomize(encoder, seed=2)
    return encoder


def transformers_config(style: str, **overrides: Any) -> Any:
    """The same for `transformers`."""
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(
        hidden_size=MODEL_DIM, num_hidden_layers=NUM_LAYERS, num_attention_heads=NUM_HEADS,
        intermediate_size=FEED_FORWARD_DIM, conv_dim=(CONV_DIM,) * 7, conv_bias=style == "large",
        feat_extract_norm="group" if style == "base" else "layer", do_stable_layer_norm=style == "large",
        num_conv_pos_embeddings=POSITION_KERNEL, num_conv_pos_embedding_groups=POSITION_GROUPS, hidden_dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, feat_quantizer_dropout=0.0,
        final_dropout=0.0, layerdrop=0.0, mask_time_prob=0.05, mask_feature_prob=0.0, attn_implementation="eager",
        **overrides,
    )  # fmt: skip


def fairseq2_config(style: str) -> Any:
    """The same for fairseq2; soundfile comes first because its wheel carries the libsndfile that fairseq2 needs."""
    import soundfile  # noqa: F401
    from fairseq2.models.transformer import TransformerNormOrder
    from fairseq2.models.wav2vec2 import Wav2Vec2Config, Wav2Vec2EncoderConfig

    large = style == "large"
    encoder_config = Wav2Vec2EncoderConfig(
        model_dim=MODEL_DIM, feature_dim=CONV_DIM, layer_norm_features=not large,
        feature_extractor_layer_descs=[(CONV_DIM, 10, 5)] + [(CONV_DIM, 3, 2)] * 4 + [(CONV_DIM, 2, 2)] * 2,
        feature_extractor_bias=large, feature_extractor_layer_norm_convs=large, pos_conv_kernel_size=POSITION_KERNEL,
        num_pos_conv_groups=POSITION_GROUPS, num_encoder_layers=NUM_LAYERS, num_encoder_attn_heads=NUM_HEADS,
        ffn_inner_dim=FEED_FORWARD_DIM, dropout_p=0.0, attn_dropout_p=0.0, layer_drop_p=0.0,
        norm_order=TransformerNormOrder.PRE if large else TransformerNormOrder.POST,
    )  # fmt: skip
    return Wav2Vec2Config(encoder_config=encoder_config)


def waveforms(
    lengths: list[int] = LENGTHS, *, seed: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Noise `[B, S]` with zeros in the padding, and num_samples `[B]`."""
    generator = torch.Generator().manual_seed(seed)
    waveform = torch.randn(len(lengths), max(lengths), generator=generator).to(dtype)
    num_samples = torch.tensor(lengths)
    waveform[torch.arange(max(lengths))[None, :] >= num_samples[:, None]] = 0
    return waveform, num_samples


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|."""
    return float(((ours - theirs).norm() / theirs.norm()).detach())


def hidden_outputs(layers: nn.ModuleList) -> list[Tensor]:
    """A list that a forward pass fills with every layer's output."""
    outputs: list[Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    return outputs


def hidden_states(output: Any) -> list[Tensor]:
    """A peer's hidden states, the last of which is the context; transformers 5 gives it before the last norm."""
    return [*output.hidden_states[:-1], output.last_hidden_state]
