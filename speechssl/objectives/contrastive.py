"""Masked contrastive prediction over quantized latents (wav2vec 2.0, Baevski et al. 2020, section 3).

Shapes: B utterances, T frames, M masked frames of the fullest row, C latent dim, D model dim, Q quantized dim,
G codebooks, V entries, K distractors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.encoder import SpeechEncoder
from speechssl.errors import ConfigError
from speechssl.lengths import is_full, no_padding, padding_mask
from speechssl.nn.dropout import dropout
from speechssl.nn.masking import (
    MaskedPositions,
    gather_frames,
    masked_positions,
    most_masked,
    sample_distractors,
    sample_span_mask,
)
from speechssl.nn.quantizer import GumbelQuantizer
from speechssl.types import AudioBatch, ObjectiveOutput, QuantizerOutput


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig:
    """The defaults are BASE's (wav2vec 2.0, section 4.2 and fairseq's configuration).

    Attributes:
        num_codebooks: G.
        num_entries: V, entries of each codebook.
        quantized_dim: Q.
        final_dim: dim in which context and quantized targets are compared.
        logit_std: initial standard deviation of the codebook logits; None keeps the reference's unit normal weights.
        mask_probability: of a frame to start a masked span, times the span.
        mask_span: frames a masked span covers.
        num_distractors: K, drawn from the same utterance's masked frames.
        logit_temperature: divisor of the cosine similarities, kappa.
        diversity_weight: alpha, weight of the diversity loss.
        feature_penalty_weight: weight of the mean squared latents (before layer norm).
        gumbel_temperature_start: temperature of the Gumbel softmax at step 0.
        gumbel_temperature_end: its lower bound.
        gumbel_temperature_decay: its factor a step.
        feature_dropout: dropout on the latents that are quantized.
    """

    num_codebooks: int = 2
    num_entries: int = 320
    quantized_dim: int = 256
    final_dim: int = 256
    logit_std: float | None = None
    mask_probability: float = 0.65
    mask_span: int = 10
    num_distractors: int = 100
    logit_temperature: float = 0.1
    diversity_weight: float = 0.1
    feature_penalty_weight: float = 10.0
    gumbel_temperature_start: float = 2.0
    gumbel_temperature_end: float = 0.5
    gumbel_temperature_decay: float = 0.999995
    feature_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Check the values against each other."""
        if self.quantized_dim % self.num_codebooks:
            raise ConfigError(
                f"quantized_dim must be divisible by num_codebooks={self.num_codebooks}, but is {self.quantized_dim}"
            )
        for name in ("num_codebooks", "num_entries", "mask_span", "num_distractors", "final_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if not 0 < self.mask_probability <= 1:
            raise ConfigError(f"mask_probability must be above 0 and at most 1, but is {self.mask_probability}")
        if not 0 < self.gumbel_temperature_end <= self.gumbel_temperature_start:
            raise ConfigError(
                "gumbel_temperature_end must be above 0 and at most gumbel_temperature_start="
                f"{self.gumbel_temperature_start}, but is {self.gumbel_temperature_end}"
            )


@dataclass(frozen=True, kw_only=True)
class ContrastiveDraws:
    """All that is random in one evaluation of the objective, so that it can be repeated or given to a peer.

    `frame_mask` bool `[B, T]`; `distractors` i64 `[B, M, K]`, places within the masked frames; `gumbel` `[B, M, G, V]`
    or None to draw it (training) or do without (evaluation).
    """

    frame_mask: Tensor
    distractors: Tensor
    gumbel: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ContrastiveTerms:
    """The parts of the loss: `loss` is their weighted sum; all are means over `num_targets` masked frames.

    `predictions` bool `[B, M]` says where the target beat every distractor; `positions` which frames were masked;
    `latent_std` how much the masked frames' latents differ from each other, before dropout (mean over channels of the
    standard deviation over frames).
    """

    loss: Tensor
    contrastive: Tensor
    diversity: Tensor
    feature_penalty: Tensor
    num_targets: Tensor
    predictions: Tensor
    quantized: QuantizerOutput
    positions: MaskedPositions
    latent_std: Tensor


def contrastive_logits(
    context: Tensor, targets: Tensor, target_ids: Tensor, distractors: Tensor, *, temperature: float
) -> Tensor:
    """Similarities of each masked frame to its target (column 0) and to its distractors, divided by `temperature`.

    One matrix of all pairs within an utterance, then K of its columns: the same values as gathering K vectors for
    every frame, at a hundredth of the memory traffic.

    Args:
        context: `[B, M, F]`, projected context at masked frames.
        targets: `[B, M, F]`, projected quantized latents.
        target_ids: i64 `[B, M]`, equal where the codes are; a distractor with the target's code is excluded
            (-inf). Vectors are not compared: in bf16 equal ones may differ, and different ones agree.
        distractors: i64 `[B, M, K]`, places within M.
        temperature: kappa.

    Returns:
        fp32 `[B, M, 1 + K]`.

    Source: section 3.2, equation 3.
    """
    with torch.autocast(context.device.type, enabled=False):
        context = F.normalize(context.float(), dim=-1)
        targets = F.normalize(targets.float(), dim=-1)
        similarity = torch.bmm(context, targets.transpose(1, 2))  # [B, M, M]
        positive = similarity.diagonal(dim1=1, dim2=2)[:, :, None]
        negatives = similarity.gather(2, distractors)
        distractor_ids = target_ids.gather(1, distractors.flatten(1)).view_as(distractors)
        negatives = negatives.masked_fill(distractor_ids == target_ids[:, :, None], float("-inf"))
        return torch.cat([positive, negatives], dim=2) / temperature


def diversity_loss(prob_perplexity: Tensor, num_entries: int) -> Tensor:
    """(GV - sum of perplexities) / GV: 0 when every entry is used alike, near 1 when one is.

    The paper's equation 4 has the negative entropy; this is its exponential form, which the published models were
    trained with (appendix B) and which fairseq, fairseq2 and Hugging Face compute. `prob_perplexity` `[G]` -> scalar.
    """
    total = prob_perplexity.shape[0] * num_entries
    return (total - prob_perplexity.sum()) / total


class ContrastiveObjective(nn.Module):
    """Quantizer and projections: what is thrown away after pre-training."""

    def __init__(self, config: ContrastiveConfig, *, latent_dim: int, model_dim: int, seed: int = 0) -> None:
        """Random weights drawn from `seed`; the global random state is left as it was."""
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.quantizer = GumbelQuantizer(
                latent_dim,
                num_codebooks=config.num_codebooks,
                num_entries=config.num_entries,
                quantized_dim=config.quantized_dim,
                logit_std=config.logit_std,
            )
            self.target_projection = nn.Linear(config.quantized_dim, config.final_dim)
            self.context_projection = nn.Linear(model_dim, config.final_dim)

    def temperature(self, step: int) -> float:
        """Temperature of the Gumbel softmax at optimizer step `step` (section 4.2)."""
        config = self.config
        return max(
            config.gumbel_temperature_start * config.gumbel_temperature_decay**step, config.gumbel_temperature_end
        )

    def draw(
        self, num_frames: Tensor, max_frames: int, *, generator: torch.Generator | None = None
    ) -> ContrastiveDraws:
        """A mask and distractors for rows of `num_frames` i64 `[B]`.

        On the CPU M is the largest count of masked frames. Counting would wait for a GPU, so there M is the most that
        there can be, with places that are not valid in every row.
        """
        probability, span = self.config.mask_probability, self.config.mask_span
        frame_mask = sample_span_mask(
            num_frames, max_frames, probability=probability, span=span, min_spans=2, generator=generator
        )
        bound = None
        if num_frames.device.type != "cpu":
            bound = most_masked(max_frames, probability=probability, span=span, min_spans=2)
        positions = masked_positions(frame_mask, max_masked=bound)
        distractors = sample_distractors(positions, self.config.num_distractors, generator=generator)
        return ContrastiveDraws(frame_mask=frame_mask, distractors=distractors)

    def forward(
        self, encoder: SpeechEncoder, batch: AudioBatch, *, step: int, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Loss of a batch at optimizer step `step`; mask, distractors and Gumbel noise come from `generator`."""
        with no_padding(bool(batch.is_full)):
            terms = self.terms(encoder, batch, step=step, generator=generator)
        return ObjectiveOutput(loss=terms.loss, num_targets=terms.num_targets, metrics=self._metrics(terms, step))

    def terms(
        self,
        encoder: SpeechEncoder,
        batch: AudioBatch,
        *,
        step: int,
        draws: ContrastiveDraws | None = None,
        generator: torch.Generator | None = None,
    ) -> ContrastiveTerms:
        """Every part of the loss, with given or fresh random draws.

        An utterance with fewer than two masked frames has no distractor and adds no target.
        """
        config = self.config
        latents = encoder.extract_latents(batch.waveform, batch.num_samples)
        if draws is None:
            draws = self.draw(latents.num_frames, latents.latents.shape[1], generator=generator)
        positions = masked_positions(draws.frame_mask, max_masked=draws.distractors.shape[1])
        output = encoder.contextualize(latents.normalized, latents.num_frames, frame_mask=draws.frame_mask)

        valid = positions.valid & (positions.counts >= 2)[:, None]  # [B, M]
        masked_latents = gather_frames(latents.normalized, positions.indices)
        to_quantize = dropout(masked_latents, config.feature_dropout, self.training)
        quantized = self.quantizer(
            to_quantize, valid, temperature=self.temperature(step), gumbel=draws.gumbel, generator=generator
        )
        place = config.num_entries ** torch.arange(config.num_codebooks, device=quantized.codes.device)
        logits = contrastive_logits(
            self.context_projection(gather_frames(output.context, positions.indices)),
            self.target_projection(quantized.quantized.to(output.context.dtype)),
            (quantized.codes * place).sum(dim=-1),
            draws.distractors,
            temperature=config.logit_temperature,
        )
        num_targets = valid.sum()
        # -log softmax of the target (equation 3); all targets are in column 0
        losses = torch.logsumexp(logits, dim=-1) - logits[:, :, 0]
        contrastive = torch.where(valid, losses, 0).sum() / num_targets.clamp(min=1)
        diversity = diversity_loss(quantized.prob_perplexity, config.num_entries)
        penalty = mean_square(latents.latents, latents.num_frames)
        loss = contrastive + config.diversity_weight * diversity + config.feature_penalty_weight * penalty
        return ContrastiveTerms(
            loss=loss,
            contrastive=contrastive,
            diversity=diversity,
            feature_penalty=penalty,
            num_targets=num_targets,
            predictions=valid & (logits.argmax(dim=-1) == 0),
            quantized=quantized,
            positions=positions,
            latent_std=spread(masked_latents.detach(), positions.valid),
        )

    @torch.no_grad()
    def _metrics(self, terms: ContrastiveTerms, step: int) -> dict[str, Tensor]:
        code_perplexity = terms.quantized.code_perplexity.mean()
        targets = terms.num_targets.clamp(min=1)
        return {
            "contrastive_loss": terms.contrastive.detach(),
            "diversity_loss": terms.diversity.detach(),
            "feature_penalty": terms.feature_penalty.detach(),
            "accuracy": terms.predictions.sum() / targets,
            "chance_accuracy": torch.tensor(1 / (1 + self.config.num_distractors)),
            "code_perplexity": code_perplexity,
            "prob_perplexity": terms.quantized.prob_perplexity.detach().mean(),
            "code_usage": code_perplexity / self.config.num_entries,
            "temperature": torch.tensor(self.temperature(step)),
            "latent_std": terms.latent_std,
        }

    def after_update(self, encoder: SpeechEncoder, *, step: int) -> None:
        """Nothing to do: the temperature is a function of the step."""


def mean_square(latents: Tensor, num_frames: Tensor) -> Tensor:
    """Mean of the squared latents over valid frames (feature penalty): `[B, T, C]` -> scalar in fp32."""
    if is_full(num_frames, latents.shape[1]):
        return latents.float().square().mean()
    valid = ~padding_mask(num_frames, latents.shape[1])
    total = torch.where(valid[:, :, None], latents.float().square(), 0).sum()
    return total / (valid.sum() * latents.shape[2]).clamp(min=1)


def spread(x: Tensor, valid: Tensor) -> Tensor:
    """Mean over channels of the standard deviation over valid places: near 0 when all look alike.

    `x` `[B, M, C]`, `valid` bool `[B, M]` -> scalar in fp32.
    """
    weight = (valid.float() / valid.sum().clamp(min=1))[:, :, None]
    x = x.float()
    mean = (x * weight).sum(dim=(0, 1))
    return ((x - mean).square() * weight).sum(dim=(0, 1)).sqrt().mean()
