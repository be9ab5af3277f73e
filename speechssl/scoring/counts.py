"""Edit counts of every utterance, and the report that they make.

Rates are sums over sums: all errors of the corpus divided by all words (characters) of its references, never a mean of
per-utterance rates. Nothing is dropped: an empty hypothesis counts as deletions, and an empty reference counts
whatever was recognised there as insertions (it adds no words to the denominator).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from speechssl.errors import ManifestError
from speechssl.scoring.alignment import AlignmentMethod, Chunk, align_as_sclite
from speechssl.scoring.bootstrap import check_options, rate_intervals, resampling_groups, sums
from speechssl.text import NormalizerName, normalize, normalizer_version
from speechssl.types import ErrorReport, UtteranceErrors


def score(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    *,
    normalizer: NormalizerName,
    speakers: Mapping[str, str | None] | None = None,
    num_bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    alignment: AlignmentMethod = "levenshtein",
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
        alignment: how words are set against each other; `levenshtein` counts what jiwer counts, `sclite` what NIST's
            tool does. Characters are always counted as jiwer does.

    Returns:
        An `ErrorReport` in the order of `references`; CER counts the spaces between words as characters.

    Raises:
        ManifestError: ids do not match (they are listed), or no reference holds a word after normalisation.
    """
    check_options(num_bootstrap, confidence)
    utterances = count_errors(
        references, hypotheses, normalizer=normalizer, speakers=speakers, alignment=alignment
    )  # fmt: skip
    return report_of(
        utterances, normalizer=normalizer, normalizer_version=normalizer_version(normalizer),
        num_bootstrap=num_bootstrap, confidence=confidence, seed=seed, alignment=alignment,
    )  # fmt: skip


def report_of(
    utterances: Sequence[UtteranceErrors],
    *,
    normalizer: str,
    normalizer_version: str,
    num_bootstrap: int,
    confidence: float,
    seed: int,
    alignment: AlignmentMethod,
) -> ErrorReport:
    """The report of counted utterances, of which at least one has a word."""
    wer, cer = error_rates(utterances)
    unit, groups = resampling_groups(utterances)
    wer_interval, cer_interval = rate_intervals(
        sums(utterances, groups), num_bootstrap=num_bootstrap, confidence=confidence, seed=seed
    )
    return ErrorReport(
        utterances=tuple(utterances),
        wer=wer,
        cer=cer,
        hits=sum(utterance.hits for utterance in utterances),
        substitutions=sum(utterance.substitutions for utterance in utterances),
        deletions=sum(utterance.deletions for utterance in utterances),
        insertions=sum(utterance.insertions for utterance in utterances),
        wer_interval=wer_interval,
        cer_interval=cer_interval,
        confidence=confidence,
        normalizer=normalizer,
        normalizer_version=normalizer_version,
        interval_over=unit,
        alignment=alignment,
    )


def count_errors(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    *,
    normalizer: NormalizerName,
    speakers: Mapping[str, str | None] | None = None,
    alignment: AlignmentMethod = "levenshtein",
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
    characters = jiwer.process_characters(reference_texts, hypothesis_texts)
    if alignment == "levenshtein":
        words = jiwer.process_words(reference_texts, hypothesis_texts)
        aligned = [
            _named_chunks(words.alignments[row], words.references[row], words.hypotheses[row])
            for row in range(len(ids))
        ]  # fmt: skip
    else:
        pairs = zip(reference_texts, hypothesis_texts, strict=True)
        aligned = [align_as_sclite(said.split(), heard.split()) for said, heard in pairs]
    return [
        UtteranceErrors(
            id=utterance_id,
            reference=reference_texts[row],
            hypothesis=hypothesis_texts[row],
            hits=_count(aligned[row], "equal"),
            substitutions=_count(aligned[row], "substitute"),
            deletions=_count(aligned[row], "delete"),
            insertions=_count(aligned[row], "insert"),
            char_errors=_char_errors(characters.alignments[row]),
            num_chars=len(characters.references[row]),
            alignment=aligned[row],
            speaker=None if speakers is None else speakers.get(utterance_id),
        )
        for row, utterance_id in enumerate(ids)
    ]


def error_rates(utterances: Iterable[UtteranceErrors]) -> tuple[float, float]:
    """`(wer, cer)` of a corpus, as fractions: sums over sums."""
    word_errors, num_words, char_errors, num_chars = sums(list(utterances), None).sum(axis=0)
    return float(word_errors / num_words), float(char_errors / num_chars)


def _check_pairing(references: Mapping[str, str], hypotheses: Mapping[str, str]) -> None:
    missing = [utterance_id for utterance_id in references if utterance_id not in hypotheses]
    extra = [utterance_id for utterance_id in hypotheses if utterance_id not in references]
    problems = []
    if missing:
        problems.append(f"no hypothesis for {list_ids(missing)}; an utterance without words needs an empty hypothesis")
    if extra:
        problems.append(f"no reference for {list_ids(extra)}; evaluate the hypotheses with the manifest they come from")
    if problems:
        raise ManifestError("; ".join(problems))
    if not references:
        raise ManifestError("nothing to score: there are no references; give a manifest with transcripts")


def list_ids(ids: Sequence[str], limit: int = 10) -> str:
    """Number and names of utterances for a message: `3 utterance(s): a, b, c`."""
    shown = ", ".join(ids[:limit])
    return f"{len(ids)} utterance(s): {shown}" + (f" and {len(ids) - limit} more" if len(ids) > limit else "")


def _named_chunks(alignment: Sequence[Any], reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[Chunk, ...]:
    return tuple(
        (
            chunk.type,
            " ".join(reference[chunk.ref_start_idx : chunk.ref_end_idx]),
            " ".join(hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx]),
        )
        for chunk in alignment
    )


def _count(alignment: Sequence[Chunk], kind: str) -> int:
    """Number of words in the chunks of one kind; insertions are counted on the hypothesis."""
    side = 2 if kind == "insert" else 1
    return sum(len(chunk[side].split()) for chunk in alignment if chunk[0] == kind)


def _char_errors(alignment: Sequence[Any]) -> int:
    return sum(
        max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for chunk in alignment
        if chunk.type != "equal"
    )
