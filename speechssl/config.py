"""Configurations: frozen dataclasses, from YAML files and command-line overrides, and back.

`load_config` and `from_dict` are the one door: every value is converted by the type that the dataclass declares, so
`1e-4` (text, to YAML 1.1) is a number where a number is asked for and `no` stays text where text is. Unknown keys are
refused with the nearest name. There is no interpolation, no include and no class name in a file.
"""

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from speechssl.config_yaml import dump_yaml, parse_yaml, read_yaml
from speechssl.errors import ConfigError

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

_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")


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
    accepted beside nested ones.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a missing or a wrong value.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise TypeError(f"cls must be a dataclass, but is {cls!r}")
    values: dict[str, Any] = {}
    _merge(values, mapping, prefix="", source=source)
    _refuse_unknown(cls, values, source)
    return cast(Config, _build(cls, values, default=None, key="", source=source))


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as nested plain values (text, numbers, booleans, None, lists, dicts), ready for JSON or YAML."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def write_yaml(config: Any, path: Path | str) -> None:
    """Write a configuration (dataclass or mapping) as YAML, beside and renamed; `load_config` reads it back equal."""
    values = _plain(config) if isinstance(config, Mapping) else to_dict(config)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(dump_yaml(values), encoding="utf-8")
    temporary.replace(path)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; empty mappings stay as values."""
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differing_keys(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in first, value in second) where two plain configurations differ; absent counts as None."""
    left, right = flatten(first), flatten(second)
    keys = sorted(left.keys() | right.keys())
    return {key: (left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)}


