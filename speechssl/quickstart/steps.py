"""Steps that are done once: each leaves a marker with a fingerprint of everything it depends on."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl import __version__
from speechssl.errors import ConfigError
from speechssl.files import write_text

logger = logging.getLogger(__name__)

MARKER = "step.json"


@dataclass(frozen=True, kw_only=True)
class Step:
    """A finished step: its folder, what it told the later ones, and its fingerprint."""

    name: str
    folder: Path
    outcome: Mapping[str, Any]
    fingerprint: str
    seconds: float


class Steps:
    """Runs steps in folders below `folder`, and passes over those that are done.

    A step whose inputs changed starts afresh: its folder is removed first. One that was interrupted is called again
    with its folder as it was left, so that training can resume. Folders without a marker are never touched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(
        self, name: str, *, title: str, inputs: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]
    ) -> Step:
        """Do `work(folder)` unless it was done with the same inputs.

        Args:
            name: of the step and of its folder.
            title: what it does, for the log.
            inputs: everything its outcome depends on, as JSON values; fingerprints of earlier steps among them.
            work: does the step within the folder it is given; what it returns must be JSON values.

        Raises:
            ConfigError: the folder is there but holds something else.
        """
        folder = self.folder / name
        fingerprint = _fingerprint({"version": __version__, "step": name, **inputs})
        marker = _read(folder / MARKER)
        if marker is None and folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"{folder}: exists but was not made by the quickstart; choose another --output")
        before = 0.0
        if marker is not None and marker.get("fingerprint") == fingerprint:
            before = float(marker.get("seconds", 0.0))
            if marker.get("state") == "done":
                logger.info("%s: done before", title)
                return Step(
                    name=name, folder=folder, outcome=marker["outcome"], fingerprint=fingerprint, seconds=before
                )
            logger.info("%s: going on where it was interrupted", title)
        elif marker is not None:
            logger.info("%s: its settings or data changed, starting afresh", title)
            shutil.rmtree(folder)
        else:
            logger.info("%s", title)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / MARKER, {"state": "running", "fingerprint": fingerprint, "seconds": before})
        start = time.monotonic()
        try:
            outcome = work(folder)
        except BaseException:
            seconds = before + time.monotonic() - start
            _write(folder / MARKER, {"state": "running", "fingerprint": fingerprint, "seconds": seconds})
            raise
        seconds = before + time.monotonic() - start
        values: dict[str, Any] = {"state": "done", "fingerprint": fingerprint, "seconds": round(seconds, 1)}
        values["outcome"] = dict(outcome)
        _write(folder / MARKER, values)
        # Read back, so that what a step tells is the same whether it was done now or before.
        outcome = (_read(folder / MARKER) or values)["outcome"]
        return Step(name=name, folder=folder, outcome=outcome, fingerprint=fingerprint, seconds=seconds)


def _fingerprint(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _write(path: Path, values: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
