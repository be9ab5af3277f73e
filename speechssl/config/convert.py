"""Plain values to what a dataclass declares, field by field."""

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from speechssl.errors import ConfigError

_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")


def field_types(cls: type[Any]) -> dict[str, Any]:
    """Name -> declared type of every field that the constructor takes."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def nested_dataclass(declared: Any) -> type[Any] | None:
    """The dataclass that a declared type is, or is one choice of; None without one."""
    for candidate in (declared, *union_members(declared)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


def union_members(declared: Any) -> tuple[Any, ...]:
    """The choices of `A | B`; empty for any other type."""
    return get_args(declared) if get_origin(declared) in (Union, types.UnionType) else ()


def build(cls: type[Any], values: Mapping[str, Any], *, default: Any, key: str, source: str) -> Any:
    """An instance of the dataclass `cls`; what `values` leaves out comes from `default`, else from `cls`."""
    arguments: dict[str, Any] = {}
    declared = field_types(cls)
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
    if members := union_members(declared):
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
        return build(declared, value, default=start, key=key, source=source)
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
        if len(candidates) == 1 or (nested_dataclass(member) and isinstance(value, Mapping)):
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
    if declared is str or str in union_members(declared):
        hint = "; put it in quotes"
    elif isinstance(value, str) and get_origin(declared) in (tuple, list, Sequence):
        hint = "; write a list such as [a, b]"
    return ConfigError(f"{source}: {key}: must be {_describe(declared)}, but is {value!r}{hint}")


def _describe(declared: Any) -> str:
    """The type in a user's words."""
    if members := union_members(declared):
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
        return "a mapping with the keys " + ", ".join(field_types(declared))
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return words.get(declared, "null" if declared in (None, type(None)) else str(declared))
