"""Shards made by actors of Ray, each with the model in memory; Ray Data hands out the tasks and starts lost ones again.

All nodes see the model, the manifest, the recordings and the output under the same paths. A shard that is made twice,
because an actor died after it wrote, is the same shard.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from speechssl import errors
from speechssl.embed.locks import shared
from speechssl.embed.plan import Plan, Row, ShardTask
from speechssl.embed.settings import EmbedConfig
from speechssl.embed.stage import EmbedResult, finish, load_job, prepared
from speechssl.embed.work import ShardMaker
from speechssl.errors import ConfigError, SpeechSSLError
from speechssl.progress import Progress
from speechssl.quiet import without_stderr


class RayEngine:
    """Ray Data over the shards of a plan."""

    def run(self, config: EmbedConfig, progress: Progress) -> EmbedResult:
        """Plan here, make the shards in the cluster, finish here."""
        ray = _import_ray()
        job = load_job(replace(config, device="cpu"))  # the driver computes nothing
        with _connected(ray, config.ray_address), prepared(job) as plan:
            computed = done = 0
            total = sum(len(task.rows) for task in plan.tasks)
            for outcome in _outcomes(ray, plan, _absolute(config), dict(job.facts)):
                if outcome["error"]:
                    raise getattr(errors, outcome["error"])(outcome["message"])
                computed += int(outcome["computed"])
                done += int(outcome["rows"])
                progress(done, total)
            return finish(job, plan, computed)


class ShardActor:
    """Holds the model and makes one shard after the other, as a process of `run`."""

    def __init__(self, config: EmbedConfig, facts: dict[str, Any], run: str) -> None:
        self._config, self._facts, self._run = config, facts, run
        self._until_the_end = ExitStack()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of one task -> what was done, or an error that the user can act on."""
        rows = tuple(Row(id=name, source_key=source, row_key=own) for name, source, own in batch["rows"][0])
        places = tuple(int(place) for place in batch["places"][0])
        task = ShardTask(number=int(batch["number"][0]), places=places, rows=rows)
        try:
            computed = self._make(task)
        except SpeechSSLError as error:  # as a row of the results: Ray would print it as a failure of its own
            node = os.uname().nodename
            return {"computed": [0], "rows": [0], "error": [type(error).__name__], "message": [f"{node}: {error}"]}
        return {"computed": [computed], "rows": [len(rows)], "error": [""], "message": [""]}

    @cached_property
    def _make(self) -> ShardMaker:
        job = load_job(self._config)
        if dict(job.facts) != self._facts:
            raise ConfigError(
                f"{self._config.checkpoint}: this node has another model under that name than the driver's"
            )
        self._until_the_end.enter_context(shared(job.folder, self._run))
        return job.maker()


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """With a connection to the cluster at `address`, or to one of this machine alone; one that is there stays."""
    if ray.is_initialized():
        yield
        return
    with _environment(_AT_START), without_stderr():  # where Ray tells that it found the level of its messages
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise ConfigError(
                f"ray_address={address}: no cluster answers there ({error}); start one with `ray start --head`, or"
                " leave ray_address out"
            ) from None
    try:
        yield
    finally:
        ray.shutdown()


# What a user has set stays. Ray sends statistics of use home by default, and every run of Ray Data begins with an error
# that is none: its actors could not be restarted if the driver lost their arguments, which it keeps.
_AT_START = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@contextmanager
def _environment(defaults: dict[str, str]) -> Iterator[None]:
    missing = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            del os.environ[name]


def _absolute(config: EmbedConfig) -> EmbedConfig:
    """The same in another working directory, and with nothing left of the engine."""
    weights = config.pool_weights
    return replace(
        config,
        checkpoint=os.path.abspath(config.checkpoint) if Path(config.checkpoint).exists() else config.checkpoint,
        manifest=config.manifest.absolute(),
        output=config.output.absolute(),
        pool_weights=None if weights is None else weights.absolute(),
        engine="local",
    )


def _outcomes(ray: Any, plan: Plan, config: EmbedConfig, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What was done, a task at a time, in the order in which they are finished."""
    tasks = plan.tasks
    if not tasks:
        return
    items = [
        {
            "number": task.number,
            "places": list(task.places),
            "rows": [[row.id, row.source_key, row.row_key] for row in task.rows],
        }
        for task in tasks
    ]
    with _settings_of_ray_data(ray):
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardActor,
            fn_constructor_args=(config, facts, plan.run),
            batch_size=1,
            # From one actor on, so that a cluster with less room than was asked for does what it can.
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=min(config.ray_actors, len(tasks)),
                initial_size=min(config.ray_actors, len(tasks)),
                max_tasks_in_flight_per_actor=2,
            ),
            num_cpus=config.ray_cpus,
            num_gpus=config.ray_gpus,
        )
        yield from dataset.iter_rows()


@contextmanager
def _settings_of_ray_data(ray: Any) -> Iterator[None]:
    """Ray Data without bars and talk of its own, and without its limit of 30 minutes for a task; then as it was."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False, "execution_no_progress_timeout_s": -1}
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    level = logger.level
    try:
        for name in before:
            setattr(context, name, wanted[name])
        logger.setLevel(logging.ERROR)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("engine ray needs Ray: pip install 'speechssl[ray]'") from None
    return ray
