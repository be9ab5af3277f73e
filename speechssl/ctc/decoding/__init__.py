"""From CTC logits to text: the best path, or a beam search with a language model and a lexicon."""

from speechssl.ctc.decoding.beam import BeamDecoder
from speechssl.ctc.decoding.choice import choose_decoder
from speechssl.ctc.decoding.config import BeamConfig
from speechssl.ctc.decoding.greedy import greedy_decode
from speechssl.ctc.decoding.hypothesis import Hypothesis, TokenSpan, WordSpan

__all__ = [
    "BeamConfig",
    "BeamDecoder",
    "Hypothesis",
    "TokenSpan",
    "WordSpan",
    "choose_decoder",
    "greedy_decode",
]
