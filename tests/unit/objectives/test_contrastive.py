"""Each term of the contrastive objective against the paper's equations, written out in loops, gradients included."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import ConfigError
from speechssl.nn.masking import masked_positions, sample_distractors
from speechssl.nn.quantizer import perplexity
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective, build_contrastive
from speechssl.objectives.contrastive import (
    ContrastiveDraws,
    ContrastiveTerms,
    contrastive_logits,
    diversity_loss,
    mean_square,
    spread,
)
from speechssl.types import AudioBatch

G, V, K = 2, 3, 5
SETTINGS: dict[str, Any] = {
    "num_codebooks": G, "num_entries": V, "quantized_dim": 8, "final_dim": 10, "num_distractors": K,
    "feature_dropout": 0.0, "mask_span": 3,
}  # fmt: skip
STYLES = {
    "log_mel": {"num_mels": 8},
    "group": {"front_end": "waveform", "normalize_waveform": False, "conv_dim": 12, "norm_position": "post"},
}
LENGTHS = [6000, 4500, 2600]


def make(style: str = "log_mel", **settings: Any) -> tuple[SpeechEncoder, ContrastiveObjective]:
    encoder = SpeechEncoder(
        encoder_config(
            "tiny",
            {"model_dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 24, "position_kernel": 4,
             "position_groups": 2, **STYLES[style]},
        )
    )  # fmt: skip
    objective = ContrastiveObjective(
        ContrastiveConfig(**{**SETTINGS, **settings}), latent_dim=encoder.config.latent_dim, model_dim=16
    )
    return encoder.train(), objective.train()


def make_batch(lengths: list[int] = LENGTHS, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> AudioBatch:
    waveform = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed)).to(dtype)
    return AudioBatch(
        utterance_ids=tuple(map(str, range(len(lengths)))), waveform=waveform, num_samples=torch.tensor(lengths),
        sample_rate=16_000,
    )  # fmt: skip


def make_draws(
    encoder: SpeechEncoder, objective: ContrastiveObjective, batch: AudioBatch, *, dtype: torch.dtype = torch.float32
) -> ContrastiveDraws:
    generator = torch.Generator().manual_seed(1)
    num_frames = torch.tensor([encoder.num_frames(n) for n in batch.num_samples.tolist()])
    draws = objective.draw(num_frames, int(num_frames.max()), generator=generator)
    shape = (*draws.distractors.shape[:2], objective.config.num_codebooks, objective.config.num_entries)
    gumbel = -torch.empty(shape, dtype=torch.float64).exponential_(generator=generator).log().to(dtype)
    return replace(draws, gumbel=gumbel)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """sim(a, b) = a.b / (|a| |b|)."""
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def reference(
    encoder: SpeechEncoder, objective: ContrastiveObjective, batch: AudioBatch, draws: ContrastiveDraws, tau: float
) -> dict[str, Tensor]:
    """The loss of section 3, frame by frame; differentiable with the straight-through choice of equation 1."""
    config = objective.config
    assert draws.gumbel is not None
    latents = encoder.extract_latents(batch.waveform, batch.num_samples)
    context = encoder.contextualize(latents.normalized, latents.num_frames, frame_mask=draws.frame_mask).context
    quantizer = objective.quantizer
    losses: list[Tensor] = []
    soft_sums = [[torch.zeros(()).double() for _ in range(V)] for _ in range(G)]
    for b in range(len(batch.utterance_ids)):
        masked = [t for t in range(context.shape[1]) if draws.frame_mask[b, t]]
        targets: list[Tensor] = []
        codes: list[list[int]] = []
        for m, t in enumerate(masked):
            parts, own_codes = [], []
            for g in range(G):
                rows = slice(g * V, (g + 1) * V)
                logits = quantizer.logits.weight[rows] @ latents.normalized[b, t] + quantizer.logits.bias[rows]
                exponentials = [torch.exp((logits[v] + draws.gumbel[b, m, g, v]) / tau) for v in range(V)]
                p = [value / sum(exponentials) for value in exponentials]
                code = max(range(V), key=lambda v: float(p[v].detach()))
                own_codes.append(code)
                # one-hot in value, softmax in gradient
                choice = [(1.0 if v == code else 0.0) + p[v] - p[v].detach() for v in range(V)]
                parts.append(sum(choice[v] * quantizer.codebooks[g, v] for v in range(V)))
                plain = [torch.exp(logits[v]) for v in range(V)]
                for v in range(V):
                    soft_sums[g][v] = soft_sums[g][v] + plain[v] / sum(plain)
            targets.append(objective.target_projection(torch.cat(parts)))
            codes.append(own_codes)
        for m, t in enumerate(masked):
            c = objective.context_projection(context[b, t])
            scores = [torch.exp(cosine(c, targets[m]) / config.logit_temperature)]
            for place in draws.distractors[b, m].tolist():
                assert place != m
                if codes[place] != codes[m]:  # the same code is no distractor
                    scores.append(torch.exp(cosine(c, targets[place]) / config.logit_temperature))
            losses.append(-torch.log(scores[0] / sum(scores)))
    count = len(losses)
    contrastive = sum(losses) / count
    # equation 4 in the exponential form: share of the GV entries that the averaged distribution does not use
    total = sum(torch.exp(-sum(p / count * torch.log(p / count + 1e-7) for p in row)) for row in soft_sums)
    diversity = (G * V - total) / (G * V)
    squares = [
        (latents.latents[b, :n] ** 2).flatten() for b, n in enumerate(latents.num_frames.tolist())
    ]  # before the layer norm, without padding
    penalty = torch.cat(squares).mean()
    loss = contrastive + config.diversity_weight * diversity + config.feature_penalty_weight * penalty
    return {"loss": loss, "contrastive": contrastive, "diversity": diversity, "feature_penalty": penalty}


def gradients(modules: list[nn.Module], value: Tensor) -> dict[str, Tensor]:
    named = {f"{place}.{name}": p for place, m in enumerate(modules) for name, p in m.named_parameters()}
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), found, strict=True)}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("term", ["loss", "contrastive", "diversity", "feature_penalty"])
def test_each_term_and_its_gradients_are_the_papers(style: str, term: str) -> None:
    encoder, objective = make(style)
    encoder.double(), objective.double()
    batch = make_batch([4000, 2600], dtype=torch.float64)
    draws = make_draws(encoder, objective, batch, dtype=torch.float64)
    ours = getattr(objective.terms(encoder, batch, step=0, draws=draws), term)
    expected = reference(encoder, objective, batch, draws, objective.temperature(0))[term]
    assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-11)
    if not expected.requires_grad:  # log-mel features have no weights to be penalized for
        assert (style, term) == ("log_mel", "feature_penalty") and not ours.requires_grad
        return
    own = gradients([encoder, objective], ours)
    theirs = gradients([encoder, objective], expected)
    size = math.sqrt(sum(float(g.square().sum()) for g in theirs.values()))
    assert size > 0
    for name in theirs:
        assert float((own[name] - theirs[name]).norm()) < 1e-9 * (float(theirs[name].norm()) + 1e-3 * size), name


# equation 3


def test_logits_are_the_cosines_to_target_and_distractors() -> None:
    """One matrix product and a gather, instead of K + 1 vectors gathered for each frame."""
    generator = torch.Generator().manual_seed(0)
    context, targets = torch.randn(2, 2, 7, 6, generator=generator)
    distractors = torch.randint(7, (2, 7, 4), generator=generator)
    ids = torch.arange(7).expand(2, 7)
    logits = contrastive_logits(context, targets, ids, distractors, temperature=0.1)
    assert logits.shape == (2, 7, 5)
    for b in range(2):
        for m in range(7):
            assert float(logits[b, m, 0]) == pytest.approx(10 * float(cosine(context[b, m], targets[b, m])), rel=1e-4)
            for k, place in enumerate(distractors[b, m].tolist()):
                value = float(logits[b, m, 1 + k])
                if place == m:
                    assert value == -math.inf
                else:
                    expected = 10 * float(cosine(context[b, m], targets[b, place]))
                    assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_distractors_with_the_targets_code_are_excluded_by_code_and_not_by_vector() -> None:
    """In bf16 vectors of one code may differ and those of two codes agree; codes cannot lie."""
    context, targets = torch.randn(1, 4, 6), torch.ones(1, 4, 6)
    ids = torch.tensor([[5, 5, 7, 8]])
    distractors = torch.tensor([[[1, 2, 3]] * 4])
    logits = contrastive_logits(context, targets, ids, distractors, temperature=0.1)
    assert (logits[0, :, 1:] == -math.inf).tolist() == [
        [True, False, False], [True, False, False], [False, True, False], [False, False, True],
    ]  # fmt: skip


def test_an_ignorant_model_is_at_chance() -> None:
    """Context that knows nothing of the targets: loss log(K + 1), accuracy 1 / (K + 1)."""
    generator = torch.Generator().manual_seed(0)
    context, targets = torch.randn(2, 4, 300, 4000, generator=generator)
    positions = masked_positions(torch.ones(4, 300, dtype=torch.bool))
    distractors = sample_distractors(positions, 100, generator=generator)
    logits = contrastive_logits(context, targets, torch.arange(300).expand(4, 300), distractors, temperature=0.1)
    losses = torch.logsumexp(logits, dim=-1) - logits[:, :, 0]
    assert float(losses.mean()) == pytest.approx(math.log(101), abs=0.03)
    assert float((logits.argmax(dim=-1) == 0).float().mean()) == pytest.approx(1 / 101, abs=0.01)


def test_a_fresh_model_is_near_chance() -> None:
    """On real code paths, with BASE's 100 distractors; its projections are not orthogonal, hence the tolerance."""
    encoder, objective = make(num_distractors=100, num_entries=64, quantized_dim=64, final_dim=128)
    with torch.no_grad():
        output = objective(encoder, make_batch([80_000] * 2), step=0, generator=torch.Generator().manual_seed(0))
    assert float(output.metrics["contrastive_loss"]) == pytest.approx(math.log(101), abs=0.5)
    assert float(output.metrics["accuracy"]) < 0.05


