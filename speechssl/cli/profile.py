"""The table of `--profile`."""

from typing import TYPE_CHECKING

from speechssl.cli.output import Cell, say, table

if TYPE_CHECKING:
    from speechssl.training.profiling import Profiler


def show_profile(profiler: "Profiler | None") -> None:
    """Print where updates went, where they were profiled."""
    if profiler is None or profiler.profile is None:
        return
    found = profiler.profile
    rows: list[tuple[Cell, ...]] = [
        (part.part, f"{part.forward_milliseconds:.1f}", f"{part.backward_milliseconds:.1f}",
         f"{part.milliseconds:.1f}", f"{100 * part.share:.1f} %")
        for part in found.parts
    ]  # fmt: skip
    rows.append(("update", "", "", f"{found.step_milliseconds:.1f}", "100 %"))
    title = f"where an update goes on {found.device}, mean of {found.num_steps}"
    table(title, ("part", "forward ms", "backward ms", "ms", "share"), rows)
    if found.warning is not None:
        say(f"warning: {found.warning}")
    say(f"trace for chrome://tracing or ui.perfetto.dev: {found.trace}")
