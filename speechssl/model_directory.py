"""Model directories: `config.json` beside `model.safetensors`, and the names by which a user may mean one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechssl.errors import CheckpointError

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
FORMAT_VERSION = 1
_SHIPPED_DIRECTORY = Path(__file__).parent / "assets"


def save_model(directory: str | Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    """Write a model directory: `config.json` (`description` and the format's version) and `model.safetensors`."""
    from safetensors.torch import save_file

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, directory / MODEL_FILE, metadata={"format": "pt"})
    text = json.dumps({"format_version": FORMAT_VERSION, **description}, indent=2)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def read_model(
    directory: str | Path, *, device: torch.device | str = "cpu"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`config.json` and the tensors of a model directory; half-precision weights become fp32.

    Raises:
        CheckpointError: a file is missing, cut short or of another kind; the message names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    directory = Path(directory)
    config_path, model_path = directory / CONFIG_FILE, directory / MODEL_FILE
    try:
        description = json.loads(config_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{directory}: no {CONFIG_FILE}; give a model directory, a run directory or a shipped model's name"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{config_path}: cannot be read as JSON: {error}; restore it or use another checkpoint"
        ) from error
    if not isinstance(description, dict) or "model_type" not in description or "encoder" not in description:
        raise CheckpointError(
            f"{config_path}: not a speechssl model (no model_type and encoder); was it written by another tool?"
        )
    if description.get("format_version", 1) > FORMAT_VERSION:
        raise CheckpointError(
            f"{config_path}: format version is {description['format_version']}, but this speechssl reads up to"
            f" {FORMAT_VERSION}; install a newer speechssl"
        )
    try:
        tensors = load_file(model_path, device=str(device))
    except FileNotFoundError:
        raise CheckpointError(f"{model_path}: missing; the model directory is incomplete") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{model_path}: damaged or cut short ({error}); use an earlier checkpoint of the run or copy the file again"
        ) from error
    return description, {
        name: t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for name, t in tensors.items()
    }


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], *, source: Path | str) -> None:
    """Load all of a state dict.

    Raises:
        CheckpointError: names or shapes differ; the message lists the first of them.
    """
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {list(tensors[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(f"{source}: the weights do not fit the configuration beside them: {shown}")
    model.load_state_dict(dict(tensors))


def shipped_models() -> list[str]:
    """Names of the models that the package carries."""
    return sorted(path.parent.name for path in _SHIPPED_DIRECTORY.glob(f"*/{CONFIG_FILE}"))


def resolve_model_directory(source: str | Path) -> Path:
    """The model directory meant by a shipped model's name, a model directory, a checkpoint or a run directory.

    A run directory stands for its best checkpoint where one was kept, else for its last.

    Raises:
        CheckpointError: nothing usable is there.
    """
    path = Path(source)
    if isinstance(source, str) and source in shipped_models() and not path.is_dir():
        return _SHIPPED_DIRECTORY / source
    for candidate in (path, path / "checkpoints" / "best", path / "checkpoints" / "last"):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    known = ", ".join(shipped_models()) or "none"
    state = "holds no finished checkpoint" if path.is_dir() else "does not exist"
    raise CheckpointError(f"{source}: {state}; give a run or model directory, or a shipped model's name ({known})")
