"""Watches training metrics for the ways in which self-supervised and CTC training fail."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """When to speak up (`action` warn) or end the run (stop)."""

    action: Literal["warn", "stop"] = "warn"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong, with its evidence and what to change, after `step` updates."""

    kind: str
    step: int
    message: str
    fatal: bool = False


class Monitor:
    """Placeholder that says nothing yet."""

    def __init__(self, config: MonitorConfig) -> None:
        self.config = config

    def observe(self, step: int, values: dict[str, float]) -> list[Diagnosis]:
        return []

    def must_stop(self, diagnosis: Diagnosis) -> bool:
        return diagnosis.fatal or self.config.action == "stop"

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        return None
