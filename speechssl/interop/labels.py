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
_SPACE = "\u2581"
"""sentencepiece's."""


@dataclass(frozen=True, kw_only=True)
class CtcParts:
    """What an import knows of a CTC layer; `no_text` says why one that is there cannot be used."""

    vocabulary: Vocabulary | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    normalizer: NormalizerName = "none"
    no_text: str | None = None
    notes: tuple[str, ...] = ()


def ctc_parts(
    head: Mapping[str, Tensor], labels: Sequence[str] | Vocabulary | None, *, blank: int, source: str, remedy: str
) -> CtcParts:
    """A CTC layer with its labels.

    Args:
        head: `weight` `[N, D]` and `bias` `[N]`; empty where the model has none.
        labels: of its N outputs, or the whole vocabulary; None where nobody knows them.
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
        vocabulary = labels if isinstance(labels, Vocabulary) else vocabulary_of(labels, blank=blank)
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


def read_sentencepiece(path: Path) -> Vocabulary:
    """The vocabulary of a sentencepiece model whose piece i is the label of output i, the blank being label 0, as in
    fairseq2. An unknown-piece at the end, which `write_sentencepiece` adds, is left out.

    Raises:
        CheckpointError: missing, or no such model.
    """
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be read as a sentencepiece model ({error}); copy it again") from None
    pieces = [model.id_to_piece(index) for index in range(model.get_piece_size())]
    silent = [model.is_control(index) or model.is_unknown(index) for index in range(len(pieces))]
    if model.is_unknown(len(pieces) - 1):
        pieces, silent = pieces[:-1], silent[:-1]
    is_prefix = any(len(piece) > 1 and piece.startswith(_SPACE) for piece in pieces)
    separator = pieces.index(_SPACE) if _SPACE in pieces and not is_prefix else None
    if separator is not None and WORD_SEPARATOR not in pieces:
        pieces[separator] = WORD_SEPARATOR
    written = [piece for index, piece in enumerate(pieces) if not silent[index] and index != separator]
    return Vocabulary(
        tuple(pieces),
        blank=0,
        separator=separator,
        special=tuple(index for index, quiet in enumerate(silent) if quiet and index != 0),
        word_prefix=_SPACE if is_prefix else None,
        encode_case=case_of(written),
    )


def write_sentencepiece(vocabulary: Vocabulary, path: Path) -> tuple[str, ...]:
    """Write a sentencepiece model of characters with our labels in their order, or say why there is none.

    sentencepiece wants a piece for what is unknown; where the vocabulary has none it comes after all labels, so that
    training on an unknown character fails instead of learning something else.
    """
    written = [token for token, label in vocabulary.ids.items() if token != " " and label != vocabulary.separator]
    if any(len(token) > 1 for token in written) or vocabulary.joiner or vocabulary.decode_case != "keep":
        return (
            f"the labels' texts: fairseq2's char tokenizer has single characters only, but these are {written[:8]}",
        )
    try:
        from sentencepiece import sentencepiece_model_pb2 as proto
    except ImportError as error:
        return (f"the labels' texts: to write a tokenizer needs protobuf ({error})",)
    model, kinds = proto.ModelProto(), proto.ModelProto.SentencePiece
    silent = {vocabulary.blank, *vocabulary.special}
    tokens = [_SPACE if label == vocabulary.separator else token for label, token in enumerate(vocabulary.tokens)]
    has_unknown = "<unk>" in {tokens[label] for label in silent}
    for label, token in enumerate(tokens if has_unknown else [*tokens, "<unk>"]):
        kind = kinds.UNKNOWN if token == "<unk>" else kinds.CONTROL if label in silent else kinds.NORMAL
        model.pieces.add(piece=token, score=0.0, type=kind)
    ids = {token: label for label, token in enumerate(tokens) if label in silent}
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = proto.TrainerSpec.CHAR
    trainer.unk_id = ids.get("<unk>", len(tokens))
    trainer.bos_id, trainer.eos_id, trainer.pad_id = (ids.get(name, -1) for name in ("<s>", "</s>", "<pad>"))
    normalizer.name, normalizer.add_dummy_prefix = "identity", False
    path.write_bytes(model.SerializeToString())
    notes = []
    if not has_unknown:
        notes.append(
            "a model without a label for unknown characters: the tokenizer has one more piece, <unk>, at its end"
        )
    if vocabulary.encode_case != "keep":
        notes.append(f"case: bring texts into {vocabulary.encode_case} case before its tokenizer encodes them")
    return tuple(notes)
