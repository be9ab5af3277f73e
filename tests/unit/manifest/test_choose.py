"""Promises of `filter_manifest` and `sample_manifest`, and of their commands."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, filter_manifest, sample_manifest

Make = Callable[..., Manifest]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def corpus(make_manifest: Make) -> Manifest:
    """Six rows of which each condition below leaves out some."""
    return make_manifest(
        [0.5, 1.0, 2.0, 3.0, 40.0, 2.5],
        text=["a", "b", " ", None, "e", "f"],
        language=["en", "de", "en", "en", "de", None],
        split=["train", "train", "test", "train", "train", "dev"],
    ).with_column("take", [0, 1, 2, 0, 1, 2])


def ids(manifest: Manifest) -> list[str]:
    return [utterance.id for utterance in manifest]


def test_rows_are_left_out_by_the_first_condition_that_they_fail(corpus: Manifest) -> None:
    result = filter_manifest(
        corpus, min_seconds=1, max_seconds=30, has_text=True, where={"language": ["en", "de"], "take": ["1", "2"]}
    )
    assert ids(result.manifest) == ["u1"]
    assert result.left_out == {
        "shorter than 1 s": 1,
        "longer than 30 s": 1,
        "no text": 2,
        "language is not en or de": 1,
    }
    assert "1 of 6 utterances kept" in result.summary() and "left out 2: no text" in result.summary()


def test_limits_are_inclusive_and_an_absent_value_is_no_other_value(corpus: Manifest) -> None:
    assert ids(filter_manifest(corpus, min_seconds=0.5, max_seconds=2).manifest) == ["u0", "u1", "u2"]
    assert ids(filter_manifest(corpus, where_not={"language": ["en"]}).manifest) == ["u1", "u4", "u5"]
    assert ids(filter_manifest(corpus, where={"language": ["de"]}).manifest) == ["u1", "u4"]
    assert ids(filter_manifest(corpus, has_text=False).manifest) == ["u2", "u3"]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"where": {"room": ["x"]}}, "no column 'room'; it has id,"),
        ({"where": {"language": ["en", "fr"]}}, "column language is nowhere 'fr'; it is such as 'en', 'de'"),
        ({"where": {"tags": ["a"]}}, r"column tags holds list<.*> and cannot be compared"),
        ({"min_seconds": 3, "max_seconds": 2}, "nothing is at least 3 s and at most 2 s long"),
        ({"min_seconds": 100}, r"no utterance meets the conditions \(6 rows: shorter than 100 s\)"),
    ],
)
def test_conditions_that_cannot_be_meant_are_refused(
    corpus: Manifest, conditions: dict[str, object], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        filter_manifest(corpus.with_column("tags", [["a"]] * 6), **conditions)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def uneven() -> Callable[[], Manifest]:
    """A thousand rows: half of them of one speaker, a tenth of another, the rest of four."""
    from speechssl.types import Utterance

    random = np.random.default_rng(5)
    speakers = ["a"] * 500 + ["b"] * 100 + [f"c{number % 4}" for number in range(400)]
    rows = [
        Utterance(
            id=f"u{number}",
            audio_filepath=f"{number}.wav",
            sample_rate=16000,
            num_samples=1,
            duration=float(random.uniform(1, 9)),
            speaker=speaker,
            language="x",
        )
        for number, speaker in enumerate(speakers)
    ]
    manifest = Manifest.from_utterances(rows)
    return lambda: manifest


@given(count=st.integers(1, 1000), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_balanced_count_is_equal_as_far_as_the_rows_go(uneven: Callable[[], Manifest], count: int, seed: int) -> None:
    sample = sample_manifest(uneven(), count=count, balance_by="speaker", seed=seed)
    assert len(sample) == count == len(set(ids(sample)))
    numbers = [int(name[1:]) for name in ids(sample)]
    assert numbers == sorted(numbers)
    taken = Counter(utterance.speaker for utterance in sample)
    level = max(taken.values())
    available = {"a": 500, "b": 100} | dict.fromkeys(["c0", "c1", "c2", "c3"], 100)
    for speaker, number in available.items():
        assert taken[speaker] >= min(number, level - 1)


@pytest.mark.parametrize("minutes", [0.5, 5, 20, 60, 80])
def test_a_balanced_amount_of_audio_is_equal_to_the_row(uneven: Callable[[], Manifest], minutes: float) -> None:
    manifest = uneven()
    sample = sample_manifest(manifest, seconds=60 * minutes, balance_by="speaker", seed=1)
    assert abs(sample.total_seconds - 60 * minutes) <= 4.5  # half of the longest row
    for name in ("a", "b", "c0", "c1", "c2", "c3"):
        own = sum(u.duration for u in sample if u.speaker == name)
        everything = sum(u.duration for u in manifest if u.speaker == name)
        others = max(sum(u.duration for u in sample if u.speaker == other) for other in ("a", "b", "c0", "c1"))
        assert own > min(everything, others) - 2 * 9


def test_balance_favours_neither_short_nor_long_rows(uneven: Callable[[], Manifest]) -> None:
    manifest = uneven()
    drawn = [sample_manifest(manifest, seconds=60, balance_by="speaker", seed=seed) for seed in range(60)]
    audio = sum(sample.total_seconds for sample in drawn)
    of_one = sum(u.duration for sample in drawn for u in sample if u.speaker == "a")
    assert abs(of_one / audio - 1 / 6) < 0.03
    lengths = np.concatenate([sample.durations for sample in drawn])
    assert abs(lengths.mean() - manifest.durations.mean()) < 0.5  # it would be 4 s if only what fits were taken


def test_the_seed_decides_which_rows_are_drawn(corpus: Manifest, uneven: Callable[[], Manifest]) -> None:
    manifest = uneven()
    for amount in ({"count": 50}, {"seconds": 100.0}):
        first = sample_manifest(manifest, seed=1, **amount)  # type: ignore[arg-type]
        assert ids(first) == ids(sample_manifest(manifest, seed=1, **amount))  # type: ignore[arg-type]
        assert ids(first) != ids(sample_manifest(manifest, seed=2, **amount))  # type: ignore[arg-type]
    assert len(sample_manifest(corpus, seconds=corpus.total_seconds, seed=0)) == 6
    assert len(sample_manifest(corpus, seconds=0.001, seed=0)) == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "sample how much"),
        ({"count": 1, "seconds": 1}, "sample how much"),
        ({"count": 0}, "must hold more than 0 utterances"),
        ({"count": 7}, "a sample of 7 utterances cannot be drawn from 6 utterances"),
        ({"seconds": 50}, "a sample of 50 s of audio cannot be drawn from 49 s of audio"),
        ({"count": 1, "balance_by": "language"}, "1 of 6 rows have no language, so a sample cannot be balanced by it"),
        ({"count": 1, "balance_by": "room"}, "no column 'room'"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(corpus: Manifest, wanted: dict[str, object], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        sample_manifest(corpus, seed=0, **wanted)  # type: ignore[arg-type]


def test_the_commands_write_what_was_chosen(corpus: Manifest, tmp_path: Path, run: Run) -> None:
    corpus.save(tmp_path / "m.jsonl")
    words = ["--language", "en", "de", "--where.take", "0, 1", "--where_not.split", "test", "--max_seconds", "30"]
    code, out, _ = run("manifest", "filter", tmp_path / "m.jsonl", "--output", tmp_path / "f.parquet", *words)
    assert code == 0
    assert ids(Manifest.load(tmp_path / "f.parquet")) == ["u0", "u1", "u3"]
    assert "3 of 6 utterances kept" in out and "left out 1: longer than 30 s" in out
    words = ["--has_text", "--json"]
    code, out, _ = run("manifest", "filter", tmp_path / "m.jsonl", "--output", tmp_path / "t.jsonl", *words)
    assert json.loads(out)["left_out"] == {"no text": 2}
    words = ["--count", "3", "--balance_by", "split", "--seed", "4"]
    code, out, _ = run("manifest", "sample", tmp_path / "m.jsonl", "--output", tmp_path / "s.jsonl", *words)
    assert code == 0 and "3 utterances" in out
    assert sorted(u.extra["split"] for u in Manifest.load(tmp_path / "s.jsonl")) == ["dev", "test", "train"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["filter"], "give at least one condition, such as --max_seconds 30"),
        (["filter", "--language", "en", "--where.language", "de"], "--language and --where.language say the same"),
        (["sample"], "give either --count UTTERANCES or --hours HOURS"),
        (["sample", "--count", "2", "--hours", "1"], "give either --count UTTERANCES or --hours HOURS"),
        (["sample", "--count", "9"], "a sample of 9 utterances cannot be drawn from 6 utterances"),
    ],
)
def test_wrong_options_end_with_one_clear_line(
    corpus: Manifest, tmp_path: Path, run: Run, words: list[str], message: str
) -> None:
    corpus.save(tmp_path / "m.jsonl")
    code, _, err = run("manifest", words[0], tmp_path / "m.jsonl", "--output", tmp_path / "o.jsonl", *words[1:])
    assert (code, err.count("\n")) == (2, 1)
    assert message in err


def test_parts_of_a_parquet_manifest_are_parquet(corpus: Manifest, tmp_path: Path, run: Run) -> None:
    corpus.save(tmp_path / "m.parquet")
    words = ["--parts.a", "0.85", "--parts.b", "0.15", "--by", "take"]
    assert run("manifest", "split", tmp_path / "m.parquet", "--output", tmp_path / "p", *words)[0] == 0
    assert ids(Manifest.load(tmp_path / "p" / "a.parquet")) == ["u1", "u4"]
    assert run("manifest", "subset", tmp_path / "m.parquet", "--output", tmp_path / "p", "--minutes", "0.1")[0] == 0
    assert len(Manifest.load(tmp_path / "p" / "0.1min.parquet")) >= 1
