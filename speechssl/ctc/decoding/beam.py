"""CTC beam search on flashlight-text, with an n-gram language model, a lexicon and hot words.

flashlight-text is what `torchaudio.models.decoder.ctc_decoder` wraps. It is called directly, because that wrapper
hides the acoustic and the language model's score of a hypothesis and reads the language model anew for every weight; a
test holds that both write the same.

One frame is added behind the last. flashlight ends an utterance only after whole words, and a word of the lexicon ends
with the separator, which models do not write after the last word. In the added frame separator and blank cost nothing.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from speechssl.ctc.decoding.config import BeamConfig
from speechssl.ctc.decoding.hypothesis import Hypothesis, TokenSpan, WordSpan, merge_repeats, words_of
from speechssl.ctc.decoding.search import Searcher, build_parts
from speechssl.text import Vocabulary

_NEVER = -1e4  # of labels that are not written; infinities would make every sum infinite


class BeamDecoder:
    """Logits to hypotheses by beam search; see `BeamConfig` for what it ranks by.

    Reading the language model and building the tree of the lexicon takes seconds with large ones, so keep the object;
    `with_weights` shares both.
    """

    def __init__(self, vocabulary: Vocabulary, config: BeamConfig) -> None:
        """Read the files of `config`.

        Raises:
            ConfigError: a package is missing, or a file cannot be used with this vocabulary.
        """
        self.vocabulary = vocabulary
        self.config = config
        self._parts = build_parts(vocabulary, config)
        self._searcher = Searcher(self._parts, vocabulary, config)

    @property
    def uses_lexicon(self) -> bool:
        """Whether only words of a lexicon are written."""
        return self._parts.lexicon is not None

    def can_write(self, word: str) -> bool:
        """Whether `word` may appear in a text; always so in the free search."""
        return self._parts.lexicon is None or word in self._parts.lexicon.spellings

    def with_weights(self, *, lm_weight: float, word_score: float) -> "BeamDecoder":
        """The same search with other weights."""
        other = BeamDecoder.__new__(BeamDecoder)
        other.vocabulary, other._parts = self.vocabulary, self._parts
        other.config = replace(self.config, lm_weight=lm_weight, word_score=word_score)
        other._searcher = Searcher(other._parts, other.vocabulary, other.config)
        return other

    def decode(self, logits: Tensor, num_frames: Tensor) -> list[Hypothesis]:
        """Hypotheses of a batch: logits `[B, T, N]`, num_frames i64 `[B]`; with `num_hypotheses` above 1 each holds
        its alternatives.
        """
        rows = logits.float().log_softmax(dim=-1).cpu()
        return [self._decode_one(row[:length]) for row, length in zip(rows, num_frames.tolist(), strict=True)]

    def _decode_one(self, log_probabilities: Tensor) -> Hypothesis:
        num_frames, num_labels = log_probabilities.shape
        emissions = self._emissions(log_probabilities)
        found: dict[str, Hypothesis] = {}
        for result in self._searcher.results(emissions.data_ptr(), len(emissions), num_labels):
            hypothesis = self._hypothesis(result, num_frames)
            found.setdefault(hypothesis.text, hypothesis)  # the same text by another path is worse
            if len(found) == self.config.num_hypotheses:
                break
        best, *others = found.values()
        return replace(best, alternatives=tuple(others))

    def _emissions(self, log_probabilities: Tensor) -> Tensor:
        """f32 `[T, N]`, or `[T + 1, N]` with the frame in which the last word may end."""
        vocabulary = self.vocabulary
        emissions = log_probabilities.clamp(min=_NEVER)
        emissions[:, [label for label in vocabulary.special if label != vocabulary.blank]] = _NEVER
        if self.uses_lexicon:
            end = torch.full((1, emissions.shape[1]), _NEVER)
            end[0, [vocabulary.blank, self._searcher.silence]] = 0.0
            emissions = torch.cat([emissions, end])
        return emissions.contiguous()

    def _hypothesis(self, result: Any, num_frames: int) -> Hypothesis:
        # flashlight's lists begin and end with an entry that stands for no frame
        path = result.tokens[1 : num_frames + 1]
        tokens = merge_repeats(path, self.vocabulary.blank)
        if self._parts.lexicon is None:
            symbols = [token.label for token in tokens]
            words = words_of(tokens, self.vocabulary)
            text = self.vocabulary.decode(symbols)
        else:
            ends = [(frame, word) for frame, word in enumerate(result.words[1:]) if word >= 0]
            symbols = [word for _, word in ends]
            words = self._spans(tokens, ends)
            text = " ".join(self._word(word) for word in symbols)
        return Hypothesis(
            text=text,
            tokens=tokens,
            words=words,
            log_probability=float(result.emittingModelScore),
            lm_log10=self._parts.lm_log10(symbols),
            score=float(result.score),
        )

    def _word(self, symbol: int) -> str:
        return self.vocabulary.in_written_case(self._parts.symbols[symbol])

    def _spans(self, tokens: tuple[TokenSpan, ...], ends: list[tuple[int, int]]) -> tuple[WordSpan, ...]:
        """Words with their frames; `ends` holds the frame in which each word was complete, and the word."""
        labels = [token for token in tokens if token.label != self.vocabulary.separator]
        spans, first = [], 0
        for end, word in ends:
            last = first
            while last < len(labels) and labels[last].start_frame <= end:
                last += 1
            spans.append(
                WordSpan(
                    text=self._word(word),
                    start_frame=labels[first].start_frame,
                    end_frame=labels[last - 1].end_frame,
                )
            )
            first = last
        return tuple(spans)
