"""Masked prediction of clusters (HuBERT, Hsu et al. 2021, section II).

The targets are the k-means units of hand-made features or of a layer of a frozen encoder, computed from the very batch
that is masked, so that any crop or augmentation has its own. Shapes: B utterances, S samples, T frames, M masked frames
of the fullest row, C latent dim, D model dim, E dim of the frames that were clustered, K clusters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechssl.encoder import SpeechEncoder
from speechssl.errors import ConfigError
from speechssl.lengths import no_padding
from speechssl.nn.masking import MaskedPositions, gather_frames, masked_positions, most_masked, sample_span_mask
from speechssl.objectives.contrastive import mean_square, spread
from speechssl.types import AudioBatch, ObjectiveOutput

ClusteredFrames = Callable[[Tensor, Tensor, int], Tensor]
"""`(waveform [B, S], num_samples i64 [B], T) -> [B, T, E]`: what was clustered, at the student's T frames."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """The defaults are BASE's (HuBERT, section IV and fairseq's configuration).

    Attributes:
        targets: the folder that `speechssl units` wrote; required.
        final_dim: dim in which context and clusters are compared.
        mask_probability: of a frame to start a masked span, times the span.
        mask_span: frames a masked span covers.
        logit_temperature: divisor of the cosine similarities, tau.
        feature_penalty_weight: weight of the mean squared latents (before layer norm).
    """

    targets: Path | None = None
    final_dim: int = 256
    mask_probability: float = 0.8
    mask_span: int = 10
    logit_temperature: float = 0.1
    feature_penalty_weight: float = 10.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("final_dim", "mask_span"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if not 0 < self.mask_probability <= 1:
            raise ConfigError(f"mask_probability must be above 0 and at most 1, but is {self.mask_probability}")
        if not self.logit_temperature > 0:
            raise ConfigError(f"logit_temperature must be above 0, but is {self.logit_temperature}")


@dataclass(frozen=True, kw_only=True)
class ClusterTargets:
    """`centers` fp32 `[K, E]`, and the frozen function whose frames they are the centers of."""

    centers: Tensor
    frames: ClusteredFrames


@dataclass(frozen=True, kw_only=True)
class ClusterTerms:
    """The parts of the loss: means over `num_targets` masked frames.

    `logits` fp32 `[B, M, K]` and `targets` i64 `[B, M]` are those of the masked frames at `positions`.
    """

    loss: Tensor
    prediction: Tensor
    feature_penalty: Tensor
    num_targets: Tensor
    logits: Tensor
    targets: Tensor
    positions: MaskedPositions
    latent_std: Tensor


class ClusterObjective(nn.Module):
    """A projection and an embedding for every cluster: what is thrown away after pre-training."""

    centers: Tensor

    def __init__(self, config: ClusterConfig, targets: ClusterTargets, *, model_dim: int, seed: int = 0) -> None:
        """Random weights drawn from `seed`; the global random state is left as it was.

        The centers are stored with the weights; what computes the frames is not.
        """
        super().__init__()
        self.config = config
        self._frames = targets.frames
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.context_projection = nn.Linear(model_dim, config.final_dim)
            self.cluster_embeddings = nn.Parameter(torch.rand(len(targets.centers), config.final_dim))
        self.register_buffer("centers", targets.centers.float())

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self.centers)

    def draw(self, num_frames: Tensor, max_frames: int, *, generator: torch.Generator | None = None) -> Tensor:
        """A mask bool `[B, T]` for rows of `num_frames` i64 `[B]`."""
        config = self.config
        return sample_span_mask(
            num_frames, max_frames, probability=config.mask_probability, span=config.mask_span, min_spans=2,
            generator=generator,
        )  # fmt: skip

    @torch.no_grad()
    def assign(self, waveform: Tensor, num_samples: Tensor, max_frames: int) -> Tensor:
        """The nearest center of every frame, i64 `[B, T]`: the label of what is heard there."""
        frames = self._frames(waveform, num_samples, max_frames)
        with torch.autocast(frames.device.type, enabled=False):
            distances = self.centers.square().sum(dim=1) - 2 * frames.float() @ self.centers.T
            return distances.argmin(dim=-1)

    def forward(
        self, encoder: SpeechEncoder, batch: AudioBatch, *, step: int, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Loss of a batch; the mask comes from `generator`."""
        with no_padding(bool(batch.is_full)):
            terms = self.terms(encoder, batch, generator=generator)
        return ObjectiveOutput(loss=terms.loss, num_targets=terms.num_targets, metrics=self._metrics(terms))

    def terms(
        self,
        encoder: SpeechEncoder,
        batch: AudioBatch,
        *,
        frame_mask: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> ClusterTerms:
        """Every part of the loss, with a given or a fresh mask: the cross-entropy of equation 1 with alpha = 1."""
        config = self.config
        latents = encoder.extract_latents(batch.waveform, batch.num_samples)
        max_frames = latents.latents.shape[1]
        if frame_mask is None:
            frame_mask = self.draw(latents.num_frames, max_frames, generator=generator)
        bound = None  # counting would wait for a GPU
        if frame_mask.device.type != "cpu":
            bound = most_masked(max_frames, probability=config.mask_probability, span=config.mask_span, min_spans=2)
        positions = masked_positions(frame_mask, max_masked=bound)
        targets = self.assign(batch.waveform, batch.num_samples, max_frames).gather(1, positions.indices)
        output = encoder.contextualize(latents.normalized, latents.num_frames, frame_mask=frame_mask)
        context = self.context_projection(gather_frames(output.context, positions.indices))
        with torch.autocast(context.device.type, enabled=False):
            clusters = F.normalize(self.cluster_embeddings.float(), dim=-1)
            logits = F.normalize(context.float(), dim=-1) @ clusters.T / config.logit_temperature  # equation 3
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        num_targets = positions.valid.sum()
        prediction = torch.where(positions.valid, losses, 0).sum() / num_targets.clamp(min=1)
        penalty = mean_square(latents.latents, latents.num_frames)
        return ClusterTerms(
            loss=prediction + config.feature_penalty_weight * penalty,
            prediction=prediction,
            feature_penalty=penalty,
            num_targets=num_targets,
            logits=logits,
            targets=targets,
            positions=positions,
            latent_std=spread(gather_frames(latents.normalized, positions.indices).detach(), positions.valid),
        )

    @torch.no_grad()
    def _metrics(self, terms: ClusterTerms) -> dict[str, Tensor]:
        valid = terms.positions.valid
        count = terms.num_targets.clamp(min=1)
        seen = torch.zeros(self.num_clusters, device=valid.device)
        share = seen.scatter_add(0, terms.targets.flatten(), valid.float().flatten()) / count
        predicted = torch.where(valid[:, :, None], terms.logits.softmax(dim=-1), 0).sum(dim=(0, 1)) / count
        return {
            "cluster_loss": terms.prediction.detach(),
            "feature_penalty": terms.feature_penalty.detach(),
            "accuracy": (valid & (terms.logits.argmax(dim=-1) == terms.targets)).sum() / count,
            "chance_accuracy": share.max(),
            "target_perplexity": perplexity(share),
            "predicted_perplexity": perplexity(predicted),
            "latent_std": terms.latent_std,
        }

    def after_update(self, encoder: SpeechEncoder, *, step: int) -> None:
        """Nothing to do: the targets are frozen."""


def perplexity(probabilities: Tensor) -> Tensor:
    """exp of the entropy: `[K]` -> scalar in 1..K."""
    entropy: Tensor = torch.special.entr(probabilities.float()).sum()
    return entropy.exp()


def at_frames(frames: Tensor, num_frames: int, *, first: float, step: float) -> Tensor:
    """Of `[B, N, E]`, the row nearest to `first + step t` for each of `num_frames` t; the last where there is none."""
    index = (first + step * torch.arange(num_frames, device=frames.device)).round().long()
    return frames[:, index.clamp(0, frames.shape[1] - 1)]
