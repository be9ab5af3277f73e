"""Is one system better than another on the same utterances? Paired bootstrap, and the matched-pairs test of NIST."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from speechssl.errors import ManifestError
from speechssl.scoring.bootstrap import Unit, check_options, interval, resample, resampling_groups, sums
from speechssl.scoring.counts import list_ids
from speechssl.types import ErrorReport, UtteranceErrors

GOOD_WORDS = 2
"""Words that both systems have right, in a row, which end a segment; the default of sc_stats."""


@dataclass(frozen=True, kw_only=True)
class RateDifference:
    """Error rates of system b minus those of system a on the same utterances; negative means that b is better.

    `wer_interval` and `cer_interval` are `(low, high)` at `confidence`, over `interval_over` resampled together for
    both systems. An interval that does not hold 0 is a difference that this much test data can show; it does not hold
    what another training seed would change. `probability_of_improvement` is the share of replicates in which b has
    the lower word error rate.
    """

    wer_difference: float
    cer_difference: float
    wer_interval: tuple[float, float]
    cer_interval: tuple[float, float]
    confidence: float
    interval_over: Unit
    probability_of_improvement: float


@dataclass(frozen=True, kw_only=True)
class MatchedPairs:
    """Matched-pairs sentence-segment word error test (Gillick and Cox 1989), as NIST's sc_stats computes it.

    `mean_difference` is that of the errors of b minus those of a in `num_segments` segments, `z` that mean in units
    of its standard error (None where all segments differ alike, so that there is no variance), `p_value` two-sided.
    `errors_a` and `errors_b` are the errors within the segments, which are all there are.
    """

    num_segments: int
    mean_difference: float
    standard_deviation: float
    z: float | None
    p_value: float
    errors_a: int
    errors_b: int


def paired_bootstrap(
    a: ErrorReport, b: ErrorReport, *, num_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> RateDifference:
    """Confidence interval of the difference between two systems (Bisani and Ney 2004): every replicate draws the same
    utterances, or speakers, for both, so what is hard for both cancels.

    Raises:
        ManifestError: the reports are not of the same utterances with the same references and normaliser.
    """
    check_options(num_bootstrap, confidence)
    check_same_test(a, b)
    unit, groups = resampling_groups(a.utterances)
    first, second = sums(a.utterances, groups), sums(b.utterances, groups)
    samples = resample(np.concatenate([first, second], axis=1), num_bootstrap, seed)  # [R, 8]
    with np.errstate(invalid="ignore", divide="ignore"):
        wer = samples[:, 4] / samples[:, 5] - samples[:, 0] / samples[:, 1]
        cer = samples[:, 6] / samples[:, 7] - samples[:, 2] / samples[:, 3]
    return RateDifference(
        wer_difference=b.wer - a.wer,
        cer_difference=b.cer - a.cer,
        wer_interval=interval(wer, confidence),
        cer_interval=interval(cer, confidence),
        confidence=confidence,
        interval_over=unit,
        probability_of_improvement=float((wer < 0).mean()),
    )


def matched_pairs(a: ErrorReport, b: ErrorReport, *, good_words: int = GOOD_WORDS) -> MatchedPairs:
    """Test whether the errors of two systems in segments of speech have the same mean.

    A segment holds at least one error of either system and lies between stretches of at least `good_words` words that
    both have right (or the ends of the utterance), so that errors in different segments can be taken as independent.
    The standard deviation is over n - 1, z is taken as normal. Where all segments differ by the same amount there is
    no variance, which sc_stats calls no difference; here p is then that of the sign test, 2 ** (1 - n).

    Raises:
        ManifestError: the reports are not of the same utterances with the same references and normaliser.
    """
    check_same_test(a, b)
    counts = [
        pair
        for first, second in zip(a.utterances, b.utterances, strict=True)
        for pair in matched_segments(first, second, good_words=good_words)
    ]
    differences = np.array([second - first for first, second in counts], dtype=np.float64)
    num_segments = len(counts)
    mean = float(differences.mean()) if num_segments else 0.0
    deviation = float(differences.std(ddof=1)) if num_segments > 1 else 0.0
    z: float | None = None
    if deviation > 0:
        z = mean / (deviation / math.sqrt(num_segments))
        p_value = math.erfc(abs(z) / math.sqrt(2))
    else:
        p_value = 1.0 if mean == 0 else 2.0 ** (1 - num_segments)
    return MatchedPairs(
        num_segments=num_segments,
        mean_difference=mean,
        standard_deviation=deviation,
        z=z,
        p_value=p_value,
        errors_a=sum(first for first, _ in counts),
        errors_b=sum(second for _, second in counts),
    )


def matched_segments(
    a: UtteranceErrors, b: UtteranceErrors, *, good_words: int = GOOD_WORDS
) -> Iterator[tuple[int, int]]:
    """Errors of both systems in each segment of one utterance; see `matched_pairs`."""
    errors_a = errors_b = good = 0
    for inserted, (wrong_a, wrong_b) in _places(a, b):
        added_a, added_b = inserted
        if added_a or added_b or wrong_a or wrong_b:
            # an insertion stands before its word: the word itself may begin a new stretch of good ones
            good = 0 if wrong_a or wrong_b else 1
            errors_a += added_a + wrong_a
            errors_b += added_b + wrong_b
        else:
            good += 1
        if good >= good_words and (errors_a or errors_b):
            yield errors_a, errors_b
            errors_a = errors_b = 0
    if errors_a or errors_b:
        yield errors_a, errors_b


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that the chance of any false alarm stays below the level (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def check_same_test(a: ErrorReport, b: ErrorReport, *, names: tuple[str, str] = ("the first", "the second")) -> None:
    """Refuse to compare what was not measured alike.

    Raises:
        ManifestError: other normaliser, version of it, alignment, utterances or references; the message says which.
    """
    if (a.normalizer, a.normalizer_version) != (b.normalizer, b.normalizer_version):
        how = [f"{report.normalizer!r}" + _version(report) for report in (a, b)]
        raise ManifestError(
            f"{names[0]} and {names[1]} were normalised differently ({how[0]} and {how[1]}); evaluate both alike"
        )
    if a.alignment != b.alignment:
        raise ManifestError(
            f"{names[0]} and {names[1]} were aligned differently ({a.alignment} and {b.alignment}); evaluate both alike"
        )
    first = [(utterance.id, utterance.reference) for utterance in a.utterances]
    second = [(utterance.id, utterance.reference) for utterance in b.utterances]
    if first == second:
        return
    differing = sorted({utterance_id for utterance_id, _ in set(first) ^ set(second)})
    what = f"they differ in {list_ids(differing)}" if differing else "their order differs"
    raise ManifestError(
        f"{names[0]} and {names[1]} are not of the same utterances: {what}; evaluate both on one manifest"
    )


def _version(report: ErrorReport) -> str:
    return f" of {report.normalizer_version}" if report.normalizer_version else ""


def _places(a: UtteranceErrors, b: UtteranceErrors) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """For each word of the reference, then for the end: insertions before it, and whether it is wrong (0 or 1)."""
    yield from zip(
        zip(*(_insertions(one) for one in (a, b)), strict=True),
        zip(*([*_wrong(one), 0] for one in (a, b)), strict=True),
        strict=True,
    )


def _insertions(utterance: UtteranceErrors) -> list[int]:
    counts = [0]
    for kind, reference, hypothesis in utterance.alignment:
        if kind == "insert":
            counts[-1] += len(hypothesis.split())
        else:
            counts += [0] * len(reference.split())
    return counts


def _wrong(utterance: UtteranceErrors) -> list[int]:
    return [
        int(kind != "equal")
        for kind, reference, _ in utterance.alignment
        if kind != "insert"
        for _ in reference.split()
    ]
