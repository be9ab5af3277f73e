"""Modified Kneser-Ney models: a case by hand, sums, and KenLM on real texts."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from speechssl.ctc.decoding.flashlight import load_kenlm
from speechssl.ctc.ngram.arpa import read_words, write_arpa
from speechssl.ctc.ngram.counts import BEGIN, build_vocabulary, count_ngrams, number_text
from speechssl.ctc.ngram.kneser_ney import NgramModel, _discounts, train_model
from speechssl.ctc.ngram.overlap import find_overlaps
from speechssl.ctc.ngram.score import score_text, score_words
from speechssl.errors import ConfigError
from speechssl.text import normalize


def sentences_of(texts: list[str]) -> pa.ListArray:
    return pa.array([text.split() for text in texts], pa.list_(pa.string()))


def train(texts: list[str], *, order: int, min_counts: tuple[int, ...] = (), min_word_count: int = 1) -> NgramModel:
    sentences = sentences_of(texts)
    vocabulary = build_vocabulary(sentences, min_count=min_word_count)
    text = number_text(sentences, vocabulary)
    counts = count_ngrams(text, order=order, vocabulary_size=len(vocabulary))
    return train_model(counts, vocabulary, min_counts=min_counts)


def test_probabilities_of_two_sentences_by_hand() -> None:
    """`a b` and `a`, bigrams, discounts 0.5, 1, 1.5. Continuations: a 1, b 1, </s> 2; uniform over four words."""
    model = train(["a b", "a"], order=2)
    words = model.vocabulary
    unigrams = dict(zip(words, 10 ** model.orders[0].log10, strict=True))
    assert unigrams["a"] == pytest.approx(0.5 / 4 + 0.5 / 4)
    assert unigrams["b"] == pytest.approx(0.25)
    assert unigrams["</s>"] == pytest.approx(1 / 4 + 0.5 / 4)
    assert unigrams["<unk>"] == pytest.approx(0.5 / 4)
    pairs = {
        (words[prefix], words[word]): 10**value
        for prefix, word, value in zip(model.orders[1].prefix, model.orders[1].word, model.orders[1].log10, strict=True)
    }
    assert pairs == pytest.approx(
        {
            ("<s>", "a"): 1 / 2 + 0.5 * 0.25,
            ("a", "b"): 0.5 / 2 + 0.5 * 0.25,
            ("a", "</s>"): 0.5 / 2 + 0.5 * 0.375,
            ("b", "</s>"): 0.5 / 1 + 0.5 * 0.375,
        }
    )
    assert dict(zip(words, 10 ** model.orders[0].backoff, strict=True)) == pytest.approx(
        {"<unk>": 1, "</s>": 1, "<s>": 0.5, "a": 0.5, "b": 0.5}
    )


def test_discounts_by_hand() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [10, 5, 3, 2, 4])
    values, estimated = _discounts(counts)  # share 10 / (10 + 2 * 5)
    assert estimated
    assert values == pytest.approx((1 - 2 * 0.5 * 5 / 10, 2 - 3 * 0.5 * 3 / 5, 3 - 4 * 0.5 * 2 / 3))
    assert _discounts(np.array([1, 1, 2])) == ((0.5, 1.0, 1.5), False)


@pytest.fixture(scope="module")
def prompts(corpora: Path) -> list[str]:
    with (corpora / "kathleen_en" / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        return sorted({normalize(row["text"], "letters") for row in csv.DictReader(file, delimiter="\t")})


@pytest.mark.parametrize("settings", [{"order": 3}, {"order": 4, "min_counts": (1, 1, 2), "min_word_count": 2}])
def test_kenlm_reads_the_file_and_scores_every_word_alike(prompts, tmp_path, settings) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("flashlight.lib.text")
    model = train(prompts[::2], **settings)
    write_arpa(model, tmp_path / "lm.arpa")
    words = model.vocabulary
    assert read_words(tmp_path / "lm.arpa") == set(words[3:])
    peer = load_kenlm(tmp_path / "lm.arpa", [*words, "never seen"])
    unseen = prompts[1::2][:60]
    expected = []
    for text in unseen:
        state = peer.start(False)
        expected.append(0.0)
        for word in text.split():
            state, value = peer.score(state, words.index(word) if word in words else len(words))
            expected.append(value)
        expected.append(peer.finish(state)[1])
    ours = score_words(model, number_text(sentences_of(unseen), words))
    np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("min_counts", [(), (1, 2, 2)])
def test_probabilities_after_any_words_sum_to_one(prompts, min_counts) -> None:  # type: ignore[no-untyped-def]
    model = train(prompts[:300], order=3, min_counts=min_counts, min_word_count=2)
    words = [word for word in model.vocabulary if word not in (BEGIN, "</s>")]
    for context in ("", "the", "of the", "never seen"):
        text = number_text(sentences_of([f"{context} {word}" for word in words]), model.vocabulary)
        values = score_words(model, text)
        length = len(context.split())
        end = score_words(model, number_text(sentences_of([context]), model.vocabulary))[-1]
        assert 10**end + (10 ** values[text.places == length + 1]).sum() == pytest.approx(1, abs=1e-9)


def test_longer_ngrams_help_on_unseen_text_and_unknown_words_are_counted(prompts: list[str]) -> None:
    unseen = [text for text in prompts[1::2] if "xyzzy" not in text]
    scores = []
    for order in (2, 3):
        model = train(prompts[::2], order=order)
        scores.append(score_text(model, number_text(sentences_of([*unseen, "xyzzy"]), model.vocabulary)))
    known = set(" ".join(prompts[::2]).split())
    assert scores[0].num_unknown == sum(word not in known for text in unseen for word in text.split()) + 1
    assert scores[0].num_words == sum(len(text.split()) for text in unseen) + 1
    assert 50 < scores[1].perplexity_known < scores[0].perplexity_known * 1.05 < 1000


def test_pruned_models_hold_only_what_occurs_often_enough(prompts: list[str]) -> None:
    full, pruned = train(prompts, order=3), train(prompts, order=3, min_counts=(1, 2, 3))
    assert [len(order.word) for order in pruned.orders[1:]] < [len(order.word) for order in full.orders[1:]]
    assert len(pruned.orders[0].word) == len(full.orders[0].word)


def test_reserved_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="holds the word '</s>', which language models reserve"):
        train(["a </s>"], order=2)
    with pytest.raises(ConfigError, match="at least 3 times"):
        train(["a b"], order=2, min_word_count=3)


def test_overlaps_are_whole_sentences_of_four_words_or_equal_lines() -> None:
    lines = ["he said that it was raining today", "thank you", "thank you all", "it was rain", "that it was raining"]
    found = find_overlaps(lines, {"that it was raining", "thank you"})
    assert list(found) == [0, 1, 4]
    assert list(find_overlaps(lines, {"that it was raining", "thank you"}, whole=True)) == [1, 4]
