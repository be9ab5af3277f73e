"""Logits in pieces: the same frames and the same words as of the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.ctc import greedy_decode
from speechssl.ctc.chunking import ChunkedLogits, Chunking
from speechssl.ctc.scored import WordJoiner, score_tokens
from speechssl.ctc.streaming import GreedyStream
from speechssl.errors import ConfigError
from speechssl.lengths import output_length
from speechssl.text import Vocabulary

LETTERS = Vocabulary.from_texts(["abc"])
UNITS = Vocabulary(("<s>", "▁", "▁a", "b", "▁c"), separator=None, word_prefix="▁", special=(1,))
LAYERS = ((10, 5), (4, 4))


def path_logits(labels: list[int], num_labels: int) -> torch.Tensor:
    random = torch.rand(len(labels), num_labels, generator=torch.Generator().manual_seed(len(labels)))
    return random + 3 * torch.nn.functional.one_hot(torch.tensor(labels, dtype=torch.long), num_labels)


@settings(deadline=None, max_examples=150)
@given(st.data(), st.sampled_from([LETTERS, UNITS]))
def test_stream_writes_what_greedy_decoding_of_the_whole_writes(data: st.DataObject, vocabulary: Vocabulary) -> None:
    labels = data.draw(st.lists(st.integers(0, len(vocabulary) - 1), min_size=1, max_size=40))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(labels)), max_size=5)))
    logits = path_logits(labels, len(vocabulary))
    stream = GreedyStream(vocabulary)
    words = []
    for start, stop in zip([0, *cuts], [*cuts, len(labels)], strict=True):
        words += stream.push(logits[start:stop])
    words += stream.finish()
    whole = greedy_decode(logits[None], torch.tensor([len(labels)]), vocabulary)[0]
    spans = [(word.text, word.start_frame, word.end_frame) for word in words]
    assert spans == [(word.text, word.start_frame, word.end_frame) for word in whole.words]
    assert " ".join(word.text for word in words) == whole.text
    assert stream.log_probability == pytest.approx(whole.log_probability)
    joiner = WordJoiner(vocabulary)
    scored = [word for token in score_tokens(logits.log_softmax(-1), whole.tokens) for word in joiner.push(token)]
    scored += joiner.finish()
    assert [word.score for word in words] == pytest.approx([word.score for word in scored], rel=1e-5)


def test_a_pause_ends_a_word_without_a_separator() -> None:
    labels = [2, 3, 0, 0, 0, 0, 4, 0]
    for pause, expected in ((None, ["abc"]), (5, ["abc"]), (4, ["ab", "c"])):
        stream = GreedyStream(LETTERS, pause_frames=pause)
        words = [word for label in labels for word in stream.push(path_logits([label], 5))] + stream.finish()
        assert [word.text for word in words] == expected


def test_open_text_is_the_word_that_has_begun() -> None:
    stream = GreedyStream(LETTERS)
    assert stream.push(path_logits([2, 0, 3, 1, 4, 0], 5))[0].text == "ab"
    assert stream.open_text == "c"


def windows(waveform: torch.Tensor) -> torch.Tensor:
    """Frames that say exactly which samples they see: `[T, window]`."""
    return waveform.unfold(0, 25, 20)  # what LAYERS add up to


@settings(deadline=None, max_examples=100)
@given(
    num_samples=st.integers(25, 3000),
    blocks=st.integers(1, 900),
    whole=st.sampled_from([0.0, 1.0]),
    chunk=st.sampled_from([0.02, 0.1, 0.33]),
    context=st.sampled_from([0.0, 0.05, 0.4]),
)
def test_chunks_give_every_frame_of_the_whole_once_and_in_order(
    num_samples: int, blocks: int, whole: float, chunk: float, context: float
) -> None:
    samples = np.arange(num_samples, dtype=np.float32)
    settings = Chunking(whole_seconds=whole, chunk_seconds=chunk, left_seconds=context, right_seconds=context)
    longest = 0

    def logits(waveform: torch.Tensor) -> torch.Tensor:
        nonlocal longest
        longest = max(longest, len(waveform))
        return windows(waveform)

    chunked = ChunkedLogits(logits, settings, layers=LAYERS, sample_rate=1000)
    frames = [
        piece for start in range(0, num_samples, blocks) for piece in chunked.push(samples[start : start + blocks])
    ]
    frames += list(chunked.finish())
    found = torch.cat(frames)
    assert len(found) == output_length(num_samples, LAYERS)
    assert torch.equal(found, windows(torch.from_numpy(samples)))
    assert longest <= max(1000 * settings.piece_seconds, 25) + 25
    assert chunked.num_kept_samples <= max(1000 * settings.piece_seconds, 25) + 2 * 25


def test_context_reaches_over_the_seams() -> None:
    seen = []
    settings = Chunking(whole_seconds=0, chunk_seconds=0.1, left_seconds=0.06, right_seconds=0.04)
    chunked = ChunkedLogits(
        lambda waveform: (seen.append((int(waveform[0]), int(waveform[-1]))), windows(waveform))[1],
        settings,
        layers=LAYERS,
        sample_rate=1000,
    )
    list(chunked.push(np.arange(400, dtype=np.float32)))
    # frames 0-4 with 2 more behind; then frames 5-9 with 3 before and 2 behind
    assert seen[:2] == [(0, 6 * 20 + 24), (2 * 20, 11 * 20 + 24)]


@pytest.mark.parametrize("wrong", [{"chunk_seconds": 0.0}, {"left_seconds": -1.0}])
def test_senseless_chunks_are_refused(wrong: dict[str, float]) -> None:
    values = {"whole_seconds": 1.0, "chunk_seconds": 1.0, "left_seconds": 1.0, "right_seconds": 1.0} | wrong
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be"):
        Chunking(**values)