# equation 4


def test_diversity_has_the_papers_optimum_and_order() -> None:
    """The paper's form is the mean negative entropy; ours its exponential. Both fall as the entropy rises, and both
    are least, with no gradient, where every entry is used alike.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.softmax(3 * torch.randn(1, 8, generator=generator), dim=-1)
    uniform = torch.full((1, 8), 1 / 8)
    mixtures = [torch.lerp(start, uniform, share) for share in torch.linspace(0, 1, 11).tolist()]
    ours = [float(diversity_loss(perplexity(p), 8)) for p in mixtures]
    papers = [float((p * p.log()).sum()) / 8 for p in mixtures]
    assert ours == sorted(ours, reverse=True) and papers == sorted(papers, reverse=True)
    assert ours[-1] == pytest.approx(0, abs=1e-5)
    for value, negative_entropy in zip(ours, papers, strict=True):
        assert value == pytest.approx(1 - math.exp(-8 * negative_entropy) / 8, abs=1e-5)

    logits = torch.zeros(1, 8, requires_grad=True)
    diversity_loss(perplexity(torch.softmax(logits, dim=-1)), 8).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


@pytest.mark.parametrize(("perplexities", "expected"), [([4.0, 4.0], 0.0), ([1.0, 1.0], 0.75), ([4.0, 1.0], 0.375)])
def test_diversity_is_the_share_of_entries_not_used(perplexities: list[float], expected: float) -> None:
    assert float(diversity_loss(torch.tensor(perplexities), 4)) == pytest.approx(expected)


# feature penalty and spread


def test_penalty_is_the_mean_square_of_valid_latents() -> None:
    latents = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    assert float(mean_square(latents, torch.tensor([5, 5]))) == pytest.approx(float((latents**2).mean()))
    cut = torch.cat([latents[0], latents[1, :2]])
    latents[1, 2:] = math.nan
    assert float(mean_square(latents, torch.tensor([5, 2]))) == pytest.approx(float((cut**2).mean()))


def test_spread_sees_valid_places_only_and_is_zero_when_all_look_alike() -> None:
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[True] * 6, [True] * 2 + [False] * 4])
    assert float(spread(x, valid)) == pytest.approx(float(x[valid].std(dim=0, unbiased=False).mean()), rel=1e-5)
    assert float(spread(x[:1, :1].expand(2, 6, 3), valid)) == pytest.approx(0, abs=1e-6)


def test_dropout_does_not_hide_latents_that_all_look_alike() -> None:
    encoder, objective = make(feature_dropout=0.5)
    with torch.no_grad():
        encoder.latent_norm = nn.Identity()
        encoder.feature_encoder.forward = lambda waveform, lengths: (
            torch.ones(len(lengths), 18, encoder.config.latent_dim), torch.full_like(lengths, 18),
        )  # fmt: skip
        terms = objective.terms(encoder, make_batch([6000]), step=0, generator=torch.Generator())
    assert float(terms.latent_std) == pytest.approx(0, abs=1e-6)


# whole objective


def row_of(
    batch: AudioBatch, draws: ContrastiveDraws, row: int, num_frames: int
) -> tuple[AudioBatch, ContrastiveDraws]:
    """One utterance of a batch, alone, with its own draws."""
    length, count = int(batch.num_samples[row]), int(draws.frame_mask[row].sum())
    assert draws.gumbel is not None
    own = AudioBatch(
        utterance_ids=batch.utterance_ids[row : row + 1], waveform=batch.waveform[row : row + 1, :length],
        num_samples=batch.num_samples[row : row + 1], sample_rate=16_000,
    )  # fmt: skip
    return own, ContrastiveDraws(
        frame_mask=draws.frame_mask[row : row + 1, :num_frames],
        distractors=draws.distractors[row : row + 1, :count],
        gumbel=draws.gumbel[row : row + 1, :count],
    )


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_a_batch_is_the_target_weighted_mean_of_its_utterances(style: str) -> None:
    encoder, objective = make(style)
    batch = make_batch()
    draws = make_draws(encoder, objective, batch)
    whole = objective.terms(encoder, batch, step=0, draws=draws)
    singles: list[ContrastiveTerms] = []
    frames: list[int] = []
    for row, length in enumerate(LENGTHS):
        frames.append(encoder.num_frames(length))
        own, own_draws = row_of(batch, draws, row, frames[-1])
        singles.append(objective.terms(encoder, own, step=0, draws=own_draws))
    targets = [int(single.num_targets) for single in singles]
    assert int(whole.num_targets) == sum(targets) and len(set(targets)) > 1
    contrastive = sum(n * float(s.contrastive) for n, s in zip(targets, singles, strict=True)) / sum(targets)
    penalty = sum(n * float(s.feature_penalty) for n, s in zip(frames, singles, strict=True)) / sum(frames)
    assert float(whole.contrastive) == pytest.approx(contrastive, rel=1e-5)
    assert float(whole.feature_penalty) == pytest.approx(penalty, rel=1e-5)
    assert int(whole.predictions.sum()) == sum(int(single.predictions.sum()) for single in singles)


def test_padding_content_changes_neither_loss_nor_gradients() -> None:
    encoder, objective = make("group")
    batch = make_batch()
    draws = make_draws(encoder, objective, batch)
    loud = batch.waveform.clone()
    loud[torch.arange(loud.shape[1]) >= batch.num_samples[:, None]] = 50.0
    results = []
    for waveform in (batch.waveform, loud):
        terms = objective.terms(encoder, replace(batch, waveform=waveform), step=0, draws=draws)
        results.append((float(terms.loss.detach()), gradients([encoder, objective], terms.loss)))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], rtol=1e-3, atol=1e-5)


def test_places_beyond_the_masked_frames_change_nothing() -> None:
    """On a GPU there are more of them, so that nobody waits for the count."""
    encoder, objective = make("log_mel")
    batch = make_batch()
    draws = make_draws(encoder, objective, batch)
    assert draws.gumbel is not None
    wider = replace(
        draws,
        distractors=nn.functional.pad(draws.distractors, (0, 0, 0, 5)),
        gumbel=nn.functional.pad(draws.gumbel, (0, 0, 0, 0, 0, 5)),
    )
    one, other = (objective.terms(encoder, batch, step=0, draws=each) for each in (draws, wider))
    assert int(one.num_targets) == int(other.num_targets)
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=1e-6)


def test_everything_random_comes_from_the_generator() -> None:
    encoder, objective = make()
    batch = make_batch()

    def losses(seed: int) -> tuple[float, dict[str, float]]:
        output = objective(encoder, batch, step=3, generator=torch.Generator().manual_seed(seed))
        return float(output.loss.detach()), {name: float(value) for name, value in output.metrics.items()}

    state = torch.get_rng_state()
    assert losses(0) == losses(0)
    assert losses(0) != losses(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_metrics_are_detached_and_within_their_ranges() -> None:
    encoder, objective = make()
    output = objective(encoder, make_batch(), step=0, generator=torch.Generator().manual_seed(0))
    metrics = output.metrics
    assert set(metrics) == {
        "contrastive_loss", "diversity_loss", "feature_penalty", "accuracy", "chance_accuracy", "code_perplexity",
        "prob_perplexity", "code_usage", "temperature", "latent_std",
    }  # fmt: skip
    assert not any(value.requires_grad for value in metrics.values())
    assert output.loss.requires_grad
    assert 0 <= float(metrics["accuracy"]) <= 1
    assert float(metrics["chance_accuracy"]) == pytest.approx(1 / (1 + K))
    assert 1 <= float(metrics["code_perplexity"]) <= V + 1e-4 and 1 <= float(metrics["prob_perplexity"]) <= V + 1e-4
    assert float(metrics["code_usage"]) == pytest.approx(float(metrics["code_perplexity"]) / V)
    assert float(metrics["latent_std"]) > 0.1
    assert output.num_targets.dtype == torch.int64


def test_evaluation_is_without_noise_and_dropout() -> None:
    encoder, objective = make(feature_dropout=0.5)
    encoder.eval(), objective.eval()
    batch = make_batch()
    draws = replace(make_draws(encoder, objective, batch), gumbel=None)
    with torch.no_grad():
        first, second = (objective.terms(encoder, batch, step=0, draws=draws) for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.quantized.codes, second.quantized.codes)


def test_a_single_masked_frame_has_no_distractor_and_is_no_target() -> None:
    encoder, objective = make("group")
    batch = make_batch([6000, 6000])
    draws = make_draws(encoder, objective, batch)
    frame_mask = torch.zeros_like(draws.frame_mask)
    frame_mask[0, 2:8] = True
    frame_mask[1, 4] = True
    draws = ContrastiveDraws(
        frame_mask=frame_mask,
        distractors=sample_distractors(masked_positions(frame_mask), K, generator=torch.Generator().manual_seed(0)),
    )
    terms = objective.terms(encoder, batch, step=0, draws=draws, generator=torch.Generator().manual_seed(0))
    assert int(terms.num_targets) == 6
    assert not terms.predictions[1].any()
    assert math.isfinite(float(terms.loss.detach()))


@pytest.mark.parametrize("style", STYLES)
def test_a_batch_without_targets_has_a_finite_loss_and_gradient(style: str) -> None:
    encoder, objective = make(style)
    batch = make_batch([900, 900])  # at most two frames: too short to be masked
    terms = objective.terms(encoder, batch, step=0, generator=torch.Generator())
    assert int(terms.num_targets) == 0
    assert float(terms.contrastive.detach()) == 0
    assert math.isfinite(float(terms.loss.detach()))
    if terms.loss.requires_grad:
        assert all(bool(g.isfinite().all()) for g in gradients([encoder, objective], terms.loss).values())


def test_a_codebook_that_uses_one_entry_gives_no_loss_and_no_nan() -> None:
    """All distractors are excluded; the loss is 0, which is what the collapse monitor watches for."""
    encoder, objective = make()
    with torch.no_grad():
        objective.quantizer.logits.weight.zero_()
        objective.quantizer.logits.bias.copy_(torch.tensor([1000.0, 0, 0] * G))
    terms = objective.terms(encoder, make_batch(), step=0, generator=torch.Generator().manual_seed(0))
    assert float(terms.contrastive.detach()) == pytest.approx(0, abs=1e-6)
    assert float(terms.quantized.code_perplexity.mean()) == pytest.approx(1, abs=1e-3)
    assert all(bool(g.isfinite().all()) for g in gradients([encoder, objective], terms.loss).values())


@pytest.mark.parametrize("style", STYLES)
def test_bf16_autocast_stays_near_fp32(style: str) -> None:
    """bf16 keeps 8 bits, hence 3 %; the codes may differ where two logits are close, so the noise decides clearly."""
    encoder, objective = make(style)
    batch = make_batch()
    draws = make_draws(encoder, objective, batch)
    assert draws.gumbel is not None
    draws = replace(draws, gumbel=100 * draws.gumbel)
    exact = objective.terms(encoder, batch, step=0, draws=draws)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective.terms(encoder, batch, step=0, draws=draws)
    assert rounded.loss.dtype == torch.float32
    assert float(rounded.loss.detach()) == pytest.approx(float(exact.loss.detach()), rel=0.03)


def test_temperature_falls_from_start_to_end() -> None:
    """Section 4.2: 2 to 0.5 by a factor of 0.999995 an update."""
    _, objective = make()
    assert objective.temperature(0) == 2.0
    assert objective.temperature(100_000) == pytest.approx(2 * 0.999995**100_000)
    assert [objective.temperature(step) for step in (277_258, 277_260, 400_000)][1:] == [0.5, 0.5]
    assert objective.temperature(277_000) > 0.5


def test_the_objective_follows_from_its_seed() -> None:
    encoder, _ = make()
    state = torch.get_rng_state()
    first, second, other = (build_contrastive(ContrastiveConfig(), encoder, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    own, same, different = (module.state_dict() for module in (first, second, other))
    assert all(torch.equal(own[name], same[name]) for name in own)
    assert not torch.equal(own["quantizer.codebooks"], different["quantizer.codebooks"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantized_dim": 7}, "quantized_dim must be divisible by num_codebooks=2, but is 7"),
        ({"num_distractors": 0}, "num_distractors must be at least 1, but is 0"),
        ({"mask_probability": 0.0}, "mask_probability must be above 0 and at most 1, but is 0.0"),
        ({"gumbel_temperature_end": 3.0}, "at most gumbel_temperature_start=2.0, but is 3.0"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ContrastiveConfig(**change)
