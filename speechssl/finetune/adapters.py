"""Adapters by themselves: a few megabytes that make a recogniser of an encoder which is at hand anyway.

`adapters.safetensors` holds the adapters, the head and the encoder's buffers; `adapters.json` says how they are put in
and into which encoder; `vocab.json` lies beside them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.asr import VOCABULARY_FILE, CtcModel, HeadInput, load_vocabulary
from speechssl.encoder import SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.finetune.config import AdapterConfig, FinetuneConfig
from speechssl.interop import load_encoder
from speechssl.model_directory import resolve_model_directory
from speechssl.nn.lora import add_adapters, merge_adapters

ADAPTERS_FILE = "adapters.safetensors"
DESCRIPTION_FILE = "adapters.json"
_KEYS = {"adapters", "pretrained", "pretrained_checksum", "normalizer", "head_dropout", "head_input"}
_VERSION = 1


def weights_checksum(module: nn.Module) -> str:
    """A digest of all parameters, which tells whether an encoder is the one that adapters were made for."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.named_parameters()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_adapters(
    directory: Path,
    tensors: Mapping[str, Tensor],
    config: FinetuneConfig,
    *,
    head_input: HeadInput,
    pretrained_checksum: str,
) -> None:
    """Write `adapters.safetensors` and `adapters.json` into a model directory, which has its `vocab.json` already."""
    from safetensors.torch import save_file

    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, directory / ADAPTERS_FILE)
    description = {
        "format_version": _VERSION,
        "adapters": asdict(config.adapters),
        "pretrained": config.pretrained,
        "pretrained_checksum": pretrained_checksum,
        "normalizer": config.normalizer,
        "head_dropout": config.head_dropout,
        "head_input": head_input,
    }
    (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def load_adapters(source: str | Path, *, pretrained: str | None = None) -> CtcModel:
    """The recogniser that the adapters in a folder make of their encoder, merged and in evaluation mode.

    Args:
        source: a run, a checkpoint or any folder with `adapters.json`, `adapters.safetensors` and `vocab.json`.
        pretrained: the encoder; the one named when they were trained where None.

    Raises:
        CheckpointError: a file is missing or damaged, or the encoder is not the one that the adapters were made for.
    """
    directory = Path(source)
    if not (directory / DESCRIPTION_FILE).is_file():
        directory = resolve_model_directory(source)
    description, tensors = _read(directory)
    name = pretrained or description["pretrained"]
    encoder = load_encoder(name)
    if weights_checksum(encoder) != description["pretrained_checksum"]:
        raise CheckpointError(
            f"{directory}: the adapters were made for other weights than those of {name} (checksum "
            f"{description['pretrained_checksum']}); give the encoder that they were trained on as pretrained"
        )
    try:
        model = _described(encoder, directory, description)
        missing, unknown = model.load_state_dict(tensors, strict=False)
    except (TypeError, ValueError, RuntimeError) as error:  # a value of another type; tensors of another shape
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])  # torch lists every tensor
        raise CheckpointError(
            f"{directory}: {DESCRIPTION_FILE} and {ADAPTERS_FILE} do not go together or were changed ({reason}); copy "
            "both from one checkpoint"
        ) from error
    absent = [name for name in missing if name.endswith((".down", ".up")) or not name.startswith("encoder.")]
    if absent or unknown:
        raise CheckpointError(
            f"{directory / ADAPTERS_FILE}: does not fit {DESCRIPTION_FILE} beside it: missing {absent[:3]}, unknown "
            f"{unknown[:3]}; copy both files from one checkpoint"
        )
    merged = merge_adapters(model)
    assert isinstance(merged, CtcModel)
    return merged.eval()


def _described(encoder: SpeechEncoder, directory: Path, description: Mapping[str, Any]) -> CtcModel:
    """The recogniser as it was trained, with adapters beside the encoder's weights."""
    adapters = AdapterConfig(**description["adapters"])
    model = CtcModel(
        encoder,
        load_vocabulary(directory / VOCABULARY_FILE),
        normalizer=description["normalizer"],
        dropout=description["head_dropout"],
        head_input=description["head_input"],
    )
    add_adapters(
        encoder.context_encoder.layers,
        rank=adapters.rank,
        alpha=adapters.alpha,
        dropout=adapters.dropout,
        targets=adapters.targets,
        seed=0,
    )
    return model


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = directory / DESCRIPTION_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        tensors = load_file(directory / ADAPTERS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory}: no usable {DESCRIPTION_FILE} and {ADAPTERS_FILE} ({error}); give a run that was fine-tuned "
            "with adapters.rank above 0"
        ) from error
    if description.get("format_version") != _VERSION:
        raise CheckpointError(f"{path}: of format {description.get('format_version')}; this speechssl reads {_VERSION}")
    absent = _KEYS - description.keys()
    if absent:
        raise CheckpointError(f"{path}: lacks {', '.join(sorted(absent))}; copy it anew from the checkpoint")
    return description, tensors
