"""Best-path decoding."""

import torch
from torch import Tensor

from speechssl.ctc.decoding import greedy_decode
from speechssl.text import Vocabulary

VOCABULARY = Vocabulary.from_texts(["abc"])


def logits_of(path: str) -> Tensor:
    """`[1, T, N]` whose best path is written with `-` for the blank and `|` for the separator."""
    labels = [{"-": 0, "|": 1}.get(character, "-|abc".index(character)) for character in path]
    return 5.0 * torch.nn.functional.one_hot(torch.tensor([labels]), 5).float()


def text_of(path: str) -> str:
    return greedy_decode(logits_of(path), torch.tensor([len(path)]), VOCABULARY)[0].text


def test_repeats_merge_and_blanks_separate_equal_letters() -> None:
    assert text_of("aa-ab||-c-") == "aab c"


def test_all_blank_is_an_empty_hypothesis() -> None:
    hypothesis = greedy_decode(logits_of("---"), torch.tensor([3]), VOCABULARY)[0]
    assert (hypothesis.text, hypothesis.words, hypothesis.tokens) == ("", (), ())


def test_words_carry_their_first_and_last_frame() -> None:
    words = greedy_decode(logits_of("|-aab-||-c--"), torch.tensor([12]), VOCABULARY)[0].words
    assert [(word.text, word.start_frame, word.end_frame) for word in words] == [("ab", 2, 5), ("c", 9, 10)]


def test_frames_beyond_the_length_are_ignored() -> None:
    batch = torch.cat([logits_of("ab-c"), logits_of("abbb")])
    assert [hypothesis.text for hypothesis in greedy_decode(batch, torch.tensor([2, 4]), VOCABULARY)] == ["ab", "ab"]


def test_log_probability_is_that_of_the_path() -> None:
    logits = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = logits[0, :3].log_softmax(-1).amax(-1).sum()
    hypothesis = greedy_decode(logits, torch.tensor([3]), VOCABULARY)[0]
    assert abs(hypothesis.log_probability - expected.item()) < 1e-5


def test_blank_separator_and_special_labels_are_the_vocabularys() -> None:
    vocabulary = Vocabulary(("a", "<s>", "b", "|", "<pad>"), blank=4, separator=3, special=(1,))
    labels = [0, 0, 4, 0, 1, 2, 3, 3, 2, 4]
    logits = torch.nn.functional.one_hot(torch.tensor([labels]), 5).float()
    hypothesis = greedy_decode(logits, torch.tensor([10]), vocabulary)[0]
    assert hypothesis.text == "aab b"
    assert [(word.text, word.start_frame, word.end_frame) for word in hypothesis.words] == [("aab", 0, 6), ("b", 8, 9)]


def test_word_beginnings_part_words_without_a_separator() -> None:
    vocabulary = Vocabulary(("<pad>", "▁a", "b", "▁"), separator=None, word_prefix="▁")
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 0, 3, 2, 3]]), 4).float()
    hypothesis = greedy_decode(logits, torch.tensor([6]), vocabulary)[0]
    assert hypothesis.text == "ab b"
    assert [(word.text, word.start_frame, word.end_frame) for word in hypothesis.words] == [("ab", 0, 2), ("b", 3, 5)]
