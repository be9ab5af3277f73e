"""Utterances of unequal length one after the other, so that no layer computes padding.

A transformer layer treats frames one by one but for attention, so the rows `[1, N, D]` of a batch `[B, T, D]` whose
utterances fill half of it cost half as much as the batch. For the CPU, where lengths are at hand: on a GPU reading them
would wait for it.

Shapes: B utterances, T frames, N valid frames of all utterances, D model dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """How long the utterances of a batch are, in frames, and how many frames `time` the batch has."""

    lengths: tuple[int, ...]
    time: int

    @classmethod
    def of(cls, padding: Tensor) -> "Packing":
        """From `padding` bool `[B, T]`, True in the padding, which is behind the utterance."""
        return cls(tuple((~padding).sum(1).tolist()), padding.shape[1])

    def pack(self, x: Tensor) -> Tensor:
        """`[B, T, D]` -> `[1, N, D]`."""
        rows: Tensor = _Pack.apply(x, self.lengths)  # type: ignore[no-untyped-call]
        return rows

    def unpack(self, rows: Tensor) -> Tensor:
        """`[1, N, D]` -> `[B, T, D]` with zeros in the padding."""
        x: Tensor = _Unpack.apply(rows, self.lengths, self.time)  # type: ignore[no-untyped-call]
        return x


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Sequence[int]) -> Tensor:
        ctx.lengths, ctx.time = lengths, x.shape[1]
        return _join(x, lengths)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        return _spread(grad_output, ctx.lengths, ctx.time), None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: Sequence[int], time: int) -> Tensor:
        ctx.lengths = lengths
        return _spread(rows, lengths, time)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        return _join(grad_output, ctx.lengths), None, None


def _join(x: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.cat([row[:length] for row, length in zip(x, lengths, strict=True)])[None]


def _spread(rows: Tensor, lengths: Sequence[int], time: int) -> Tensor:
    x = rows.new_zeros(len(lengths), time, rows.shape[2])
    for row, part in zip(x, torch.split(rows[0], list(lengths)), strict=True):
        row[: len(part)] = part
    return x
