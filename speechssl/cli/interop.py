"""`speechssl export` and `speechssl import`: models out to other tools, and in."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.cli.options import stage_config
from speechssl.cli.output import error_console, log_to_stderr, say, table
from speechssl.errors import ConfigError

if TYPE_CHECKING:
    from speechssl.interop import ParityReport


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `speechssl export`.

    Attributes:
        source: a run, checkpoint or model directory, or a model of another tool.
        output: a new folder for the model, its card (README.md) and the parity report (parity.json).
        format: the tool to write for.
        licence: of the weights, for the card; the recorded one when null.
        name: the card's title; the source's name when null.
        long_seconds: length of the longest clip on which both are compared.
    """

    source: str
    output: Path
    format: str = "huggingface"
    licence: str | None = None
    name: str | None = None
    long_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of `speechssl import`.

    Attributes:
        source: a folder that Hugging Face's save_pretrained wrote, a name on its hub, or another tool's checkpoint.
        output: a new model directory.
    """

    source: str
    output: Path


def export_command(words: list[str]) -> int:
    """A model for another tool, checked there first."""
    from speechssl.interop import EXPORTERS, export_model, load_described
    from speechssl.interop.gate import gate_inputs

    log_to_stderr()
    options = stage_config(
        "export",
        ExportOptions,
        words,
        example="speechssl export runs/asr --format huggingface --output exports/asr\n"
        "speechssl export runs/base --output exports/base --licence cc-by-4.0 --name my-base",
        summary="Write a model for another tool. Nothing appears before that tool has run the model and every layer was"
        f" compared. Formats: {', '.join(EXPORTERS)}.",
        positionals=("source",),
    )
    if options is None:
        return 0
    if options.format not in EXPORTERS:  # before anything is loaded
        raise ConfigError(f"format must be one of {', '.join(EXPORTERS)}, but is {options.format!r}")
    model, facts = load_described(options.source)
    facts = replace(facts, licence=options.licence or facts.licence, name=options.name or facts.name)
    with error_console().status("") as status:
        result = export_model(
            model, options.output, format=options.format, facts=facts,
            inputs=gate_inputs(model, long_seconds=options.long_seconds), progress=status.update,
        )  # fmt: skip
    _show_report(result.report)
    for note in (*result.report.notes, *result.notes):
        say(f"note: {note}")
    if facts.licence is None:
        say("note: no licence is recorded; state one with --licence before you hand the model on")
    say(f"written: {result.folder}")
    return 0


def import_command(words: list[str]) -> int:
    """A model directory from another tool's model."""
    log_to_stderr()
    options = stage_config(
        "import",
        ImportOptions,
        words,
        example="speechssl import facebook/wav2vec2-base --output models/base\n"
        "speechssl import downloads/wav2vec2-base-960h --output models/base-960h",
        summary="Write a model directory from another tool's model. Every command also takes such a model as it is.",
        positionals=("source",),
    )
    if options is None:
        return 0
    from speechssl.interop import import_model, save_imported

    model = import_model(options.source)
    save_imported(model, options.output)
    for note in model.notes:
        say(f"note: {note}")
    what = {"ctc": "a recogniser", "pretraining": "an encoder with its pre-training heads"}.get(
        model.kind, "an encoder"
    )
    say(f"written: {options.output}, {what} from {model.origin.architecture} ({model.origin.format})")
    return 0


def _show_report(report: "ParityReport") -> None:
    """The largest differences of every layer over all inputs."""
    worst: dict[str, tuple[float, float, str]] = {}
    for entry in report.inputs:
        for layer in entry.layers:
            absolute, relative, where = worst.get(layer.name, (0.0, -1.0, ""))
            where = entry.name if layer.max_relative > relative else where
            worst[layer.name] = (max(absolute, layer.max_absolute), max(relative, layer.max_relative), where)
    rows = [(name, f"{absolute:.1e}", f"{relative:.1e}", where) for name, (absolute, relative, where) in worst.items()]
    title = f"compared with {report.peer} on {len(report.inputs)} inputs, {report.tolerance:g} relative allowed"
    table(title, ("layer", "largest absolute", "largest relative", "on"), rows)
