"""Corpus cards: where a corpus comes from, its licence, its layout and how much of it to expect."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from speechssl.errors import ManifestError
from speechssl.manifest.corpora.found import nested_subsets
from speechssl.resources import resource_folder

LAYOUTS = {
    "folder": "speechssl.manifest.corpora.folder",
    "voice_prompts": "speechssl.manifest.corpora.voice_prompts",
    "librispeech": "speechssl.manifest.corpora.librispeech",
    "libri_light": "speechssl.manifest.corpora.libri_light",
    "ljspeech": "speechssl.manifest.corpora.ljspeech",
    "vctk": "speechssl.manifest.corpora.vctk",
    "common_voice": "speechssl.manifest.corpora.common_voice",
    "voxpopuli": "speechssl.manifest.corpora.voxpopuli",
    "mls": "speechssl.manifest.corpora.mls",
    "fleurs": "speechssl.manifest.corpora.fleurs",
    "tedlium3": "speechssl.manifest.corpora.tedlium3",
    "timit": "speechssl.manifest.corpora.timit",
    "an4": "speechssl.manifest.corpora.an4",
    "fsdd": "speechssl.manifest.corpora.fsdd",
    "speech_commands": "speechssl.manifest.corpora.speech_commands",
    "voxceleb": "speechssl.manifest.corpora.voxceleb",
}
"""Module of each layout; it has `find(card, root, splits) -> Found`."""

_REQUIRED = ("title", "layout", "homepage", "licence", "attribution", "languages", "root", "tree")
_OPTIONAL = (
    "terms",
    "hours",
    "num_utterances",
    "num_speakers",
    "sample_rate",
    "splits",
    "split_hours",
    "language_splits",
    "subsets",
    "details",
)


@dataclass(frozen=True, kw_only=True)
class Subset:
    """An official part of a split, mostly for training with few labels; it holds the subsets in `includes` too."""

    split: str | None = None
    hours: float | None = None
    num_utterances: int | None = None
    includes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CorpusCard:
    """A corpus as described in `manifests/<name>.yaml`. Numbers that the publisher does not tell are None.

    `homepage` is None only for the folder without a corpus. `terms` says in plain words what the licence restricts.
    `root` is the folder's usual name, and `tree` draws what is below it. `splits` maps a split to the number of
    utterances to expect and `split_hours` to its hours; `language_splits` has the numbers of utterances of each
    language. `subsets` are official label subsets, in the manifest's column `subset`. `sample_rate` is in Hz. `details`
    is for the layout.
    """

    name: str
    title: str
    layout: str
    homepage: str | None
    licence: str
    attribution: str
    languages: tuple[str, ...]
    root: str
    tree: str
    terms: str | None = None
    hours: float | None = None
    num_utterances: int | None = None
    num_speakers: int | None = None
    sample_rate: tuple[int, ...] = ()
    splits: Mapping[str, int | None] = field(default_factory=dict)
    split_hours: Mapping[str, float] = field(default_factory=dict)
    language_splits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    subsets: Mapping[str, Subset] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def licence_notice(self) -> str:
        """What must be shown to whoever uses the corpus."""
        lines = [self.title, f"licence: {self.licence}", self.terms, self.attribution]
        lines += [f"source: {self.homepage}"] if self.homepage else []
        return "\n".join(line.strip() for line in lines if line)

    @property
    def can_be_fetched(self) -> bool:
        """Whether the corpus comes by itself where no root is given."""
        return hasattr(import_module(LAYOUTS[self.layout]), "fetch")

    @property
    def build_command(self) -> str:
        """The command line that makes its manifest."""
        root = "" if self.can_be_fetched else f" --root {self.root}"
        return f"speechssl manifest build {self.name}{root} --output {self.name}.parquet"

    def subset_members(self, name: str) -> set[str]:
        """The values of the column `subset` that belong to a subset: its own and those of all that it includes."""
        return nested_subsets({key: subset.includes for key, subset in self.subsets.items()}, name)

    def to_dict(self) -> dict[str, Any]:
        """The card's facts for JSON, without the layout's details."""
        names = ("name", "title", "layout", "homepage", "licence", "terms", "attribution", "num_utterances", "hours")
        return {name: getattr(self, name) for name in names} | {
            "languages": list(self.languages),
            "num_speakers": self.num_speakers,
            "sample_rate": list(self.sample_rate),
            "splits": dict(self.splits),
            "split_hours": dict(self.split_hours),
            "language_splits": {language: dict(counts) for language, counts in self.language_splits.items()},
            "subsets": {
                name: dataclasses.asdict(part) | {"includes": list(part.includes)}
                for name, part in self.subsets.items()
            },
            "tree": self.tree,
            "can_be_fetched": self.can_be_fetched,
            "build_command": self.build_command,
        }


def list_cards(folder: Path | None = None) -> list[str]:
    """Names of the cards that come with the package."""
    return sorted(path.stem for path in (folder or resource_folder("manifests")).glob("*.yaml"))


def load_card(name: str, folder: Path | None = None) -> CorpusCard:
    """A card by its name, or by the path of a YAML file.

    Raises:
        ManifestError: no such card, or one with missing or unknown keys.
    """
    folder = folder or resource_folder("manifests")
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = list_cards(folder)
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"corpora with a card: {', '.join(known) or 'none'}"
        raise ManifestError(f"{name}: neither a folder nor a corpus card; {hint}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: not a YAML file: {error}") from None
    if not isinstance(content, dict):
        raise ManifestError(f"{path}: a card must be a mapping of keys to values")
    return _card_from(content, path)


def _card_from(content: dict[str, Any], path: Path) -> CorpusCard:
    missing = [key for key in _REQUIRED if key not in content]
    unknown = [key for key in content if key not in _REQUIRED + _OPTIONAL]
    if missing or unknown:
        what = "; ".join(
            [f"{key} is missing" for key in missing]
            + [f"{key} is not known (the keys are {', '.join(sorted(_REQUIRED + _OPTIONAL))})" for key in unknown]
        )
        raise ManifestError(f"{path}: {what}")
    if content["layout"] not in LAYOUTS:
        raise ManifestError(f"{path}: layout must be one of {', '.join(LAYOUTS)}, is {content['layout']}")
    texts = {key: str(content[key]).strip("\n") for key in _REQUIRED if key not in ("languages", "homepage")}
    counts = content.get("splits") or {}
    rates = content.get("sample_rate") or []
    try:
        return CorpusCard(
            **texts,
            name=path.stem,
            homepage=None if content["homepage"] is None else str(content["homepage"]),
            languages=tuple(str(language) for language in content["languages"]),
            terms=None if content.get("terms") is None else str(content["terms"]),
            hours=None if content.get("hours") is None else float(content["hours"]),
            num_utterances=_count(content.get("num_utterances")),
            num_speakers=_count(content.get("num_speakers")),
            sample_rate=tuple(int(rate) for rate in (rates if isinstance(rates, list) else [rates])),
            splits={str(split): _count(count) for split, count in counts.items()},
            split_hours={str(split): float(hours) for split, hours in (content.get("split_hours") or {}).items()},
            language_splits={
                str(language): {str(split): int(count) for split, count in parts.items()}
                for language, parts in (content.get("language_splits") or {}).items()
            },
            subsets=_subsets(content.get("subsets") or {}, path),
            details=content.get("details") or {},
            source=str(path),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"{path}: a number or a mapping is not one: {error}") from None


def _subsets(content: Mapping[str, Any], path: Path) -> dict[str, Subset]:
    subsets: dict[str, Subset] = {}
    for name, value in content.items():
        facts = value or {}
        includes = tuple(str(part) for part in facts.get("includes") or ())
        unknown = [part for part in includes if part not in subsets]
        if unknown:
            raise ManifestError(f"{path}: the subset {name} includes {unknown[0]}, which is not named before it")
        hours = facts.get("hours")
        split = facts.get("split")
        subsets[str(name)] = Subset(
            split=None if split is None else str(split),
            hours=None if hours is None else float(hours),
            num_utterances=_count(facts.get("num_utterances")),
            includes=includes,
        )
    return subsets


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def root_of(card: CorpusCard, root: str | os.PathLike[str] | None) -> Path:
    """The folder where a card's corpus lies.

    Raises:
        ManifestError: none is given, or there is no such folder.
    """
    if root is None:
        raise ManifestError(
            f"{card.name}: name the corpus folder with --root"
            + (f"; the corpus can be had from {card.homepage}" if card.homepage else "")
        )
    if not Path(root).is_dir():
        raise ManifestError(f"{root}: no such folder; --root must be where {card.title} lies")
    return Path(root)
