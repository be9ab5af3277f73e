"""The vocabulary that a fine-tuning is to have."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from speechssl.errors import ConfigError
from speechssl.text.normalizers import NormalizerName, normalize
from speechssl.text.policy import Case, Punctuation, TextPolicy, UnicodeForm
from speechssl.text.pronunciations import read_pronunciations
from speechssl.text.units import WORD_PREFIX, Algorithm, PieceModel, train_pieces
from speechssl.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary


@dataclass(frozen=True, kw_only=True)
class UnitConfig:
    """What the labels are, and how texts are written. The normaliser comes first; use `none` to leave all to these.

    Attributes:
        kind: characters, sentencepiece (pieces of words, learnt from the training texts) or phonemes (of a lexicon).
        size: pieces that sentencepiece learns at most, the blank among them.
        algorithm: of sentencepiece, unigram or bpe.
        lexicon: `word phoneme phoneme ...` lines, for phonemes.
        unicode: normal form: NFC, NFKC, NFD or NFKD; see TextPolicy.
        case: keep, upper or lower.
        turkic_case: case of i as in Turkish and Azerbaijani.
        punctuation: keep or remove.
        kept_punctuation: what stays when punctuation is removed.
    """

    kind: Literal["characters", "sentencepiece", "phonemes"] = "characters"
    size: int = 256
    algorithm: Algorithm = "unigram"
    lexicon: Path | None = None
    unicode: UnicodeForm = "NFC"
    case: Case = "keep"
    turkic_case: bool = False
    punctuation: Punctuation = "keep"
    kept_punctuation: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "phonemes") != (self.lexicon is not None):
            raise ConfigError("the kind phonemes and a lexicon belong together: give both or neither")
        if self.size < 2:
            raise ConfigError(f"size must be at least 2, but is {self.size}")

    @property
    def policy(self) -> TextPolicy | None:
        """The rules for texts; None where they are the standard ones."""
        policy = TextPolicy(
            unicode=self.unicode,
            case=self.case,
            turkic_case=self.turkic_case,
            punctuation=self.punctuation,
            kept_punctuation=self.kept_punctuation,
        )
        return None if policy == TextPolicy() else policy


def choose_vocabulary(
    texts: Iterable[str], units: UnitConfig, *, normalizer: NormalizerName, min_count: int = 1
) -> Vocabulary:
    """The vocabulary for training texts, which are normalised already.

    Characters that are rarer than `min_count` get no label, in pieces neither.

    Raises:
        ConfigError: nothing is left to learn, or the lexicon or the number of pieces does not fit.
    """
    policy = units.policy
    prepared = list(texts) if policy is None else [policy.apply(text) for text in texts]
    if units.kind == "characters":
        return replace(Vocabulary.from_texts(prepared, min_count=min_count), policy=policy)
    if units.kind == "sentencepiece":
        counts = Counter("".join(prepared))
        rare = {character for character, count in counts.items() if count < min_count}
        model = train_pieces(
            [text for text in prepared if text and not rare & set(text)], size=units.size, algorithm=units.algorithm
        )
        tokens = (BLANK, *PieceModel(model).pieces[1:])
        return Vocabulary(
            tokens, separator=None, word_prefix=WORD_PREFIX, segmentation="sentencepiece", policy=policy, pieces=model
        )
    assert units.lexicon is not None

    def as_written(word: str) -> str:
        word = normalize(word, normalizer)
        return word if policy is None else policy.apply(word)

    pronunciations = read_pronunciations(units.lexicon, normalize=as_written)
    phonemes = sorted({phoneme for ways in pronunciations.values() for way in ways for phoneme in way})
    reserved = {BLANK, WORD_SEPARATOR} & set(phonemes)
    if reserved:
        raise ConfigError(f"{units.lexicon}: {sorted(reserved)[0]!r} is no phoneme here, it is reserved; rename it")
    return Vocabulary(
        (BLANK, WORD_SEPARATOR, *phonemes),
        joiner=" ",
        segmentation="lexicon",
        policy=policy,
        pronunciations=pronunciations,
    )
