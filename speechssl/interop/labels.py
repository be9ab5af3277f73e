"""Labels of CTC layers whose tools keep them apart from the weights: a list in the order of the outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop.huggingface.vocabulary import case_of, normalizer_of
from speechssl.text import WORD_SEPARATOR, NormalizerName, Vocabulary

FAIRSEQ_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""What fairseq puts before the lines of a dictionary; the first is its CTC blank."""


@dataclass(frozen=True, kw_only=True)
class CtcParts:
    """What an import knows of a CTC layer; `no_text` says why one that is there cannot be used."""

    vocabulary: Vocabulary | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    normalizer: NormalizerName = "none"
    no_text: str | None = None
    notes: tuple[str, ...] = ()


def ctc_parts(
    head: Mapping[str, Tensor], labels: Sequence[str] | None, *, blank: int, source: str, remedy: str
) -> CtcParts:
    """A CTC layer with its labels.

    Args:
        head: `weight` `[N, D]` and `bias` `[N]`; empty where the model has none.
        labels: of its N outputs; None where nobody knows them.
        blank: index of the blank.
        source: for messages.
        remedy: what to do where they are missing.

    Raises:
        CheckpointError: there are labels, but not N, or one of them occurs twice.
    """
    if not head:
        if labels is not None:
            raise CheckpointError(f"{source}: {len(labels)} labels are given, but the model has no CTC layer")
        return CtcParts()
    num_labels = head["weight"].shape[0]
    if labels is None:
        reason = f"has a CTC layer of {num_labels} labels, but nothing says which they are"
        notes = tuple(f"left out the CTC layer's {name}: nothing says what its labels are" for name in head)
        return CtcParts(no_text=f"{source}: {reason}; {remedy}", notes=notes)
    if len(labels) != num_labels:
        raise CheckpointError(f"{source}: the CTC layer has {num_labels} outputs, but there are {len(labels)} labels")
    try:
        vocabulary = vocabulary_of(labels, blank=blank)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from None
    return CtcParts(vocabulary=vocabulary, state=dict(head), normalizer=normalizer_of(vocabulary))


def vocabulary_of(labels: Sequence[str], *, blank: int = 0) -> Vocabulary:
    """The vocabulary of labels in the order of the outputs.

    `|` stands between words; `<s>`, `<pad>`, `</s>`, `<unk>` and fairseq's `madeupword0000` are never written. Labels
    of several characters (phonemes) are written with spaces between where no `|` is among them.

    Raises:
        ConfigError: a label occurs twice.
    """
    separator = labels.index(WORD_SEPARATOR) if WORD_SEPARATOR in labels else None
    special = tuple(
        index
        for index, label in enumerate(labels)
        if index != blank and (label in FAIRSEQ_SPECIAL or label.startswith("madeupword"))
    )
    written = [label for index, label in enumerate(labels) if index not in (*special, blank, separator)]
    spaced = separator is None and any(len(label) > 1 for label in written)
    return Vocabulary(
        tuple(labels),
        blank=blank,
        separator=separator,
        special=special,
        joiner=" " if spaced else "",
        encode_case=case_of(written),
    )


def read_dictionary(path: Path) -> list[str]:
    """Labels of a model that fairseq trained on `dict.ltr.txt`: its own four, then the file's lines (`E 51860`).

    Raises:
        CheckpointError: a line has another form.
    """
    labels = list(FAIRSEQ_SPECIAL)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        line = line.removesuffix(" #fairseq:overwrite")
        label, separator, count = line.rpartition(" ")
        if not separator or not label or not count.strip().lstrip("-").isdigit():
            raise CheckpointError(f"{path}, line {number}: must be a label and its count, but is {line!r}")
        labels.append(label)
    return labels
