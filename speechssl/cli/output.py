"""What the command line prints: tables on standard output, progress and log lines on standard error."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from speechssl.progress import Progress

Cell = str | int | float | None


def console() -> Console:
    """Where results go."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=True)


def error_console() -> Console:
    """Where progress and log lines go."""
    return Console(file=sys.stderr, highlight=False)


def say(text: str) -> None:
    """Print a line as it is, without markup."""
    print(text)


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: bool = True) -> None:
    """Print a table; the first column is the row's name, the others are aligned to the right unless told otherwise."""
    made = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold")
    for index, header in enumerate(headers):
        made.add_column(Text(header), justify="right" if right and index else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(cell)) for cell in row))
    console().print(made)


def percent(fraction: float | None, digits: int = 1) -> str:
    """`0.1234` -> `12.3 %`."""
    return "" if fraction is None else f"{100 * fraction:.{digits}f} %"


def percent_interval(interval: tuple[float, float] | None) -> str:
    """`(0.1, 0.2)` -> `10.0 – 20.0 %`."""
    return "" if interval is None else f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f} %"


def clock(seconds: float) -> str:
    """`3725` -> `1 h 02 min`, `95` -> `1 min 35 s`, `4.2` -> `4.2 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """A bar on standard error, fed by `(done, total)`; nothing is drawn where it is no terminal."""
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(),
    )
    shown = error_console()
    with bars.Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show the project's log lines: plain `time message` where standard error is no terminal."""
    shown = error_console()
    handler: logging.Handler
    if shown.is_terminal:
        handler = RichHandler(
            console=shown, show_path=False, markup=False, log_time_format="%H:%M:%S", show_level=False
        )
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("speechssl")
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
