"""`speechssl info`: versions and hardware, or what a model, run or manifest is."""

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechssl import __version__
from speechssl.cli.options import stage_config
from speechssl.cli.output import say, table
from speechssl.config import flatten

if TYPE_CHECKING:
    from speechssl.interop import ModelFacts

_PACKAGES = ("torch", "torchaudio", "numpy", "soundfile", "soxr", "librosa", "av", "jiwer", "transformers", "fairseq2")
_MANIFEST_ENDINGS = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Options of `speechssl info`.

    Attributes:
        source: a run, checkpoint or model directory, a shipped model's name, a model of another tool (see `speechssl
            import --help`) or a manifest; the installation when null.
        json: print the result as JSON.
    """

    source: str | None = None
    json: bool = False


def info(words: list[str]) -> int:
    """Describe the installation, a model or a manifest."""
    options = stage_config(
        "info",
        InfoOptions,
        words,
        example="speechssl info\nspeechssl info speechssl-tiny",
        summary="Versions and hardware, or what a model, run or manifest is.",
        positionals=("source",),
    )
    if options is None:
        return 0
    if options.source is None:
        title, values = "installation", _installation()
    elif options.source.endswith(_MANIFEST_ENDINGS):
        from speechssl.manifest import Manifest, manifest_stats

        stats = manifest_stats(Manifest.load(options.source))
        say(json.dumps(stats.to_dict(), indent=2, ensure_ascii=False) if options.json else stats.summary())
        return 0
    else:
        title, values = options.source, _model(options.source)
    if options.json:
        say(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        table(title, ("", "value"), [(name, _text(value)) for name, value in flatten(values).items()], right=False)
    return 0


def _installation() -> dict[str, Any]:
    import torch

    from speechssl.jobs import num_cores
    from speechssl.manifest import list_cards
    from speechssl.model_directory import shipped_models

    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "speechssl": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": num_cores(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "packages": versions,
        "torchaudio": _torchaudio(),
        "shipped models": list(shipped_models()),
        "corpora": list_cards(),
    }


def _torchaudio() -> str:
    """Whether torchaudio can be imported: its registry wheel cannot beside a CPU-only torch."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        return f"installed but cannot be imported ({error}); install the one made for this torch"
    return "works"


def _model(source: str) -> dict[str, Any]:
    """What a model is, whatever tool wrote it."""
    from speechssl.interop.loading import identify
    from speechssl.interop.models import load_described
    from speechssl.interop.programs import is_program

    if is_program(Path(source)):
        return _program(Path(source))
    kind = identify(source)
    model, facts = load_described(source)
    return _arranged(kind, describe(model), facts)


def _program(folder: Path) -> dict[str, Any]:
    """What stands beside an exported graph; the graph itself is not run."""
    import torch

    from speechssl.encoder import SpeechEncoder
    from speechssl.interop.programs import read_description

    told = read_description(folder)
    with torch.device("meta"):
        described = describe(SpeechEncoder(told.config))
    if told.vocabulary is not None:
        head = (told.config.model_dim + 1) * len(told.vocabulary)
        described |= {
            "kind": "CTC recogniser", "parameters": described["parameters"] + head,
            "vocabulary": list(told.vocabulary), "normalizer of texts": told.normalizer,
        }  # fmt: skip
    return _arranged(told.format, {**described, "gives": told.output}, told.facts)


def _arranged(kind: str, described: dict[str, Any], facts: "ModelFacts") -> dict[str, Any]:
    """What is known of a model in the order in which it is shown; the encoder's settings come last."""
    settings = described.pop("encoder")
    size = f"{settings['front_end']} front end, {settings['num_layers']} {settings['variant']['layer']} layers of"
    architecture = f"{size} {settings['model_dim']}"
    values = {
        "format": kind, "kind": described.pop("kind"),
        "architecture": f"{facts.architecture}: {architecture}" if facts.architecture else architecture,
        **described, "licence": facts.licence or "not recorded", "origin": dict(facts.origin) or "trained here",
    }  # fmt: skip
    if facts.training:
        values["training"] = dict(facts.training)
    return values | {"encoder": settings}


def describe(model: Any) -> dict[str, Any]:
    """Architecture, size and what a recording must look like, of an encoder, pre-training or CTC model."""
    from speechssl.asr import CtcModel
    from speechssl.config import to_dict
    from speechssl.interop.card import kind_of
    from speechssl.interop.gate import encoder_of
    from speechssl.lengths import frame_stride, receptive_field

    encoder = encoder_of(model)
    config, layers = encoder.config, encoder.strided_layers
    rate = config.sample_rate
    values: dict[str, Any] = {
        "kind": {"ctc": "CTC recogniser", "pretraining": "encoder with its pre-training heads"}.get(
            kind_of(model), "encoder"
        ),
        "parameters": sum(parameter.numel() for part in _parts(model) for parameter in part.parameters()),
        "parameters of the encoder": sum(parameter.numel() for parameter in encoder.parameters()),
        "sampling rate (Hz)": rate,
        "waveform normalization": f"zero mean, unit variance (eps {config.normalize_eps:g})"
        if config.normalize_waveform
        else "none",
        "frames a second": config.frame_rate,
        "frame stride (ms)": 1000 * frame_stride(layers) / rate,
        "receptive field of a frame (ms)": 1000 * receptive_field(layers) / rate,
        "shortest clip (samples)": receptive_field(layers),
    }
    if isinstance(model, CtcModel):
        values["vocabulary"] = list(model.vocabulary.tokens)
        values["normalizer of texts"] = model.normalizer
    return values | {"encoder": to_dict(config)}


def _parts(model: Any) -> list[Any]:
    """The modules whose parameters make the model."""
    return [model] if hasattr(model, "parameters") else [model.encoder, model.objective]


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
