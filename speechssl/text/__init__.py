"""Text normalisers by name, and the vocabulary of a CTC model.

A transcript passes through `normalize` and then `Vocabulary.encode`; a sequence of label ids passes through
`Vocabulary.decode`. The same normaliser is applied to references and hypotheses when they are scored, and its name and
version are part of every result, since a word error rate means nothing without them.
"""

from speechssl.text.choice import UnitConfig, choose_vocabulary
from speechssl.text.normalizers import NormalizerName, normalize, normalizer_version
from speechssl.text.policy import Case, TextPolicy
from speechssl.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary, describe_characters

__all__ = [
    "BLANK",
    "WORD_SEPARATOR",
    "Case",
    "NormalizerName",
    "TextPolicy",
    "UnitConfig",
    "Vocabulary",
    "choose_vocabulary",
    "describe_characters",
    "normalize",
    "normalizer_version",
]
