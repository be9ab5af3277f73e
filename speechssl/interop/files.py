"""Files that models of several tools come in: JSON objects and states."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl.errors import CheckpointError
from speechssl.interop.pickled import load_pickled


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: missing or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}; download the model again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: must hold a JSON object; download the model again")
    return content


def read_optional_object(path: Path) -> dict[str, Any]:
    """The same; empty where there is no file."""
    return read_object(path) if path.is_file() else {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` or `.pt` file.

    Raises:
        CheckpointError: missing or damaged.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); copy it again") from None
    content = load_pickled(path)
    for key in ("state_dict", "model"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no state; is it a model's checkpoint?")
    return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
