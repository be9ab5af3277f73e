"""The CTC loss against enumeration of all paths, and the feasibility rule against the loss."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from speechssl.ctc.loss import ctc_loss, ctc_nll, find_infeasible, required_frames, required_frames_batch


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(label for label, _ in itertools.groupby(path) if label != 0)


def nll_by_enumeration(logits: Tensor, labels: tuple[int, ...]) -> Tensor:
    """-log of the summed probability of every path that spells `labels`; logits `[T, N]`."""
    probabilities = logits.softmax(dim=-1)
    total = torch.zeros((), dtype=logits.dtype)
    for path in itertools.product(range(logits.shape[1]), repeat=logits.shape[0]):
        if collapse(path) == labels:
            total = total + torch.stack([probabilities[t, label] for t, label in enumerate(path)]).prod()
    return -total.log()


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1))


TARGETS = torch.tensor([[1, 2, 1], [1, 1, 0], [2, 0, 0]])
TARGET_LENGTHS = torch.tensor([3, 2, 1])
NUM_FRAMES = torch.tensor([5, 4, 3])


def test_loss_is_the_sum_over_paths_divided_by_labels_and_so_is_its_gradient(logits: Tensor) -> None:
    ours = logits.clone().requires_grad_()
    slow = logits.clone().requires_grad_()
    loss = ctc_loss(ours, NUM_FRAMES, TARGETS, TARGET_LENGTHS)
    expected = (
        nll_by_enumeration(slow[0, :5], (1, 2, 1))
        + nll_by_enumeration(slow[1, :4], (1, 1))
        + nll_by_enumeration(slow[2, :3], (2,))
    ) / 6
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, slow.grad)


def test_padding_content_does_not_change_the_loss(logits: Tensor) -> None:
    changed, targets = logits.clone(), TARGETS.clone()
    changed[1, 4:] = 100.0
    changed[2, 3:] = -50.0
    targets[1, 2] = 2
    targets[2, 1:] = 1
    torch.testing.assert_close(
        ctc_nll(changed, NUM_FRAMES, targets, TARGET_LENGTHS), ctc_nll(logits, NUM_FRAMES, TARGETS, TARGET_LENGTHS)
    )


def test_loss_stays_in_float32_under_bf16_autocast(logits: Tensor) -> None:
    expected = ctc_loss(logits.bfloat16().float(), NUM_FRAMES, TARGETS, TARGET_LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ctc_loss(logits.bfloat16(), NUM_FRAMES, TARGETS, TARGET_LENGTHS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)


def test_empty_target_is_spelled_by_blanks_alone(logits: Tensor) -> None:
    nll = ctc_nll(logits[:1], torch.tensor([4]), torch.zeros(1, 1, dtype=torch.long), torch.tensor([0]))
    torch.testing.assert_close(nll[0], -logits[0, :4].log_softmax(-1)[:, 0].sum())


@pytest.mark.parametrize(
    ("labels", "frames"), [((), 0), ((1,), 1), ((1, 2, 1), 3), ((1, 1), 3), ((1, 1, 1), 5), ((2, 2, 1, 1), 6)]
)
def test_required_frames_is_exactly_where_the_loss_becomes_finite(labels: tuple[int, ...], frames: int) -> None:
    assert required_frames(labels) == frames
    for num_frames in range(1, 7):
        logits = torch.zeros(1, num_frames, 3)
        targets = torch.tensor([labels]) if labels else torch.zeros(1, 0, dtype=torch.long)
        nll = ctc_nll(logits, torch.tensor([num_frames]), targets, torch.tensor([len(labels)]))
        assert math.isfinite(nll.item()) == (num_frames >= frames)


def test_required_frames_of_a_batch_equals_each_alone() -> None:
    targets = torch.tensor([[1, 1, 2, 2], [1, 1, 1, 1], [2, 2, 2, 2], [1, 2, 1, 2]])
    lengths = torch.tensor([4, 3, 1, 4])
    expected = [required_frames(row[:length].tolist()) for row, length in zip(targets, lengths, strict=True)]
    assert required_frames_batch(targets, lengths).tolist() == expected
    assert required_frames_batch(targets[:, :1], torch.tensor([1, 1, 0, 1])).tolist() == [1, 1, 0, 1]


def test_infeasible_utterances_are_listed_with_numbers() -> None:
    found = find_infeasible(
        [("fits", 3, [1, 1]), ("repeat", 2, [1, 1]), ("short", 4, [1, 2, 3, 4, 5]), ("none", 0, [])]
    )
    assert [str(item) for item in found] == [
        "repeat: 2 labels need 3 frames but its audio makes 2",
        "short: 5 labels need 5 frames but its audio makes 4",
        "none: 0 labels need 0 frames but its audio makes 0",
    ]
