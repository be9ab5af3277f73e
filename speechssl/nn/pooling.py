"""From frames to one vector: mean, max, statistics, attentive statistics, first and last frame.

Every pooling summarizes frames, merges the summaries of neighbouring parts and makes the vector of the last summary, so
that a recording of any length is pooled part by part by the same formulas as one that fits in memory.

Shapes: B utterances, T frames, D model dim, E dim of the pooled vector.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from speechssl.lengths import padding_mask

PoolName = Literal["mean", "max", "mean_std", "attentive", "first", "last"]

_MIN_VARIANCE = 1e-10


class Summary(NamedTuple):
    """What a pooling keeps of frames, each tensor `[B, ...]`; which fields hold something depends on the pooling.

    `weight` `[B]` is the sum of the weights `exp(score - top)`, `mean` `[B, D]` the weighted mean, `spread` `[B, D]`
    the weighted sum of squared deviations from it, `frame` `[B, D]` a chosen frame or the largest values.
    """

    weight: Tensor
    top: Tensor
    mean: Tensor
    spread: Tensor
    frame: Tensor


class Pooling(nn.Module):
    """Frames `[B, T, D]` with `num_frames` i64 `[B]`, each at least 1 -> vectors f32 `[B, E]`."""

    def output_dim(self, dim: int) -> int:
        """E, for frames of `dim`."""
        return dim

    def summarize(self, frames: Tensor, num_frames: Tensor) -> Summary:
        """The summary of `[B, T, D]`; what lies beyond a row's length does not matter."""
        raise NotImplementedError

    def merge(self, before: Summary, after: Summary) -> Summary:
        """The summary of both parts, of which `after` follows on `before`."""
        raise NotImplementedError

    def finish(self, summary: Summary) -> Tensor:
        """The vectors `[B, E]`."""
        return summary.frame

    def forward(self, frames: Tensor, num_frames: Tensor) -> Tensor:
        """`[B, T, D]`, `[B]` -> f32 `[B, E]`."""
        return self.finish(self.summarize(frames, num_frames))


class MeanPooling(Pooling):
    """Mean over time; with `deviation` followed by the standard deviation (biased, at least 1e-5): E = 2 D.

    The latter is statistics pooling (x-vectors, Snyder et al. 2018, section 3.1).
    """

    def __init__(self, *, deviation: bool = False) -> None:
        super().__init__()
        self.deviation = deviation

    def output_dim(self, dim: int) -> int:
        """D, or 2 D."""
        return 2 * dim if self.deviation else dim

    def scores(self, frames: Tensor) -> Tensor | None:
        """Logarithms of the frames' weights f32 `[B, T]`; None where all are alike."""
        return None

    def summarize(self, frames: Tensor, num_frames: Tensor) -> Summary:
        """Weighted mean and spread."""
        valid = ~padding_mask(num_frames, frames.shape[1])[:, :, None]
        frames = torch.where(valid, frames.float(), 0)
        scores = self.scores(frames)
        if scores is None:
            top = frames.new_zeros(len(frames))
            weight = num_frames.clamp(min=1).float()
            weights = valid.float()
            mean = frames.sum(dim=1) / num_frames.clamp(min=1)[:, None]
        else:
            scores = scores.masked_fill(~valid[:, :, 0], float("-inf"))
            top = scores.amax(dim=1)
            weights = (scores - top[:, None]).exp()[:, :, None]
            weight = weights.sum(dim=(1, 2))
            mean = (weights * frames).sum(dim=1) / weight[:, None]
        spread = torch.zeros_like(mean)
        if self.deviation:
            spread = (weights * (frames - mean[:, None, :]).square()).sum(dim=1)
        return Summary(weight=weight, top=top, mean=mean, spread=spread, frame=mean)

    def merge(self, before: Summary, after: Summary) -> Summary:
        """Chan, Golub and LeVeque 1979, equation 2.1, after both are brought to the same `top`."""
        top = torch.maximum(before.top, after.top)
        shares = [(part.top - top).exp() for part in (before, after)]
        weights = [part.weight * share for part, share in zip((before, after), shares, strict=True)]
        weight = weights[0] + weights[1]
        step = after.mean - before.mean
        mean = before.mean + step * (weights[1] / weight)[:, None]
        spread = before.spread * shares[0][:, None] + after.spread * shares[1][:, None]
        spread = spread + step.square() * (weights[0] * weights[1] / weight)[:, None]
        return Summary(weight=weight, top=top, mean=mean, spread=spread, frame=mean)

    def finish(self, summary: Summary) -> Tensor:
        """`[B, D]` or `[B, 2 D]`."""
        if not self.deviation:
            return summary.mean
        variance = summary.spread / summary.weight[:, None]
        return torch.cat([summary.mean, variance.clamp(min=_MIN_VARIANCE).sqrt()], dim=1)


class AttentiveStatistics(MeanPooling):
    """Attentive statistics pooling (Okabe et al. 2018, section 3.3): a small network weighs the frames; E = 2 D.

    The score of a frame h is `v · tanh(W h + b) + k`. As it comes, with v = 0, all weights are alike and the result is
    that of `mean_std`; train it together with a classifier on its output.
    """

    def __init__(self, dim: int, *, hidden_dim: int = 128, seed: int = 0) -> None:
        """For frames of `dim`; W is drawn from `seed`."""
        super().__init__(deviation=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.expand = nn.Linear(dim, hidden_dim)
            self.score = nn.Linear(hidden_dim, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def scores(self, frames: Tensor) -> Tensor:
        """f32 `[B, T]`."""
        scores: Tensor = self.score(torch.tanh(self.expand(frames)))
        return scores[:, :, 0].float()


class MaxPooling(Pooling):
    """The largest value of each dimension over time."""

    def summarize(self, frames: Tensor, num_frames: Tensor) -> Summary:
        """The largest values so far."""
        padding = padding_mask(num_frames, frames.shape[1])[:, :, None]
        return _of_frame(frames.float().masked_fill(padding, float("-inf")).amax(dim=1))

    def merge(self, before: Summary, after: Summary) -> Summary:
        """The larger values."""
        return _of_frame(torch.maximum(before.frame, after.frame))


class FirstPooling(Pooling):
    """The first frame."""

    def summarize(self, frames: Tensor, num_frames: Tensor) -> Summary:
        """The first frame."""
        return _of_frame(frames[:, 0].float())

    def merge(self, before: Summary, after: Summary) -> Summary:
        """That of the earlier part."""
        return before


class LastPooling(Pooling):
    """The last frame."""

    def summarize(self, frames: Tensor, num_frames: Tensor) -> Summary:
        """The last valid frame."""
        rows = torch.arange(len(frames), device=frames.device)
        return _of_frame(frames[rows, (num_frames - 1).clamp(min=0)].float())

    def merge(self, before: Summary, after: Summary) -> Summary:
        """That of the later part."""
        return after


def make_pooling(name: PoolName, *, dim: int) -> Pooling:
    """The pooling of a name; `dim` is that of the frames, D."""
    match name:
        case "mean":
            return MeanPooling()
        case "mean_std":
            return MeanPooling(deviation=True)
        case "attentive":
            return AttentiveStatistics(dim)
        case "max":
            return MaxPooling()
        case "first":
            return FirstPooling()
        case "last":
            return LastPooling()


def _of_frame(frame: Tensor) -> Summary:
    nothing = frame.new_zeros(len(frame))
    return Summary(weight=nothing, top=nothing, mean=frame, spread=frame, frame=frame)
