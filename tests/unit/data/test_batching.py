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
    assert plan.padding_share() < 0.12
    longest = [lengths[batch].max() for batch in epoch(plan, 0)]
    assert abs(float(np.corrcoef(range(len(longest)), longest)[0, 1])) < 0.2


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
