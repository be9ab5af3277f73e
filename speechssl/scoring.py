"""Word and character error rates with confidence intervals, and the difference of two systems.

Rates are sums over sums: all errors of the corpus divided by all words (characters) of its references, never a mean of
per-utterance rates. Nothing is dropped: an empty hypothesis counts as deletions, and an empty reference counts
whatever was recognised there as insertions (it adds no words to the denominator). Alignments and counts are jiwer's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from speechssl.errors import ConfigError, ManifestError
from speechssl.text import NormalizerName, normalize
from speechssl.types import ErrorReport, UtteranceErrors

MIN_SPEAKERS = 5
"""From this many speakers on, the bootstrap resamples speakers: errors of one voice are not independent."""

_MAX_CELLS = 4_000_000  # of one block of the [replicates, units] count matrix: 32 MB
Floats = npt.NDArray[np.float64]
Unit = Literal["speakers", "utterances"]


def score(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    *,
    normalizer: NormalizerName,
    speakers: Mapping[str, str | None] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ErrorReport:
    """Compare hypotheses with references, both maps from utterance id to text.

    Args:
        references: what was said.
        hypotheses: what was recognised; must hold exactly the ids of `references`.
        normalizer: applied to both sides, see `speechssl.text.normalize`.
        speakers: speaker of every utterance. The percentile bootstrap resamples speakers where every utterance has
            one and there are at least `MIN_SPEAKERS`, else utterances; the report says which.
        num_bootstrap: replicates of the bootstrap.
        confidence: coverage of the intervals.
        seed: of the bootstrap.

    Returns:
        An `ErrorReport` in the order of `references`; CER counts the spaces between words as characters.

    Raises:
        ManifestError: ids do not match (they are listed), or no reference holds a word after normalisation.
    """
    if num_bootstrap < 1:
        raise ConfigError(f"num_bootstrap: must be at least 1, but is {num_bootstrap}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence: must lie between 0 and 1, but is {confidence}")
    utterances = count_errors(references, hypotheses, normalizer=normalizer, speakers=speakers)
    wer, cer = error_rates(utterances)
    unit, groups = _resampling_groups(utterances)
    intervals = _bootstrap(_sums(utterances, groups), num_bootstrap=num_bootstrap, confidence=confidence, seed=seed)
    return ErrorReport(
        utterances=tuple(utterances),
        wer=wer,
        cer=cer,
        hits=sum(utterance.hits for utterance in utterances),
        substitutions=sum(utterance.substitutions for utterance in utterances),
        deletions=sum(utterance.deletions for utterance in utterances),
        insertions=sum(utterance.insertions for utterance in utterances),
        wer_interval=intervals[0],
        cer_interval=intervals[1],
        confidence=confidence,
        normalizer=normalizer,
        interval_over=unit,
    )


def count_errors(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    *,
    normalizer: NormalizerName,
    speakers: Mapping[str, str | None] | None = None,
) -> list[UtteranceErrors]:
    """Edit counts and alignment of every utterance, in the order of `references`; arguments and errors as `score`."""
    import jiwer

    _check_pairing(references, hypotheses)
    ids = list(references)
    reference_texts = [normalize(references[utterance_id], normalizer) for utterance_id in ids]
    hypothesis_texts = [normalize(hypotheses[utterance_id], normalizer) for utterance_id in ids]
    if not any(reference_texts):
        raise ManifestError(
            f"nothing to score: none of the {len(ids)} references holds a word after the normalizer "
            f"{normalizer!r}; give transcripts or choose another normalizer"
        )
    words = jiwer.process_words(reference_texts, hypothesis_texts)
    characters = jiwer.process_characters(reference_texts, hypothesis_texts)
    return [
        UtteranceErrors(
            id=utterance_id,
            reference=reference_texts[row],
            hypothesis=hypothesis_texts[row],
            hits=_count(words.alignments[row], "equal"),
            substitutions=_count(words.alignments[row], "substitute"),
            deletions=_count(words.alignments[row], "delete"),
            insertions=_count(words.alignments[row], "insert"),
            char_errors=sum(_count(characters.alignments[row], kind) for kind in ("substitute", "delete", "insert")),
            num_chars=len(characters.references[row]),
            alignment=tuple(
                (
                    chunk.type,
                    " ".join(words.references[row][chunk.ref_start_idx : chunk.ref_end_idx]),
                    " ".join(words.hypotheses[row][chunk.hyp_start_idx : chunk.hyp_end_idx]),
                )
                for chunk in words.alignments[row]
            ),
            speaker=None if speakers is None else speakers.get(utterance_id),
        )
        for row, utterance_id in enumerate(ids)
    ]


def error_rates(utterances: Iterable[UtteranceErrors]) -> tuple[float, float]:
    """`(wer, cer)` of a corpus, as fractions: sums over sums."""
    word_errors, num_words, char_errors, num_chars = _sums(list(utterances), None).sum(axis=0)
    return float(word_errors / num_words), float(char_errors / num_chars)


@dataclass(frozen=True, kw_only=True)
class RateDifference:
    """Error rates of system b minus those of system a on the same utterances; negative means that b is better.

    `wer_interval` and `cer_interval` are `(low, high)` at `confidence`, over `interval_over` resampled together for
    both systems. An interval that does not hold 0 is a difference that this much test data can show; it does not hold
    what another training seed would change.
    """

    wer_difference: float
    cer_difference: float
    wer_interval: tuple[float, float]
    cer_interval: tuple[float, float]
    confidence: float
    interval_over: Unit


def paired_bootstrap(
    a: ErrorReport, b: ErrorReport, *, num_bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> RateDifference:
    """Confidence interval of the difference between two systems (Bisani and Ney 2004): every replicate draws the same
    utterances, or speakers, for both, so what is hard for both cancels.

    Raises:
        ManifestError: the reports are not of the same utterances with the same references and normaliser.
    """
    _check_same_test(a, b)
    unit, groups = _resampling_groups(a.utterances)
    first, second = _sums(a.utterances, groups), _sums(b.utterances, groups)
    samples = _resample(np.concatenate([first, second], axis=1), num_bootstrap, seed)  # [R, 8]
    with np.errstate(invalid="ignore", divide="ignore"):
        wer = samples[:, 4] / samples[:, 5] - samples[:, 0] / samples[:, 1]
        cer = samples[:, 6] / samples[:, 7] - samples[:, 2] / samples[:, 3]
    return RateDifference(
        wer_difference=b.wer - a.wer,
        cer_difference=b.cer - a.cer,
        wer_interval=_interval(wer, confidence),
        cer_interval=_interval(cer, confidence),
        confidence=confidence,
        interval_over=unit,
    )


def _check_pairing(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> None:
    missing = [utterance_id for utterance_id in references if utterance_id not in hypotheses]
    extra = [utterance_id for utterance_id in hypotheses if utterance_id not in references]
    problems = []
    if missing:
        problems.append(f"no hypothesis for {_list(missing)}; an utterance without words needs an empty hypothesis")
    if extra:
        problems.append(f"no reference for {_list(extra)}; evaluate the hypotheses with the manifest they come from")
    if problems:
        raise ManifestError("; ".join(problems))
    if not references:
        raise ManifestError("nothing to score: there are no references; give a manifest with transcripts")


def _check_same_test(a: ErrorReport, b: ErrorReport) -> None:
    if a.normalizer != b.normalizer:
        raise ManifestError(
            f"the reports were normalised differently ({a.normalizer!r} and {b.normalizer!r}); evaluate both alike"
        )
    first = [(utterance.id, utterance.reference) for utterance in a.utterances]
    second = [(utterance.id, utterance.reference) for utterance in b.utterances]
    if first != second:
        differing = sorted({utterance_id for utterance_id, _ in set(first) ^ set(second)})
        what = f"they differ in {_list(differing)}" if differing else "their order differs"
        raise ManifestError(f"the reports are not of the same utterances: {what}; evaluate both on one manifest")


def _list(ids: Sequence[str], limit: int = 10) -> str:
    shown = ", ".join(ids[:limit])
    return f"{len(ids)} utterance(s): {shown}" + (f" and {len(ids) - limit} more" if len(ids) > limit else "")


def _count(alignment: Sequence[object], kind: str) -> int:
    """Number of words (characters) in the chunks of one kind; insertions are counted on the hypothesis."""
    return sum(
        chunk.hyp_end_idx - chunk.hyp_start_idx if kind == "insert" else chunk.ref_end_idx - chunk.ref_start_idx  # type: ignore[attr-defined]
        for chunk in alignment
        if chunk.type == kind  # type: ignore[attr-defined]
    )


def _resampling_groups(utterances: Sequence[UtteranceErrors]) -> tuple[Unit, npt.NDArray[np.int64] | None]:
    """What to resample, and the speaker number of every utterance where that is speakers."""
    speakers = [utterance.speaker for utterance in utterances]
    names = sorted({speaker for speaker in speakers if speaker})
    if None in speakers or "" in speakers or len(names) < MIN_SPEAKERS:
        return "utterances", None
    number = {name: index for index, name in enumerate(names)}
    return "speakers", np.array([number[speaker] for speaker in speakers if speaker], dtype=np.int64)


def _sums(utterances: Sequence[UtteranceErrors], groups: npt.NDArray[np.int64] | None) -> Floats:
    """`[units, 4]`: word errors, words, character errors, characters, of every utterance or every group."""
    rows = np.array(
        [[u.word_errors, u.num_words, u.char_errors, u.num_chars] for u in utterances], dtype=np.float64
    ).reshape(-1, 4)
    if groups is None:
        return rows
    sums = np.zeros((int(groups.max()) + 1, 4))
    np.add.at(sums, groups, rows)
    return sums


def _resample(sums: Floats, num_bootstrap: int, seed: int) -> Floats:
    """`[num_bootstrap, columns]`: column sums over as many units as there are, drawn with replacement."""
    generator = np.random.default_rng(seed)
    num_units = len(sums)
    block = max(1, _MAX_CELLS // num_units)
    blocks = []
    for start in range(0, num_bootstrap, block):
        size = min(block, num_bootstrap - start)
        blocks.append(generator.multinomial(num_units, np.full(num_units, 1 / num_units), size=size) @ sums)
    return np.concatenate(blocks)


def _bootstrap(
    sums: Floats, *, num_bootstrap: int, confidence: float, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    samples = _resample(sums, num_bootstrap, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (
            _interval(samples[:, 0] / samples[:, 1], confidence),
            _interval(samples[:, 2] / samples[:, 3], confidence),
        )


def _interval(rates: Floats, confidence: float) -> tuple[float, float]:
    """Percentile interval; replicates that drew no word at all (only empty references) have no rate."""
    rates = rates[np.isfinite(rates)]
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
