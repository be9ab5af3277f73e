"""Normalisers and the character vocabulary."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.errors import CheckpointError, ConfigError
from speechssl.text import Vocabulary, describe_characters, normalize, normalizer_version


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none", "  Two\twords,  here\n", "Two words, here"),
        ("lowercase", "MISTER QUILTER'S", "mister quilter's"),
        ("letters", "Don’t -- say 'hello', Mr. O'Brien!", "don't say hello mr o'brien"),
        ("letters", "rock-and-roll in 1999; ÄRGER", "rock and roll in 1999 ärger"),
        ("letters", "the boys' house ''", "the boys house"),
        ("letters", "...", ""),
        ("basic", "Hello, Mr. O'Brien", "hello mr o brien"),
        ("english", "It's twenty-one dollars", "it is $21"),
    ],
)
def test_normalize_gives_the_stated_text(name: str, text: str, expected: str) -> None:
    assert normalize(text, name) == expected  # type: ignore[arg-type]


def test_composed_and_decomposed_letters_become_the_same() -> None:
    assert normalize("café", "none") == normalize("café", "none")


@given(st.text(max_size=30))
def test_letters_is_idempotent_and_clean(text: str) -> None:
    once = normalize(text, "letters")
    assert once == normalize(once, "letters")
    assert once == once.strip() and "  " not in once


def test_unknown_normalizer_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match=r"none, lowercase, letters, basic, english, but is 'leters'"):
        normalize("a", "leters")  # type: ignore[arg-type]


def test_normalizer_version_names_the_package() -> None:
    assert normalizer_version("english").startswith("whisper-normalizer 0.")
    assert normalizer_version("letters").startswith("speechssl rule")


def test_vocabulary_holds_blank_separator_then_sorted_characters() -> None:
    vocabulary = Vocabulary.from_texts(["cab", "a b"])
    assert vocabulary.tokens == ("<blank>", "|", "a", "b", "c")
    assert vocabulary.encode("a cab") == [2, 1, 4, 2, 3]
    assert vocabulary.decode([2, 1, 4, 2, 3]) == "a cab"


def test_decode_ignores_blanks_and_stray_separators() -> None:
    assert Vocabulary.from_texts(["ab"]).decode([1, 0, 2, 1, 1, 3, 0, 1]) == "a b"


def test_unknown_characters_are_named_and_never_replaced() -> None:
    vocabulary = Vocabulary.from_texts(["ab"])
    with pytest.raises(ConfigError, match=r"no label for 'é' \(U\+00E9\) x2, 'x' x1"):
        vocabulary.encode("aéxé")
    assert vocabulary.encode("aéb", skip_unknown=True) == [2, 3]


def test_literal_separator_in_a_text_is_unknown() -> None:
    vocabulary = Vocabulary.from_texts(["a|b"])
    assert vocabulary.tokens == ("<blank>", "|", "a", "b")
    assert vocabulary.unknown_characters("a|b") == {"|": 1}
    with pytest.raises(ConfigError, match=r"'\|' x1"):
        vocabulary.encode("a|b")


def test_rare_characters_can_be_left_out() -> None:
    assert Vocabulary.from_texts(["aab", "ab"], min_count=3).tokens[2:] == ("a",)


def test_vocabulary_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="give transcripts"):
        Vocabulary.from_texts(["", "  "])


def test_vocabulary_round_trips_through_json(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_texts(["straße, 'n'"])
    vocabulary.save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json") == vocabulary
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))["ß"] == vocabulary.ids["ß"]


@pytest.mark.parametrize("content", ["[1, 2]", '{"<blank>": 0, "|": 1, "a"', '{"<blank>": 0, "|": 2}', '{"a": 0}'])
def test_broken_vocabulary_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        Vocabulary.load(path)


def test_missing_vocabulary_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="fine-tuned model directory"):
        Vocabulary.load(tmp_path / "vocab.json")


@pytest.mark.parametrize("tokens", [("<blank>", "|", "a", "a"), ("<blank>", "|", " "), ("<blank>", "|", "")])
def test_malformed_tokens_are_refused(tokens: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="vocabulary"):
        Vocabulary(tokens)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blank": 3}, "blank must be a label id below 3, but is 3"),
        ({"special": (7,)}, "special must be a label id below 3, but is 7"),
        ({"blank": 1}, "blank and separator must differ, but both are 1"),
        ({"encode_case": "title"}, "encode_case must be one of keep, upper, lower"),
    ],
)
def test_facts_that_do_not_fit_the_tokens_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Vocabulary(("<pad>", "|", "a"), **values)


LETTERS = Vocabulary(
    ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T", "A"),
    blank=1, separator=4, special=(0, 2, 3), encode_case="upper", decode_case="lower",
)  # fmt: skip
PHONEMES = Vocabulary(("<pad>", "h", "ə", "l", "oʊ"), separator=None, joiner=" ")
PIECES = Vocabulary(("▁the", "▁t", "he", "t", "h", "e", "▁", "<blank>"), blank=7, separator=None, word_prefix="▁")


def test_letters_of_another_order_case_and_blank() -> None:
    assert LETTERS.encode("eat Tea") == [5, 7, 6, 4, 6, 5, 7]
    assert LETTERS.decode([1, 5, 7, 0, 6, 4, 2, 6, 3, 5, 7]) == "eat tea"
    assert LETTERS.unknown_characters("<s>|x") == {"<": 1, "S": 1, ">": 1, "|": 1, "X": 1}


def test_phonemes_are_written_with_spaces_between() -> None:
    assert PHONEMES.encode("h ə l oʊ") == [1, 2, 3, 4]
    assert PHONEMES.decode([1, 2, 0, 3, 4]) == "h ə l oʊ"
    assert PHONEMES.unknown_characters("h æ") == {"æ": 1}


def test_pieces_begin_words_and_the_longest_is_taken() -> None:
    assert PIECES.encode("the het") == [0, 6, 2, 3]
    assert PIECES.decode([0, 7, 6, 2, 3]) == "the het"


@pytest.mark.parametrize("vocabulary", [LETTERS, PHONEMES, PIECES])
def test_other_vocabularies_round_trip_with_their_facts(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path / "vocab.json")
    facts = json.loads(json.dumps(vocabulary.facts()))
    assert Vocabulary.load(tmp_path / "vocab.json", facts=facts) == vocabulary


def test_a_foreign_vocabulary_without_its_facts_is_refused(tmp_path: Path) -> None:
    """Which label is the blank cannot be guessed."""
    LETTERS.save(tmp_path / "vocab.json")
    with pytest.raises(CheckpointError, match=r"must begin with '<blank>' and '\|'.*comes in with its model"):
        Vocabulary.load(tmp_path / "vocab.json")


def test_own_vocabularies_have_no_further_facts() -> None:
    assert Vocabulary.from_texts(["ab c"]).facts() == {}


def test_describe_characters_is_bounded() -> None:
    assert describe_characters({"a": 1, "b": 2, "c": 1}, limit=2) == "'b' x2, 'a' x1 and 1 more"
