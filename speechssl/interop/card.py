"""Model cards: what a model is, where it comes from, how to load it and how well it was checked, as Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from speechssl import __version__
from speechssl.asr import CtcModel
from speechssl.interop.gate import REPORT_FILE, ParityReport, encoder_of
from speechssl.interop.model import Exportable, PretrainingModel
from speechssl.text import describe_characters

CARD_FILE = "README.md"
_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*\Z")
_KINDS = {"ctc": "speech recogniser (CTC)", "pretraining": "speech encoder with its pre-training heads",
          "encoder": "speech encoder"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is known about a model beyond its weights.

    Attributes:
        name: for the card's title.
        licence: of the weights; None where nobody recorded one.
        architecture: name of the family at the tool that it came from (`hubert`), None for a model of our own.
        origin: where it comes from, by field name; empty for a model of our own.
        training: what it was trained on and how, by name.
        results: measured error rates, by name.
    """

    name: str
    licence: str | None = None
    architecture: str | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, str] = field(default_factory=dict)


def kind_of(model: Exportable) -> str:
    """`ctc`, `pretraining` or `encoder`."""
    return "ctc" if isinstance(model, CtcModel) else "pretraining" if isinstance(model, PretrainingModel) else "encoder"


def model_card(
    model: Exportable,
    facts: ModelFacts,
    report: ParityReport,
    *,
    usage: str,
    notes: Sequence[str] = (),
    library: str | None = None,
) -> str:
    """The card, with the head that Hugging Face's hub reads.

    Args:
        model: what was exported.
        facts: what is known about it.
        report: of the gate.
        usage: how to load it, Markdown.
        notes: what the format lacks.
        library: `library_name` of the head.
    """
    sections = [_head(model, facts, library), f"# {facts.name}\n\n{_what(model)}", f"## How to load\n\n{usage.strip()}"]
    if facts.origin:
        sections.append("## Origin\n\n" + _listed(facts.origin))
    sections.append("## Training\n\n" + (_listed(facts.training) or "Not recorded with the weights."))
    if facts.results:
        sections.append("## Error rates\n\n" + _listed(facts.results))
    sections.append("## Licence\n\n" + (facts.licence or "Not recorded. State one before you hand the model on."))
    sections.append(_parity(report))
    if notes:
        sections.append("## What the format lacks\n\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(sections) + "\n"


def read_licence(folder: Path) -> str | None:
    """The licence in the head of the model card (`README.md`) in a folder; None where there is none."""
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    parts = path.read_text(encoding="utf-8", errors="replace").split("---")
    if len(parts) < 3:
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    licence = head.get("license") if isinstance(head, dict) else None
    return None if licence is None else str(licence)


def _head(model: Exportable, facts: ModelFacts, library: str | None) -> str:
    is_asr = isinstance(model, CtcModel)
    lines = ["---"]
    if facts.licence is not None:
        lines.append(f"license: {facts.licence if _LICENCE_ID.match(facts.licence) else 'other'}")
    if library is not None:
        lines.append(f"library_name: {library}")
    lines.append(f"pipeline_tag: {'automatic-speech-recognition' if is_asr else 'feature-extraction'}")
    lines += ["tags:", "- speech", "- self-supervised", "---"]
    return "\n".join(lines)


def _what(model: Exportable) -> str:
    encoder = encoder_of(model)
    config = encoder.config
    millions = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    text = (
        f"A {_KINDS[kind_of(model)]} written by speechssl {__version__}: {config.num_layers} layers of"
        f" {config.model_dim}, {millions:.1f} million parameters in the encoder, {config.frame_rate:g} frames a second"
        f" of {config.sample_rate} Hz audio (one channel)."
    )
    if isinstance(model, CtcModel):
        counts = dict.fromkeys(list(model.vocabulary.ids), 1)
        tokens = describe_characters(counts, limit=60).replace(" x1", "")
        text += f" It writes {len(counts)} labels ({tokens}); its texts are normalised by `{model.normalizer}`."
    return text


def _parity(report: ParityReport) -> str:
    rows = ["| input (samples) | padding | largest absolute | largest relative |", "|---|---|---|---|"]
    for entry in report.inputs:
        absolute = max(layer.max_absolute for layer in entry.layers)
        relative = max(layer.max_relative for layer in entry.layers)
        lengths = " + ".join(map(str, entry.lengths))
        rows.append(f"| {entry.name} ({lengths}) | {entry.padding} | {absolute:.1e} | {relative:.1e} |")
    return (
        f"## Parity\n\nBefore it was handed out, {report.peer} ran this model, and every layer was compared with"
        f" speechssl in fp32: relative differences up to {report.tolerance:g} are allowed."
        f" `{REPORT_FILE}` has every layer.\n\n"
        + "\n".join(rows)
        + "".join(f"\n\nNote: {note}." for note in report.notes)
    )


def _listed(values: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in values.items())
