"""Groups of utterances and lists of confusions, on cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.scoring import break_down, count_confusions, score
from speechssl.scoring.groups import bin_edges
from speechssl.types import ErrorReport


def report_of(references: dict[str, str], hypotheses: dict[str, str]) -> ErrorReport:
    return score(references, hypotheses, normalizer="none", num_bootstrap=20)


def test_groups_are_sums_over_their_utterances() -> None:
    report = report_of(
        {"a": "k l m", "b": "k l", "c": "k", "d": "m n"}, {"a": "k l m", "b": "k X I", "c": "", "d": "m n"}
    )
    found = break_down(report, "language", {"a": "en", "b": "de", "c": "de", "d": None})
    rows = [
        (group.name, group.num_utterances, group.num_words, group.substitutions, group.deletions, group.insertions)
        for group in found.groups
    ]
    # most words first, what has no value last
    assert rows == [("de", 2, 3, 1, 1, 1), ("en", 1, 3, 0, 0, 0), ("unknown", 1, 2, 0, 0, 0)]
    assert [group.wer for group in found.groups] == [1.0, 0.0, 0.0]
    assert found.groups[0].wer_interval == (1.0, 1.0)


def test_a_group_without_words_has_no_rate() -> None:
    report = report_of({"a": "k", "b": ""}, {"a": "k", "b": "X"})
    silent = break_down(report, "kind", {"a": "speech", "b": "silence"}).groups[1]
    assert (silent.name, silent.insertions, silent.wer, silent.wer_interval) == ("silence", 1, None, None)


def test_numbers_are_binned_in_order_and_missing_ones_stand_apart() -> None:
    names = [f"u{number}" for number in range(100)]
    report = report_of(dict.fromkeys(names, "k"), dict.fromkeys(names, "k"))
    values = {name: None if row == 7 else row / 10 for row, name in enumerate(names)}
    groups = break_down(report, "snr_db", values).groups
    assert [group.name for group in groups] == [
        "below 2.1",
        "2.1 to 4",
        "4 to 6",
        "6 to 7.9",
        "7.9 and more",
        "unknown",
    ]
    assert [group.num_utterances for group in groups] == [20, 19, 20, 19, 21, 1]


def test_few_whole_numbers_are_groups_themselves() -> None:
    report = report_of({"a": "k", "b": "k", "c": "k"}, {"a": "k", "b": "k", "c": "k"})
    groups = break_down(report, "take", {"a": 10, "b": 9, "c": 10}).groups
    assert [(group.name, group.num_utterances) for group in groups] == [("9", 1), ("10", 2)]
    truth = break_down(report, "noisy", {"a": True, "b": False, "c": True}).groups
    assert {group.name for group in truth} == {"true", "false"}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_no_bin_is_empty(numbers: list[float]) -> None:
    values = np.array(numbers)
    places = np.searchsorted(edges := bin_edges(values), values, side="right")
    assert edges == sorted(set(edges))
    assert set(places.tolist()) == set(range(len(edges) + 1))


def test_every_utterance_is_in_a_group() -> None:
    generator = np.random.default_rng(0)
    names = [f"u{number}" for number in range(53)]
    report = report_of(
        dict.fromkeys(names, "k l"), {name: "k" if generator.random() < 0.5 else "k l" for name in names}
    )
    for values in (generator.normal(size=53), generator.integers(0, 3, 53), generator.integers(0, 30, 53)):
        groups = break_down(report, "x", dict(zip(names, values.tolist(), strict=True))).groups
        assert sum(group.num_utterances for group in groups) == 53
        assert sum(group.deletions for group in groups) == report.deletions


def test_confusions_of_a_hand_made_case() -> None:
    report = report_of(
        {"a": "the cat sat", "b": "the cat", "c": "a dog", "d": "k"},
        {"a": "a bat sat", "b": "a cat oh", "c": "dog", "d": "k oh"},
    )
    found = count_confusions(report)
    assert found.substitutions == {("the", "a"): 2, ("cat", "bat"): 1}
    assert (found.deletions, found.insertions) == ({"a": 1}, {"oh": 2})
    assert found.num_said["the"] == 2
    assert list(found.substitutions) == [("the", "a"), ("cat", "bat")]


@pytest.mark.parametrize("words", ["a b c", "x"])
def test_confusions_count_every_error_once(words: str) -> None:
    report = report_of({"u": words}, {"u": "x y z w"})
    found = count_confusions(report)
    total = sum(found.substitutions.values()) + sum(found.deletions.values()) + sum(found.insertions.values())
    assert total == report.substitutions + report.deletions + report.insertions
