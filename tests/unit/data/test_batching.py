"""Plans of batches: everything once an epoch, within budget, and named by a number alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.data import BatchPlan

LENGTHS = st.lists(st.floats(0.05, 40.0), min_size=1, max_size=120)
properties = settings(deadline=None, max_examples=60)


def epoch(plan: BatchPlan, number: int) -> list[list[int]]:
    first = number * plan.num_batches
    return [plan.batch(place).tolist() for place in range(first, first + plan.num_batches)]


@properties
@given(lengths=LENGTHS, budget=st.floats(0.1, 100.0), seed=st.integers(0, 10**6), number=st.integers(0, 5))
def test_every_utterance_is_in_exactly_one_batch_of_each_epoch(
    lengths: list[float], budget: float, seed: int, number: int
) -> None:
    batches = epoch(BatchPlan(lengths, max_batch_length=budget, seed=seed), number)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batches)


@properties
@given(lengths=LENGTHS, budget=st.floats(0.1, 100.0), seed=st.integers(0, 10**6), largest=st.integers(1, 9))
def test_budgets_are_never_exceeded(lengths: list[float], budget: float, seed: int, largest: int) -> None:
    plan = BatchPlan(lengths, max_batch_length=budget, max_batch_size=largest, seed=seed)
    for batch in epoch(plan, 0) + epoch(plan, 1):
        assert len(batch) <= largest
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget


@properties
@given(lengths=LENGTHS, budget=st.floats(0.1, 100.0), seed=st.integers(0, 99), places=st.lists(st.integers(0, 300)))
def test_a_batch_depends_on_its_number_alone(lengths: list[float], budget: float, seed: int, places: list[int]) -> None:
    plan = BatchPlan(lengths, max_batch_length=budget, seed=seed)
    for place in places:
        fresh = BatchPlan(lengths, max_batch_length=budget, seed=seed)
        assert plan.num_batches == fresh.num_batches
        assert np.array_equal(plan.batch(place), fresh.batch(place))
        assert plan.epoch(place) == place // plan.num_batches


def test_epochs_and_seeds_differ() -> None:
    lengths = np.linspace(1, 3, 200)
    plan = BatchPlan(lengths, max_batch_length=12, seed=0)
    assert epoch(plan, 0) != epoch(plan, 1)
    assert epoch(plan, 0) != epoch(BatchPlan(lengths, max_batch_length=12, seed=1), 0)
    assert {tuple(sorted(b)) for b in epoch(plan, 0)} != {tuple(sorted(b)) for b in epoch(plan, 1)}


def test_batches_are_of_similar_lengths_and_come_in_any_order() -> None:
    lengths = np.random.default_rng(0).uniform(1, 20, 2000)
    plan = BatchPlan(lengths, max_batch_length=100, seed=0)
    assert plan.padding_share() < 0.03
    longest = [lengths[batch].max() for batch in epoch(plan, 0)]
    assert abs(float(np.corrcoef(range(len(longest)), longest)[0, 1])) < 0.2


def test_many_utterances_are_hardly_padded_and_still_meet_others_every_epoch() -> None:
    lengths = np.random.default_rng(0).lognormal(1.5, 0.6, 30_000)
    plan = BatchPlan(lengths, max_batch_length=100, seed=0)
    assert plan.padding_share() < 0.02
    first, second = ({index: set(batch) for batch in epoch(plan, number) for index in batch} for number in (0, 1))
    shared = np.mean([(len(first[index] & second[index]) - 1) / max(1, len(first[index]) - 1) for index in first])
    assert shared < 0.15


@properties
@given(lengths=LENGTHS, budget=st.floats(0.1, 100.0), seed=st.integers(0, 99))
def test_the_expected_shares_are_those_of_many_epochs(lengths: list[float], budget: float, seed: int) -> None:
    plan = BatchPlan(lengths, max_batch_length=budget, seed=seed)
    values = np.array(lengths)
    batches = [values[batch] for number in range(30) for batch in epoch(plan, number)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    cropped = sum(len(batch) * batch.min() for batch in batches)
    assert plan.padding_share() == pytest.approx(1 - 30 * values.sum() / padded, abs=0.03)
    assert plan.cropped_share() == pytest.approx(1 - cropped / (30 * values.sum()), abs=0.03)


def test_shares_by_hand() -> None:
    """Two batches of two: the longest meets each of the others with the same chance."""
    plan = BatchPlan([4.0, 3.9, 3.8, 3.7], max_batch_length=8)
    assert plan.num_batches == 2
    # the three pairings waste .1 + .1, .2 + .2 and .3 + .1 of padded 15.6, 15.8 and 15.8
    wasted, total = np.mean([0.2, 0.4, 0.4]), 15.4
    assert plan.padding_share() == pytest.approx(wasted / (total + wasted))
    assert plan.cropped_share() == pytest.approx(wasted / total)


@properties
@given(
    lengths=LENGTHS, budget=st.floats(0.1, 100.0), alike=st.integers(1, 9), windows=st.integers(1, 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_utterance_is_in_one_batch_whatever_the_order(
    lengths: list[float], budget: float, alike: int, windows: int, seed: int
) -> None:
    window = np.random.default_rng(seed).integers(0, windows, len(lengths))
    plan = BatchPlan(lengths, max_batch_length=budget, seed=seed, windows=window, alike=alike)
    for number in (0, 3):
        batches = epoch(plan, number)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
            assert len({window[index] for index in batch}) == 1


def test_an_epoch_finishes_one_window_before_the_next() -> None:
    window = np.random.default_rng(0).integers(0, 6, 600)
    plan = BatchPlan(np.linspace(1, 3, 600), max_batch_length=12, windows=window)
    turns = []
    for number in range(4):
        seen = [int(window[batch[0]]) for batch in epoch(plan, number)]
        turns.append([seen[0], *(after for before, after in zip(seen, seen[1:], strict=False) if after != before)])
        assert sorted(turns[-1]) == list(range(6))
    assert len({tuple(turn) for turn in turns}) > 1


def test_neighbouring_batches_are_alike_where_asked_for() -> None:
    """So ranks that share a step have as much to do, whichever epoch it is in."""
    lengths = np.random.default_rng(0).uniform(1, 20, 3000)

    def imbalance(alike: int) -> float:
        plan = BatchPlan(lengths, max_batch_length=60, alike=alike)
        assert plan.num_batches % alike == 0
        cells = [len(batch) * lengths[batch].max() for number in (0, 1) for batch in epoch(plan, number)]
        steps = np.array(cells[: len(cells) // 8 * 8]).reshape(-1, 8)
        return float((steps.max(axis=1) / steps.mean(axis=1)).mean())

    assert imbalance(8) < 1.03 < 1.07 < imbalance(1)


def test_substitutes_are_all_the_other_batches_of_the_epoch_the_farthest_first() -> None:
    plan = BatchPlan(np.ones(60), max_batch_length=6)
    assert list(plan.substitutes(10 + 7)) == [10 + place for place in (2, 3, 4, 5, 6, 8, 9, 0, 1)]
    assert list(BatchPlan([1.0], max_batch_length=1).substitutes(3)) == []


def test_batches_are_filled() -> None:
    """Two hundred equal clips of 1 s in batches of 10 s: twenty batches of ten."""
    plan = BatchPlan(np.ones(200), max_batch_length=10)
    assert plan.num_batches == 20
    assert {len(batch) for batch in epoch(plan, 0)} == {10}
    assert plan.padding_share() == 0


def test_an_utterance_beyond_the_budget_is_a_batch_of_its_own() -> None:
    batches = epoch(BatchPlan([30.0, 1.0, 1.0, 1.0], max_batch_length=4), 0)
    assert [0] in batches and sorted(map(len, batches)) == [1, 3]


def test_nothing_to_plan_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one utterance"):
        BatchPlan([], max_batch_length=1)
    with pytest.raises(ValueError, match="alike must be at least 1, but is 0"):
        BatchPlan([1.0], max_batch_length=1, alike=0)
