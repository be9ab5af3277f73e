"""The CTC loss, and which utterances it cannot be computed for.

Shapes: B utterances, T frames, L labels, N vocabulary (the blank included).

A label sequence of length L with R places where a label follows itself needs at least L + R frames: one a label, and a
blank between equal neighbours. With fewer frames no path spells the labels and the loss is infinite. Nothing here
replaces such an infinity by zero: `find_infeasible` names the utterances before training, `required_frames_batch`
tells a running task.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


def ctc_nll(logits: Tensor, num_frames: Tensor, targets: Tensor, target_lengths: Tensor, *, blank: int = 0) -> Tensor:
    """Negative log likelihood of every utterance in nats, f32 `[B]`; infinite where the labels do not fit.

    The log-softmax is taken in float32 whatever the autocast state, since a sum over hundreds of frames loses the
    loss in bfloat16. Graves et al. 2006, equation 8.

    Args:
        logits: `[B, T, N]`, not normalised; what lies beyond `num_frames` is ignored.
        num_frames: i64 `[B]`.
        targets: i64 `[B, L]`, without blanks; what lies beyond `target_lengths` is ignored.
        target_lengths: i64 `[B]`; 0 means that the utterance holds no label, spelled by blanks alone.
        blank: label id of the blank.
    """
    with torch.autocast(device_type=logits.device.type, enabled=False):
        log_probabilities = functional.log_softmax(logits.float(), dim=-1).transpose(0, 1)  # [T, B, N]
        return functional.ctc_loss(
            log_probabilities, targets, num_frames, target_lengths, blank=blank, reduction="none", zero_infinity=False
        )


def ctc_loss(logits: Tensor, num_frames: Tensor, targets: Tensor, target_lengths: Tensor, *, blank: int = 0) -> Tensor:
    """Scalar loss in nats per label: the sum of `ctc_nll` over the batch divided by the batch's number of labels.

    Every label weighs the same, so the value does not depend on how utterances are grouped into batches (weighting
    each batch by its number of labels). Not the `mean` of `torch.nn.functional.ctc_loss`, which divides every
    utterance by its own length first.
    """
    nll = ctc_nll(logits, num_frames, targets, target_lengths, blank=blank)
    return nll.sum() / target_lengths.sum().clamp(min=1)


def required_frames(labels: Sequence[int]) -> int:
    """Smallest number of frames that can spell `labels`: one a label and one more for every immediate repeat."""
    return len(labels) + sum(first == second for first, second in zip(labels, labels[1:], strict=False))


def required_frames_batch(targets: Tensor, target_lengths: Tensor) -> Tensor:
    """`required_frames` of every row: targets `[B, L]`, target_lengths `[B]` -> i64 `[B]`, on the same device."""
    if targets.shape[1] < 2:
        return target_lengths.clone()
    positions = torch.arange(1, targets.shape[1], device=targets.device)
    repeats = (targets[:, 1:] == targets[:, :-1]) & (positions[None, :] < target_lengths[:, None])
    return target_lengths + repeats.sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class Infeasible:
    """An utterance whose audio makes `num_frames` frames while its `num_labels` labels need `required_frames`."""

    id: str
    num_frames: int
    num_labels: int
    required_frames: int

    def __str__(self) -> str:
        return (
            f"{self.id}: {self.num_labels} labels need {self.required_frames} frames but its audio makes "
            f"{self.num_frames}"
        )


def find_infeasible(utterances: Iterable[tuple[str, int, Sequence[int]]]) -> list[Infeasible]:
    """The utterances, given as `(id, number of frames, labels)`, that are too short for their labels.

    An utterance without any frame is infeasible whatever its labels: the network has no output for it.
    """
    found = []
    for utterance_id, num_frames, labels in utterances:
        required = required_frames(labels)
        if num_frames < max(required, 1):
            found.append(
                Infeasible(id=utterance_id, num_frames=num_frames, num_labels=len(labels), required_frames=required)
            )
    return found
