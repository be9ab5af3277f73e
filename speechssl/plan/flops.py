"""Floating point operations of a step, by formula: two for each multiply-add of a matrix product or convolution.

What is left out (norms, activations, softmax, Fourier transform, optimizer) is below a few per cent of the operations,
though not of the time. A backward pass costs twice the forward pass, once where the input needs no gradient.

Shapes: B utterances, S samples, T frames, M masked frames, C latent dim, D model dim, G codebooks, V entries,
Q quantized dim, N vocabulary.
"""

from dataclasses import dataclass, replace

from speechssl.encoder import EncoderConfig
from speechssl.lengths import output_length
from speechssl.objectives import ClusterConfig, ContrastiveConfig


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """Operations of one utterance by part, and with the backward pass."""

    front_end: float
    positions: float
    attention: float
    feed_forward: float
    other_context: float
    head: float
    backward: float

    @property
    def forward(self) -> float:
        """All parts."""
        context = self.positions + self.attention + self.feed_forward + self.other_context
        return self.front_end + context + self.head

    @property
    def training(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def encoder_flops(config: EncoderConfig, num_samples: int) -> StepFlops:
    """Operations of encoding `num_samples` samples, and of the encoder's share of a training step.

    LayerDrop skips layers in training, which is taken off. Of the published variants, the conformer's convolution and
    relative positions are left out.
    """
    num_frames = output_length(num_samples, config.strided_layers)
    front_end, front_end_backward = _front_end(config, num_samples)
    dim, hidden = config.model_dim, config.feed_forward_dim
    kept = config.num_layers * (1 - config.layer_drop)
    projection = 2.0 * num_frames * config.latent_dim * dim
    positions = 0.0
    if config.variant.positions != "none":
        layers = config.variant.num_position_layers if config.variant.positions == "stacked_convolution" else 1
        positions = 2.0 * num_frames * config.position_kernel * dim * dim / config.position_groups * layers
    attention = kept * (2.0 * num_frames * dim * 4 * dim + 4.0 * num_frames * num_frames * dim)
    num_feed_forward = 2 if config.variant.layer == "conformer" else 1
    feed_forward = kept * num_feed_forward * 4.0 * num_frames * dim * hidden
    # the projection's input needs a gradient only where the front end learns
    backward = front_end_backward + (2 if front_end_backward else 1) * projection
    backward += 2 * (positions + attention + feed_forward)
    return StepFlops(
        front_end=front_end,
        positions=positions,
        attention=attention,
        feed_forward=feed_forward,
        other_context=projection,
        head=0.0,
        backward=backward,
    )


def step_flops(
    encoder: EncoderConfig,
    num_samples: int,
    *,
    objective: ContrastiveConfig | ClusterConfig | None = None,
    num_labels: int = 0,
) -> StepFlops:
    """Operations of a training step for one utterance: pre-training with `objective`, or CTC over `num_labels`.

    Of masked prediction, `num_labels` are its clusters; what computes its targets is left out.
    """
    base = encoder_flops(encoder, num_samples)
    num_frames = output_length(num_samples, encoder.strided_layers)
    if isinstance(objective, ContrastiveConfig):
        head = contrastive_flops(objective, encoder, masked_frames(objective, num_frames))
    elif objective is not None:
        num_masked = masked_frames(objective, num_frames)
        head = 2.0 * num_masked * objective.final_dim * (encoder.model_dim + num_labels)
    else:
        head = 2.0 * num_frames * encoder.model_dim * num_labels
    return replace(base, head=head, backward=base.backward + 2 * head)


def masked_frames(objective: ContrastiveConfig | ClusterConfig, num_frames: int) -> float:
    """Expected number of masked frames: spans overlap, so .65 masks 49 % with spans of 10."""
    starts = objective.mask_probability / objective.mask_span
    return num_frames * (1 - (1 - starts) ** objective.mask_span)


def contrastive_flops(objective: ContrastiveConfig, encoder: EncoderConfig, num_masked: float) -> float:
    """Forward operations of quantizer, projections and similarities of one utterance; linear in M but for M x M."""
    entries = objective.num_codebooks * objective.num_entries
    logits = 2.0 * num_masked * encoder.latent_dim * entries
    codebook = 2.0 * num_masked * objective.num_entries * objective.quantized_dim
    projections = 2.0 * num_masked * (objective.quantized_dim + encoder.model_dim) * objective.final_dim
    similarities = 2.0 * num_masked * num_masked * objective.final_dim
    return logits + codebook + projections + similarities


def _front_end(config: EncoderConfig, num_samples: int) -> tuple[float, float]:
    """Forward and backward operations."""
    if config.front_end != "waveform":
        windows = output_length(num_samples, config.strided_layers[:1])
        window = config.mel_window_samples
        size = window if config.front_end == "log_mel" else 1 << (window - 1).bit_length()
        return 2.0 * windows * (size // 2 + 1) * config.num_mels, 0.0
    forward, first, length, channels = 0.0, 0.0, num_samples, 1
    for place, (kernel, stride) in enumerate(config.conv_layers):
        length = output_length(length, ((kernel, stride),))
        layer = 2.0 * length * kernel * channels * config.conv_dim
        first = layer if place == 0 else first
        forward, channels = forward + layer, config.conv_dim
    learns = config.feature_gradient_scale > 0
    return forward, (2 * forward - first) if learns else 0.0  # the waveform itself needs no gradient
