"""Read `.pt` and `.bin` files of other tools without running anything that stands in them.

torch's restricted unpickler builds tensors and plain containers only. Files of training tools also hold their settings,
as objects of classes that the restricted unpickler refuses. Each such class is replaced by an inert one that keeps what
the file says of the object and does nothing.
"""

from pathlib import Path
from typing import Any

import torch

from speechssl.errors import CheckpointError


class Inert:
    """Stands for an object of a class that is not loaded; `arguments` and attributes are what the file holds of it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments
        self.named = named

    def __setstate__(self, state: Any) -> None:
        self.state = state


def load_pickled(path: str | Path) -> Any:
    """The content of a file that `torch.save` wrote: tensors, containers, numbers, and `Inert` for everything else.

    Raises:
        CheckpointError: missing, damaged, or not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        # a class of its own for each name: the restricted unpickler looks types up by identity
        stand_ins = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in names]
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged pickle makes the reader stumble over
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{path}: cannot be read as data ({type(error).__name__}: {reason}); it is damaged, or not written by"
            " torch.save"
        ) from None


def settings(value: Any) -> dict[str, Any]:
    """An object's settings as a dictionary, whether it is one, an `argparse.Namespace` or something of the kind."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Inert):
        state = getattr(value, "state", None)
        if isinstance(state, dict):
            content = state.get("_content")  # omegaconf
            return content if isinstance(content, dict) else state
    return dict(vars(value)) if hasattr(value, "__dict__") else {}
