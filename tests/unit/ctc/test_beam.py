"""The beam search: real speech, hand-made cases and torchaudio's wrapper of the same decoder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechssl.ctc.decoding import BeamConfig, BeamDecoder, choose_decoder, greedy_decode
from speechssl.ctc.decoding.file import read_settings, write_settings
from speechssl.ctc.decoding.hot_words import HotWords, Match, Phrase
from speechssl.errors import ConfigError
from speechssl.text import Vocabulary

pytest.importorskip("flashlight.lib.text")

VOCABULARY = Vocabulary.from_texts(["abc"])
ARPA = """\\data\\
ngram 1=5
ngram 2=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-0.6\t</s>
-0.5\tab\t-0.2
-0.7\tc\t-0.1

\\2-grams:
-0.2\t<s> ab
-0.4\tab </s>

\\end\\
"""


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    (tmp_path / "lm.arpa").write_text(ARPA)
    return tmp_path / "lm.arpa"


def logits_of(path: str, *, noise: float = 0.3) -> torch.Tensor:
    labels = torch.tensor(["-|abc".index(character) for character in path])
    clean = 4.0 * torch.nn.functional.one_hot(labels, 5)
    return (clean + noise * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)))[None]


def search(logits: torch.Tensor, config: BeamConfig, vocabulary: Vocabulary = VOCABULARY):  # type: ignore[no-untyped-def]
    return BeamDecoder(vocabulary, config).decode(logits, torch.tensor([logits.shape[1]]))[0]


@pytest.fixture
def word_list(tmp_path: Path) -> Path:
    (tmp_path / "digits.txt").write_text("zero\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\n")
    return tmp_path / "digits.txt"


def test_a_lexicon_corrects_real_speech_and_writes_nothing_else(digits, word_list) -> None:  # type: ignore[no-untyped-def]
    greedy = greedy_decode(digits.logits, digits.num_frames, digits.vocabulary)
    found = BeamDecoder(digits.vocabulary, BeamConfig(lexicon=word_list, word_score=-2.0)).decode(
        digits.logits, digits.num_frames
    )
    right = [sum(h.text == text for h, text in zip(found_, digits.texts, strict=True)) for found_ in (greedy, found)]
    assert right[1] >= right[0] + 4
    assert {word for hypothesis in found for word in hypothesis.text.split()} <= set(word_list.read_text().split())
    for hypothesis in found:
        assert [word.text for word in hypothesis.words] == hypothesis.text.split()
        spans = [(word.start_frame, word.end_frame) for word in hypothesis.words]
        assert all(start < end for start, end in spans) and spans == sorted(spans)


def test_free_search_without_a_model_is_at_least_as_probable_as_the_best_path(digits) -> None:  # type: ignore[no-untyped-def]
    greedy = greedy_decode(digits.logits, digits.num_frames, digits.vocabulary)
    found = BeamDecoder(digits.vocabulary, BeamConfig()).decode(digits.logits, digits.num_frames)
    for best, hypothesis in zip(greedy, found, strict=True):
        assert hypothesis.text == best.text  # the search maximises over paths too
        assert hypothesis.log_probability == pytest.approx(best.log_probability, abs=1e-3)


def test_a_hot_word_is_found_more_often_and_no_boost_changes_nothing(digits, word_list) -> None:  # type: ignore[no-untyped-def]
    config = BeamConfig(lexicon=word_list, hot_words=("seven",))
    plain = BeamDecoder(digits.vocabulary, replace(config, hot_words=())).decode(digits.logits, digits.num_frames)
    texts = {}
    for boost in (0.0, 6.0):
        decoder = BeamDecoder(digits.vocabulary, replace(config, hot_word_boost=boost))
        texts[boost] = [h.text for h in decoder.decode(digits.logits, digits.num_frames)]
    assert texts[0.0] == [hypothesis.text for hypothesis in plain]
    counts = {boost: sum(text.split().count("seven") for text in found) for boost, found in texts.items()}
    assert counts[6.0] > counts[0.0]
    changed = [new for new, old in zip(texts[6.0], texts[0.0], strict=True) if new != old]
    assert all("seven" in text for text in changed)


@pytest.mark.parametrize("lexicon", [True, False])
def test_same_results_as_torchaudio(digits, word_list, tmp_path, lexicon) -> None:  # type: ignore[no-untyped-def]
    from torchaudio.models.decoder import ctc_decoder

    vocabulary = digits.vocabulary
    spelled = tmp_path / "spelled.txt"
    spelled.write_text("".join(f"{word} {' '.join(word)} |\n" for word in word_list.read_text().split()))
    ours = BeamDecoder(
        vocabulary, BeamConfig(lexicon=word_list if lexicon else None, word_score=-1.0, beam_size=20, num_hypotheses=3)
    )
    theirs = ctc_decoder(
        lexicon=str(spelled) if lexicon else None,
        tokens=list(vocabulary.tokens),
        nbest=50,
        beam_size=20,
        word_score=-1.0,
        sil_score=0.0 if lexicon else -1.0,
        blank_token="<blank>",
    )
    for row, length in zip(digits.logits[:12], digits.num_frames[:12], strict=True):
        [best] = ours.decode(row[None], length[None])
        emissions = ours._emissions(row[:length].log_softmax(-1))
        expected: dict[str, float] = {}
        for one in theirs(emissions[None])[0]:
            text = " ".join(one.words) if lexicon else vocabulary.decode(one.tokens.tolist())
            expected.setdefault(text, one.score)
        found = {one.text: one.score for one in (best, *best.alternatives)}
        assert list(found) == list(expected)[: len(found)]
        assert list(found.values()) == pytest.approx(list(expected.values())[: len(found)], abs=1e-4)


def test_scores_add_up(arpa: Path) -> None:
    config = BeamConfig(language_model=arpa, lm_weight=2.0, word_score=-1.0, num_hypotheses=3)
    best = search(logits_of("-aabb-||cc-"), config)
    assert (best.text, len(best.alternatives)) == ("ab c", 2)
    assert best.lm_log10 == pytest.approx(
        -0.2 - 0.2 - 0.7 - 0.1 - 0.6
    )  # ab after <s>, c backed off, the end backed off
    for one in (best, *best.alternatives):
        assert one.score == pytest.approx(one.log_probability + 2 * one.lm_log10 - len(one.words), abs=1e-4)
    scores = [one.score for one in (best, *best.alternatives)]
    assert scores == sorted(scores, reverse=True)


def test_the_last_word_needs_no_separator_after_it(arpa: Path) -> None:
    hypothesis = search(logits_of("-aabb"), BeamConfig(language_model=arpa))
    assert [(word.text, word.start_frame, word.end_frame) for word in hypothesis.words] == [("ab", 1, 5)]
    assert hypothesis.log_probability > -1


def test_an_utterance_without_frames_is_empty(arpa: Path) -> None:
    for config in (BeamConfig(), BeamConfig(language_model=arpa)):
        decoded = BeamDecoder(VOCABULARY, config).decode(torch.zeros(1, 0, 5), torch.tensor([0]))[0]
        assert (decoded.text, decoded.words) == ("", ())


def test_frames_beyond_the_length_are_ignored(arpa: Path) -> None:
    decoder = BeamDecoder(VOCABULARY, BeamConfig(language_model=arpa))
    batch = torch.cat([logits_of("-ab|cc"), logits_of("-ab---")])
    assert [h.text for h in decoder.decode(batch, torch.tensor([3, 6]))] == ["ab", "ab"]


def test_other_weights_share_the_model(arpa: Path) -> None:
    decoder = BeamDecoder(VOCABULARY, BeamConfig(language_model=arpa, lm_weight=0.0))
    logits, length = logits_of("-aabb-||cc-"), torch.tensor([11])
    other = decoder.with_weights(lm_weight=2.0, word_score=-1.0)
    fresh = BeamDecoder(VOCABULARY, BeamConfig(language_model=arpa, lm_weight=2.0, word_score=-1.0))
    assert other.decode(logits, length) == fresh.decode(logits, length) != decoder.decode(logits, length)


def test_special_labels_are_never_written() -> None:
    vocabulary = Vocabulary(("<pad>", "|", "a", "<unk>"), special=(3,))
    logits = torch.tensor([[[0.0, 0.0, 3.0, 4.0]] * 3])
    assert search(logits, BeamConfig(), vocabulary).text == "a"


def test_a_phrase_that_is_not_completed_gives_its_boost_back() -> None:
    hot = HotWords(None, [Phrase((1, 2), 2), Phrase((2, 3), 2)], weight=1.0, boost=4.0, separator=None)

    def total(symbols: list[int]) -> float:
        match, sum_ = Match(), 0.0
        for symbol in symbols:
            match, added = hot.step(match, symbol)
            sum_ += added
        return sum_ + hot.finish(match)

    assert total([1, 2]) == 8
    assert total([1, 5]) == total([1]) == total([5]) == 0
    assert total([1, 1, 2]) == 8
    assert total([5, 2, 3, 1]) == 8
    assert total([1, 2, 1, 2]) == 16


def test_a_phrase_of_labels_begins_and_ends_at_word_boundaries() -> None:
    hot = HotWords(None, [Phrase((2, 3, 1), 1)], weight=1.0, boost=3.0, separator=1)

    def total(symbols: list[int]) -> float:
        match, sum_ = Match(), 0.0
        for symbol in symbols:
            match, added = hot.step(match, symbol)
            sum_ += added
        return sum_ + hot.finish(match)

    assert total([2, 3, 1, 4]) == total([2, 3]) == total([4, 1, 2, 3]) == 3
    assert total([4, 2, 3]) == total([2, 3, 4]) == total([2]) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"language_model": Path("none.arpa")}, "none.arpa.*speechssl lm"),
        ({"lexicon": Path("none.txt")}, "none.txt: cannot be read as a lexicon"),
        ({"search": "lexicon"}, "give lexicon or language_model"),
        ({"search": "free", "lexicon": Path("x")}, "takes no lexicon"),
        ({"beam_size": 0}, "beam_size must be at least 1"),
        ({"hot_words": ("äb",)}, r"'äb' cannot be written, the vocabulary lacks 'ä' \(U\+00E4\)"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BeamDecoder(VOCABULARY, BeamConfig(**settings))  # type: ignore[arg-type]


def test_models_that_do_not_fit_say_so(arpa: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a model of words, and the free search takes one of labels"):
        BeamDecoder(VOCABULARY, BeamConfig(language_model=arpa, search="free"))
    with pytest.raises(ConfigError, match=r"can spell none of 2 words, the vocabulary lacks 'A'"):
        (tmp_path / "upper.arpa").write_text(ARPA.replace("ab", "AB").replace("\tc\t", "\tC\t"))
        BeamDecoder(VOCABULARY, BeamConfig(language_model=tmp_path / "upper.arpa"))
    (tmp_path / "text.arpa").write_text("no model\n")
    with pytest.raises(ConfigError, match="is no language model"):
        BeamDecoder(VOCABULARY, BeamConfig(language_model=tmp_path / "text.arpa"))
    arpa.write_text(ARPA.replace("-0.5\tab", "x\tab"))
    with pytest.raises(ConfigError, match="is no language model that KenLM reads"):
        BeamDecoder(VOCABULARY, BeamConfig(language_model=arpa))


def test_settings_round_trip_and_a_changed_model_is_told(arpa: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = BeamConfig(language_model=arpa, lm_weight=1.75, word_score=-0.5)
    path = arpa.parent / "tuned" / "decoder.json"
    write_settings(path, config, {"wer": 0.1})
    assert read_settings(path) == config
    assert choose_decoder(str(path), BeamConfig(), VOCABULARY) is not None
    assert not caplog.records
    arpa.write_text(ARPA + "\n")
    read_settings(path)
    assert "has changed since the weights were tuned" in caplog.text


def test_decoders_are_chosen_by_name() -> None:
    assert choose_decoder("greedy", BeamConfig(), VOCABULARY) is None
    with pytest.raises(ConfigError, match="decoder must be greedy, beam or a .json file"):
        choose_decoder("bean", BeamConfig(), VOCABULARY)
    with pytest.raises(ConfigError, match="the decoder is greedy; set decoder to beam"):
        choose_decoder("greedy", BeamConfig(beam_size=7), VOCABULARY)
    with pytest.raises(ConfigError, match="nowhere.json: cannot be read"):
        choose_decoder("nowhere.json", BeamConfig(), VOCABULARY)
