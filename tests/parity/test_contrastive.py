"""With the same weights, mask, distractors and Gumbel noise, loss and gradients are those of transformers and fairseq2.

The peers sum over masked frames where we take the mean, so their values are divided by the number of masked frames.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.encoder import SpeechEncoder
from speechssl.nn.masking import masked_positions, sample_distractors
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from speechssl.objectives.contrastive import ContrastiveDraws, ContrastiveTerms
from speechssl.types import AudioBatch
from tests.parity.models import STYLES, fairseq2_config, our_encoder, relative_error, transformers_config, waveforms
from tests.parity.table import Measured
from tests.parity.weights import (
    Pair,
    check_complete,
    copy_weights,
    fairseq2_pretraining,
    randomize,
    transformers_pretraining,
)

# few entries, so that many distractors share the target's code and have to be excluded
CODEBOOKS, ENTRIES, QUANTIZED_DIM, FINAL_DIM, DISTRACTORS = 2, 4, 12, 20, 7
EQUAL, PADDED = [7000, 7000], [7000, 5200, 3333]
MASKED_PER_ROW = 9
TEMPERATURE_STEP = 0  # of the Gumbel softmax: 2.0 on all sides


@dataclass
class Case:
    """One batch and everything random about it."""

    encoder: SpeechEncoder
    objective: ContrastiveObjective
    batch: AudioBatch
    draws: ContrastiveDraws
    noise: Tensor
    """Gumbel noise of every frame, masked or not, `[B, T, G, V]`."""

    def terms(self) -> ContrastiveTerms:
        return self.objective.terms(self.encoder, self.batch, step=TEMPERATURE_STEP, draws=self.draws)


def make_case(style: str, lengths: list[int], *, dtype: torch.dtype, seed: int = 7, **config: Any) -> Case:
    """Equal numbers of masked frames in every row, as fairseq2 needs them; `seed` is that of batch and draws."""
    encoder = our_encoder(style, conv_padding="included", feature_gradient_scale=config.pop("gradient_scale", 1.0))
    objective = ContrastiveObjective(
        ContrastiveConfig(
            num_codebooks=CODEBOOKS, num_entries=ENTRIES, quantized_dim=QUANTIZED_DIM, final_dim=FINAL_DIM,
            num_distractors=DISTRACTORS, feature_dropout=0.0, **config,
        ),
        latent_dim=encoder.config.latent_dim, model_dim=encoder.config.model_dim,
    )  # fmt: skip
    randomize(objective, seed=5)
    waveform, num_samples = waveforms(lengths, seed=seed - 4, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    num_frames = [encoder.num_frames(length) for length in lengths]
    frame_mask = torch.zeros(len(lengths), max(num_frames), dtype=torch.bool)
    for row, count in zip(frame_mask, num_frames, strict=True):
        row[torch.randperm(count, generator=generator)[:MASKED_PER_ROW]] = True
    distractors = sample_distractors(masked_positions(frame_mask), DISTRACTORS, generator=generator)
    shape = (*frame_mask.shape, CODEBOOKS, ENTRIES)
    noise = -torch.empty(shape, dtype=torch.float64).exponential_(generator=generator).log().to(dtype)
    return Case(
        encoder=encoder.to(dtype).train(),
        objective=objective.to(dtype).train(),
        batch=AudioBatch(
            utterance_ids=tuple(map(str, lengths)), waveform=waveform, num_samples=num_samples, sample_rate=16000
        ),
        draws=ContrastiveDraws(
            frame_mask=frame_mask,
            distractors=distractors,
            gumbel=noise[frame_mask].view(len(lengths), MASKED_PER_ROW, CODEBOOKS, ENTRIES),
        ),
        noise=noise,
    )


def given_gumbel(noise: Tensor) -> Callable[..., Tensor]:
    """`F.gumbel_softmax` with given noise.

    The choice is exactly one-hot. Torch's own `1 - p + p` is off by a rounding error, by which the peers at times fail
    to see that a distractor is the target; we compare codes.
    """

    def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, **_: Any) -> Tensor:
        soft = torch.softmax((logits + noise.reshape(logits.shape)) / tau, dim=-1)
        one_hot = torch.zeros_like(soft).scatter_(-1, soft.argmax(dim=-1, keepdim=True), 1.0)
        return one_hot + (soft - soft.detach())

    return gumbel_softmax


def transformers_losses(
    case: Case, style: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Tensor], list[Pair]]:
    from transformers import Wav2Vec2ForPreTraining

    config = transformers_config(
        style, num_codevector_groups=CODEBOOKS, num_codevectors_per_group=ENTRIES, codevector_dim=QUANTIZED_DIM,
        proj_codevector_dim=FINAL_DIM, num_negatives=DISTRACTORS,
        contrastive_logits_temperature=case.objective.config.logit_temperature,
        diversity_loss_weight=case.objective.config.diversity_weight,
    )  # fmt: skip
    peer = Wav2Vec2ForPreTraining(config).to(case.noise.dtype).train()
    pairs = list(transformers_pretraining(case.encoder, case.objective, peer))
    check(pairs, case, peer)
    monkeypatch.setattr(F, "gumbel_softmax", given_gumbel(case.noise))
    batch, time = case.draws.frame_mask.shape
    # theirs number frames through the whole batch, masked or not; ours are places among the row's masked frames
    frames = masked_positions(case.draws.frame_mask).indices  # [B, M]
    negatives = torch.zeros(batch, time, DISTRACTORS, dtype=torch.long)
    for row in range(batch):
        negatives[row, frames[row]] = frames[row][case.draws.distractors[row]] + row * time
    num_samples = case.batch.num_samples
    output = peer(
        case.batch.waveform.clone(),
        attention_mask=(torch.arange(case.batch.waveform.shape[1])[None] < num_samples[:, None]).long(),
        mask_time_indices=case.draws.frame_mask,
        sampled_negative_indices=negatives,
    )
    return {"loss": output.loss, "contrastive": output.contrastive_loss, "diversity": output.diversity_loss}, pairs


def fairseq2_losses(case: Case, style: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Tensor], list[Pair]]:
    config = fairseq2_config(style)
    from fairseq2.models.wav2vec2 import create_wav2vec2_model, vector_quantizer
    from fairseq2.nn import BatchLayout

    ours = case.objective.config
    config.encoder_config.feature_grad_scale = case.encoder.config.feature_gradient_scale
    config.final_dim, config.quantized_dim = FINAL_DIM, QUANTIZED_DIM
    config.num_codebooks, config.num_codebook_entries = CODEBOOKS, ENTRIES
    config.num_distractors, config.logit_temp = DISTRACTORS, ours.logit_temperature
    config.codebook_sampling_temperature = (
        ours.gumbel_temperature_start, ours.gumbel_temperature_end, ours.gumbel_temperature_decay,
    )  # fmt: skip
    peer = create_wav2vec2_model(config).to(case.noise.dtype).train()
    pairs = list(fairseq2_pretraining(case.encoder, case.objective, peer))
    check(pairs, case, peer)
    assert case.draws.gumbel is not None
    monkeypatch.setattr(torch, "compile", lambda *_args, **_kwargs: lambda function: function)
    monkeypatch.setattr(vector_quantizer, "gumbel_softmax", given_gumbel(case.draws.gumbel))
    monkeypatch.setattr(peer.masker, "mask_factory", lambda **_: case.draws.frame_mask)
    rows = torch.arange(len(case.batch.num_samples))[:, None, None]
    monkeypatch.setattr(peer, "_sample_distractors", lambda targets: targets[rows, case.draws.distractors])
    layout = BatchLayout.of(case.batch.waveform, case.batch.num_samples.tolist())
    loss, _ = peer(
        case.batch.waveform.clone(), layout, diversity_weight=ours.diversity_weight,
        features_penalty_weight=ours.feature_penalty_weight,
    )  # fmt: skip
    losses = {
        "loss": loss.aggregate, "contrastive": loss.contrastive, "diversity": loss.diversity,
        "feature_penalty": loss.features_penalty,
    }  # fmt: skip
    return losses, pairs


def check(pairs: list[Pair], case: Case, peer: nn.Module) -> None:
    check_complete(pairs, [case.encoder, case.objective], peer, except_ours=set())
    copy_weights(pairs)


PEERS = {"transformers": transformers_losses, "fairseq2": fairseq2_losses}


def compare(
    peer: str, style: str, case: Case, monkeypatch: pytest.MonkeyPatch, tolerance: float
) -> tuple[float, float]:
    """The largest relative difference of a loss, and that of all gradients together."""
    ours = case.terms()
    losses, pairs = PEERS[peer](case, style, monkeypatch)
    count = int(case.draws.frame_mask.sum())
    assert int(ours.num_targets) == count
    if len(case.batch.num_samples) > 2:
        losses.pop("feature_penalty", None)  # fairseq2's counts the padding
    worst = 0.0
    for name, value in losses.items():
        mine, other = float(getattr(ours, name).detach()), float(value.detach()) / count
        assert mine == pytest.approx(other, rel=tolerance), name
        worst = max(worst, abs(mine - other) / abs(other))

    ours.loss.backward()
    (losses["loss"] / count).backward()
    whole = torch.cat([pair.their_gradient.flatten() for pair in pairs]).norm()
    for pair in pairs:
        # a key's bias shifts all scores of a query alike and so has no gradient but rounding errors
        difference = (pair.gradient - pair.their_gradient).norm()
        assert difference < tolerance * (pair.their_gradient.norm() + 1e-3 * whole), pair.name
    gradients = relative_error(
        torch.cat([pair.gradient.flatten() for pair in pairs]),
        torch.cat([pair.their_gradient.flatten() for pair in pairs]),
    )
    assert gradients < tolerance
    return worst, gradients


CASES = [
    ("transformers", EQUAL, {"feature_penalty_weight": 0.0}),
    ("transformers", PADDED, {"feature_penalty_weight": 0.0}),  # it has neither penalty nor gradient scale
    ("fairseq2", EQUAL, {"feature_penalty_weight": 10.0, "gradient_scale": 0.1}),
    ("fairseq2", PADDED, {"feature_penalty_weight": 0.0, "gradient_scale": 0.1}),
]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("peer", "lengths", "options"), CASES, ids=[f"{c[0]}-{len(c[1])}" for c in CASES])
def test_losses_and_every_gradient_are_the_peers(
    peer: str, lengths: list[int], options: dict[str, Any], style: str, monkeypatch: pytest.MonkeyPatch,
    measured: Measured,
) -> None:  # fmt: skip
    case = make_case(style, lengths, dtype=torch.float64, **options)
    # transformers 5 leaves out the 1e-7 that others add to a probability before its logarithm
    tolerance = 5e-6 if peer == "transformers" and int(version("transformers").partition(".")[0]) >= 5 else 1e-9
    loss, gradients = compare(peer, style, case, monkeypatch, tolerance)
    measured(f"contrastive loss, {peer}", "loss", loss, "fp64")
    measured(f"contrastive loss, {peer}", "gradients", gradients, "fp64")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("peer", "lengths", "options"), CASES[::2], ids=["transformers", "fairseq2"])
def test_losses_and_gradients_are_the_peers_in_fp32(
    peer: str, lengths: list[int], options: dict[str, Any], style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looser than the forward pass alone: gradients of a dozen layers collect rounding errors in another order."""
    case = make_case(style, lengths, dtype=torch.float32, **options)
    compare(peer, style, case, monkeypatch, 2e-5)


def test_the_cases_have_distractors_to_exclude() -> None:
    """Else the comparisons would say nothing about the exclusion."""
    case = make_case("base", EQUAL, dtype=torch.float32)
    codes = case.terms().quantized.codes
    ids = codes[..., 0] * ENTRIES + codes[..., 1]
    same = ids.gather(1, case.draws.distractors.flatten(1)).view_as(case.draws.distractors) == ids[:, :, None]
    assert 0 < int(same.sum()) < same.numel()
    assert len(ids.unique()) > 2
