"""A pre-training step never waits for a device.

Tensors on torch's `meta` device have shapes and no values, so a step that asks the device for one fails there, with no
GPU at hand. `tests/gpu` checks the same on a real one, the optimizer included.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.objectives import ClusterConfig, ClusterObjective, ClusterTargets, ContrastiveConfig, build_contrastive
from speechssl.types import AudioBatch

SMALL = {"model_dim": 64, "num_layers": 2, "num_heads": 4, "feed_forward_dim": 128}


@pytest.fixture(autouse=True)
def _autocast_knows_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    autocast = torch.autocast

    def known(device_type: str, **options: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device_type == "meta" else autocast(device_type, **options)

    monkeypatch.setattr(torch, "autocast", known)


@pytest.mark.parametrize("num_samples", [[32_000, 32_000], [32_000, 20_000]])
@pytest.mark.parametrize("preset", ["base", "large", "tiny"])
def test_a_step_asks_the_device_for_nothing(preset: str, num_samples: list[int]) -> None:
    """And crops of one length need no mask there either: that they are equal is known before they go."""
    changes = SMALL if preset == "tiny" else {**SMALL, "conv_dim": 32}
    encoder = SpeechEncoder(encoder_config(preset, changes)).train()
    objective = build_contrastive(ContrastiveConfig(), encoder, 0).train()
    encoder.to("meta")
    objective.to("meta")
    padding: list[Tensor | None] = []
    encoder.context_encoder.register_forward_pre_hook(lambda _, inputs: padding.append(inputs[1]))
    batch = AudioBatch(
        utterance_ids=("a", "b"),
        waveform=torch.zeros(2, 32_000),
        num_samples=torch.tensor(num_samples),
        sample_rate=16_000,
    ).to("meta")
    output = objective(encoder, batch, step=100)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in encoder.context_encoder.parameters())
    assert [mask is None for mask in padding] == [len(set(num_samples)) == 1]


def test_neither_does_masked_prediction_of_clusters() -> None:
    encoder = SpeechEncoder(encoder_config("tiny", SMALL)).train()

    def frames(waveform: Tensor, num_samples: Tensor, num_frames: int) -> Tensor:
        return torch.zeros(len(waveform), num_frames, 5, device=waveform.device)

    targets = ClusterTargets(centers=torch.zeros(7, 5), frames=frames)
    objective = ClusterObjective(ClusterConfig(), targets, model_dim=64).train()
    encoder.to("meta")
    objective.to("meta")
    batch = AudioBatch(
        utterance_ids=("a", "b"),
        waveform=torch.zeros(2, 32_000),
        num_samples=torch.tensor([32_000, 20_000]),
        sample_rate=16_000,
    ).to("meta")
    objective(encoder, batch, step=100).loss.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_the_check_can_fail() -> None:
    with pytest.raises(RuntimeError, match="meta tensors"):
        torch.empty(2, device="meta").max().item()
