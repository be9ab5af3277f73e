"""Promises of splits, subsets and statistics."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, manifest_stats, split_manifest, subset_manifest
from speechssl.manifest.split import group_rows, normalize_keys

Make = Callable[..., Manifest]


def ids(manifest: Manifest) -> set[str]:
    return {utterance.id for utterance in manifest}


@pytest.fixture
def corpus(make_manifest: Make) -> Manifest:
    """400 rows: 40 speakers, 100 texts in several spellings, 200 recordings with two rows each."""
    generator = np.random.default_rng(0)
    spellings = ("Press {}.", "press {}!", "  PRESS   {} ")
    return make_manifest(
        generator.uniform(0.5, 5.0, 400).tolist(),
        speaker=[f"s{number % 40}" for number in range(400)],
        text=[spellings[number % 3].format(number % 100) for number in range(400)],
        audio_filepath=[f"{number // 2}.wav" for number in range(400)],
    )


@pytest.mark.parametrize("by", ["speaker", "text", "recording"])
def test_parts_share_nothing_and_lose_nothing(corpus: Manifest, by: str) -> None:
    parts = split_manifest(corpus, {"train": 0.8, "dev": 0.1, "test": 0.1}, by=by, seed=0)
    assert sum(len(part) for part in parts.values()) == 400
    assert set.union(*(ids(part) for part in parts.values())) == ids(corpus)
    name = {"recording": "audio_filepath"}.get(by, by)
    values = [part.column(name) for part in parts.values()]
    values = [set((normalize_keys(v) if by == "text" else v).to_pylist()) for v in values]
    assert not values[0] & values[1] and not values[0] & values[2] and not values[1] & values[2]
    for part, share in zip(parts.values(), (0.8, 0.1, 0.1), strict=True):
        assert abs(part.total_seconds / corpus.total_seconds - share) < 0.03


def test_chains_of_shared_keys_keep_rows_together(make_manifest: Make) -> None:
    manifest = make_manifest(
        [1.0] * 6,
        text=["one", "ONE!", "two", "three", "three", None],
        audio_filepath=["a", "b", "b", "c", "d", "e"],
    )
    groups = group_rows(manifest, ("recording", "text"))
    assert groups[0] == groups[1] == groups[2]  # by text, then by recording
    assert groups[3] == groups[4]
    assert len(set(groups.tolist())) == 3
    parts = split_manifest(manifest, {"a": 0.5, "b": 0.5}, by=("recording", "text"), seed=0)
    assert {frozenset(ids(part)) for part in parts.values()} == {
        frozenset({"u0", "u1", "u2"}),
        frozenset({"u3", "u4", "u5"}),
    }


def test_rows_without_a_text_are_tied_by_nothing(make_manifest: Make) -> None:
    manifest = make_manifest([1.0] * 4, text=[None, "...", "?!", None])
    assert len(set(group_rows(manifest, ("text",)).tolist())) == 4
    assert len(set(group_rows(make_manifest([1.0] * 4), ("text",)).tolist())) == 4


def test_texts_are_compared_without_case_and_punctuation(make_manifest: Make) -> None:
    texts = ["Don't STOP, Straße!", "dont stop strasse", "DONT  STOP  STRASSE"]
    manifest = make_manifest([1.0] * 3, text=texts)
    assert set(normalize_keys(manifest.column("text")).to_pylist()) == {"dont stop strasse"}


def test_the_seed_decides(corpus: Manifest) -> None:
    def train(seed: int) -> set[str]:
        return ids(split_manifest(corpus, {"train": 0.8, "test": 0.2}, by="speaker", seed=seed)["train"])

    assert train(1) == train(1)
    assert len({frozenset(train(seed)) for seed in range(5)}) > 1


def test_rows_keep_their_order(corpus: Manifest) -> None:
    part = split_manifest(corpus, {"train": 0.5, "test": 0.5}, by="text", seed=0)["train"]
    numbers = [int(u.id[1:]) for u in part]
    assert numbers == sorted(numbers)


def test_few_speakers_are_divided_as_well_as_they_can_be(make_manifest: Make) -> None:
    manifest = make_manifest([30.0, 10.0, 10.0, 50.0], speaker=["a", "b", "c", "d"])
    parts = split_manifest(manifest, {"train": 0.8, "test": 0.2}, by="speaker", seed=0)
    assert ids(parts["test"]) == {"u1", "u2"}


def test_a_group_too_large_for_the_fractions_is_an_error_that_says_by_how_much(make_manifest: Make) -> None:
    manifest = make_manifest([70.0, 30.0], speaker=["a", "b"])
    with pytest.raises(ManifestError) as caught:
        split_manifest(manifest, {"train": 0.9, "test": 0.1}, by="speaker", seed=0)
    assert "train 70.0% instead of 90.0%, test 30.0% instead of 10.0%" in str(caught.value)
    assert "largest group holds 70.0% of the audio (1 of 2 rows, among them 'u0')" in str(caught.value)
    assert len(split_manifest(manifest, {"train": 0.9, "test": 0.1}, by="speaker", seed=0, tolerance=0.3)) == 2


def test_an_empty_part_is_an_error(make_manifest: Make) -> None:
    with pytest.raises(ManifestError, match="the 1 groups that must stay whole.*test 0.0% instead of 5.0%"):
        split_manifest(make_manifest([1.0] * 9, speaker=["a"] * 9), {"train": 0.95, "test": 0.05}, by="speaker", seed=0)


@pytest.mark.parametrize(
    ("fractions", "by", "message"),
    [
        ({"train": 0.8, "test": 0.1}, "text", "must add up to 1 .* add up to 0.9"),
        ({"train": 1.2, "test": -0.2}, "text", "must each be between 0 and 1"),
        ({}, "text", "must each be between 0 and 1"),
        ({"train": 0.5, "test": 0.5}, "room", "no column 'room'; it has id,"),
        ({"train": 0.5, "test": 0.5}, (), "split by what"),
        ({"train": 0.5, "test": 0.5}, "speaker", "1 of 2 rows have no speaker"),
    ],
)
def test_wrong_requests_are_refused(
    make_manifest: Make, fractions: dict[str, float], by: str | tuple[str, ...], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        split_manifest(make_manifest([1.0, 1.0], speaker=["a", None]), fractions, by=by, seed=0)


def test_subsets_are_nested_and_of_the_length_asked_for(corpus: Manifest) -> None:
    wanted = [600.0, 60.0, 10.0]
    subsets = subset_manifest(corpus, wanted, seed=3)
    for subset, seconds in zip(subsets, wanted, strict=True):
        assert abs(subset.total_seconds - seconds) <= 2.5  # half of the longest row
    assert ids(subsets[2]) < ids(subsets[1]) < ids(subsets[0]) < ids(corpus)
    again = subset_manifest(corpus, [60.0], seed=3)[0]
    assert again.fingerprint() == subsets[1].fingerprint()
    assert ids(subset_manifest(corpus, [60.0], seed=4)[0]) != ids(subsets[1])
    assert len(subset_manifest(corpus, [corpus.total_seconds], seed=0)[0]) == len(corpus)
    assert len(subset_manifest(corpus, [0.001], seed=0)[0]) == 1


def test_subsets_longer_than_the_manifest_are_refused(make_manifest: Make) -> None:
    with pytest.raises(ManifestError, match="a subset of 60 s cannot be drawn from 2.0 s of audio"):
        subset_manifest(make_manifest([1.0, 1.0]), [60], seed=0)
    with pytest.raises(ManifestError, match="longer than 0 seconds"):
        subset_manifest(make_manifest([1.0, 1.0]), [0], seed=0)


def test_statistics_of_a_manifest_counted_by_hand(make_manifest: Make) -> None:
    manifest = make_manifest(
        [1.0, 2.0, 6.0],
        text=["one two", None, "one two"],
        speaker=["a", "b", None],
        language=["en", "en", "fr"],
        audio_filepath=["x.wav", "x.wav", "y.wav"],
    )
    stats = manifest_stats(manifest)
    assert (stats.num_utterances, stats.num_recordings, stats.num_speakers) == (3, 2, 2)
    assert (stats.num_with_text, stats.num_words, stats.num_distinct_texts) == (2, 4, 1)
    assert stats.hours == pytest.approx(9 / 3600) and stats.mean_seconds == 3.0
    assert (stats.duration_percentiles["0"], stats.duration_percentiles["50"]) == (1.0, 2.0)
    assert list(stats.hours_by_speaker) == ["unknown", "b", "a"]
    assert stats.hours_by_language == {"fr": pytest.approx(6 / 3600), "en": pytest.approx(3 / 3600)}
    assert sum(stats.histogram_counts) == 3 and len(stats.histogram_edges) == len(stats.histogram_counts) + 1
    assert json.loads(json.dumps(stats.to_dict()))["sample_rates"] == {"16000": 3}
    assert "3 utterances in 2 recordings" in stats.summary()
