"""The run directory: found, compared with what is asked for, and made ready."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from speechssl.config import differing_keys, read_yaml, write_yaml
from speechssl.errors import CheckpointError, ConfigError
from speechssl.locks import locked
from speechssl.training.checkpoint import CheckpointStore
from speechssl.training.records import METRICS_FILE, write_environment
from speechssl.training.together import Together

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"
LOCK_FILE = ".lock"
_WORLD_SIZE = "world_size"
_ACCUMULATION = "training.accumulation_steps"

# What may change between the parts of one run: when to write and to stop, but nothing of what is computed.
CHANGEABLE = frozenset(
    {
        "max_steps", "log_interval", "validate_interval", "checkpoint_interval", "keep_checkpoints", "keep_best",
        "early_stopping_patience", "num_workers", "tensorboard",
    }
)  # fmt: skip
CHANGEABLE_SECTIONS = frozenset({"monitor"})


@contextmanager
def prepared_run(
    run_directory: Path,
    store: CheckpointStore,
    *,
    resolved_config: Mapping[str, Any],
    fingerprint: str,
    description: str,
    resume: bool,
) -> Iterator[tuple[int, dict[str, Any]] | None]:
    """Make or check a run directory, write config.yaml and environment.json; the checkpoint to resume, or None.

    Within the block no other training may use the directory. Of processes that train together the first one does all
    of this, and the others read the same checkpoint.

    Raises:
        ConfigError: the directory is a run of another configuration or data, is one and `resume` is false, or another
            training is writing it.
        CheckpointError: all of its checkpoints are damaged, or not all processes see the same.
    """
    together = Together()
    if not together.is_alone:
        resolved_config = {**resolved_config, _WORLD_SIZE: together.world_size}
    busy = f"{run_directory}: another training is writing there; wait for it, or choose another run directory"
    is_first = together.rank == 0
    with locked(run_directory / LOCK_FILE, busy) if is_first else nullcontext():
        found = None
        if is_first:
            found = _prepare(run_directory, store, resolved_config, fingerprint, description, resume=resume)
        step = together.first_tells({"step": None if found is None else found[0]})["step"]
        if not is_first and step is not None:
            found = step, _read_state(store, step)
        yield found


def _read_state(store: CheckpointStore, step: int) -> dict[str, Any]:
    try:
        return store.read_state(step)
    except CheckpointError as error:
        together = "processes that train together need one run directory that all can read"
        raise CheckpointError(f"{error}; {together}") from None


def _prepare(
    run_directory: Path,
    store: CheckpointStore,
    resolved_config: Mapping[str, Any],
    fingerprint: str,
    description: str,
    *,
    resume: bool,
) -> tuple[int, dict[str, Any]] | None:
    steps = store.steps()
    if not resume and (steps or (run_directory / METRICS_FILE).exists()):
        raise ConfigError(f"{run_directory}: already holds a run; choose another directory or let it resume")
    store.remove_leftovers()
    found = store.newest_usable()
    if found is not None:
        _compare_config(run_directory / CONFIG_FILE, resolved_config)
        _compare_data(run_directory, found[1].get("fingerprint"), fingerprint)
    write_yaml(resolved_config, run_directory / CONFIG_FILE)
    write_environment(
        run_directory, fingerprint=fingerprint, description=description, step=found[0] if found is not None else 0
    )
    return found


def _compare_config(path: Path, resolved_config: Mapping[str, Any]) -> None:
    if not path.exists():
        logger.warning("%s is missing; the run goes on with the configuration given now", path)
        return
    before = read_yaml(path)
    differing = {key: values for key, values in differing_keys(before, resolved_config).items() if not _may_change(key)}
    if _micro_batches(before) == _micro_batches(resolved_config):  # of an update: the same, shared in another way
        differing = {key: values for key, values in differing.items() if key not in (_WORLD_SIZE, _ACCUMULATION)}
    if differing:
        listed = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in differing.items())
        raise ConfigError(
            f"{path}: the run in this directory began with another configuration: {listed}."
            " Use the old values, or another run directory"
        )


def _may_change(key: str) -> bool:
    *sections, name = key.split(".")
    return name in CHANGEABLE or not CHANGEABLE_SECTIONS.isdisjoint(sections)


def _micro_batches(config: Mapping[str, Any]) -> int | None:
    try:
        return int(config["training"]["accumulation_steps"]) * int(config.get(_WORLD_SIZE, 1))
    except (KeyError, TypeError, ValueError):
        return None


def _compare_data(run_directory: Path, old: str | None, new: str) -> None:
    if old != new:
        raise ConfigError(
            f"{run_directory}: the data changed since this run began (fingerprint {_short(old)}, now {_short(new)});"
            " restore the manifests it began with, or use another run directory"
        )


def _short(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else f"{fingerprint[:12]}"
