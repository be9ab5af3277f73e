"""Attention with dropout on its weights, for the CPU.

`scaled_dot_product_attention` has a fast CPU kernel only without dropout; with it, it keeps five matrices of the size
of the attention weights for backward. Here two are kept: the weights, and a byte each for what was dropped. Heads are
worked off one by one, so that a matrix stays in the cache from its making to its last use.

Shapes: B utterances, H heads, T frames, E dims of a head.
"""

import math
from typing import Any

import torch
from torch import Tensor

from speechssl.nn.dropout import keep_mask


class DroppedAttention(torch.autograd.Function):
    """softmax(Q K' / sqrt(E)), some of it dropped, times V."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, allowed: Tensor | None, p: float) -> Tensor:
        """Queries, keys and values `[B, T, 3, H, E]`, `allowed` bool `[B, 1, 1, T]` or None -> `[B, T, H, E]`."""
        batch, time, _, heads, width = projected.shape
        kept, share = keep_mask((batch, heads, time, time), p)
        weights = projected.new_empty(batch, heads, time, time)
        result = projected.new_empty(batch, time, heads, width)
        scores = projected.new_empty(time, time)
        scale = 1 / math.sqrt(width)
        for row in range(batch):
            hidden = None if allowed is None else ~allowed[row, 0]
            for head in range(heads):
                query, key, value = projected[row, :, :, head].unbind(1)
                torch.addmm(scores, query, key.T, beta=0, alpha=scale, out=scores)
                if hidden is not None:
                    scores.masked_fill_(hidden, float("-inf"))
                torch._softmax(scores, 1, False, out=weights[row, head])
                torch.mul(weights[row, head], kept[row, head], out=scores)
                torch.mm(scores, value, out=result[row, :, head])
        ctx.save_for_backward(projected, weights, kept)
        ctx.share = share
        return result.mul_(1 / share)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # type: ignore[override]
        """By the chain rule; what was dropped gets no gradient."""
        projected, weights, kept = ctx.saved_tensors
        batch, time, _, heads, width = projected.shape
        grad_output = grad_output * (1 / ctx.share)
        result = torch.empty_like(projected, memory_format=torch.contiguous_format)
        dropped, scores_grad = projected.new_empty(time, time), projected.new_empty(time, time)
        for row in range(batch):
            for head in range(heads):
                query, key, value = projected[row, :, :, head].unbind(1)
                query_grad, key_grad, value_grad = result[row, :, :, head].unbind(1)
                grad, weight, keep = grad_output[row, :, head], weights[row, head], kept[row, head]
                torch.mul(weight, keep, out=dropped)
                torch.mm(dropped.T, grad, out=value_grad)
                torch.mm(grad, value.T, out=dropped)
                torch._softmax_backward_data(dropped.mul_(keep), weight, 1, weight.dtype, grad_input=scores_grad)
                torch.mm(scores_grad, key, out=query_grad)
                torch.mm(scores_grad.T, query, out=key_grad)
        result[:, :, :2].mul_(1 / math.sqrt(width))  # of queries and keys
        return result, None, None
