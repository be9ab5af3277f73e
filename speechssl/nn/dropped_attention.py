"""Attention with dropout on its weights, for the CPU.

`scaled_dot_product_attention` has a fast CPU kernel only without dropout; with it, it keeps five matrices of the size
of the attention weights for backward. Here two are kept: the weights, and a byte each for what was dropped. Heads are
worked off one by one, so that a matrix stays in the cache from its making to its last use.

Shapes: N frames of all utterances, one after the other, H heads, E dims of a head.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from speechssl.nn.dropout import keep_mask


class DroppedAttention(torch.autograd.Function):
    """softmax(Q K' / sqrt(E)), some of it dropped, times V."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, lengths: Sequence[int], p: float) -> Tensor:
        """Queries, keys and values `[N, 3, H, E]` of utterances of `lengths`, N in all -> `[N, H, E]`."""
        total, _, heads, width = projected.shape
        kept, share = keep_mask((heads * sum(length**2 for length in lengths),), p)
        weights = projected.new_empty(len(kept))
        result = projected.new_empty(total, heads, width)
        room = projected.new_empty(max(lengths) ** 2)
        scale = 1 / math.sqrt(width)
        for span, head, weight, keep in _matrices(lengths, heads, weights, kept):
            query, key, value = projected[span, :, head].unbind(1)
            scores = room[: weight.numel()].view_as(weight)
            torch.addmm(scores, query, key.T, beta=0, alpha=scale, out=scores)
            torch._softmax(scores, 1, False, out=weight)
            torch.mul(weight, keep, out=scores)
            torch.mm(scores, value, out=result[span, head])
        ctx.save_for_backward(projected, weights, kept)
        ctx.lengths, ctx.share = lengths, share
        return result.mul_(1 / share)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        """By the chain rule; what was dropped gets no gradient."""
        projected, weights, kept = ctx.saved_tensors
        heads, width = projected.shape[2:]
        grad_output = grad_output * (1 / ctx.share)
        result = torch.empty_like(projected, memory_format=torch.contiguous_format)
        first, second = projected.new_empty(2, max(ctx.lengths) ** 2)
        for span, head, weight, keep in _matrices(ctx.lengths, heads, weights, kept):
            query, key, value = projected[span, :, head].unbind(1)
            query_grad, key_grad, value_grad = result[span, :, head].unbind(1)
            grad = grad_output[span, head]
            dropped, scores_grad = (room[: weight.numel()].view_as(weight) for room in (first, second))
            torch.mul(weight, keep, out=dropped)
            torch.mm(dropped.T, grad, out=value_grad)
            torch.mm(grad, value.T, out=dropped)
            torch._softmax_backward_data(dropped.mul_(keep), weight, 1, weight.dtype, grad_input=scores_grad)
            torch.mm(scores_grad, key, out=query_grad)
            torch.mm(scores_grad.T, query, out=key_grad)
        result[:, :2].mul_(1 / math.sqrt(width))  # of queries and keys
        return result, None, None


def _matrices(
    lengths: Sequence[int], heads: int, weights: Tensor, kept: Tensor
) -> Iterator[tuple[slice, int, Tensor, Tensor]]:
    """Of each utterance and head: the utterance's frames, the head, its matrix of `weights` and that of `kept`."""
    start = used = 0
    for length in lengths:
        span = slice(start, start + length)
        for head in range(heads):
            part = slice(used, used + length**2)
            yield span, head, weights[part].view(length, length), kept[part].view(length, length)
            used += length**2
        start += length
