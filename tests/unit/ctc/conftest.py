"""A recogniser of real digits that takes seconds to make: the shipped encoder, frozen, under a CTC layer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import speechssl
from speechssl.audio import read
from speechssl.ctc import ctc_loss
from speechssl.text import Vocabulary

DIGITS = "zero one two three four five six seven eight nine".split()


@dataclass(frozen=True)
class Digits:
    """Logits `[B, T, N]` of real clips that were not learnt, and what was said."""

    vocabulary: Vocabulary
    logits: Tensor
    num_frames: Tensor
    texts: tuple[str, ...]


@pytest.fixture(scope="session")
def digits(corpora: Path) -> Digits:
    """Trained on 80 clips of four speakers, applied to another take of 40."""
    encoder = speechssl.load_encoder("speechssl-tiny")
    vocabulary = Vocabulary.from_texts(DIGITS)
    speakers = ("george", "jackson", "nicolas", "theo")

    def encode(takes: tuple[int, ...]) -> tuple[Tensor, Tensor, list[str]]:
        clips = [(d, s, t) for t in takes for s in speakers for d in range(10)]
        audio = [read(corpora / "fsdd" / "audio" / f"{d}_{s}_{t}.flac", sample_rate=16000) for d, s, t in clips]
        lengths = torch.tensor([len(clip) for clip in audio])
        padded = torch.from_numpy(np.stack([np.pad(clip, (0, int(lengths.max()) - len(clip))) for clip in audio]))
        with torch.inference_mode():
            output = encoder(padded.float(), lengths, layers=True)
        return output.layers[2].clone(), output.num_frames.clone(), [DIGITS[d] for d, _, _ in clips]

    context, num_frames, texts = encode((8, 9))
    labels = [torch.tensor(vocabulary.encode(text)) for text in texts]
    targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True)
    generator = torch.Generator().manual_seed(0)
    weight = (0.02 * torch.randn(context.shape[-1], len(vocabulary), generator=generator)).requires_grad_()
    mean, deviation = context.mean((0, 1)), context.std((0, 1))
    optimizer = torch.optim.Adam([weight], lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss = ctc_loss(
            (context - mean) / deviation @ weight, num_frames, targets, torch.tensor([len(row) for row in labels])
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    context, num_frames, texts = encode((0,))
    with torch.no_grad():
        logits = (context - mean) / deviation @ weight
    return Digits(vocabulary, logits, num_frames, tuple(texts))
