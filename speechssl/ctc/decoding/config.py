"""The settings of the beam search."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechssl.errors import ConfigError

Search = Literal["auto", "lexicon", "free"]


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """CTC beam search, which ranks by

        acoustic + lm_weight * log10 LM + word_score * words + boosts of the hot words,

    the acoustic score being the log probability of the path in nats. The weights are on flashlight's scale, in which
    wav2vec 2.0 used 2 and -1 with a 4-gram of LibriSpeech. `speechssl evaluate --tune` finds them.

    Attributes:
        language_model: an n-gram model, ARPA or KenLM's binary; `speechssl lm` makes one.
        lexicon: the words that may be written, one a line, each alone or with its spelling in labels; null takes the
            words of the language model.
        search: lexicon writes only words of the lexicon, free writes any label sequence, with a language model over
            labels. auto takes free where the model's units are the vocabulary's labels, or nothing is given.
        lm_weight: weight of the language model.
        word_score: added for every word; in the free search for every frame of the word separator.
        beam_size: hypotheses that are kept after a frame.
        beam_size_token: best labels of a frame that are tried; null tries all.
        beam_threshold: hypotheses whose score lies this far below the best are dropped.
        hot_words: words or phrases that are favoured; words that the lexicon lacks are added to it.
        hot_word_boost: what each word of a hot phrase adds to the score, in nats.
        num_hypotheses: hypotheses that are returned.
    """

    language_model: Path | None = None
    lexicon: Path | None = None
    search: Search = "auto"
    lm_weight: float = 1.0
    word_score: float = 0.0
    beam_size: int = 100
    beam_size_token: int | None = None
    beam_threshold: float = 50.0
    hot_words: tuple[str, ...] = ()
    hot_word_boost: float = 5.0
    num_hypotheses: int = 1

    def __post_init__(self) -> None:
        for name in ("beam_size", "num_hypotheses"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.beam_size_token is not None and self.beam_size_token < 1:
            raise ConfigError(f"beam_size_token must be at least 1 or null, but is {self.beam_size_token}")
        if self.beam_threshold <= 0:
            raise ConfigError(f"beam_threshold must be above 0, but is {self.beam_threshold}")
        if self.search == "free" and self.lexicon is not None:
            raise ConfigError("search is free, which takes no lexicon; leave one of them out")
        if self.search == "lexicon" and self.lexicon is None and self.language_model is None:
            raise ConfigError("search is lexicon, but there are no words: give lexicon or language_model")
        for phrase in self.hot_words:
            if not phrase.strip():
                raise ConfigError("hot_words must be words or phrases, but one of them is empty")
