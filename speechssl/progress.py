"""How long work tells who asked for it how far it is; on the command line `speechssl.cli.output` makes bars of it."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (how many are done, how many there are)."""

StepProgress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is)."""

Tell = Callable[[str], None]
"""Called with what is being done, in words."""
