"""Forced alignment: which frames a known text was said in.

Shapes: T frames, L labels, N vocabulary.

The best CTC path that spells the labels (Graves et al. 2006; Kürzinger et al. 2020). Short ones are found by
`torchaudio.functional.forced_align`, whose table has a cell for every frame and every state of the 2 L + 1, four
gigabytes for an hour. Longer ones take the same path by the same recursion, keeping per block of frames only where each
state came from (`long_alignment`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.ctc.long_alignment import best_states
from speechssl.ctc.loss import required_frames
from speechssl.ctc.scored import ScoredToken
from speechssl.errors import AudioError

MAX_CELLS = 20_000_000
"""Frames times states up to which torchaudio aligns in one piece, with two bytes a cell."""


@dataclass(frozen=True, kw_only=True)
class LabelAlignment:
    """The labels with their frames, in order, and the mean over the frames of the path's log probability."""

    tokens: tuple[ScoredToken, ...]
    mean_log_probability: float


def align_labels(
    log_probabilities: Tensor,
    labels: Sequence[int],
    *,
    blank: int = 0,
    prior_weight: float = 0.0,
    max_cells: int = MAX_CELLS,
) -> LabelAlignment:
    """The frames of every label on the best path that spells `labels`.

    Args:
        log_probabilities: `[T, N]`, normalised.
        labels: L label ids without blanks.
        blank: label id of the blank.
        prior_weight: how much of each label's log prior (its mean posterior over the recording) is taken off before
            the search. CTC networks say blank wherever they can, which makes labels short; this makes them longer. The
            idea is Huang et al. 2024's, who train with it; here it acts on the search alone. Scores are without it.
        max_cells: table size above which the alignment is found block by block.

    Raises:
        AudioError: there are too few frames for the labels.
    """
    num_frames = len(log_probabilities)
    needed = max(required_frames(labels), 1)
    if num_frames < needed:
        raise AudioError(
            f"the text has {len(labels)} labels, which need {needed} frames, but the audio makes {num_frames}; is it"
            " the text of this recording?"
        )
    used = sorted({blank, *labels})
    place = {label: index for index, label in enumerate(used)}
    scores = log_probabilities[:, used].float().cpu()  # [T, labels that occur]
    targets = np.array([place[label] for label in labels], dtype=np.int64)
    searched = scores
    if prior_weight:
        searched = scores - prior_weight * scores.double().logsumexp(dim=0).sub(np.log(num_frames)).float()
    path = _best_path(searched, targets, place[blank], max_cells)  # state 2 i + 1 is label i, the even ones are blanks
    frames = np.arange(num_frames)
    columns = np.full(2 * len(labels) + 1, place[blank], np.int64)
    columns[1::2] = targets
    on_path = scores.numpy()[frames, columns[path]]
    return LabelAlignment(
        tokens=_tokens(path, on_path, labels),
        mean_log_probability=float(on_path.mean(dtype=np.float64)),
    )


def _best_path(scores: Tensor, targets: NDArray[np.int64], blank: int, max_cells: int) -> NDArray[np.int64]:
    """The state of every frame, i64 `[T]`."""
    num_frames, num_labels = len(scores), len(targets)
    if num_labels == 0:
        return np.zeros(num_frames, np.int64)
    if num_frames * (2 * num_labels + 1) > max_cells:
        return best_states(scores.numpy(), targets, blank)
    try:
        from torchaudio.functional import forced_align
    except ImportError:  # some releases announce its end
        return best_states(scores.numpy(), targets, blank)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*forced_align has been deprecated", category=UserWarning)
        path, _ = forced_align(scores[None].contiguous(), torch.from_numpy(targets)[None], blank=blank)
    return _states(path[0].numpy(), blank)


def _states(path: NDArray[np.int64], blank: int) -> NDArray[np.int64]:
    """Labels of every frame -> states: a label that differs from the frame before it is the next."""
    before = np.concatenate([[blank], path[:-1]])
    number = np.cumsum((path != blank) & (path != before))  # labels begun so far
    return np.asarray(np.where(path == blank, 2 * number, 2 * number - 1), dtype=np.int64)


def _tokens(path: NDArray[np.int64], on_path: NDArray[np.float32], labels: Sequence[int]) -> tuple[ScoredToken, ...]:
    starts = np.searchsorted(path, 2 * np.arange(len(labels)) + 1, side="left")
    stops = np.searchsorted(path, 2 * np.arange(len(labels)) + 1, side="right")
    return tuple(
        ScoredToken(
            label=int(label),
            start_frame=int(start),
            end_frame=int(stop),
            log_posterior=float(on_path[start:stop].mean(dtype=np.float64)),
        )
        for label, start, stop in zip(labels, starts, stops, strict=True)
    )
