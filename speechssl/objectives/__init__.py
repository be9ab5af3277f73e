"""Pre-training objectives, one file each.

An objective is a module that owns all that is thrown away after pre-training and sees the encoder only through
`extract_latents` and `contextualize`. `forward(encoder, batch, *, step, generator) -> ObjectiveOutput`;
`after_update(encoder, *, step)` follows every optimizer step.
"""

from typing import Protocol

import torch
from torch import nn

from speechssl.encoder import SpeechEncoder
from speechssl.objectives.cluster import ClusterConfig, ClusterObjective, ClusterTargets
from speechssl.objectives.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.types import AudioBatch, ObjectiveOutput


class Objective(Protocol):
    """What the pre-training stage asks of an objective, which is also a module."""

    def __call__(
        self, encoder: SpeechEncoder, batch: AudioBatch, *, step: int, generator: torch.Generator | None = None
    ) -> ObjectiveOutput:
        """Loss of a batch."""
        ...

    def after_update(self, encoder: SpeechEncoder, *, step: int) -> None:
        """Called after every optimizer step."""
        ...


def build_contrastive(config: ContrastiveConfig, encoder: SpeechEncoder, seed: int) -> nn.Module:
    """The contrastive objective for an encoder's dims."""
    return ContrastiveObjective(
        config, latent_dim=encoder.config.latent_dim, model_dim=encoder.config.model_dim, seed=seed
    )


__all__ = [
    "ClusterConfig",
    "ClusterObjective",
    "ClusterTargets",
    "ContrastiveConfig",
    "ContrastiveObjective",
    "Objective",
    "build_contrastive",
]
