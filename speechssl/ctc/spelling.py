"""A text as labels that can be aligned, word by word, so that every word of the text gets its times back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from speechssl.ctc.scored import ScoredToken, ScoredWord
from speechssl.errors import ConfigError, ManifestError
from speechssl.text import NormalizerName, Vocabulary, describe_characters, normalize

OnUnknown = Literal["error", "skip"]


@dataclass(frozen=True, kw_only=True)
class SpelledText:
    """The words of a text as they stand there, and the labels by which they are said.

    `spans[i]` are the places `first <= l < last` in `labels` of word i; empty where nothing of it can be said: it is
    punctuation, or the vocabulary lacks all of it. `unknown` counts what the vocabulary lacks.
    """

    words: tuple[str, ...]
    labels: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    unknown: Counter[str]

    @property
    def num_unaligned(self) -> int:
        """Words without a label."""
        return sum(first == last for first, last in self.spans)

    def words_of(self, tokens: Sequence[ScoredToken], vocabulary: Vocabulary) -> list[ScoredWord | None]:
        """One entry for every word, None for those without a label; `tokens` are the labels' own, in order."""
        assert len(tokens) == len(self.labels), "one token a label"
        found: list[ScoredWord | None] = []
        for text, (first, last) in zip(self.words, self.spans, strict=True):
            own = tuple(token for token in tokens[first:last] if token.label != vocabulary.separator)
            found.append(ScoredWord(text=text, tokens=own) if own else None)
        return found


def spell(
    text: str, vocabulary: Vocabulary, *, normalizer: NormalizerName, on_unknown: OnUnknown = "error"
) -> SpelledText:
    """Split a text at white space, and normalise and encode every word by itself.

    Args:
        text: as it was written; case and punctuation stay in `words`.
        vocabulary: of the model.
        normalizer: the model's.
        on_unknown: `error` refuses characters that the vocabulary lacks; `skip` leaves them out, and counts them.

    Raises:
        ManifestError: the vocabulary lacks characters, or nothing is left to align.
        ConfigError: `on_unknown` is neither.
    """
    if on_unknown not in get_args(OnUnknown):
        raise ConfigError(f"on_unknown must be one of {', '.join(get_args(OnUnknown))}, but is {on_unknown!r}")
    words = tuple(text.split())
    labels: list[int] = []
    spans = []
    unknown: Counter[str] = Counter()
    for word in words:
        parts = normalize(word, normalizer)
        unknown.update(vocabulary.unknown_characters(parts))
        own = vocabulary.encode(parts, skip_unknown=True)
        while own and own[0] == vocabulary.separator:  # what stood before it is unknown
            own.pop(0)
        if own and labels and vocabulary.separator is not None:
            labels.append(vocabulary.separator)
        spans.append((len(labels), len(labels) + len(own)))
        labels += own
    if unknown and on_unknown == "error":
        raise ManifestError(
            f"the vocabulary has no label for {describe_characters(unknown)} of the text; write numbers and signs out"
            " as they are said, or leave such characters out of the alignment with --on_unknown skip"
        )
    if not labels:
        raise ManifestError(
            f"the text {text[:60]!r} holds nothing to align after the normalizer {normalizer!r}; is it empty, or in"
            " another script than the model's?"
        )
    return SpelledText(words=words, labels=tuple(labels), spans=tuple(spans), unknown=unknown)
