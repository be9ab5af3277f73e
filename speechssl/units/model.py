"""Stored units: the centers of every seed, and all that is needed to give units to other recordings.

One safetensors file whose metadata says what it was made of; it appears under its name only when it is whole.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.encoder import resolve_device
from speechssl.errors import CheckpointError, ConfigError
from speechssl.files import replacing
from speechssl.frames import FrameSource, Layer, weights_hash
from speechssl.interop import load_encoder
from speechssl.units.kmeans import UnitState

MODEL_NAME = "units.safetensors"
FEATURES = ("mfcc", "log_mel")


@dataclass(frozen=True, kw_only=True)
class UnitModel:
    """`states` of every seed, the first of which gives the units; `facts` is what they were made of."""

    states: tuple[UnitState, ...]
    facts: Mapping[str, Any]
    chunks_done: int = 0


def open_source(checkpoint: str, *, layer: Layer, batch_seconds: float, device: str) -> FrameSource:
    """The frames of a layer of an encoder, or hand-made features (which have no layers)."""
    if checkpoint in FEATURES and not Path(checkpoint).exists():
        return FrameSource(name=checkpoint, batch_seconds=batch_seconds)
    encoder = load_encoder(checkpoint, device=resolve_device(device))
    return FrameSource(name=checkpoint, encoder=encoder, layers=(layer,), batch_seconds=batch_seconds)


def source_facts(source: FrameSource) -> dict[str, Any]:
    """What fixes the frames."""
    return {
        "checkpoint": source.name,
        "weights_sha256": None if source.encoder is None else weights_hash(source.encoder),
        "layer": source.layers[0] if source.layers else None,
        "dimension": source.dimension,
        "frame_seconds": source.frame_seconds,
        "first_frame_seconds": float(source.times(1)[0]),
    }


def write_units(path: Path, model: UnitModel) -> None:
    """Store a model, finished or not."""
    from safetensors.numpy import save_file

    tensors = {}
    for number, state in enumerate(model.states):
        tensors[f"centers.{number}"] = np.ascontiguousarray(state.centers)
        tensors[f"counts.{number}"] = np.ascontiguousarray(state.counts)
    stored = {"facts": json.dumps(dict(model.facts)), "chunks_done": str(model.chunks_done)}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=stored)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())


def centers_file(path: Path) -> Path:
    """The file with the centers: `path` itself, or the finished one in a folder.

    Raises:
        ConfigError: `path` is a file that holds the units of recordings, or something else that has no centers.
    """
    if path.is_file() and path.suffix != Path(MODEL_NAME).suffix:
        raise ConfigError(
            f"{path}: holds no centers of clusters, which are in {MODEL_NAME}; name the folder that `speechssl units`"
            f" wrote{f', {path.parent}' if (path.parent / MODEL_NAME).is_file() else ''}"
        )
    return path / MODEL_NAME if path.is_dir() else path


def read_units(path: Path) -> UnitModel:
    """Read what `write_units` stored; a folder means the finished model in it.

    Raises:
        CheckpointError: it is missing or damaged.
        ConfigError: it is another file, such as the units of recordings.
    """
    from safetensors import SafetensorError, safe_open

    path = centers_file(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            count = sum(name.startswith("centers.") for name in file.keys())
            states = tuple(
                UnitState(centers=file.get_tensor(f"centers.{n}"), counts=file.get_tensor(f"counts.{n}"))
                for n in range(count)
            )
            return UnitModel(
                states=states, facts=json.loads(metadata["facts"]), chunks_done=int(metadata["chunks_done"])
            )
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there are no units; make them with `speechssl units`") from None
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read as units ({error}); remove it and make them again") from None


def source_of(model: UnitModel, *, checkpoint: str | None, batch_seconds: float, device: str) -> FrameSource:
    """The source that the units were made of.

    Raises:
        ConfigError: the encoder there has other weights.
    """
    facts = model.facts
    name = checkpoint or facts["checkpoint"]
    source = open_source(name, layer=facts["layer"], batch_seconds=batch_seconds, device=device)
    found = source_facts(source)
    if found["weights_sha256"] != facts["weights_sha256"]:
        raise ConfigError(
            f"the units were made with another encoder than {name} is now; name the right one as --checkpoint"
        )
    return source


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Sequence[str]:
    """In words, which facts differ."""
    return [
        f"{name} is {found.get(name)!r} instead of {value!r}"
        for name, value in wanted.items()
        if found.get(name) != value and name != "checkpoint"
    ]
