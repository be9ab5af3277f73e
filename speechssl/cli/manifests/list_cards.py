"""`speechssl manifest list`."""

import json
import textwrap
from dataclasses import dataclass

from speechssl.cli.manifests.registry import parse
from speechssl.cli.output import Cell, say, table
from speechssl.errors import ConfigError
from speechssl.manifest import CorpusCard, list_cards, load_card

_HEADERS = ("name", "title", "languages", "hours", "licence", "comes from")
_MANY_LANGUAGES = 5


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Options of `speechssl manifest list`.

    Attributes:
        name: a corpus card to show in full; all of them in a line each when null.
        json: print the result as JSON.
        markdown: print the table of all cards as Markdown.
    """

    name: str | None = None
    json: bool = False
    markdown: bool = False

    def __post_init__(self) -> None:
        if self.markdown and (self.json or self.name is not None):
            raise ConfigError("--markdown prints the table of all cards; leave the name and --json away")


def run(words: list[str]) -> int:
    """Parse, call, print."""
    options: ListOptions | None = parse("list", ListOptions, words, ("name",))
    if options is None:
        return 0
    cards = [load_card(options.name)] if options.name is not None else [load_card(name) for name in list_cards()]
    if options.json:
        say(json.dumps([card.to_dict() for card in cards], indent=2, ensure_ascii=False))
    elif options.markdown:
        say(markdown_table(cards))
    elif options.name is not None:
        _show(cards[0])
    else:
        for row in [_HEADERS, *map(overview, cards)]:
            name, title, languages, hours, licence, source = row
            say(f"{name:<16}{languages:<15}{hours:>8}  {source:<13} {title} ({licence})")
        say("\nspeechssl manifest list NAME shows a card in full, with its layout and the command for its manifest")
    return 0


def overview(card: CorpusCard) -> tuple[str, ...]:
    """A card in one line: name, title, languages, hours, licence, where it comes from."""
    languages = ", ".join(card.languages)
    if len(card.languages) >= _MANY_LANGUAGES:
        languages = f"{len(card.languages)} languages"
    elif card.languages in (("mul",), ("und",)):
        languages = "any" if card.layout == "folder" else "many"
    return (card.name, card.title, languages, hours_text(card.hours), card.licence, _source(card))


def hours_text(hours: float | None) -> str:
    """`50834.3` -> `50,834`, `2.08` -> `2.1`; a dash where nobody tells."""
    return "–" if hours is None else f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def markdown_table(cards: list[CorpusCard]) -> str:
    """The table of `manifests/README.md`."""
    lines = ["| card | corpus | languages | hours | licence | comes from |", "|---|---|---|---|---|---|"]
    for card in cards:
        name, title, *rest, source = overview(card)
        linked = f"[{title}]({card.homepage})" if card.homepage else title
        lines.append(
            f"| {' | '.join([f'`{name}`', linked, *rest, f'`{source}`' if source.startswith('--') else source])} |"
        )
    return "\n".join(lines)


def _source(card: CorpusCard) -> str:
    return "the network" if card.can_be_fetched else "--root FOLDER"


def _show(card: CorpusCard) -> None:
    """Everything on a card."""
    facts: list[tuple[str, Cell]] = [
        ("licence", card.licence),
        ("terms", card.terms),
        ("attribution", card.attribution.strip()),
        ("home", card.homepage),
        ("languages", ", ".join(card.languages)),
        ("hours", None if card.hours is None else hours_text(card.hours)),
        ("utterances", card.num_utterances),
        ("speakers", card.num_speakers),
        ("sample rate (Hz)", ", ".join(map(str, card.sample_rate))),
        ("comes from", _source(card)),
    ]
    say(card.title)
    for name, value in facts:
        if value not in (None, ""):
            text = f"{value:,}" if isinstance(value, int) else str(value)
            say(textwrap.fill(text, 100, initial_indent=f"  {name:<18}", subsequent_indent=" " * 20))
    if card.splits:
        rows = [(split, count, card.split_hours.get(split)) for split, count in card.splits.items()]
        table("splits", ("split", "utterances", "hours"), rows)
    if card.language_splits:
        splits = list(card.splits)
        counts = [
            (language, *(parts.get(split) for split in splits)) for language, parts in card.language_splits.items()
        ]
        table("utterances by language", ("language", *splits), counts)
    if card.subsets:
        parts = [
            (
                name,
                subset.split,
                subset.num_utterances,
                subset.hours,
                ", ".join(sorted(card.subset_members(name) - {name})),
            )
            for name, subset in card.subsets.items()
        ]
        table("subsets", ("subset", "of", "utterances", "hours", "holds"), parts)
    say("\nlayout")
    say(textwrap.indent(card.tree, "  "))
    say(f"\nmanifest\n  {card.build_command}")
    example = next(iter(card.subsets or card.splits), None)
    if example is not None:
        say(f"  {card.build_command.replace('.parquet', f'-{example}.parquet')} --parts {example}")
