"""What was taken for what: substituted, deleted and inserted words, most frequent first."""

from collections import Counter
from dataclasses import dataclass

from speechssl.types import ErrorReport


@dataclass(frozen=True, kw_only=True)
class Confusions:
    """`substitutions` maps (reference word, hypothesis word) to its count, the others a word; most frequent first.

    `num_said` counts every word of the references, so that a reader sees how often a word went wrong of how many.
    """

    substitutions: dict[tuple[str, str], int]
    deletions: dict[str, int]
    insertions: dict[str, int]
    num_said: dict[str, int]


def count_confusions(report: ErrorReport) -> Confusions:
    """All errors of a report by the words they concern; ties are in the order of the alphabet."""
    substitutions: Counter[tuple[str, str]] = Counter()
    deletions: Counter[str] = Counter()
    insertions: Counter[str] = Counter()
    said: Counter[str] = Counter()
    for utterance in report.utterances:
        said.update(utterance.reference.split())
        for kind, reference, hypothesis in utterance.alignment:
            if kind == "substitute":
                substitutions.update(zip(reference.split(), hypothesis.split(), strict=True))
            elif kind == "delete":
                deletions.update(reference.split())
            elif kind == "insert":
                insertions.update(hypothesis.split())
    return Confusions(
        substitutions=dict(sorted(substitutions.items(), key=lambda item: (-item[1], item[0]))),
        deletions=dict(sorted(deletions.items(), key=lambda item: (-item[1], item[0]))),
        insertions=dict(sorted(insertions.items(), key=lambda item: (-item[1], item[0]))),
        num_said=dict(said),
    )