def known_keys(cls: type[Any], prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass and of those nested in it."""
    keys = []
    for name, declared in _fields(cls).items():
        keys.append(f"{prefix}{name}")
        nested = _nested_dataclass(declared)
        if nested is not None:
            keys.extend(known_keys(nested, f"{prefix}{name}."))
    return keys


def _fields(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _nested_dataclass(declared: Any) -> type[Any] | None:
    for candidate in (declared, *_union_members(declared)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


def _union_members(declared: Any) -> tuple[Any, ...]:
    return get_args(declared) if get_origin(declared) in (Union, types.UnionType) else ()


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
        fields = _fields(owner)
        for name, value in part.items():
            if name not in fields:
                raise ConfigError(_unknown_message(f"{prefix}{name}", prefix, list(fields), everything, source))
            nested = _nested_dataclass(fields[name])
            if nested is not None and isinstance(value, Mapping):
                check(nested, value, f"{prefix}{name}.")

    check(cls, values, "")


def _unknown_message(key: str, prefix: str, siblings: list[str], everything: list[str], source: str) -> str:
    name = key.removeprefix(prefix)
    same_name = [known for known in everything if known.rpartition(".")[2] == name]
    nearest = [f"{prefix}{match}" for match in difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)]
    nearest = nearest or same_name or difflib.get_close_matches(key, everything, n=1, cutoff=0.6)
    if nearest:
        return f"{source}: unknown key '{key}'; did you mean '{nearest[0]}'?"
    where = f"under '{prefix[:-1]}'" if prefix else "here"
    return f"{source}: unknown key '{key}'; the keys {where} are {', '.join(sorted(siblings))}"


def _build(cls: type[Any], values: Mapping[str, Any], *, default: Any, key: str, source: str) -> Any:
    arguments: dict[str, Any] = {}
    declared = _fields(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        name = f"{key}.{field.name}" if key else field.name
        inherited = getattr(default, field.name) if default is not None else _field_default(field)
        if field.name in values:
            arguments[field.name] = _convert(values[field.name], declared[field.name], inherited, name, source)
        elif inherited is not dataclasses.MISSING:
            arguments[field.name] = inherited
        else:
            raise ConfigError(f"{source}: the key '{name}' is required; set it to {_describe(declared[field.name])}")
    try:
        return cls(**arguments)
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{source}: {f'{key}: ' if key else ''}{error}") from error


def _field_default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _convert(value: Any, declared: Any, default: Any, key: str, source: str) -> Any:
    """`value` as the declared type; `default` is what a partly given nested configuration starts from."""
    if declared is Any:
        return value
    if members := _union_members(declared):
        return _convert_union(value, members, default, key, source)
    if declared is None or declared is type(None):
        if value is None or value == "null":
            return None
        raise _wrong(value, declared, key, source)
    origin = get_origin(declared)
    if origin is Literal:
        return _convert_literal(value, declared, key, source)
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        if isinstance(value, declared):
            return value
        if not isinstance(value, Mapping):
            raise _wrong(value, declared, key, source)
        start = default if isinstance(default, declared) else None
        return _build(declared, value, default=start, key=key, source=source)
    if origin in (tuple, list, Sequence):
        return _convert_sequence(value, declared, key, source)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(value, declared, key, source)
        item = get_args(declared)[1]
        missing = dataclasses.MISSING
        return {name: _convert(part, item, missing, f"{key}.{name}", source) for name, part in value.items()}
    if declared in _SCALARS:
        converted = _SCALARS[declared](value)
        if converted is not None:
            return converted
        raise _wrong(value, declared, key, source)
    if isinstance(declared, type) and isinstance(value, declared):
        return value
    raise TypeError(f"{key}: configurations cannot hold the type {declared!r}")


def _convert_union(value: Any, members: tuple[Any, ...], default: Any, key: str, source: str) -> Any:
    """A member that the value already belongs to wins over one that it can be converted to."""
    for member in members:
        if isinstance(member, type) and type(value) is member:
            return _convert(value, member, default, key, source)
    # Text last among the scalars: almost everything that is typed on a command line could be text.
    candidates = sorted((member for member in members if member is not type(None)), key=lambda member: member is str)
    if value is None or (value == "null" and str not in members):
        if type(None) in members:
            return None
    for member in candidates:
        if len(candidates) == 1 or (_nested_dataclass(member) and isinstance(value, Mapping)):
            return _convert(value, member, default, key, source)
        try:
            return _convert(value, member, default, key, source)
        except ConfigError:
            continue
    raise _wrong(value, Union[members], key, source)  # noqa: UP007


def _convert_literal(value: Any, declared: Any, key: str, source: str) -> Any:
    choices = get_args(declared)
    for choice in choices:
        if value == choice and type(value) is type(choice):
            return choice
    for choice in choices:  # text from a command line for a number, a boolean or None
        if choice is None:
            if value == "null":
                return None
        elif isinstance(value, str) and not isinstance(choice, str) and _SCALARS[type(choice)](value) == choice:
            return choice
    message = f"{source}: {key}: must be {_describe(declared)}, but is {value!r}"
    near = difflib.get_close_matches(str(value), [choice for choice in choices if isinstance(choice, str)], n=1)
    raise ConfigError(f"{message}; did you mean '{near[0]}'?" if near else message)


def _convert_sequence(value: Any, declared: Any, key: str, source: str) -> Any:
    origin, arguments = get_origin(declared), get_args(declared)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(value, declared, key, source)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise _wrong(value, declared, key, source)
        items = arguments
    else:
        items = (arguments[0],) * len(value)
    parts = [
        _convert(part, item, dataclasses.MISSING, f"{key}[{index}]", source)
        for index, (part, item) in enumerate(zip(value, items, strict=True))
    ]
    return parts if origin is list else tuple(parts)


def _to_bool(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
        return value.lower() in _TRUE
    return None


def _to_int(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    number = _to_float(value)  # 1e5 is a whole number too
    return int(number) if number is not None and number.is_integer() else None


def _to_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(number) else number


def _to_str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _to_path(value: Any) -> Path | None:
    return Path(value) if isinstance(value, str | os.PathLike) and str(value) else None


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    Path: _to_path,
}


def _wrong(value: Any, declared: Any, key: str, source: str) -> ConfigError:
    hint = ""
    if declared is str or str in _union_members(declared):
        hint = "; put it in quotes"
    elif isinstance(value, str) and get_origin(declared) in (tuple, list, Sequence):
        hint = "; write a list such as [a, b]"
    return ConfigError(f"{source}: {key}: must be {_describe(declared)}, but is {value!r}{hint}")


def _describe(declared: Any) -> str:
    """The type in a user's words."""
    if members := _union_members(declared):
        return " or ".join(_describe(member) for member in members)
    origin, arguments = get_origin(declared), get_args(declared)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin in (list, Sequence) or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list, each item {_describe(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} items ({', '.join(_describe(item) for item in arguments)})"
    if origin in (dict, Mapping):
        return f"a mapping of names to {_describe(arguments[1])}"
    if isinstance(declared, type) and dataclasses.is_dataclass(declared):
        return "a mapping with the keys " + ", ".join(_fields(declared))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return words.get(declared, "null" if declared in (None, type(None)) else str(declared))
