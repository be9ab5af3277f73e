"""Models out to other tools: written beside, run by the other tool, compared, and only then put in place."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speechssl.asr import CtcModel
from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop import programs
from speechssl.interop.card import CARD_FILE, ModelFacts, model_card
from speechssl.interop.fairseq2_write import fairseq2_peer, write_fairseq2
from speechssl.interop.fairseq2_write import usage as fairseq2_usage
from speechssl.interop.gate import GateInput, Padding, ParityReport, Peer, compare, encoder_of
from speechssl.interop.huggingface.encoders import HUGGINGFACE_EPS
from speechssl.interop.huggingface.peer import huggingface_peer
from speechssl.interop.huggingface.write import usage, write_huggingface
from speechssl.interop.model import Exportable
from speechssl.interop.models import load_described
from speechssl.interop.torchaudio_write import torchaudio_peer, write_torchaudio
from speechssl.interop.torchaudio_write import usage as torchaudio_usage
from speechssl.progress import Tell


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """One format to write.

    Attributes:
        write: model, an existing empty folder and what is known of the model -> the model's files in it, and notes on
            what the format lacks. Raises CheckpointError where the format cannot express the model.
        peer: the folder written, and the model -> the other tool's name and version, and the tool running that model.
            Raises CheckpointError where the tool is not installed: nothing is handed out unchecked.
        usage: model -> how to load it, Markdown for the card.
        padding: what the peer does in a padded batch; see `gate.compare`.
        changes: fields of our encoder's configuration that the format cannot hold -> the value it computes with.
        tolerance: largest relative difference; that of the gate when None.
        mel_tolerance: the same for encoders of log-mel features, where it is larger.
        library: `library_name` of the card's head, None for none.
        is_program: a graph of whatever the model computes, rather than weights for the other tool's own model.
    """

    write: Callable[[Exportable, Path, ModelFacts], tuple[str, ...]]
    peer: Callable[[Path, Exportable], tuple[str, Peer]]
    usage: Callable[[Exportable], str]
    padding: Padding = "included"
    changes: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float | None = None
    mel_tolerance: float | None = None
    library: str | None = None
    is_program: bool = False


EXPORTERS: dict[str, Exporter] = {
    "huggingface": Exporter(
        write=write_huggingface,
        peer=huggingface_peer,
        usage=usage,
        changes={"normalize_eps": HUGGINGFACE_EPS},
        library="transformers",
    ),
    "fairseq2": Exporter(write=write_fairseq2, peer=fairseq2_peer, usage=fairseq2_usage),
    "torchaudio": Exporter(write=write_torchaudio, peer=torchaudio_peer, usage=torchaudio_usage),
    "onnx": Exporter(
        write=programs.write_onnx,
        peer=programs.onnx_peer,
        usage=programs.onnx_usage,
        padding="masked",
        tolerance=programs.ONNX_TOLERANCE,
        mel_tolerance=programs.ONNX_MEL_TOLERANCE,
        library="onnx",
        is_program=True,
    ),
    "torch-export": Exporter(
        write=programs.write_program,
        peer=programs.program_peer,
        usage=programs.program_usage,
        padding="masked",
        is_program=True,
    ),
}
"""By the name that `speechssl export --format` takes."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The folder that was written, what was compared before, and what the format lacks."""

    folder: Path
    report: ParityReport
    notes: tuple[str, ...]


def export_model(
    source: str | Path | Exportable,
    target: str | Path,
    *,
    format: str,
    facts: ModelFacts | None = None,
    inputs: tuple[GateInput, ...] | None = None,
    progress: Tell | None = None,
) -> ExportResult:
    """Write a model for another tool into the new folder `target`, with its parity report and model card.

    Args:
        source: a run, checkpoint or model directory, whatever `import_model` takes, or a model.
        target: a folder that does not exist yet, or is empty.
        format: one of `EXPORTERS`.
        facts: for the model card; those that the source knows when None.
        inputs: of the gate; `gate.gate_inputs` when None.
        progress: called with what is being done.

    Raises:
        ConfigError: unknown format, or `target` holds something.
        CheckpointError: the format cannot express the model, its tool is missing or computes something else; then
            nothing is left at `target`.
    """
    if format not in EXPORTERS:
        raise ConfigError(f"format must be one of {', '.join(EXPORTERS)}, but is {format!r}")
    exporter, target = EXPORTERS[format], Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: already exists; give a new folder")
    named = isinstance(source, str | Path)
    model, known = load_described(source) if isinstance(source, str | Path) else (source, ModelFacts(name=target.name))
    facts = known if facts is None else facts
    if isinstance(model, CtcModel) and model.layer_mix is not None and not exporter.is_program:
        raise CheckpointError(
            f"{source if named else target}: the model reads a weighted sum of its layers, which {format} has no place "
            "for in a recogniser; export it as onnx or torch-export, or fine-tune with head_input context"
        )
    tell = progress or (lambda text: None)
    temporary = target.parent / f".writing-{target.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        tell("writing")
        notes = exporter.write(model, temporary, facts)
        name, peer = exporter.peer(temporary, model)
        report = compare(
            model, peer, peer_name=name, padding=exporter.padding, changes=exporter.changes,
            tolerance=_tolerance(exporter, model), inputs=inputs,
            progress=lambda entry: tell(f"comparing with {name}: {entry}"),
        )  # fmt: skip
        report.check()
        report.save(temporary)
        card = model_card(model, facts, report, usage=exporter.usage(model), notes=notes, library=exporter.library)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")
        if target.exists():
            target.rmdir()
        temporary.rename(target)
    except CheckpointError as error:
        raise CheckpointError(f"{source if named else target}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExportResult(folder=target, report=report, notes=notes)


def _tolerance(exporter: Exporter, model: Exportable) -> float | None:
    """What the gate allows; None leaves it to the gate."""
    of_mel = encoder_of(model).config.front_end != "waveform"
    return exporter.mel_tolerance if of_mel and exporter.mel_tolerance is not None else exporter.tolerance
