"""Which tensor of another tool is which of ours, in both directions.

A correspondence is a list of `Pair`s. One that covers only a part of our tensor stands for an equal share of its rows:
our query, key and value are one matrix, theirs are three.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.objectives.contrastive import ContrastiveConfig, ContrastiveObjective

_MAX_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Our tensor `ours`, or share `part` of `num_parts` of its rows, is their tensor `theirs`, up to its shape."""

    ours: str
    theirs: str
    part: int = 0
    num_parts: int = 1


def linear(ours: str, theirs: str, *, bias: bool = True) -> list[Pair]:
    """Weight and bias of a layer."""
    names = ("weight", "bias") if bias else ("weight",)
    return [Pair(ours=f"{ours}.{name}", theirs=f"{theirs}.{name}") for name in names]


def joint(ours: str, theirs: Sequence[str]) -> list[Pair]:
    """Weights and biases of several layers of theirs whose rows follow each other in one of ours."""
    return [
        Pair(ours=f"{ours}.{name}", theirs=f"{their}.{name}", part=part, num_parts=len(theirs))
        for part, their in enumerate(theirs)
        for name in ("weight", "bias")
    ]


def import_tensors(
    pairs: Iterable[Pair],
    theirs: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    *,
    source: Path | str,
    unused: Mapping[str, str] | None = None,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Their tensors under our names and in our shapes.

    Args:
        pairs: the correspondence.
        theirs: their tensors; keys of torch's two ways to write weight norm are taken alike.
        shapes: of all of our tensors.
        source: for messages.
        unused: beginnings of the names that have no place with us, and why; each tensor left out becomes a note.

    Returns:
        Our tensors, and a note for every tensor of theirs that has none.

    Raises:
        CheckpointError: a tensor is missing, has an unexpected name or does not fit.
    """
    theirs = {plain_name(name): tensor for name, tensor in theirs.items()}
    pairs = list(pairs)
    problems = [f"missing {pair.theirs}" for pair in pairs if pair.theirs not in theirs]
    known = {pair.theirs for pair in pairs}
    notes = []
    for name in theirs:
        if name in known:
            continue
        reason = next((why for start, why in (unused or {}).items() if name.startswith(start)), None)
        if reason is None:
            problems.append(f"unexpected {name} of shape {list(theirs[name].shape)}")
        else:
            notes.append(f"left out {name}: {reason}")
    parts: dict[str, list[Tensor | None]] = {}
    for pair in pairs:
        if pair.theirs in theirs:
            parts.setdefault(pair.ours, [None] * pair.num_parts)[pair.part] = theirs[pair.theirs]
    state = {}
    for name, pieces in parts.items():
        whole = [piece for piece in pieces if piece is not None]
        if len(whole) < len(pieces):
            continue  # named as missing already
        joined = whole[0] if len(whole) == 1 else torch.cat(whole)
        if joined.numel() != shapes[name].numel():
            problems.append(f"{name} needs shape {list(shapes[name])}, but there is {list(joined.shape)}")
        else:
            state[name] = joined.reshape(shapes[name])
    problems += [f"nothing gives {name}" for name in shapes if name not in parts]
    if problems:
        raise CheckpointError(_complaint(source, problems))
    return state, tuple(notes)


def encoder_shapes(config: EncoderConfig) -> dict[str, torch.Size]:
    """Of all tensors of our encoder."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in SpeechEncoder(config).state_dict().items()}


def objective_shapes(objective: ContrastiveConfig, config: EncoderConfig) -> dict[str, torch.Size]:
    """Of all tensors of our objective for such an encoder."""
    with torch.device("meta"):
        blank = ContrastiveObjective(objective, latent_dim=config.latent_dim, model_dim=config.model_dim)
    return {name: tensor.shape for name, tensor in blank.state_dict().items()}


def export_tensors(
    pairs: Iterable[Pair], ours: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Our tensors under their names and in their shapes.

    Raises:
        CheckpointError: a tensor of theirs is left without a value, or one of ours without a place.
    """
    spelled = {plain_name(name): name for name in shapes}
    state: dict[str, Tensor] = {}
    problems = []
    pairs = list(pairs)
    for pair in pairs:
        if pair.theirs not in spelled:
            problems.append(f"their model has no {pair.theirs}")
            continue
        name = spelled[pair.theirs]
        rows = ours[pair.ours].chunk(pair.num_parts)[pair.part] if pair.num_parts > 1 else ours[pair.ours]
        if rows.numel() != shapes[name].numel():
            problems.append(f"{name} needs shape {list(shapes[name])}, but there is {list(rows.shape)}")
        else:
            state[name] = rows.detach().reshape(shapes[name]).clone()
    problems += [f"nothing gives {name}" for name in shapes if name not in state]
    placed = {pair.ours for pair in pairs}
    problems += [f"no place for {name}" for name in ours if name not in placed]
    if problems:
        raise CheckpointError(_complaint("export", problems))
    return state


def plain_name(name: str) -> str:
    """A tensor's name with weight norm as torch used to write it: `weight_g` and `weight_v`."""
    name = name.replace(".parametrizations.weight.original0", ".weight_g")
    return name.replace(".parametrizations.weight.original1", ".weight_v")


def _complaint(source: Path | str, problems: Sequence[str]) -> str:
    shown = "; ".join(problems[:_MAX_SHOWN])
    more = f"; and {len(problems) - _MAX_SHOWN} more" if len(problems) > _MAX_SHOWN else ""
    return f"{source}: the weights do not fit the architecture that its configuration describes: {shown}{more}"
