"""Module and optimizer states as safetensors files, shared tensors included."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from speechssl.errors import CheckpointError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors; each must be of its own memory (`without_aliases`)."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, on the CPU.

    Raises:
        CheckpointError: missing, cut short or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: missing, damaged or cut short ({error})") from error


def without_aliases(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without second names of one tensor (tied weights); the first name stays."""
    seen: set[tuple[object, ...]] = set()
    unique = {}
    for name, tensor in state.items():
        identity = _identity(tensor)
        if tensor.numel() == 0 or identity not in seen:
            unique[name] = tensor
        seen.add(identity)
    return unique


def _identity(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], *, source: Path) -> None:
    """Copy `tensors` into a module's parameters and buffers, bit for bit.

    A missing name is legal where it is a second name of a present one.

    Raises:
        CheckpointError: names, shapes or types differ.
    """
    own = module.state_dict()
    present = {_identity(own[name]) for name in tensors if name in own}
    problems = [f"missing {name}" for name, t in own.items() if name not in tensors and _identity(t) not in present]
    problems += [f"unknown {name}" for name in tensors if name not in own]
    problems += [
        f"{name} is {tensors[name].dtype} {list(tensors[name].shape)} instead of {tensor.dtype} {list(tensor.shape)}"
        for name, tensor in own.items()
        if name in tensors and (tensors[name].shape != tensor.shape or tensors[name].dtype != tensor.dtype)
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise CheckpointError(f"{source}: does not fit the model of this run: {shown}; was the code changed since?")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
