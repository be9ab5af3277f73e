"""The device that a name stands for."""

import torch

from speechssl.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """The device of a name; `auto` is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: unknown, or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu or cuda, but is {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but this machine has no usable GPU; set device to auto or cpu")
    return device
