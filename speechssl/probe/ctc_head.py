"""Recognition by a small CTC head on frozen frames: one bidirectional LSTM, the same for every representation.

The head sees a learned weighting of all layers (as in SUPERB, section 3.2), each standardised over the training part.
Learning rate and the step to stop at are chosen on a fifth of the training utterances, held out; the test part is
recognised once, greedily.

Shapes: B utterances, L layers, T frames, D dimensions, N vocabulary.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechssl.ctc import ctc_loss, greedy_decode
from speechssl.ctc.loss import required_frames
from speechssl.probe.classify import Labels
from speechssl.scoring import count_errors, error_rates
from speechssl.text import NormalizerName, Vocabulary
from speechssl.types import UtteranceErrors

LEARNING_RATES = (1e-3, 3e-3, 1e-2)
HIDDEN = 64
BATCH_SIZE = 32
INNER_SHARE = 0.2
CHECKS = 8  # how often the held-out error is looked at in one training
NORMALIZER: NormalizerName = "letters"

Frames = Mapping[str, NDArray[np.float16]]  # utterance id -> [L, T, D]


class CtcHead(nn.Module):
    """Weighted layers `[B, L, T, D]` -> logits `[B, T, N]`."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor, num_labels: int, *, seed: int) -> None:
        """`mean` and `scale` are `[L, 1, D]`."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer_logits = nn.Parameter(torch.zeros(len(mean)))
            self.input = nn.Linear(mean.shape[2], HIDDEN)
            self.recurrent = nn.LSTM(HIDDEN, HIDDEN, batch_first=True, bidirectional=True)
            self.output = nn.Linear(2 * HIDDEN, num_labels)

    @property
    def layer_weights(self) -> list[float]:
        """The share of every layer, which sum to 1."""
        return [float(value) for value in self.layer_logits.detach().softmax(0)]

    def forward(self, frames: Tensor, num_frames: Tensor) -> Tensor:
        """Frames `[B, L, T, D]` with lengths i64 `[B]` -> logits `[B, T, N]`."""
        standard = (frames - self.mean) / self.scale
        weighed = torch.einsum("bltd,l->btd", standard, self.layer_logits.softmax(0))
        packed = nn.utils.rnn.pack_padded_sequence(
            self.input(weighed), num_frames, batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.recurrent(packed)[0], batch_first=True, total_length=frames.shape[2]
        )
        logits: Tensor = self.output(states)
        return logits


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A head with the rate and step that were chosen, and its held-out character error rate (fraction)."""

    head: CtcHead
    learning_rate: float
    step: int
    inner_cer: float


def fitting(ids: Sequence[str], frames: Frames, texts: Mapping[str, str], vocabulary: Vocabulary) -> list[str]:
    """The utterances whose frames are enough to spell their text."""
    return [name for name in ids if frames[name].shape[1] >= required_frames(vocabulary.encode(texts[name]))]


def train_head(
    ids: Sequence[str],
    frames: Frames,
    texts: Mapping[str, str],
    vocabulary: Vocabulary,
    *,
    rates: Sequence[float],
    num_updates: int,
    seed: int,
    groups: Labels | None = None,
) -> Trained:
    """The best of one training at each rate; `groups` are held out whole."""
    names = np.array(list(ids)) if groups is None else groups
    kinds = np.random.default_rng([seed, 3]).permutation(np.unique(names))
    held = set(kinds[: max(1, round(INNER_SHARE * len(kinds)))].tolist())
    inner = [name for name, kind in zip(ids, names, strict=True) if str(kind) in held]
    outer = [name for name in ids if name not in set(inner)] or inner
    best: Trained | None = None
    for rate in rates:
        found = _train(outer, inner, frames, texts, vocabulary, rate=rate, num_updates=num_updates, seed=seed)
        if best is None or found.inner_cer < best.inner_cer:
            best = found
    assert best is not None, "at least one rate"
    return best


def recognise(
    head: CtcHead, ids: Sequence[str], frames: Frames, texts: Mapping[str, str], vocabulary: Vocabulary
) -> list[UtteranceErrors]:
    """Errors of every utterance, in the order of `ids`; a recording too short for its text counts like any other."""
    hypotheses: dict[str, str] = {}
    head.eval()
    for first in range(0, len(ids), BATCH_SIZE):
        names = ids[first : first + BATCH_SIZE]
        inputs, lengths = _pad(names, frames)
        with torch.inference_mode():
            found = greedy_decode(head(inputs, lengths), lengths, vocabulary)
        hypotheses |= {name: one.text for name, one in zip(names, found, strict=True)}
    return count_errors({name: texts[name] for name in ids}, hypotheses, normalizer="none")


def _train(
    outer: Sequence[str],
    inner: Sequence[str],
    frames: Frames,
    texts: Mapping[str, str],
    vocabulary: Vocabulary,
    *,
    rate: float,
    num_updates: int,
    seed: int,
) -> Trained:
    """One training; the head of the check with the lowest held-out error rate."""
    mean, scale = _statistics(outer, frames)
    head = CtcHead(mean, scale, len(vocabulary), seed=seed)
    optimizer = torch.optim.Adam(head.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=num_updates, pct_start=0.1)
    random = np.random.default_rng([seed, 4])
    queue: list[str] = []
    best = Trained(head=copy.deepcopy(head), learning_rate=rate, step=0, inner_cer=float("inf"))
    for step in range(1, num_updates + 1):
        while len(queue) < min(BATCH_SIZE, len(outer)):
            queue += [outer[row] for row in random.permutation(len(outer))]
        names, queue = queue[:BATCH_SIZE], queue[BATCH_SIZE:]
        inputs, lengths = _pad(names, frames)
        labels = [torch.tensor(vocabulary.encode(texts[name])) for name in names]
        targets = nn.utils.rnn.pad_sequence(labels, batch_first=True)
        head.train()
        loss = ctc_loss(head(inputs, lengths), lengths, targets, torch.tensor([len(label) for label in labels]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if step % max(1, num_updates // CHECKS) == 0 or step == num_updates:
            cer = error_rates(recognise(head, inner, frames, texts, vocabulary))[1]
            if cer < best.inner_cer:
                best = Trained(head=copy.deepcopy(head), learning_rate=rate, step=step, inner_cer=cer)
    return best


def _statistics(ids: Sequence[str], frames: Frames) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every layer's dimensions, `[L, 1, D]` each."""
    count, total, squares = 0, 0.0, 0.0
    for name in ids:
        mine = frames[name].astype(np.float64)
        count, total, squares = count + mine.shape[1], total + mine.sum(axis=1), squares + (mine**2).sum(axis=1)
    mean = np.asarray(total) / count
    scale = np.sqrt(np.maximum(np.asarray(squares) / count - mean**2, 1e-8))
    return torch.tensor(mean[:, None], dtype=torch.float32), torch.tensor(scale[:, None], dtype=torch.float32)


def _pad(ids: Sequence[str], frames: Frames) -> tuple[Tensor, Tensor]:
    """Frames `[B, L, T, D]` in fp32 and lengths i64 `[B]`."""
    found = [frames[name] for name in ids]
    lengths = torch.tensor([one.shape[1] for one in found])
    padded = torch.zeros(len(found), found[0].shape[0], int(lengths.max()), found[0].shape[2])
    for row, one in zip(padded, found, strict=True):
        row[:, : one.shape[1]] = torch.from_numpy(one.astype(np.float32))
    return padded, lengths
