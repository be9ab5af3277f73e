"""How a run shows where it is: a live bar on a terminal, plain log lines elsewhere."""

import logging
import sys
from collections.abc import Mapping
from typing import Any, Protocol

logger = logging.getLogger(__name__)


class TrainingProgress(Protocol):
    """Shows steps and metrics; knows nothing of training."""

    def advance(self, step: int) -> None:
        """`step` updates are done."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """New averaged values."""

    def close(self) -> None:
        """Take the bar away."""


def make_progress(description: str, *, step: int, max_steps: int, is_shown: bool = True) -> TrainingProgress:
    """A live bar when standard error is a terminal and rich is installed, else log lines; nothing where not shown."""
    if not is_shown:
        return NoProgress()
    if sys.stderr.isatty():
        try:
            return RichProgress(description, step=step, max_steps=max_steps)
        except ImportError:
            pass
    return LogProgress(description, max_steps=max_steps)


def summary(values: Mapping[str, float]) -> str:
    """The few numbers that a watcher wants, as text."""
    parts = [f"loss {values['loss']:.3f}"] if "loss" in values else []
    if "audio_hours" in values:
        parts.append(f"{values['audio_hours']:.2f} h of audio")
    if "audio_seconds_per_second" in values:
        parts.append(f"{values['audio_seconds_per_second']:.0f} audio s/s")
    for name in ("accuracy", "code_perplexity", "valid_loss", "valid_wer"):
        if name in values:
            parts.append(f"{name.replace('_', ' ')} {values[name]:.3g}")
    return ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """`75` -> `1:15`, `3700` -> `1:01:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class NoProgress:
    """Shows nothing: another process does."""

    def advance(self, step: int) -> None:
        """Nothing."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LogProgress:
    """One line in the log for each set of values."""

    def __init__(self, description: str, *, max_steps: int) -> None:
        self._description = description
        self._max_steps = max_steps

    def advance(self, step: int) -> None:
        """Nothing: lines come with metrics."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values."""
        left = values.get("seconds_left")
        ending = f", {format_seconds(left)} left" if left is not None else ""
        logger.info("%s: step %d/%d, %s%s", self._description, step, self._max_steps, summary(values), ending)

    def close(self) -> None:
        """Nothing to take away."""


class RichProgress:
    """A live bar with the newest values and the time left."""

    def __init__(self, description: str, *, step: int, max_steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._progress: Any = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=10),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[left]}", table_column=Column(no_wrap=True)),
            # On a narrow terminal only this last one is shortened.
            TextColumn("{task.fields[summary]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
            expand=True,
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(description, total=max_steps, completed=step, left="", summary="")
        self._shown: dict[str, float] = {}
        self._progress.start()

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Show the values; earlier ones of other names stay."""
        self._shown.update(values)
        left = f"{format_seconds(self._shown['seconds_left'])} left" if "seconds_left" in self._shown else ""
        self._progress.update(self._task, completed=step, left=left, summary=summary(self._shown))

    def close(self) -> None:
        """Stop the live display; the last state stays on screen."""
        self._progress.stop()
