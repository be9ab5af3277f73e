"""What was recognised: the text of a recording, its words with times, and the other texts that were considered."""

from dataclasses import dataclass

from speechssl.timing import Word


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Another text that the beam search found; see `Hypothesis` for the scores."""

    text: str
    log_probability: float
    lm_log10: float
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was recognised in one recording of `duration_seconds`.

    `confidence` is the geometric mean over the frames of the best path's probabilities: between 0 and 1, comparable
    between recordings of one model only. `is_calibrated`: those of the words were fitted to how often they are right.
    """

    text: str
    words: tuple[Word, ...]
    duration_seconds: float
    confidence: float
    alternatives: tuple[Alternative, ...] = ()
    is_calibrated: bool = False
