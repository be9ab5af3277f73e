"""Probes: how much a frozen representation tells, beside hand-made features and random encoders.

`run` classifies utterances by a label; `run_task` verifies speakers, classifies frames, recognises by a small CTC head,
or discriminates without training (ABX).
"""

from speechssl.probe.classify import Difference, LayerScore, ProbeScore
from speechssl.probe.features import BASELINES, Pooling
from speechssl.probe.results import TaskResult, TaskScore
from speechssl.probe.settings import ProbeConfig, ProbeResult
from speechssl.probe.stage import probe, run
from speechssl.probe.tasks import probe_task, run_task

__all__ = [
    "BASELINES",
    "Difference",
    "LayerScore",
    "Pooling",
    "ProbeConfig",
    "ProbeResult",
    "ProbeScore",
    "TaskResult",
    "TaskScore",
    "probe",
    "probe_task",
    "run",
    "run_task",
]
