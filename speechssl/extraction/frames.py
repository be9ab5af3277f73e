"""The representation of batches.

Shapes: B utterances, S samples, T frames, D model dim, K layers, E embedding dim.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.extraction.representation import Extractor
from speechssl.lengths import is_full, no_padding


@torch.inference_mode()
def encode_batch(
    extractor: Extractor, waveform: Tensor, num_samples: Tensor, *, bf16: bool = False
) -> list[NDArray[np.float32]]:
    """Vectors `[K, E]` of every utterance, or its frames `[K, T, D]` without a pooling.

    Args:
        extractor: encoder and what is wanted of it.
        waveform: f32 `[B, S]` at its rate; what lies beyond a row's length does not matter.
        num_samples: i64 `[B]`, each at least the receptive field.
        bf16: compute under autocast.

    Raises:
        AudioError: an utterance is too short.
    """
    device = extractor.device
    known = no_padding(is_full(num_samples, waveform.shape[1]))  # before the lengths go where asking takes time
    with known, torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        output = extractor.encoder(waveform.to(device), num_samples.to(device), layers=extractor.needs_layers)
    frames = extractor.chosen(output)
    if extractor.pooling is not None:
        pooled = extractor.finish(extractor.summarize(frames, output.num_frames))
        return list(pooled.transpose(0, 1).cpu().numpy())
    frames = extractor.normalized(frames).transpose(0, 1).cpu()  # [B, K, T, D]
    counts = output.num_frames.tolist()
    return [row[:, :count].clone().numpy() for row, count in zip(frames, counts, strict=True)]
