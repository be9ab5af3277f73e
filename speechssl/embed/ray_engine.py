"""Shards made by actors of Ray, each with the model in memory; Ray Data hands out the tasks and starts lost ones again.

All nodes see the model, the manifest, the recordings and the output under the same paths. A shard that is made twice,
because an actor died after it wrote, is the same shard.
"""

from dataclasses import replace
from typing import Any

from speechssl.embed.engines import Progress
from speechssl.embed.plan import Row, ShardTask
from speechssl.embed.settings import EmbedConfig
from speechssl.embed.stage import EmbedResult, finish, load_job, prepared
from speechssl.errors import ConfigError


class RayEngine:
    """Ray Data over the shards of a plan."""

    def run(self, config: EmbedConfig, progress: Progress) -> EmbedResult:
        """Plan here, make the shards in the cluster, finish here."""
        ray = _import_ray()
        started = not ray.is_initialized()
        if started:
            ray.init(address=config.ray_address, include_dashboard=False, log_to_driver=False)
        try:
            job = load_job(replace(config, device="cpu"))  # the driver computes nothing
            with prepared(job) as plan:
                computed = done = 0
                total = sum(len(task.rows) for task in plan.tasks)
                absolute = replace(
                    config, manifest=config.manifest.absolute(), output=config.output.absolute(), engine="local"
                )
                for outcome in _outcomes(ray, plan.tasks, absolute, dict(job.facts)):
                    computed += int(outcome["computed"])
                    done += int(outcome["rows"])
                    progress(done, total)
                return finish(job, plan, computed)
        finally:
            if started:
                ray.shutdown()


class ShardActor:
    """Holds the model and makes one shard after the other."""

    def __init__(self, config: EmbedConfig, facts: dict[str, Any]) -> None:
        self._job = load_job(config)
        if dict(self._job.facts) != facts:
            raise ConfigError(f"{config.checkpoint}: this node has another model under that name than the driver's")
        self._make = self._job.maker()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of one task -> what was done."""
        rows = [Row(id=name, source_key=source, row_key=own) for name, source, own in batch["rows"][0]]
        task = ShardTask(
            number=int(batch["number"][0]), places=tuple(int(place) for place in batch["places"][0]), rows=tuple(rows)
        )
        return {"computed": [self._make(task)], "rows": [len(rows)]}


def _outcomes(ray: Any, tasks: tuple[ShardTask, ...], config: EmbedConfig, facts: dict[str, Any]) -> Any:
    """What was done, a task at a time, in the order in which they are finished."""
    if not tasks:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    items = [
        {
            "number": task.number,
            "places": list(task.places),
            "rows": [[row.id, row.source_key, row.row_key] for row in task.rows],
        }
        for task in tasks
    ]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        ShardActor,
        fn_constructor_args=(config, facts),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(config.ray_actors, len(tasks)), max_tasks_in_flight_per_actor=2),
        num_cpus=config.ray_cpus,
        num_gpus=config.ray_gpus,
    )
    yield from dataset.iter_rows()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("engine ray needs Ray: pip install 'speechssl[ray]'") from None
    return ray
