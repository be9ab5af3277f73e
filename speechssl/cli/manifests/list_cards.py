"""`speechssl manifest list`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import say, table
from speechssl.manifest import list_cards, load_card


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Options of `speechssl manifest list`.

    Attributes:
        name: a corpus card to show in full; all of them in a line each when null.
        json: print the result as JSON.
    """

    name: str | None = None
    json: bool = False


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: ListOptions | None = parse("list", ListOptions, words, ("name",))
    if options is None:
        return 0
    cards = [load_card(options.name)] if options.name is not None else [load_card(name) for name in list_cards()]
    if options.json:
        say(json.dumps([card.to_dict() for card in cards], indent=2, ensure_ascii=False))
    elif options.name is not None:
        table(options.name, ("", "value"), [(name, value) for name, value in _flat(cards[0].to_dict())], right=False)
    else:
        table(
            "corpora",
            ("name", "title", "licence"),
            [(card.name, card.title, card.licence) for card in cards],
            right=False,
        )
    return 0


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str | int | float | None]]:
    rows: list[tuple[str, str | int | float | None]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{name}", ", ".join(map(str, value[:12])) + (" ..." if len(value) > 12 else "")))
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
