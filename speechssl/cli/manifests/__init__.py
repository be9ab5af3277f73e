"""`speechssl manifest ...`: one file for each subcommand, imported when it is called."""

import difflib
from importlib import import_module

from speechssl.cli.manifests.registry import SUBCOMMANDS
from speechssl.cli.output import say
from speechssl.errors import ConfigError

__all__ = ["manifest"]


def manifest(words: list[str]) -> int:
    """`speechssl manifest SUBCOMMAND ...`."""
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, SUBCOMMANDS))
        lines = [f"  {name:<{width}}  {subcommand.summary}" for name, subcommand in SUBCOMMANDS.items()]
        say("usage: speechssl manifest SUBCOMMAND [...]    speechssl manifest SUBCOMMAND --help\n")
        say("\n".join(["subcommands:", *lines, "", "example:", f"  {SUBCOMMANDS['build'].example.splitlines()[0]}"]))
        return 0
    if words[0] not in SUBCOMMANDS:
        near = difflib.get_close_matches(words[0], SUBCOMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SUBCOMMANDS)}"
        raise ConfigError(f"speechssl manifest: there is no subcommand '{words[0]}'; {hint}")
    module = import_module(f"speechssl.cli.manifests.{SUBCOMMANDS[words[0]].module}")
    code: int = module.run(words[1:])
    return code
