"""Help of a stage, from the docstrings and types of its configuration, by way of jsonargparse."""

import argparse
import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

from speechssl.cli.help import HelpText, OptionGroup

AS_JSON = "--help_as_json"
"""A word to a stage's command that prints what `texts/` holds of it."""


def describe(
    command: str, config_class: type[Any], *, example: str, summary: str, positionals: Sequence[str] = ()
) -> HelpText:
    """The help of the stage that `config_class` configures; see `speechssl.cli.options.stage_config`."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    groups: list[OptionGroup] = []

    class Recorder(DefaultHelpFormatter):
        """Notes what it is told to lay out."""

        def start_section(self, heading: str | None) -> None:
            groups.append(OptionGroup(title=heading, description=None, options=()))
            super().start_section(heading)

        def add_text(self, text: str | None) -> None:
            if groups and self._current_section is not self._root_section:
                groups[-1] = OptionGroup(title=groups[-1].title, description=text, options=())
            super().add_text(text)

        def add_argument(self, action: argparse.Action) -> None:
            if action.help is not argparse.SUPPRESS:
                option = (self._format_action_invocation(action), self._expand_help(action))
                last = groups[-1]
                groups[-1] = OptionGroup(
                    title=last.title, description=last.description, options=(*last.options, option)
                )
            super().add_argument(action)

    words = " ".join(name.upper() for name in positionals)
    parser = ArgumentParser(prog=f"speechssl {command}", formatter_class=Recorder, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file of the keys below; options override it")
    parser.add_argument("--print_config", action="store_true", help="print the resulting configuration and exit")
    parser.add_class_arguments(config_class, None)
    for action in parser._actions:
        if action.metavar == "CONFIG":  # nested configurations come from --config, or key by key
            action.help = argparse.SUPPRESS
    parser.format_help()
    return HelpText(
        usage=f"speechssl {command} {words + ' ' if words else ''}[--config FILE] [--key value ...] [--print_config]",
        description=summary,
        groups=tuple(groups),
        epilog="example:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
    )


def commands() -> Iterator[str]:
    """All commands whose help is that of a configuration."""
    from speechssl.cli import COMMANDS
    from speechssl.cli.manifests.registry import SUBCOMMANDS

    yield from (name for name in COMMANDS if name != "manifest")
    yield from (f"manifest {name}" for name in SUBCOMMANDS)
    yield "units apply"


def described(command: str) -> str:
    """What `texts/` should hold of a command; imports its stage."""
    from speechssl.cli import main

    with redirect_stdout(io.StringIO()) as printed:
        code = main([*command.split(), AS_JSON])
    if code != 0:
        raise RuntimeError(f"speechssl {command} {AS_JSON}: ended with {code}")
    return printed.getvalue()
