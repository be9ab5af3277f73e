"""Span masks and distractors: where they may be, how many, and from where their randomness comes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechssl.nn.masking import gather_frames, masked_positions, most_masked, sample_distractors, sample_span_mask

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=5)
properties = settings(deadline=None, max_examples=60)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def span_mask(lengths: list[int], *, probability: float = 0.65, span: int = 10, seed: int = 0, **more: int) -> Tensor:
    """The mask as the contrastive objective draws it."""
    return sample_span_mask(
        torch.tensor(lengths), more.pop("max_length", max(lengths)), probability=probability, span=span,
        min_spans=more.pop("min_spans", 2), generator=generator(seed),
    )  # fmt: skip


def chi_square(counts: Tensor) -> float:
    """Of counts that should all be alike."""
    expected = counts.sum() / counts.numel()
    return float(((counts - expected) ** 2 / expected).sum())


def test_about_half_of_the_frames_are_masked_at_the_papers_setting() -> None:
    """Appendix A.2: p = 0.065 and M = 10 mask about 49 % of the frames of 15 s."""
    share = span_mask([749] * 300).float().mean()
    assert float(share) == pytest.approx(0.49, abs=0.01)


@properties
@given(lengths=LENGTHS, extra=st.integers(0, 5), probability=st.floats(0.01, 1.0), span=st.integers(1, 15))
def test_masks_stay_within_the_row_and_leave_something_visible(
    lengths: list[int], extra: int, probability: float, span: int
) -> None:
    mask = span_mask(lengths, probability=probability, span=span, max_length=max(lengths) + extra + 1)
    for row, length in zip(mask, lengths, strict=True):
        assert not row[length:].any()
        assert length == 0 or not row[:length].all()


@properties
@given(length=st.integers(3, 80), probability=st.floats(0.01, 1.0), span=st.integers(1, 15), seed=st.integers(0, 99))
def test_every_row_of_three_frames_has_two_masked_ones(length: int, probability: float, span: int, seed: int) -> None:
    """A masked frame needs another one to be told from; two spans have two different starts."""
    mask = span_mask([length], probability=probability, span=span, seed=seed)[0]
    assert int(mask.sum()) >= (span + 1 if length > 2 * span else 2)


def test_rows_too_short_for_two_masked_frames_and_a_visible_one_are_not_masked() -> None:
    assert not span_mask([0, 1, 2]).any()


def runs(row: Tensor) -> list[int]:
    """Lengths of the stretches of True."""
    text = "".join("x" if value else " " for value in row.tolist())
    return [len(part) for part in text.split()]


@properties
@given(length=st.integers(21, 300), seed=st.integers(0, 10**6))
def test_no_masked_stretch_is_shorter_than_the_span(length: int, seed: int) -> None:
    assert min(runs(span_mask([length], seed=seed)[0])) >= 10


def test_the_number_of_spans_is_rounded_at_random_to_the_right_mean() -> None:
    """0.2 * 60 / 10 = 1.2 spans: one for most rows, two for a fifth. Single spans mask exactly ten frames."""
    mask = span_mask([60] * 4000, probability=0.2, min_spans=0)
    assert float((mask.sum(dim=1) > 10).float().mean()) == pytest.approx(0.2, abs=0.02)
    assert int(mask.sum(dim=1).min()) == 10


def test_starts_are_uniform_over_the_row() -> None:
    """0.2 * 50 / 10 = exactly one span, with 41 possible starts."""
    mask = span_mask([50] * 8200, probability=0.2, min_spans=0)
    starts = mask.int().argmax(dim=1)
    assert chi_square(torch.bincount(starts, minlength=41).float()) < 75  # 40 degrees of freedom: p = 0.0007


def test_a_row_does_not_depend_on_the_lengths_of_the_others() -> None:
    first = span_mask([100, 100, 40], max_length=100, seed=5)
    second = span_mask([100, 30, 40], max_length=100, seed=5)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[2], second[2])


def test_the_generator_alone_decides() -> None:
    before = torch.get_rng_state()
    first = span_mask([200, 150], seed=3)
    assert torch.equal(first, span_mask([200, 150], seed=3))
    assert not torch.equal(first, span_mask([200, 150], seed=4))
    assert torch.equal(torch.get_rng_state(), before)


def test_masked_positions_list_the_masked_frames_in_order() -> None:
    mask = torch.tensor([[False, True, False, True, True], [True, False, False, False, False]])
    positions = masked_positions(mask)
    assert positions.indices.tolist() == [[1, 3, 4], [0, 0, 0]]
    assert positions.valid.tolist() == [[True, True, True], [True, False, False]]
    assert positions.counts.tolist() == [3, 1]
    wider = masked_positions(mask, max_masked=4)
    assert wider.indices.tolist() == [[1, 3, 4, 0], [0, 0, 0, 0]]
    assert wider.valid.sum(dim=1).tolist() == [3, 1]


def test_nothing_masked_gives_no_places() -> None:
    positions = masked_positions(torch.zeros(2, 5, dtype=torch.bool))
    assert positions.indices.shape == (2, 0)
    assert sample_distractors(positions, 3, generator=generator()).shape == (2, 0, 3)


def test_gather_frames_takes_each_rows_own() -> None:
    x = torch.arange(24.0).view(2, 4, 3)
    gathered = gather_frames(x, torch.tensor([[3, 0], [1, 1]]))
    assert torch.equal(gathered, torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))


@properties
@given(lengths=LENGTHS, seed=st.integers(0, 10**6), num_distractors=st.integers(1, 20))
def test_distractors_are_other_masked_frames_of_the_row(lengths: list[int], seed: int, num_distractors: int) -> None:
    positions = masked_positions(span_mask(lengths, span=3, seed=seed, max_length=60))
    distractors = sample_distractors(positions, num_distractors, generator=generator(seed))
    assert distractors.shape == (*positions.indices.shape, num_distractors)
    for row, count in zip(distractors, positions.counts.tolist(), strict=True):
        if count < 2:
            continue
        places = row[:count]
        assert int(places.min()) >= 0
        assert int(places.max()) < count
        assert not (places == torch.arange(count)[:, None]).any()


def test_distractors_are_uniform_over_the_others() -> None:
    positions = masked_positions(torch.tensor([[True] * 6 + [False] * 2, [True] * 8]))
    distractors = sample_distractors(positions, 3000, generator=generator())
    for place in range(6):
        counts = torch.bincount(distractors[0, place], minlength=6).float()
        assert counts[place] == 0
        assert chi_square(counts[torch.arange(6) != place]) < 20  # 4 degrees of freedom: p = 0.0005


def test_distractors_come_from_the_generator_alone() -> None:
    positions = masked_positions(torch.ones(1, 30, dtype=torch.bool))
    first = sample_distractors(positions, 5, generator=generator(1))
    assert torch.equal(first, sample_distractors(positions, 5, generator=generator(1)))
    assert not torch.equal(first, sample_distractors(positions, 5, generator=generator(2)))


@given(
    length=st.integers(1, 80), probability=st.floats(0.0, 1.0), span=st.integers(1, 12), min_spans=st.integers(0, 3),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_no_row_has_more_masked_frames_than_the_bound(
    length: int, probability: float, span: int, min_spans: int, seed: int
) -> None:
    lengths = torch.arange(1, length + 1)
    bound = most_masked(length, probability=probability, span=span, min_spans=min_spans)
    generator = torch.Generator().manual_seed(seed)
    mask = sample_span_mask(
        lengths, length, probability=probability, span=span, min_spans=min_spans, generator=generator
    )
    assert int(mask.sum(dim=1).max()) <= bound
