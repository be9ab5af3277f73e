"""Corpus cards: where a corpus comes from, its licence, its layout and how much of it to expect."""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml

from speechssl.errors import ManifestError
from speechssl.manifest.build import BuildResult
from speechssl.manifest.scan import Progress
from speechssl.resources import resource_folder

LAYOUTS = {
    "voice_prompts": "speechssl.manifest.corpora.voice_prompts",
    "fsdd": "speechssl.manifest.corpora.fsdd",
    "librispeech": "speechssl.manifest.corpora.librispeech",
    "ljspeech": "speechssl.manifest.corpora.ljspeech",
    "common_voice": "speechssl.manifest.corpora.common_voice",
}
"""Module of each layout; it has `prepare(card, root, *, num_workers, progress) -> BuildResult`."""


@dataclass(frozen=True, kw_only=True)
class CorpusCard:
    """A corpus as described in `manifests/<name>.yaml`.

    `splits` maps a split to the number of utterances to expect, None where that depends on the release. `details` is
    for the layout. A folder named on the command line is looked for as `layout` says.
    """

    name: str
    title: str
    layout: str
    homepage: str
    licence: str
    attribution: str
    languages: tuple[str, ...]
    splits: Mapping[str, int | None] = field(default_factory=dict)
    num_utterances: int | None = None
    hours: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def licence_notice(self) -> str:
        """What must be shown to whoever uses the corpus."""
        return f"{self.title}\nlicence: {self.licence}\n{self.attribution.strip()}\nsource: {self.homepage}"

    def to_dict(self) -> dict[str, Any]:
        """The card's facts for JSON, without the layout's details."""
        names = ("name", "title", "layout", "homepage", "licence", "attribution", "num_utterances", "hours")
        return {name: getattr(self, name) for name in names} | {
            "languages": list(self.languages),
            "splits": dict(self.splits),
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


def prepare_corpus(
    card: CorpusCard | str,
    root: str | os.PathLike[str] | None = None,
    *,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Manifest of a corpus that lies at `root`; its splits are in the column `split` and counted against the card.

    The voice prompts are fetched into the cache when no root is given.

    Raises:
        ManifestError: no root, or nothing of that layout in it.
    """
    if isinstance(card, str):
        card = load_card(card)
    layout = import_module(LAYOUTS[card.layout])
    if root is None:
        if not hasattr(layout, "fetch"):
            raise ManifestError(
                f"{card.name}: name the corpus folder with --root; the corpus can be had from {card.homepage}"
            )
        root = layout.fetch(card=card, progress=progress)
    folder = Path(root)
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder; --root must be where {card.title} lies")
    result: BuildResult = layout.prepare(card, folder, num_workers=num_workers, progress=progress)
    notes = (*result.notes, *_compare_counts(card, result))
    return BuildResult(manifest=result.manifest, skipped=result.skipped, notes=notes)


def _compare_counts(card: CorpusCard, result: BuildResult) -> list[str]:
    """A line for every split that is absent or not as large as the card says."""
    found: dict[str, int] = {}
    if "split" in result.manifest.table.column_names:
        counts = pc.value_counts(result.manifest.column("split"))
        found = {entry["values"]: entry["counts"] for entry in counts.to_pylist()}
    notes = []
    for split, expected in card.splits.items():
        count = found.get(split, 0)
        if count == 0:
            notes.append(f"{card.name}: the split {split} is not there")
        elif expected is not None and count != expected:
            notes.append(f"{card.name}: {split} has {count} utterances, the card expects {expected}")
    total = len(result.manifest)
    if card.num_utterances is not None and not card.splits and total != card.num_utterances:
        notes.append(f"{card.name}: {total} utterances, the card expects {card.num_utterances}")
    return notes


def _card_from(content: dict[str, Any], path: Path) -> CorpusCard:
    required = ("title", "layout", "homepage", "licence", "attribution", "languages")
    known = {*required, "splits", "num_utterances", "hours", "details"}
    missing = [key for key in required if key not in content]
    unknown = [key for key in content if key not in known]
    if missing or unknown:
        what = "; ".join(
            [f"{key} is missing" for key in missing]
            + [f"{key} is not known (the keys are {', '.join(sorted(known))})" for key in unknown]
        )
        raise ManifestError(f"{path}: {what}")
    if content["layout"] not in LAYOUTS:
        raise ManifestError(f"{path}: layout must be one of {', '.join(LAYOUTS)}, is {content['layout']}")
    splits = {
        str(split): None if count is None else int(count) for split, count in (content.get("splits") or {}).items()
    }
    return CorpusCard(
        name=path.stem,
        title=str(content["title"]),
        layout=content["layout"],
        homepage=str(content["homepage"]),
        licence=str(content["licence"]),
        attribution=str(content["attribution"]),
        languages=tuple(str(language) for language in content["languages"]),
        splits=splits,
        num_utterances=content.get("num_utterances"),
        hours=content.get("hours"),
        details=content.get("details") or {},
        source=str(path),
    )
