"""The run directory: found, compared with what is asked for, and made ready."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechssl.config import differing_keys, read_yaml, write_yaml
from speechssl.errors import ConfigError
from speechssl.training.checkpoint import CheckpointStore
from speechssl.training.records import METRICS_FILE, write_environment

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"

# What may change between the parts of one run: when to write and to stop, but nothing of what is computed.
CHANGEABLE = frozenset(
    {
        "max_steps", "log_interval", "validate_interval", "checkpoint_interval", "keep_checkpoints", "keep_best",
        "early_stopping_patience", "num_workers", "tensorboard",
    }
)  # fmt: skip
CHANGEABLE_SECTIONS = frozenset({"monitor"})


def prepare_run(
    run_directory: Path,
    store: CheckpointStore,
    *,
    resolved_config: Mapping[str, Any],
    fingerprint: str,
    description: str,
    resume: bool,
) -> tuple[int, dict[str, Any]] | None:
    """Make or check a run directory, write config.yaml and environment.json; the checkpoint to resume, or None.

    Raises:
        ConfigError: the directory is a run of another configuration or data, or is one and `resume` is false.
        CheckpointError: all of its checkpoints are damaged.
    """
    run_directory.mkdir(parents=True, exist_ok=True)
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
    differing = {
        key: values for key, values in differing_keys(read_yaml(path), resolved_config).items() if not _may_change(key)
    }
    if differing:
        listed = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in differing.items())
        raise ConfigError(
            f"{path}: the run in this directory began with another configuration: {listed}."
            " Use the old values, or another run directory"
        )


def _may_change(key: str) -> bool:
    *sections, name = key.split(".")
    return name in CHANGEABLE or not CHANGEABLE_SECTIONS.isdisjoint(sections)


def _compare_data(run_directory: Path, old: str | None, new: str) -> None:
    if old != new:
        raise ConfigError(
            f"{run_directory}: the data changed since this run began (fingerprint {_short(old)}, now {_short(new)});"
            " restore the manifests it began with, or use another run directory"
        )


def _short(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else f"{fingerprint[:12]}"
