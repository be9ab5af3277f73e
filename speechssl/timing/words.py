"""What was said when, in seconds from the start of a recording."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Character:
    """One written label of a word: a character, a subword unit or a phoneme. `confidence` is its mean posterior."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word and when it was said, in seconds from the start of the recording.

    CTC places characters where it is sure of them, not where they begin and end, so times are good to about a tenth of
    a second and the last word may seem short.

    `confidence` is between 0 and 1; `characters` are there where they were asked for.
    """

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float | None = None
    characters: tuple[Character, ...] = ()
