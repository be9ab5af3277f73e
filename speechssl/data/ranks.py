"""Which of several processes this one is, when they train together."""

from dataclasses import dataclass

import torch.distributed


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process is number `rank`, from 0, of `world_size`."""

    rank: int = 0
    world_size: int = 1


def current_ranks() -> Ranks:
    """Those of `torch.distributed` where it is initialised, else one process alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Ranks(rank=torch.distributed.get_rank(), world_size=torch.distributed.get_world_size())
    return Ranks()
