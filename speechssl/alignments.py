"""Time-aligned labels (characters, phones, words, digits) in NIST's CTM format, and what they say of frames.

A line is `ID CHANNEL START DURATION LABEL [CONFIDENCE]`, in seconds from the utterance's own start; lines that begin
with `;;` are remarks. Kaldi, NeMo and forced aligners write it.

Shapes: T frames.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import ManifestError
from speechssl.files import write_text


@dataclass(frozen=True, kw_only=True)
class AlignedSpan:
    """A label and when it is heard, in seconds from the utterance's start."""

    start: float
    end: float
    label: str


Alignments = Mapping[str, Sequence[AlignedSpan]]  # utterance id -> its spans in time order


def read_ctm(path: Path) -> dict[str, list[AlignedSpan]]:
    """Spans of every utterance, in time order.

    Raises:
        ManifestError: no such file, or a line that is none; the message names it.
    """
    found: dict[str, list[AlignedSpan]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such alignment; write CTM lines: ID CHANNEL START DURATION LABEL") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;"):
            continue
        words = line.split()
        try:
            start, duration, label = float(words[2]), float(words[3]), words[4]
        except (IndexError, ValueError):
            raise ManifestError(
                f"{path}, line {number}: must be ID CHANNEL START DURATION LABEL with times in seconds, but is {line!r}"
            ) from None
        if not (start >= 0 and duration >= 0):
            raise ManifestError(f"{path}, line {number}: start and duration must be at least 0, but is {line!r}")
        found.setdefault(words[0], []).append(AlignedSpan(start=start, end=start + duration, label=label))
    return {name: sorted(spans, key=lambda span: span.start) for name, spans in found.items()}


def write_ctm(path: Path, alignments: Mapping[str, Iterable[AlignedSpan]]) -> None:
    """Write spans as CTM, times to the millisecond; ids and labels must be free of white space.

    Raises:
        ManifestError: one is not.
    """
    lines = []
    for name, spans in alignments.items():
        for span in spans:
            if len(name.split()) != 1 or len(span.label.split()) != 1:
                raise ManifestError(f"{path}: CTM has no place for white space or nothing in {name!r} {span.label!r}")
            lines.append(f"{name} 1 {span.start:.3f} {span.end - span.start:.3f} {span.label}\n")
    write_text(path, "".join(lines))


def frame_labels(spans: Sequence[AlignedSpan], times: NDArray[np.float64]) -> NDArray[np.str_]:
    """The label at every frame's centre `[T]`, empty where there is none; of spans that overlap the later counts."""
    width = max([1, *(len(span.label) for span in spans)])
    labels = np.full(len(times), "", dtype=f"<U{width}")
    for span in spans:
        labels[(times >= span.start) & (times < span.end)] = span.label
    return labels
