"""With the same weights, batch and labels, the CTC loss and every gradient are those of transformers and fairseq2.

Both peers take the log-softmax in fp32 whatever the model's precision; here it is taken in float64, and nothing else of
theirs is changed. They sum over labels (transformers by `ctc_loss_reduction="sum"`) where we take the mean, so their
values are divided by the number of labels.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from speechssl.asr import CtcModel
from speechssl.ctc import ctc_loss
from speechssl.text import Vocabulary
from tests.parity.models import STYLES, fairseq2_config, our_encoder, relative_error, transformers_config, waveforms
from tests.parity.table import Measured
from tests.parity.weights import (
    Pair,
    check_complete,
    copy_weights,
    fairseq2_encoder,
    modules,
    randomize,
    transformers_encoder,
)

LENGTHS = [7000, 5200, 3333]
VOCABULARY = Vocabulary.from_texts(["abc abba"])
TEXTS = ("abba c", "cab", "bb")  # repeated labels need a blank between

Losses = tuple[Tensor, Tensor, list[Pair]]
"""Summed loss, logits `[B, T, N]`, correspondence."""


def log_softmax_in_double(logits: Tensor, dim: int = -1, dtype: torch.dtype | None = None) -> Tensor:
    return torch.log_softmax(logits.double(), dim=dim)


def labels() -> tuple[Tensor, Tensor]:
    """Targets `[B, L]` with zeros behind, and their lengths `[B]`."""
    rows = [torch.tensor(VOCABULARY.encode(text)) for text in TEXTS]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def transformers_losses(model: CtcModel, style: str, monkeypatch: pytest.MonkeyPatch) -> Losses:
    from transformers import Wav2Vec2ForCTC

    monkeypatch.setattr(nn.functional, "log_softmax", log_softmax_in_double)
    config = transformers_config(style, vocab_size=len(VOCABULARY), ctc_loss_reduction="sum", pad_token_id=0)
    peer = Wav2Vec2ForCTC(config).double().eval()
    pairs = [*transformers_encoder(model.encoder, peer.wav2vec2), *modules("head", model.head, peer.lm_head)]
    check_complete(pairs, [model], peer, except_ours=set())
    copy_weights(pairs)
    waveform, num_samples = waveforms(LENGTHS, dtype=torch.float64)
    targets, lengths = labels()
    theirs = targets.masked_fill(torch.arange(targets.shape[1]) >= lengths[:, None], -100)
    mask = (torch.arange(waveform.shape[1]) < num_samples[:, None]).long()
    output = peer(waveform, attention_mask=mask, labels=theirs)
    return output.loss, output.logits, pairs


def fairseq2_losses(model: CtcModel, style: str, monkeypatch: pytest.MonkeyPatch) -> Losses:
    encoder_config = fairseq2_config(style).encoder_config
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model
    from fairseq2.models.wav2vec2.asr import model as their_module
    from fairseq2.nn import BatchLayout

    monkeypatch.setattr(their_module, "log_softmax", log_softmax_in_double)
    encoder_config.feature_grad_scale = model.encoder.config.feature_gradient_scale
    config = Wav2Vec2AsrConfig(
        encoder_config=encoder_config, target_vocab_size=len(VOCABULARY), final_dropout_p=0.0, use_masking=True
    )
    peer = create_wav2vec2_asr_model(config).double().eval()
    pairs = [
        *fairseq2_encoder(model.encoder, peer.encoder_frontend, peer.encoder, peer.masker),
        *modules("head", model.head, peer.final_proj),
    ]
    check_complete(pairs, [model], peer, except_ours=set())
    copy_weights(pairs)
    peer.encoder_frontend.train()  # or it scales no gradient; there is no dropout, and masks come with the whole model
    waveform, num_samples = waveforms(LENGTHS, dtype=torch.float64)
    targets, lengths = labels()
    loss, logits, _ = peer(
        waveform, BatchLayout.of(waveform, num_samples.tolist()), targets, BatchLayout.of(targets, lengths.tolist()),
        return_logits=True,
    )  # fmt: skip
    return loss, logits, pairs


PEERS: dict[str, tuple[Callable[[CtcModel, str, pytest.MonkeyPatch], Losses], float]] = {
    "transformers": (transformers_losses, 1.0),  # it has no gradient scale
    "fairseq2": (fairseq2_losses, 0.1),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("peer", PEERS)
def test_ctc_loss_and_every_gradient_are_the_peers(
    peer: str, style: str, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    losses, gradient_scale = PEERS[peer]
    encoder = our_encoder(style, feature_gradient_scale=gradient_scale, conv_padding="included")
    model = CtcModel(encoder, VOCABULARY, normalizer="none").double().eval()
    randomize(model.head, seed=9)
    targets, lengths = labels()
    ours = model(*waveforms(LENGTHS, dtype=torch.float64))
    loss = ctc_loss(ours.logits, ours.num_frames, targets, lengths)
    loss.backward()
    summed, logits, pairs = losses(model, style, monkeypatch)
    (summed / lengths.sum()).backward()

    for row, count in enumerate(ours.num_frames.tolist()):
        assert relative_error(ours.logits[row, :count], logits[row, :count]) < 1e-12
    assert float(loss.detach()) == pytest.approx(float(summed.detach() / lengths.sum()), rel=1e-12)
    whole = torch.cat([pair.their_gradient.flatten() for pair in pairs])
    for pair in pairs:
        # a key's bias shifts all scores of a query alike and so has no gradient but rounding errors
        difference = (pair.gradient - pair.their_gradient).norm()
        assert difference < 1e-10 * (pair.their_gradient.norm() + 1e-3 * whole.norm()), pair.name
    measured(f"CTC loss, {peer}", "loss", abs(float(loss.detach() * lengths.sum() / summed.detach()) - 1), "fp64")
    gradients = torch.cat([pair.gradient.flatten() for pair in pairs])
    measured(f"CTC loss, {peer}", "gradients", relative_error(gradients, whole), "fp64")
