"""Training: one loop with exact resume for every objective; knows no audio."""

from speechssl.training.loop import train
from speechssl.training.monitor import Diagnosis, MonitorConfig
from speechssl.training.optim import OptimConfig, learning_rate
from speechssl.training.task import Task, TrainingConfig, TrainingResult

__all__ = [
    "Diagnosis",
    "MonitorConfig",
    "OptimConfig",
    "Task",
    "TrainingConfig",
    "TrainingResult",
    "learning_rate",
    "train",
]
