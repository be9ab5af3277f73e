"""Several processes that train one model together, started by torchrun.

Each has its own micro-batches, and all make the same update: gradients are summed over all micro-batches, whichever
process had them, and divided by all of their targets. So W processes that accumulate A micro-batches make the update of
one process that accumulates W x A, up to the order of the sums. torch's DistributedDataParallel would not: it wants to
know beforehand which weights are trained, which a freeze schedule changes, and gives a gradient of zeros to those that
nobody used (LayerDrop), by which AdamW decays them.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from speechssl.errors import ConfigError, TrainingError

MAX_WAIT = timedelta(hours=24)  # of a process for another one, that validates, for instance
_BUCKET_BYTES = 64 * 2**20


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started beside this one, if any; each takes the GPU of its number.

    Args:
        device: as configured; `auto` and `cuda` take GPUs where there are any.

    Raises:
        ConfigError: there are more processes on this machine than GPUs, all were sent to one, or they were started by
            something else that does not say where they meet.
    """
    if not _is_started() or dist.is_initialized():
        yield
        return
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and RANK {os.environ['RANK']}, but {' and '.join(missing)} not"
            " set; start the processes by torchrun, or unset WORLD_SIZE to train in one"
        )
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if ":" in device:
            raise ConfigError(
                f"device is {device!r}, but torchrun started several processes; use cuda, one GPU for each"
            )
        if number >= count:
            raise ConfigError(
                f"torchrun started more processes than this machine has GPUs ({count}); lower --nproc_per_node"
            )
        torch.cuda.set_device(number)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=MAX_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process does what only one should: torchrun started no other, or it is number 0."""
    return not _is_started() or os.environ["RANK"] == "0"


def _is_started() -> bool:
    return dist.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def _talking() -> Iterator[None]:
    """Say in plain words that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"the processes that train together have lost each other: {error}. The one that ended first says why; the"
            " same command goes on from the last checkpoint"
        ) from error


class Together:
    """This process among those of `torch.distributed`, or alone. Every call is one that all of them make, in order."""

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.world_size = dist.get_world_size() if together else 1

    @property
    def is_alone(self) -> bool:
        """No other process trains this model."""
        return self.world_size == 1

    @_talking()
    def tell(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What all of them tell, by rank: JSON values."""
        if self.is_alone:
            return [dict(message)]
        content = json.dumps(message).encode()
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(lengths, torch.tensor([len(content)]))
        size = max(int(length) for length in lengths)
        own = torch.frombuffer(bytearray(content.ljust(size)), dtype=torch.uint8)
        told = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(told, own)
        return [json.loads(bytes(one.numpy())) for one in told]

    def first_tells(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """What number 0 tells; the others give anything, e.g. {}."""
        return self.tell(message if self.rank == 0 else {})[0]

    @_talking()
    @torch.no_grad()
    def share_weights(self, modules: Mapping[str, nn.Module]) -> None:
        """All begin from the weights and buffers of number 0."""
        if self.is_alone:
            return
        for module in modules.values():
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)

    @_talking()
    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Every process has the sum of all gradients; a parameter that none of them used has none."""
        if self.is_alone:
            return
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
        dist.all_reduce(used, op=dist.ReduceOp.MAX)
        gradients = []
        for parameter, is_used in zip(parameters, used.tolist(), strict=True):
            if is_used:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            dist.all_reduce(flat)
            end = 0
            for gradient in bucket:
                start, end = end, end + gradient.numel()
                gradient.copy_(flat[start:end].view_as(gradient))

    @_talking()
    def sum_pairs(self, pairs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors `[2]` on the training's device, at least one, summed over the processes by name.

        A process may lack names that others have.
        """
        if self.is_alone:
            return dict(pairs)
        names = sorted({name for told in self.tell({"names": list(pairs)}) for name in told["names"]})
        nothing = torch.zeros_like(next(iter(pairs.values())))
        rows = torch.stack([pairs.get(name, nothing) for name in names])
        dist.all_reduce(rows)
        return dict(zip(names, rows.unbind(), strict=True))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, some 64 MB at a time: few calls, and not all of the memory twice."""
    bucket: list[Tensor] = []
    num_bytes = 0
    for gradient in gradients:
        if bucket and (num_bytes >= _BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, num_bytes = [], 0
        bucket.append(gradient)
        num_bytes += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket
