"""Probing tasks other than classification, one a file; `stage` runs them, `job` is what they share."""

from speechssl.probe.tasks.stage import probe_task, run_task

__all__ = ["probe_task", "run_task"]
