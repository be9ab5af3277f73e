"""`speechssl info`: versions and hardware, or what a model, run or manifest is."""

import json
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from speechssl import __version__
from speechssl.cli.options import stage_config
from speechssl.cli.output import say, table
from speechssl.config import flatten

_PACKAGES = ("torch", "torchaudio", "numpy", "soundfile", "soxr", "librosa", "av", "jiwer", "transformers", "fairseq2")
_MANIFEST_ENDINGS = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True, kw_only=True)
class InfoOptions:
    """Options of `speechssl info`.

    Attributes:
        source: a run, checkpoint or model directory, a shipped model's name or a manifest; the installation when null.
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
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
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
    from speechssl.encoder import SpeechEncoder, load_encoder
    from speechssl.model_directory import resolve_model_directory

    directory = resolve_model_directory(source)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    encoder: SpeechEncoder = load_encoder(directory)
    return {
        "directory": str(directory),
        "kind": config.get("model_type", "encoder"),
        "parameters of the encoder": sum(parameter.numel() for parameter in encoder.parameters()),
        "size in MB": round((Path(directory) / "model.safetensors").stat().st_size / 1e6, 2),
        "frames a second": encoder.config.frame_rate,
        **{name: value for name, value in config.items() if name != "model_type"},
    }


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
