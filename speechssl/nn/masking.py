"""Span masking (wav2vec 2.0, section 3.1 and appendix A) and masked positions as indices.

Shapes: B utterances, T frames, M masked frames of the fullest row.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MaskedPositions:
    """Which frames are masked, row by row: `indices` i64 `[B, M]`, `valid` bool `[B, M]`, `counts` i64 `[B]`.

    Rows with fewer masked frames than M are filled up with index 0, where `valid` is False.
    """

    indices: Tensor
    valid: Tensor
    counts: Tensor


def sample_span_mask(
    lengths: Tensor,
    max_length: int,
    *,
    probability: float,
    span: int,
    min_spans: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mask spans at random: bool `[B, max_length]`, True = masked, never beyond a row's length.

    Each row of n positions gets floor(probability * n / span + u) spans, u uniform in [0, 1), their starts drawn
    without replacement among 0 .. n - span; spans may overlap, so with probability 0.65 and span 10 about 49 % of the
    positions are masked (appendix A.2). Something always stays visible: a row too short for two spans and a visible
    position gets shorter spans, two of (n - 1) / 2, and rows of one or two positions get none.

    Args:
        lengths: i64 `[B]`, on the device where the mask is wanted.
        max_length: T.
        probability: chance of a position to start a span, times the span.
        span: positions a span covers.
        min_spans: at least so many spans for each row that has room for them; every row of three positions or more has
            room for two.
        generator: source of randomness, on the same device.

    Source: section 3.1; counts as in fairseq's `compute_mask_indices` (static length, overlap allowed).
    """
    device = lengths.device
    batch = lengths.shape[0]
    row_span = ((lengths - 1) // 2).clamp(min=0, max=span)  # [B]
    num_starts = torch.where(row_span > 0, lengths - row_span + 1, 0)
    # the scores are drawn first and alone, so that a row's mask does not depend on how the others came out
    uniform = torch.rand(batch, max_length + 1, generator=generator, device=device)
    rounding, scores = uniform[:, 0], uniform[:, 1:]
    wanted = (probability * lengths / row_span.clamp(min=1) + rounding).floor().long()
    # so few that they leave a position visible even where no two of them overlap
    room = torch.where(row_span > 0, (lengths - 1) // row_span.clamp(min=1), 0)
    num_spans = torch.minimum(wanted.clamp(min=min_spans), room)
    positions = torch.arange(max_length, device=device)
    scores = scores.masked_fill(positions[None, :] >= num_starts[:, None], 2.0)  # no start there: sorts last
    rank = scores.argsort(dim=1).argsort(dim=1)
    starts = rank < num_spans[:, None]
    # a position is masked when a span started within the last row_span positions, itself included
    started = torch.zeros(batch, max_length + 1, dtype=torch.long, device=device)
    started[:, 1:] = starts.cumsum(dim=1)
    before = (positions[None, :] + 1 - row_span[:, None]).clamp(min=0)
    return started[:, 1:] > started.gather(1, before)


def most_masked(max_length: int, *, probability: float, span: int, min_spans: int = 0) -> int:
    """No row of `sample_span_mask` has more masked positions than this, for rows of `max_length` and less."""
    bound = max(math.floor(probability * max_length) + span, min_spans * span)  # wanted spans < p n / span + 1
    return max(0, min(bound, max_length - 1))  # something stays visible


def masked_positions(frame_mask: Tensor, *, max_masked: int | None = None) -> MaskedPositions:
    """Indices of the True frames of bool `[B, T]`, in order.

    `max_masked` fixes M (and avoids waiting for the device to count); by default M is the largest count.
    """
    counts = frame_mask.sum(dim=1)
    width = int(counts.max()) if max_masked is None else max_masked
    # a stable sort by "not masked" brings the masked frames to the front in their order
    indices = torch.argsort((~frame_mask).to(torch.uint8), dim=1, stable=True)[:, :width]
    valid = torch.arange(width, device=frame_mask.device)[None, :] < counts[:, None]
    return MaskedPositions(indices=indices.masked_fill(~valid, 0), valid=valid, counts=counts)


def gather_frames(x: Tensor, indices: Tensor) -> Tensor:
    """Frames of `[B, T, C]` at `[B, M]` -> `[B, M, C]`."""
    return x.gather(1, indices[:, :, None].expand(-1, -1, x.shape[2]))


def sample_distractors(
    positions: MaskedPositions, num_distractors: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """For each masked frame, `num_distractors` other masked frames of its utterance, drawn with replacement.

    Returns places within M (not frame numbers), i64 `[B, M, K]`, never the frame's own place. A row with a single
    masked frame has no other: its places are meaningless and the caller leaves it out (section 3.2).
    """
    width = positions.indices.shape[1]
    batch = positions.counts.shape[0]
    device = positions.indices.device
    uniform = torch.rand(batch, width, num_distractors, generator=generator, device=device)
    others = (positions.counts - 1).clamp(min=1)[:, None, None]
    # rounding to just below 1 keeps floor(u * others) < others in fp32
    places = torch.minimum((uniform * others).long(), others - 1)
    own = torch.arange(width, device=device)[None, :, None]
    return (places + (places >= own)).clamp(max=max(width - 1, 0))
