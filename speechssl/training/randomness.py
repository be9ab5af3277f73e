"""Randomness as a function of seed and step, so that a resumed run needs no stored generator state."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any values with a stable text form."""
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(device: torch.device, *parts: object) -> Iterator[torch.Generator]:
    """Seed the default generators of the CPU and `device` inside the block, and put them back after it.

    Yields:
        A CPU generator of its own seed.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed("default", *parts))
        yield torch.Generator().manual_seed(derive_seed("generator", *parts))
