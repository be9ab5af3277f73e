"""Help texts of the commands, written down so that none has to import the stage that it describes.

Types, defaults and docstrings of a stage's configuration are in modules that import torch, which takes seconds. So what
`describe` finds there is kept in `texts/`, and laid out for the width of the terminal when it is asked for.

    python -m speechssl.cli.help          # after options or their docstrings have changed

A test holds the stored texts to those of the code.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"
HELP_WORDS = ("-h", "--help")


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options that stand together: how each is called, and what it does."""

    title: str | None
    description: str | None
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class HelpText:
    """A command's help before it is laid out in lines."""

    usage: str
    description: str
    groups: tuple[OptionGroup, ...]
    epilog: str

    def laid_out(self) -> str:
        """For the width of the terminal."""
        formatter = argparse.RawDescriptionHelpFormatter(prog="speechssl")
        formatter.add_usage(_escaped(self.usage), [], [])
        formatter.add_text(_escaped(self.description))
        for group in self.groups:
            formatter.start_section(group.title)
            formatter.add_text(None if group.description is None else _escaped(group.description))
            for name, text in group.options:
                formatter.add_argument(argparse.Action([], dest=name, metavar=name, help=_escaped(text)))
            formatter.end_section()
        formatter.add_text(_escaped(self.epilog))
        return re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", formatter.format_help())

    def to_json(self) -> str:
        """For `texts/`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def stored_help(words: Sequence[str]) -> str | None:
    """What `speechssl WORDS` prints, if that is the stored help of a command."""
    if words[-1] not in HELP_WORDS or any(word.startswith("-") for word in words[:-1]):
        return None
    path = text_path(words[:-1])
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    groups = tuple(
        OptionGroup(**{**group, "options": tuple(map(tuple, group["options"]))}) for group in values.pop("groups")
    )
    return HelpText(**values, groups=groups).laid_out()


def text_path(command: Sequence[str]) -> Path:
    """Where the text of `manifest build` is stored."""
    return TEXTS / f"{'-'.join(re.sub(r'[^a-z-]', '_', word) for word in command)}.json"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
