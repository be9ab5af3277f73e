"""What a beam search needs, built once: the language model, the words and the tree of their spellings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speechssl.ctc.decoding.config import BeamConfig
from speechssl.ctc.decoding.flashlight import flashlight, load_kenlm
from speechssl.ctc.decoding.hot_words import HotWords, hot_symbols
from speechssl.ctc.decoding.lexicon import Lexicon, lexicon_of_words, read_lexicon
from speechssl.ctc.ngram.arpa import read_words
from speechssl.errors import ConfigError
from speechssl.text import Vocabulary

UNKNOWN = "<unk>"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Language model and lexicon of a search; `symbols[i]` is what the model's symbol i stands for.

    With a lexicon symbols are words, `<unk>` the last; without they are the labels of the vocabulary.
    """

    model: Any
    symbols: tuple[str, ...]
    lexicon: Lexicon | None

    def lm_log10(self, symbols: Sequence[int]) -> float:
        """log10 probability of a sequence of symbols with the sentence's end; 0 without a language model."""
        state, total = self.model.start(False), 0.0
        for symbol in symbols:
            state, value = self.model.score(state, symbol)
            total += value
        return total + float(self.model.finish(state)[1])


def build_parts(vocabulary: Vocabulary, config: BeamConfig) -> Parts:
    """Read language model and lexicon as configured.

    Raises:
        ConfigError: a file cannot be used, or they do not fit the search or the vocabulary.
    """
    path = config.language_model
    words = None if path is None else read_words(path)
    units = vocabulary.unit_names
    search = config.search
    # a model of labels may know some that this vocabulary lacks, and words may be one label long
    over_labels = words is not None and 2 * len(words & set(units)) > len(words)
    if search == "auto":
        search = "lexicon" if config.lexicon is not None or not (over_labels or path is None) else "free"
    if search == "free":
        if words is not None and not over_labels:
            raise ConfigError(
                f"{path}: is a model of words, and the free search takes one of labels; make one with"
                " `speechssl lm --units characters`, or search with a lexicon"
            )
        model = flashlight().ZeroLM() if path is None else load_kenlm(path, units)
        return Parts(model=model, symbols=units, lexicon=None)
    if config.lexicon is not None:
        lexicon = read_lexicon(config.lexicon, vocabulary)
    elif words is None:
        raise ConfigError(f"{path}: is a binary, whose words cannot be listed; give lexicon, the words to write")
    else:
        lexicon = lexicon_of_words(sorted(words), vocabulary, source=str(path))
    if config.hot_words:
        lexicon = lexicon.with_words([word for phrase in config.hot_words for word in phrase.split()], vocabulary)
    symbols = (*lexicon.spellings, UNKNOWN)
    model = flashlight().ZeroLM() if path is None else load_kenlm(path, symbols)
    return Parts(model=model, symbols=symbols, lexicon=lexicon)


class Searcher:
    """A flashlight decoder with given weights. It keeps what the decoder points to alive."""

    def __init__(self, parts: Parts, vocabulary: Vocabulary, config: BeamConfig) -> None:
        decoder = flashlight()
        self.silence = vocabulary.blank if vocabulary.separator is None else vocabulary.separator
        self._model, weight = parts.model, config.lm_weight
        if config.hot_words:
            # flashlight multiplies all that its language model says, so the weight goes inside and the boost beside it
            phrases = hot_symbols(config.hot_words, parts.symbols, vocabulary, over_words=parts.lexicon is not None)
            separator = None if parts.lexicon is not None else vocabulary.separator
            self._model = HotWords(
                parts.model, phrases, weight=weight, boost=config.hot_word_boost, separator=separator
            ).language_model()
            weight = 1.0
        size = len(vocabulary)
        common = (config.beam_size, min(config.beam_size_token or size, size), config.beam_threshold, weight)
        if parts.lexicon is None:
            options = decoder.LexiconFreeDecoderOptions(*common, config.word_score, False, decoder.CriterionType.CTC)
            self._decoder = decoder.LexiconFreeDecoder(options, self._model, self.silence, vocabulary.blank, [])
        else:
            self._trie = _tree(parts, self._model, vocabulary, self.silence)
            options = decoder.LexiconDecoderOptions(
                *common, config.word_score, -math.inf, 0.0, False, decoder.CriterionType.CTC
            )
            unknown = len(parts.symbols) - 1
            self._decoder = decoder.LexiconDecoder(
                options, self._trie, self._model, self.silence, vocabulary.blank, unknown, [], False
            )

    def results(self, pointer: int, num_frames: int, num_labels: int) -> list[Any]:
        """flashlight's results for f32 log probabilities `[T, N]` at an address, best first."""
        found: list[Any] = self._decoder.decode(pointer, num_frames, num_labels)
        return found


def _tree(parts: Parts, model: Any, vocabulary: Vocabulary, silence: int) -> Any:
    """The prefix tree of all spellings, each closed by the separator; a node knows its best word's score."""
    decoder = flashlight()
    assert parts.lexicon is not None
    tree = decoder.Trie(len(vocabulary), silence)
    start = model.start(False)
    end = [] if vocabulary.separator is None else [vocabulary.separator]
    for index, (_, spellings) in enumerate(parts.lexicon.spellings.items()):
        score = model.score(start, index)[1]
        for spelling in spellings:
            tree.insert([*spelling, *end], index, score)
    tree.smear(decoder.SmearingMode.MAX)
    return tree
