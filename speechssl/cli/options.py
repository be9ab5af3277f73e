"""From command-line words to a stage's configuration.

Values are converted by `speechssl.config`, the same way for files and for options, so that both give the same errors;
`speechssl.cli.help` describes the dataclass for `--help`.
"""

import dataclasses
import difflib
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from speechssl.cli.help import HELP_WORDS
from speechssl.cli.help.describe import AS_JSON, describe
from speechssl.config import load_config, to_dict
from speechssl.config.yaml_file import dump_yaml
from speechssl.errors import ConfigError

Config = TypeVar("Config")

_BOOLEAN_WORDS = {"true", "false", "yes", "no", "on", "off", "null"}


@dataclass
class _Words:
    """What stands on a command line: `--key value` pairs in order, and the words that belong to none."""

    assignments: list[str] = field(default_factory=list)
    positionals: list[str] = field(default_factory=list)
    config: Path | None = None
    print_config: bool = False


def stage_config(
    command: str,
    config_class: type[Config],
    words: Sequence[str],
    *,
    example: str,
    summary: str,
    positionals: Sequence[str] = (),
) -> Config | None:
    """The configuration that `words` describe, or None where they asked for `--help` or `--print_config`.

    Args:
        command: as the user types it, for messages.
        config_class: the stage's configuration.
        words: what follows the command.
        example: one or more command lines that work, for `--help`.
        summary: what the command does, for `--help`.
        positionals: keys that may be given by position; the last takes all remaining words where it is a list.

    Raises:
        ConfigError: an option or value is wrong.
    """
    if AS_JSON in words or any(word in words for word in HELP_WORDS):
        text = describe(command, config_class, example=example, summary=summary, positionals=positionals)
        sys.stdout.write(text.to_json() if AS_JSON in words else text.laid_out())
        return None
    split = _split_words(command, config_class, words)
    assignments = split.assignments + _assign_positionals(command, config_class, split.positionals, positionals)
    config = load_config(config_class, split.config, assignments)
    if split.print_config:
        sys.stdout.write(dump_yaml(to_dict(config)))
        return None
    return config


def nearest_option(name: str, known: Sequence[str]) -> str:
    """`; did you mean --x?` where some known option is near, also one of the same last part; else empty."""
    last = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    near = near or [key for key in known if key.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(last, [key.rpartition(".")[2] for key in known], n=1, cutoff=0.75)
    if not near:
        return ""
    best = near[0] if near[0] in known else next(key for key in known if key.rpartition(".")[2] == near[0])
    return f"; did you mean --{best}?"


def _split_words(command: str, config_class: type[Any], words: Sequence[str]) -> _Words:
    kinds = _kinds(config_class)
    found = _Words()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            found.positionals += rest
            break
        if not word.startswith("--"):
            if word.startswith("-") and len(word) > 1 and not word[1].isdigit():
                raise ConfigError(f"speechssl {command}: unknown option {word}; options begin with --")
            found.positionals.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name == "print_config":
            found.print_config = True
            continue
        if not equals:
            value = _take_value(command, name, kinds.get(name), rest)
        if name == "config":
            found.config = Path(value)
        elif name in kinds or any(name.startswith(f"{key}.") and kind is dict for key, kind in kinds.items()):
            found.assignments.append(f"{name}={value}")
        else:
            known = [*kinds, "config", "print_config"]
            raise ConfigError(
                f"speechssl {command}: unknown option --{name}{nearest_option(name, known)}"
                if nearest_option(name, known)
                else f"speechssl {command}: unknown option --{name}; see speechssl {command} --help"
            )
    return found


def _take_value(command: str, name: str, kind: Any, rest: list[str]) -> str:
    """Remove an option's value from the front of `rest`; lists take all words up to the next option."""
    following: list[str] = []
    while rest and not rest[0].startswith("--"):
        if following and kind is not list:
            break
        if kind is bool and rest[0].lower() not in _BOOLEAN_WORDS:
            break
        following.append(rest.pop(0))
    if kind is bool and not following:
        return "true"
    if not following:
        raise ConfigError(f"speechssl {command}: --{name} needs a value: --{name} VALUE")
    if kind is list and not (len(following) == 1 and (following[0].startswith("[") or following[0] == "null")):
        return json.dumps(following)
    return following[0]


def _assign_positionals(command: str, config_class: type[Any], given: Sequence[str], names: Sequence[str]) -> list[str]:
    kinds = _kinds(config_class)
    assignments = []
    rest = list(given)
    for name in names:
        if not rest:
            break
        if kinds.get(name) is list:
            assignments.append(f"{name}={json.dumps(rest)}")
            rest = []
        else:
            assignments.append(f"{name}={rest.pop(0)}")
    if rest:
        hint = (
            f"it takes {' '.join(name.upper() for name in names)}" if names else "values follow an option: --key value"
        )
        raise ConfigError(f"speechssl {command}: unexpected word '{rest[0]}'; {hint}")
    return assignments


def _kinds(config_class: type[Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> bool, list, dict or None (anything else), as far as the command line must tell them apart."""
    kinds: dict[str, Any] = {}
    for name, declared in typing.get_type_hints(config_class).items():
        kinds[prefix + name] = None
        is_union = get_origin(declared) in (typing.Union, types.UnionType)
        for member in get_args(declared) if is_union else (declared,):
            origin = get_origin(member) or member
            if origin is bool:
                kinds[prefix + name] = bool
            elif origin in (tuple, list, Sequence):
                kinds[prefix + name] = list
            elif origin in (dict, Mapping):
                kinds[prefix + name] = dict
            elif isinstance(origin, type) and dataclasses.is_dataclass(origin):
                kinds.update(_kinds(origin, f"{prefix}{name}."))
    return kinds
