"""A training step on a GPU: the same numbers as on the CPU, and nothing in it that waits for the device."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.objectives import ContrastiveConfig, build_contrastive
from speechssl.training.optim import OptimConfig, apply_update, build_optimizer
from speechssl.types import AudioBatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SMALL = {"conv_dim": 64, "model_dim": 128, "num_layers": 2, "num_heads": 4, "feed_forward_dim": 256}


def batch_of(num_samples: list[int], device: str) -> AudioBatch:
    waveform = torch.randn(len(num_samples), max(num_samples), generator=torch.Generator().manual_seed(0))
    for row, count in zip(waveform, num_samples, strict=True):
        row[count:] = 0
    return AudioBatch(
        utterance_ids=tuple(map(str, num_samples)),
        waveform=waveform.to(device),
        num_samples=torch.tensor(num_samples).to(device),
        sample_rate=16_000,
    )


@pytest.mark.parametrize("preset", ["base", "large"])
@pytest.mark.parametrize("num_samples", [[32_000, 32_000], [32_000, 20_001]])
def test_context_is_that_of_the_cpu(preset: str, num_samples: list[int]) -> None:
    encoder = SpeechEncoder(encoder_config(preset, SMALL)).eval()
    with torch.no_grad():
        host = encoder(batch_of(num_samples, "cpu").waveform, torch.tensor(num_samples))
        encoder.to("cuda")
        batch = batch_of(num_samples, "cuda")
        device = encoder(batch.waveform, batch.num_samples)
    for row, count in enumerate(host.num_frames.tolist()):
        torch.testing.assert_close(device.context[row, :count].cpu(), host.context[row, :count], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_step_does_not_wait_for_the_device(precision: torch.dtype, training_step: Callable[..., Tensor]) -> None:
    training_step(precision)  # allocations and kernels of the first step may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = training_step(precision)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss).item()


@pytest.fixture
def training_step() -> Callable[..., Tensor]:
    encoder = SpeechEncoder(encoder_config("base", SMALL)).to("cuda").train()
    objective = build_contrastive(ContrastiveConfig(), encoder, 0).to("cuda").train()
    optimizer = build_optimizer([{"params": [*encoder.parameters(), *objective.parameters()]}], OptimConfig())
    batch = batch_of([32_000, 20_001], "cuda")
    generator = torch.Generator("cuda").manual_seed(0)

    def step(precision: torch.dtype) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
            output = objective(encoder, batch, step=100, generator=generator)
        output.loss.backward()
        loss: Tensor = output.loss.detach()
        apply_update(optimizer, loss=loss, num_targets=None, clip_norm=1.0)
        return loss

    return step
