"""What padding does, for both norm styles: a clip padded in a batch, and the same clip alone, here and at the peers.

`masked` (the default) keeps padding out; `included` computes what the peers compute.
"""

import pytest
import torch
from torch import Tensor

from speechssl.encoder import SpeechEncoder
from tests.parity.models import LENGTHS, STYLES, our_encoder, waveforms
from tests.parity.table import Measured
from tests.parity.test_encoder import PEERS

NORMS = {"base": "group norm", "large": "layer norm"}
ROUNDING = 1e-5  # relative, fp32


def alone(encoder: SpeechEncoder, waveform: Tensor) -> list[Tensor]:
    """The context `[T, D]` of every clip in a batch of its own."""
    return [
        encoder(row[None, :length], torch.tensor([length])).context[0]
        for row, length in zip(waveform, LENGTHS, strict=True)
    ]


def worst(one: list[Tensor], other: list[Tensor]) -> float:
    """The largest relative difference of a clip; what `one` holds beyond the clip's frames is left out."""
    return max(float((a[: len(b)] - b).norm() / b.norm()) for a, b in zip(one, other, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("conv_padding", ["masked", "included"])
def test_a_clip_padded_and_alone(conv_padding: str, style: str, measured: Measured) -> None:
    """Two seconds of silence behind the shortest clip, and by default noise just as well."""
    encoder = our_encoder(style, conv_padding=conv_padding)
    waveform, num_samples = waveforms()
    expected = alone(encoder, waveform)
    row, column = f"{NORMS[style]}, `{conv_padding}`", "padded against alone"
    longer = torch.nn.functional.pad(waveform, (0, 32_000))
    difference = worst(list(encoder(longer, num_samples).context), expected)
    measured(row, column, difference)
    if conv_padding == "included" and style == "base":
        assert difference > 0.1  # what users of the peers complain of
        return
    assert difference < ROUNDING
    if conv_padding == "masked":
        noisy = torch.where(torch.arange(longer.shape[1]) < num_samples[:, None], longer, torch.randn_like(longer))
        noise = worst(list(encoder(noisy, num_samples).context), expected)
        assert noise < ROUNDING
        measured(row, column, noise)


@torch.no_grad()
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("conv_padding", ["masked", "included"])
def test_a_clip_alone_is_the_peers_either_way(conv_padding: str, style: str, peer: str, measured: Measured) -> None:
    encoder = our_encoder(style, conv_padding=conv_padding)
    make, run = PEERS[peer]
    model = make(encoder, style)
    waveform, _ = waveforms()
    theirs = [
        run(model, row[None, :length], torch.tensor([length]))[0][0]
        for row, length in zip(waveform, LENGTHS, strict=True)
    ]
    difference = worst(theirs, alone(encoder, waveform))
    assert difference < ROUNDING
    measured(f"{NORMS[style]}, `{conv_padding}`", "alone against the peers", difference)


@torch.no_grad()
@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize(("style", "conv_padding"), [("base", "included"), ("large", "included"), ("large", "masked")])
def test_a_padded_clip_is_the_peers_where_padding_is_included(
    style: str, conv_padding: str, peer: str, measured: Measured
) -> None:
    """With layer norms nothing of the padding gets in, so that `masked` is the peers' as well."""
    encoder = our_encoder(style, conv_padding=conv_padding)
    make, run = PEERS[peer]
    waveform, num_samples = waveforms()
    ours = encoder(waveform, num_samples)
    theirs, _ = run(make(encoder, style), waveform, num_samples)
    expected = [row[:count] for row, count in zip(ours.context, ours.num_frames.tolist(), strict=True)]
    difference = worst(list(theirs), expected)
    assert difference < ROUNDING
    measured(f"{NORMS[style]}, `{conv_padding}`", "padded against the peers", difference)
