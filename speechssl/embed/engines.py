"""Who makes the shards: this process, the ranks of torchrun, or actors of Ray.

All follow the same plan and write the same files; so an engine may be changed between two runs of a table.
"""

import os
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from speechssl.embed.locks import shared
from speechssl.embed.plan import Plan
from speechssl.embed.settings import EmbedConfig
from speechssl.embed.stage import EmbedResult, Job, finish, load_job, prepared
from speechssl.progress import Progress

MAX_WAIT = timedelta(days=30)  # of a rank for the slowest one


class Engine(Protocol):
    """Brings a table up to date."""

    def run(self, config: EmbedConfig, progress: Progress) -> EmbedResult:
        """Plan, make the shards, finish."""
        ...


def choose_engine(config: EmbedConfig) -> Engine:
    """By the configuration, and by whether torchrun started this process."""
    if config.engine == "ray":
        from speechssl.embed.ray_engine import RayEngine

        return RayEngine()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        return RankEngine()
    return LocalEngine()


class LocalEngine:
    """One shard after the other in this process."""

    def run(self, config: EmbedConfig, progress: Progress) -> EmbedResult:
        """Plan, make the shards, finish."""
        job = load_job(config)
        with prepared(job) as plan:
            make = job.maker()
            total = sum(len(task.rows) for task in plan.tasks)
            done = computed = 0
            for task in plan.tasks:
                computed += make(task, partial(_report, progress, done, total))
                done += len(task.rows)
                progress(done, total)
            return finish(job, plan, computed)


def _report(progress: Progress, before: int, total: int, count: int) -> None:
    progress(before + count, total)


class RankEngine:
    """Every rank of torchrun makes every `world_size`-th shard; the first one plans and finishes.

    A rank that dies takes the others with it, as torchrun does; the same command goes on with what is missing.
    """

    def run(self, config: EmbedConfig, progress: Progress) -> EmbedResult:
        """Plan, make the shards, finish; all ranks return the same."""
        import torch.distributed as dist

        own_group = not dist.is_initialized()
        if own_group:
            dist.init_process_group("gloo", timeout=MAX_WAIT)
        try:
            return self._run(config, progress)
        finally:
            if own_group:
                dist.destroy_process_group()

    def _run(self, config: EmbedConfig, progress: Progress) -> EmbedResult:
        import torch.distributed as dist

        job = load_job(config)
        if dist.get_rank() == 0:
            with prepared(job) as plan:
                _broadcast(plan)
                computed = _sum(self._make_share(job, plan, progress))
                result = finish(job, plan, computed)
            _broadcast(result)
            return result
        plan = _broadcast(None)
        with shared(job.folder, plan.run):
            _sum(self._make_share(job, plan, lambda done, total: None))
        found: EmbedResult = _broadcast(None)
        return found

    def _make_share(self, job: Job, plan: Plan, progress: Progress) -> int:
        """Recordings that this rank computed; progress is told of its own share."""
        import torch.distributed as dist

        make = job.maker()
        share = plan.tasks[dist.get_rank() :: dist.get_world_size()]
        total = sum(len(task.rows) for task in share)
        done = computed = 0
        for task in share:
            computed += make(task)
            done += len(task.rows)
            progress(done, total)
        return computed


def _broadcast(value: Any) -> Any:
    """What rank 0 gives, on all ranks."""
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _sum(count: int) -> int:
    """The sum over all ranks, once all have come here."""
    import torch
    import torch.distributed as dist

    total = torch.tensor(count)
    dist.all_reduce(total)
    return int(total)
