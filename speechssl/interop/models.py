"""Whole models by name, ours or another tool's, and what is known about them."""

import json
from pathlib import Path
from typing import Any

import torch

from speechssl import asr
from speechssl.asr import CtcModel, SpeechRecognizer
from speechssl.config import from_dict, read_yaml, to_dict
from speechssl.encoder import SpeechEncoder
from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop.card import ModelFacts
from speechssl.interop.loading import identify, import_model
from speechssl.interop.model import Exportable, ImportedModel, PretrainingModel
from speechssl.model_directory import CONFIG_FILE, load_weights, resolve_model_directory
from speechssl.objectives.contrastive import ContrastiveConfig, ContrastiveObjective
from speechssl.training.checkpoint import STATE_FILE
from speechssl.training.records import read_metrics
from speechssl.training.tensors import read_tensors, write_tensors

OBJECTIVE_FILE = "objective.safetensors"
"""Beside the encoder: in a checkpoint of pre-training, and in the model directory of an imported pre-training model."""
OBJECTIVE_KEY = "contrastive"
"""Of a run's `config.yaml` and of such a model directory's `config.json`."""
RUN_CONFIG_FILE = "config.yaml"
_METRICS = ("valid_loss", "valid_accuracy", "valid_code_perplexity", "valid_wer", "valid_cer", "audio_hours")


def load_asr(source: str | Path, *, device: torch.device | str = "cpu") -> SpeechRecognizer:
    """Load a recognizer: a fine-tuning run, one of its checkpoints, a model directory, or whatever `import_model`
    takes where that has a CTC layer.

    Raises:
        CheckpointError: nothing usable is there, a file is damaged, or the model has no CTC layer.
    """
    if identify(source) == "speechssl":
        return asr.load_asr(source, device=device)
    return SpeechRecognizer(import_model(source).build_ctc().to(device))


def load_pretraining(source: str | Path) -> PretrainingModel:
    """Load an encoder with its objective: a pre-training run or checkpoint, another tool's pre-training model, or the
    model directory that `save_imported` made of one.

    Raises:
        CheckpointError: nothing usable is there, or no objective beside the encoder.
    """
    if identify(source) != "speechssl":
        model = import_model(source)
        return PretrainingModel(encoder=model.build_encoder(), objective=model.build_objective())
    directory = resolve_model_directory(source)
    own = _own_pretraining(directory)
    if own is None:
        raise CheckpointError(
            f"{source}: holds no {OBJECTIVE_FILE} of a contrastive pre-training run; give such a run or one of its"
            " checkpoints"
        )
    return own


def load_model(source: str | Path) -> Exportable:
    """Whatever `source` holds: a recognizer, an encoder with its objective, or an encoder alone.

    Raises:
        CheckpointError: nothing usable is there.
    """
    return load_described(source)[0]


def load_described(source: str | Path) -> tuple[Exportable, ModelFacts]:
    """`load_model`, and what is recorded about the model: origin, licence, training data, measured error rates.

    Raises:
        CheckpointError: nothing usable is there.
    """
    if identify(source) != "speechssl":
        imported = import_model(source)
        return imported.build(), _with_origin(_name_of(source), imported.origin.to_dict())
    return _load_own(source), _facts_of(source)


def _load_own(source: str | Path) -> Exportable:
    directory = resolve_model_directory(source)
    if _json(directory / CONFIG_FILE).get("model_type") == "ctc":
        return CtcModel.load(directory)
    return _own_pretraining(directory) or SpeechEncoder.load(directory)


def save_imported(model: ImportedModel, directory: str | Path) -> None:
    """Write a model directory of ours: `config.json` with an `origin`, `model.safetensors`, and `vocab.json` where the
    model writes text. The quantizer and projections of a pre-training model go into `objective.safetensors`, their
    settings into `config.json`, so that its pre-training can go on from the directory.

    Raises:
        ConfigError: the directory holds something already.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory}: already exists; give a new directory")
    built = model.build_ctc() if model.kind == "ctc" else model.build_encoder()
    built.save(directory)
    path = directory / CONFIG_FILE
    content = {**_json(path), "origin": {**model.origin.to_dict(), "notes": list(model.notes)}}
    if model.objective is not None:
        content[OBJECTIVE_KEY] = to_dict(model.objective)
        write_tensors(directory / OBJECTIVE_FILE, model.build_objective().state_dict())
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _name_of(source: str | Path) -> str:
    return Path(source).name or str(source)


def _facts_of(source: str | Path) -> ModelFacts:
    name = _name_of(source)
    directory = resolve_model_directory(source)
    origin = _json(directory / CONFIG_FILE).get("origin") or {}
    known = _with_origin(name, {key: value for key, value in origin.items() if key != "notes"})
    run = run_of(directory)
    provenance = _json(directory / "provenance.json")
    return ModelFacts(
        name=name,
        licence=known.licence or provenance.get("licence"),
        architecture=known.architecture,
        origin=known.origin,
        training={**_provenance_facts(provenance), **({} if run is None else _run_facts(run, directory))},
        results={} if run is None else _results(run),
    )


def run_of(directory: Path) -> Path | None:
    """The run directory that a checkpoint belongs to; None for a model directory."""
    run = directory.absolute().parent.parent
    return run if (run / RUN_CONFIG_FILE).is_file() and directory.absolute().parent.name == "checkpoints" else None


def _own_pretraining(directory: Path) -> PretrainingModel | None:
    """The encoder with its objective; None where there is none."""
    if not (directory / OBJECTIVE_FILE).is_file():
        return None
    run = run_of(directory)
    file = directory / CONFIG_FILE if run is None else run / RUN_CONFIG_FILE
    values = _json(file) if run is None else read_yaml(file)
    if run is not None and values.get("objective") != "contrastive":
        return None  # only the contrastive objective is taken along
    if OBJECTIVE_KEY not in values:
        return None
    config = from_dict(ContrastiveConfig, values[OBJECTIVE_KEY], source=str(file))
    encoder = SpeechEncoder.load(directory)
    objective = ContrastiveObjective(config, latent_dim=encoder.config.latent_dim, model_dim=encoder.config.model_dim)
    load_weights(objective, read_tensors(directory / OBJECTIVE_FILE), source=directory / OBJECTIVE_FILE)
    return PretrainingModel(encoder=encoder, objective=objective.eval())


def _with_origin(name: str, origin: dict[str, Any]) -> ModelFacts:
    return ModelFacts(
        name=name,
        licence=origin.get("licence"),
        architecture=origin.get("architecture"),
        origin={key: _public(value) for key, value in origin.items() if value is not None and key != "licence"},
    )


def _public(value: Any) -> str:
    """A value for a card that others read: of a path on this machine only the last part."""
    text = str(value)
    return Path(text).name if Path(text).exists() else text


def _run_facts(run: Path, directory: Path) -> dict[str, str]:
    """What a run directory says about the training."""
    values = read_yaml(run / RUN_CONFIG_FILE)
    facts = {"stage": str(values.get("stage", "finetune"))}
    for key in ("manifests", "train_manifest", "initialize_from", "pretrained", "normalizer"):
        if values.get(key):
            value = values[key]
            facts[key.replace("_", " ")] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    step = _json(directory / STATE_FILE).get("step")
    if step is not None:
        facts["updates"] = str(step)
    latest = {
        key: value for line in read_metrics(run) if step is None or line["step"] <= step for key, value in line.items()
    }
    facts |= {key.replace("_", " "): f"{latest[key]:.4g}" for key in _METRICS if key in latest}
    environment = _json(run / "environment.json")
    facts |= {
        key.replace("_", " "): str(environment[key]) for key in ("data_fingerprint", "commit") if environment.get(key)
    }
    return facts


def _provenance_facts(provenance: dict[str, Any]) -> dict[str, str]:
    """What the record beside a shipped model says."""
    facts = {
        f"data {number}": f"{entry['source']}, {entry['hours']:g} hours, {entry['licence']}"
        for number, entry in enumerate(provenance.get("data", []), start=1)
    }
    return facts | {
        key.replace("_", " "): str(provenance[key]) for key in ("steps", "audio_hours_seen") if key in provenance
    }


def _results(run: Path) -> dict[str, str]:
    """Error rates that `speechssl evaluate` wrote into folders of the run."""
    found = {}
    for path in sorted(run.glob("*/result.json")):
        result = _json(path)
        if "wer" in result:
            found[str(result.get("manifest", path.parent.name))] = (
                f"WER {result['wer']:.2%}, CER {result['cer']:.2%}, normaliser {result.get('normalizer')}, decoder"
                f" {result.get('decoder')}"
            )
    return found


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
