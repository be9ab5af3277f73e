"""Forced alignment: the best path, whichever way it is found."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.ctc.alignment import align_labels
from speechssl.ctc.long_alignment import best_states
from speechssl.ctc.loss import required_frames
from speechssl.ctc.scored import ScoredToken
from speechssl.ctc.spelling import spell
from speechssl.errors import AudioError, ManifestError
from speechssl.text import Vocabulary


def random_scores(num_frames: int, num_labels: int, seed: int) -> torch.Tensor:
    logits = 2 * torch.randn(num_frames, num_labels, generator=torch.Generator().manual_seed(seed))
    return logits.log_softmax(dim=-1)


def spans(tokens: tuple[ScoredToken, ...]) -> list[tuple[int, int, int]]:
    return [(token.label, token.start_frame, token.end_frame) for token in tokens]


def test_path_is_the_best_of_all_that_spell_the_labels() -> None:
    for seed, labels in enumerate([(1,), (1, 2), (2, 2), (1, 2, 1)]):
        scores = random_scores(6, 3, seed)
        best, found = -np.inf, None
        for path in itertools.product(range(3), repeat=6):
            spelled = tuple(label for label, _ in itertools.groupby(path) if label)
            total = float(sum(scores[frame, label] for frame, label in enumerate(path)))
            if spelled == labels and total > best:
                best, found = total, path
        alignment = align_labels(scores, labels)
        assert alignment.mean_log_probability == pytest.approx(best / 6, rel=1e-5)
        written = [0] * 6
        for label, start, stop in spans(alignment.tokens):
            written[start:stop] = [label] * (stop - start)
        assert tuple(written) == found
        for token in alignment.tokens:
            frames = scores[token.start_frame : token.end_frame, token.label]
            assert token.log_posterior == pytest.approx(float(frames.mean()), rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 999), block=st.sampled_from([1, 2, 7, 1000]))
def test_block_by_block_finds_the_path_of_torchaudio(data: st.DataObject, seed: int, block: int) -> None:
    labels = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    num_frames = required_frames(labels) + data.draw(st.integers(0, 30))
    scores = random_scores(num_frames, 4, seed)
    whole = align_labels(scores, labels)
    for beam in (None, 40.0):
        path = best_states(scores.numpy(), np.array(labels), 0, block_frames=block, beam_nats=beam)
        assert path.tolist() == sorted(path.tolist())
        starts = np.searchsorted(path, 2 * np.arange(len(labels)) + 1)
        assert starts.tolist() == [token.start_frame for token in whole.tokens]


def test_lost_end_of_the_text_is_searched_for_again_without_a_limit() -> None:
    labels = [1, 2, 1, 2]
    scores = torch.full((40, 3), -5.0)
    scores[:, 0] = -0.1
    scores[-4:, 0] = -300.0  # all labels are in the last frames, where the limit has long given up their states
    path = best_states(scores.numpy(), np.array(labels), 0, block_frames=10, beam_nats=1.0)
    assert path[-4:].tolist() == [1, 3, 5, 7]


def test_long_recordings_take_the_long_way_to_the_same_frames() -> None:
    labels = [1 + number % 3 for number in range(300)]
    scores = random_scores(2000, 4, 5)
    assert spans(align_labels(scores, labels, max_cells=1).tokens) == spans(align_labels(scores, labels).tokens)


def test_prior_makes_labels_longer_where_blanks_are_everywhere() -> None:
    likely = torch.tensor([0.4, 0.4, 0.9, 0.4, 0.05, 0.05, 0.05])
    scores = torch.stack([1 - likely, likely], dim=1).log()
    narrow, wide = (align_labels(scores, [1], prior_weight=weight) for weight in (0.0, 1.0))
    assert spans(narrow.tokens) == [(1, 2, 3)]
    assert spans(wide.tokens) == [(1, 0, 4)]
    assert wide.tokens[0].log_posterior == pytest.approx(float(scores[:4, 1].mean()))  # scores are without it


def test_text_too_long_for_the_audio_is_explained() -> None:
    with pytest.raises(AudioError, match="2 labels, which need 3 frames, but the audio makes 2"):
        align_labels(random_scores(2, 3, 0), [1, 1])


VOCABULARY = Vocabulary.from_texts(["abcdefghij"])


def test_every_word_of_a_text_keeps_its_place_and_its_letters() -> None:
    spelled = spell("Bad, – 'cab' 7th feed!", VOCABULARY, normalizer="letters", on_unknown="skip")
    assert spelled.words == ("Bad,", "–", "'cab'", "7th", "feed!")
    letters = ["".join(VOCABULARY.tokens[label] for label in spelled.labels[a:b]) for a, b in spelled.spans]
    assert letters == ["bad", "", "cab", "h", "feed"]
    assert VOCABULARY.decode(spelled.labels) == "bad cab h feed"
    assert spelled.unknown == {"7": 1, "t": 1}
    assert spelled.num_unaligned == 1
    tokens = [
        ScoredToken(label=n, start_frame=i, end_frame=i + 1, log_posterior=-1) for i, n in enumerate(spelled.labels)
    ]
    words = spelled.words_of(tokens, VOCABULARY)
    assert [word and (word.text, word.start_frame, word.end_frame) for word in words] == [
        ("Bad,", 0, 3), None, ("'cab'", 4, 7), ("7th", 8, 9), ("feed!", 10, 14)
    ]  # fmt: skip


def test_word_that_becomes_two_is_one_span() -> None:
    spelled = spell("a-b c", VOCABULARY, normalizer="letters")
    assert VOCABULARY.decode(spelled.labels) == "a b c"
    assert spelled.spans == ((0, 3), (4, 5))


@pytest.mark.parametrize(
    ("text", "on_unknown", "message"),
    [
        ("bad 42 äh", "error", r"no label for '2' x1, '4' x1, 'ä' \(U\+00E4\) x1 of the text.*--on_unknown skip"),
        ("42", "skip", "holds nothing to align"),
        (" \n", "error", "holds nothing to align"),
    ],
)
def test_text_that_cannot_be_spelled_is_explained(text: str, on_unknown: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        spell(text, VOCABULARY, normalizer="letters", on_unknown=on_unknown)  # type: ignore[arg-type]


def test_subword_units_begin_words_without_a_separator() -> None:
    units = Vocabulary(("<s>", "▁a", "b", "▁"), separator=None, word_prefix="▁")
    spelled = spell("ab a b", units, normalizer="none")
    assert [units.tokens[label] for label in spelled.labels] == ["▁a", "b", "▁a", "▁", "b"]
    assert spelled.spans == ((0, 2), (2, 3), (3, 5))


def test_scores_survive_json() -> None:
    assert json.dumps(align_labels(random_scores(5, 3, 0), [1, 2]).mean_log_probability)
