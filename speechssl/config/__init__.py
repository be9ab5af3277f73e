"""Configurations: frozen dataclasses, from YAML files and command-line overrides, and back.

`load_config` and `from_dict` are the one door: every value is converted by the type that the dataclass declares, so
`1e-4` (text, to YAML 1.1) is a number where a number is asked for and `no` stays text where text is. Unknown keys are
refused with the nearest name. There is no interpolation, no include and no class name in a file.
"""

import dataclasses
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from speechssl.config.convert import build, field_types, nested_dataclass
from speechssl.errors import ConfigError
from speechssl.files import write_text

__all__ = [
    "differing_keys",
    "flatten",
    "from_dict",
    "known_keys",
    "load_config",
    "read_yaml",
    "to_dict",
    "write_yaml",
]

Config = TypeVar("Config")


def load_config(
    cls: type[Config], path: Path | str | None = None, overrides: Mapping[str, Any] | Sequence[str] = ()
) -> Config:
    """The configuration `cls` with the values of the YAML file `path`, then `overrides`, over its defaults.

    `overrides` is a mapping, nested or with dotted keys (`{"optim.peak_lr": 1e-3}`), or texts `"optim.peak_lr=1e-3"`.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong; the message names file and key.
    """
    values: dict[str, Any] = {}
    sources = []
    if path is not None:
        values = read_yaml(path)
        sources.append(str(path))
    if overrides:
        pairs = overrides if isinstance(overrides, Mapping) else _parse_assignments(overrides)
        _merge(values, pairs, prefix="")
        sources.append("command line" if path is None else "command-line values")
    return from_dict(cls, values, source=" and ".join(sources) or "configuration")


def from_dict(cls: type[Config], mapping: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """The dataclass `cls` from a nested mapping; absent keys keep their defaults. `source` begins every message.

    A partly given nested configuration keeps the other values of the *parent's* default for it. Dotted keys are
    accepted beside nested ones. A dataclass may have a class method `fill_values(values, *, source)` that sets what
    `values` leaves out (a preset); what it returns is used instead.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing or a wrong value.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"cls must be a dataclass, but is {cls!r}")
    values: dict[str, Any] = {}
    _merge(values, mapping, prefix="", source=source)
    _refuse_unknown(cls, values, source)
    fill_values = getattr(cls, "fill_values", None)
    if fill_values is not None:
        values = fill_values(values, source=source)
    return cast(Config, build(cls, values, default=None, key="", source=source))


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain values (text, numbers, booleans, None, lists, dicts), ready for JSON or YAML."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def write_yaml(config: Any, path: Path | str) -> None:
    """Write a configuration (dataclass or mapping) as YAML, beside and renamed; `load_config` reads it back equal."""
    from speechssl.config.yaml_file import dump_yaml

    values = _plain(config) if isinstance(config, Mapping) else to_dict(config)
    write_text(Path(path), dump_yaml(values))


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; empty mappings stay as values."""
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file is missing, is not UTF-8, not YAML (with line and column) or not a mapping.
    """
    # models and training steps run where PyYAML is not installed
    from speechssl.config.yaml_file import read_yaml as read

    return read(path)


def differing_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in first, value in second) where two plain configurations differ; absent counts as None."""
    left, right = flatten(first), flatten(second)
    keys = sorted(left.keys() | right.keys())
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def known_keys(cls: type[Any], prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass and of those nested in it."""
    keys = []
    for name, declared in field_types(cls).items():
        keys.append(f"{prefix}{name}")
        nested = nested_dataclass(declared)
        if nested is not None:
            keys.extend(known_keys(nested, f"{prefix}{name}."))
    return keys


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    if isinstance(assignments, str):
        raise TypeError(f"overrides must be a sequence of texts, but is the text {assignments!r}")
    from speechssl.config.yaml_file import parse_yaml

    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"command line: {assignment!r} is not key=value; write for example optim.peak_lr=1e-3")
        text = text.strip()
        # Everything else stays text: the declared type decides, so that speaker=007 keeps its zeros.
        is_yaml = text.startswith(("[", "{")) or text == "null"
        values[key.strip().lstrip("-")] = parse_yaml(text, source=f"command line: {key}") if is_yaml else text
    return values


def _merge(into: dict[str, Any], values: Mapping[str, Any], *, prefix: str, source: str = "configuration") -> None:
    """Lay `values` over `into`, nested mapping by nested mapping; dotted keys are opened."""
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(f"{source}: the key {prefix}{key!r} must be text; put it in quotes")
        name, _, rest = key.partition(".")
        if rest:
            value = {rest: value}
        if isinstance(value, Mapping):
            nested = into.get(name)
            target: dict[str, Any] = dict(nested) if isinstance(nested, Mapping) else {}
            _merge(target, value, prefix=f"{prefix}{name}.", source=source)
            into[name] = target
        else:
            into[name] = value


def _refuse_unknown(cls: type[Any], values: Mapping[str, Any], source: str) -> None:
    everything = known_keys(cls)

    def check(owner: type[Any], part: Mapping[str, Any], prefix: str) -> None:
        fields = field_types(owner)
        for name, value in part.items():
            if name not in fields:
                raise ConfigError(_unknown_message(f"{prefix}{name}", prefix, list(fields), everything, source))
            nested = nested_dataclass(fields[name])
            if nested is not None and isinstance(value, Mapping):
                check(nested, value, f"{prefix}{name}.")

    check(cls, values, "")


def _unknown_message(key: str, prefix: str, siblings: list[str], everything: list[str], source: str) -> str:
    name = key.removeprefix(prefix)
    leaves = {known.rpartition(".")[2]: known for known in reversed(everything)}
    nearest = [f"{prefix}{match}" for match in difflib.get_close_matches(name, siblings, n=1)]
    nearest = nearest or [leaves[match] for match in difflib.get_close_matches(name, leaves, n=1)]
    if nearest:
        return f"{source}: unknown key '{key}'; did you mean '{nearest[0]}'?"
    where = f"under '{prefix[:-1]}'" if prefix else "here"
    return f"{source}: unknown key '{key}'; the keys {where} are {', '.join(sorted(siblings))}"
