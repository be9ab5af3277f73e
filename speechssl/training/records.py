"""What a run leaves beside its checkpoints: metrics.jsonl, TensorBoard events and environment.json."""

import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from speechssl.files import write_text
from speechssl.jobs import num_cores
from speechssl.training.together import Together

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
ENVIRONMENT_FILE = "environment.json"
_PACKAGES = (
    "speechssl", "torch", "torchaudio", "numpy", "safetensors", "soundfile", "soxr", "librosa", "pyarrow", "jiwer",
    "whisper-normalizer", "scikit-learn",
)  # fmt: skip


class MetricsLog:
    """`metrics.jsonl` (one object a line, each with `step`) and, beside it, TensorBoard.

    Opened at a step, it drops every line after that step, so that a resumed run holds no step twice.
    """

    def __init__(self, run_directory: Path, *, step: int, tensorboard: bool) -> None:
        self._path = run_directory / METRICS_FILE
        _truncate(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")
        self._writer = _summary_writer(run_directory, step) if tensorboard else None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write metrics; a value that is not finite becomes null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._line({"step": step, **finite})
        if self._writer is not None:
            for name, value in values.items():
                group = "valid" if name.startswith("valid_") else "train"
                self._writer.add_scalar(f"{group}/{name.removeprefix('valid_')}", value, step)

    def event(self, step: int, event: str, /, **details: Any) -> None:
        """Write something that happened: `{"step": 10, "event": event, ...}`."""
        self._line({"step": step, "event": event, **details})
        if self._writer is not None:
            self._writer.add_text(event, str(details.get("message", details)), step)

    def flush(self) -> None:
        """Force everything written so far to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flush and close both."""
        self.flush()
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def _line(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(values, allow_nan=False) + "\n")
        self._file.flush()


class NoLog:
    """In place of a `MetricsLog` in a process that writes nothing, because another one does."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def event(self, step: int, event: str, /, **details: Any) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(run_directory: Path) -> list[dict[str, Any]]:
    """All lines of a run's `metrics.jsonl`; a torn one, or one without a step, is left out."""
    path = run_directory / METRICS_FILE
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [values for line in lines if (values := _parse(line)) is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int | float) else None


def _truncate(path: Path, step: int) -> None:
    """Keep the lines up to `step`, through a renamed copy."""
    if not path.exists():
        return
    kept = [line for line in read_metrics(path.parent) if line["step"] <= step] if step > 0 else []
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def _summary_writer(run_directory: Path, step: int) -> Any | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("tensorboard is not installed; curves go to metrics.jsonl only")
        return None
    # Points that a killed run wrote after its last checkpoint are hidden by TensorBoard from `purge_step` on.
    return SummaryWriter(str(run_directory / "tensorboard"), purge_step=step + 1)


def write_environment(run_directory: Path, *, fingerprint: str, description: str, step: int) -> None:
    """Write `environment.json`; a resumed run adds to its `restarts` and leaves the first start as it was."""
    path = run_directory / ENVIRONMENT_FILE
    now = environment()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = {"description": description, "data_fingerprint": fingerprint, **now, "restarts": []}
    else:
        changed = {name: value for name, value in now.items() if name == "time" or values.get(name) != value}
        values.setdefault("restarts", []).append({"step": step, **changed})
    write_text(path, json.dumps(values, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Time, command, commit, versions and hardware, as JSON values."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "platform": platform.platform(),
            "processor": _processor(),
            "cores": num_cores(),
            "threads": torch.get_num_threads(),
            "processes": Together().world_size,
            "gpus": gpus,
        },
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """The commit of the source checkout that runs, with `-dirty` when it was changed; None for an installed package."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
