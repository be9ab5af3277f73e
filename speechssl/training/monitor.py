"""Watches training metrics for the ways in which self-supervised and CTC training fail, and says so in plain words.

`Monitor` decides when a symptom has lasted long enough; what the symptoms are stands in `symptoms.py`, what is
remembered for them in `watched.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from speechssl.training.symptoms import DATA_KINDS, SYMPTOMS, VALIDATION_SYMPTOMS, Severity, Symptom
from speechssl.training.watched import Thresholds, Watched

KINDS = (*(symptom.kind for symptom in (*SYMPTOMS, *VALIDATION_SYMPTOMS)), *DATA_KINDS)


@dataclass(frozen=True, kw_only=True)
class MonitorConfig(Thresholds):
    """When the monitor speaks, and whether a problem ends the run (`action` stop) or not (warn).

    Values that are not finite end the run under either action: nothing is learned any more.

    Attributes:
        action: whether a problem ends the run.
        ignore: kinds that are not looked for, e.g. loss_plateau.
        grace_steps: first updates, in which everything may look odd.
        patience_steps: updates in a row that a symptom must last.
    """

    action: Literal["warn", "stop"] = "warn"
    ignore: tuple[str, ...] = ()
    grace_steps: int = 300
    patience_steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind in self.ignore:
            if kind not in KINDS:
                raise ValueError(f"ignore: unknown kind '{kind}'; the kinds are {', '.join(KINDS)}")
        if self.grace_steps < 0 or self.patience_steps < 1:
            raise ValueError("grace_steps must not be negative and patience_steps at least 1")


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What is wrong after `step` updates: a `message` with evidence and what to change.

    `severity` is `note` (worth knowing), `problem` (ends the run if told to) or `fatal` (ends it always).
    """

    kind: str
    step: int
    message: str
    severity: Severity = "problem"


class Monitor:
    """Turns a stream of metrics into diagnoses; a pure function of that stream, and resumable."""

    def __init__(self, config: MonitorConfig) -> None:
        self.config = config
        self._watched = Watched()
        self._lasting: dict[str, int] = {}
        self._healthy: dict[str, int] = {}
        self._reported: set[str] = set()

    def observe(self, step: int, values: Mapping[str, float]) -> list[Diagnosis]:
        """Take the metrics of the update after which `step` are done; returns what was newly found.

        A kind is reported again only after it has been away for `patience_steps`.
        """
        self._watched.add(step, values, self.config)
        return self._look_for(SYMPTOMS, step)

    def observe_validation(self, step: int, values: Mapping[str, float], *, best_metric: str) -> list[Diagnosis]:
        """Take the metrics of a validation after `step` updates, of which `best_metric` chooses the checkpoint."""
        self._watched.add_validation(step, values, best_metric=best_metric)
        return self._look_for(VALIDATION_SYMPTOMS, step)

    def _look_for(self, symptoms: Sequence[Symptom], step: int) -> list[Diagnosis]:
        found = []
        for symptom in symptoms:
            if symptom.kind in self.config.ignore:
                continue
            message = symptom.check(self._watched, self.config) if self._ready(symptom, step) else None
            if message is None:
                self._note_absence(symptom)
            elif self._has_lasted(symptom):
                found.append(Diagnosis(kind=symptom.kind, step=step, message=message, severity=symptom.severity))
        return found

    def must_stop(self, diagnosis: Diagnosis) -> bool:
        """Whether a diagnosis ends the run."""
        return diagnosis.severity == "fatal" or (diagnosis.severity == "problem" and self.config.action == "stop")

    def state(self) -> dict[str, Any]:
        """JSON values from which `load_state` goes on."""
        return {
            "watched": self._watched.state(),
            "lasting": dict(self._lasting),
            "healthy": dict(self._healthy),
            "reported": sorted(self._reported),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        if state:
            self._watched = Watched.from_state(state["watched"])
            self._lasting = dict(state["lasting"])
            self._healthy = dict(state["healthy"])
            self._reported = set(state["reported"])

    def _ready(self, symptom: Symptom, step: int) -> bool:
        return step > math.ceil(self.config.grace_steps * symptom.grace)

    def _note_absence(self, symptom: Symptom) -> None:
        kind = symptom.kind
        self._lasting[kind] = 0
        self._healthy[kind] = self._healthy.get(kind, 0) + 1
        if self._healthy[kind] >= self.config.patience_steps:
            self._reported.discard(kind)

    def _has_lasted(self, symptom: Symptom) -> bool:
        kind = symptom.kind
        self._healthy[kind] = 0
        self._lasting[kind] = self._lasting.get(kind, 0) + 1
        patience = math.ceil(self.config.patience_steps * symptom.patience)
        if self._lasting[kind] < patience or kind in self._reported:
            return False
        self._reported.add(kind)
        return True


__all__ = ["KINDS", "Diagnosis", "Monitor", "MonitorConfig"]
