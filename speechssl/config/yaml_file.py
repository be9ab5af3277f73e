"""YAML with the scalars of YAML 1.2: only true and false are booleans, 1e-4 is a number, keys are unique."""

import re
from pathlib import Path
from typing import Any

import yaml

from speechssl.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """Resolves null, true, false and decimal numbers; `no`, `on`, dates and 1:30 stay text."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' is given twice; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML version would not read back as text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_SCALARS = (
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), _first)
# PyYAML reads 010 as octal, as YAML 1.1 does.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        ConfigError: the file is missing, is not UTF-8, not YAML (with line and column) or not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: the file does not exist; check the path given to --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check path and permissions") from error
    values = parse_yaml(text, source=str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold 'key: value' lines, but holds {type(values).__name__} {values!r:.60}")
    return values


def parse_yaml(text: str, *, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        ConfigError: with `source`, line and column, and a plain word about tabs.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        if "\t" in line:
            raise ConfigError(f"{where}: holds a tab, which YAML does not allow; indent with spaces") from error
        raise ConfigError(f"{where}: is not valid YAML ({error.problem}); check the indentation and colons") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: is not valid YAML ({error}); remove the character") from error


def dump_yaml(values: Any) -> str:
    """Plain values as YAML, in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
