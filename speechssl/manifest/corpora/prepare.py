"""From a card and a folder to a manifest; what is there is held against what the card expects."""

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

import pyarrow as pa
import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest.build import BuildResult, build_from_recordings
from speechssl.manifest.corpora.card import LAYOUTS, CorpusCard, load_card, root_of
from speechssl.manifest.corpora.found import Found
from speechssl.manifest.header_journal import HeaderJournal
from speechssl.manifest.recordings import Recordings
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress

_FEW = 0.9  # of the hours that the card tells; below it something is missing


def prepare_corpus(
    card: CorpusCard | str,
    root: str | os.PathLike[str] | None = None,
    *,
    parts: Sequence[str] = (),
    journal: HeaderJournal | None = None,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Manifest of a corpus that lies at `root`; its splits are in the column `split` and counted against the card.

    Args:
        card: The card, or its name.
        root: Where the corpus lies; one that can be fetched is fetched into the cache when None.
        parts: Only these splits and subsets of the card; all when empty. A subset brings those that it holds.
        journal: Where headers are kept for the next time; None keeps none.
        num_workers: Processes that read headers; as many as there are processors when None.
        progress: Called with (recordings done, recordings altogether).

    Raises:
        ManifestError: no root, nothing of that layout in it, or no such part.
    """
    if isinstance(card, str):
        card = load_card(card)
    unknown = [part for part in parts if part not in card.splits and part not in card.subsets]
    if unknown:
        known = [*card.splits, *(name for name in card.subsets if name not in card.splits)]
        raise ManifestError(
            f"{card.name}: there is no part {unknown[0]!r}; "
            + (f"its splits and subsets are {', '.join(known)}" if known else "the corpus has no official parts")
        )
    layout = import_module(LAYOUTS[card.layout])
    if root is None and card.can_be_fetched:
        root = layout.fetch(card=card, progress=progress)
    found: Found = layout.find(card, root_of(card, root), _splits_of(card, parts))
    recordings = _choose(card, found, parts)
    asked = {None, *parts, *(recording.extra.get("split") for recording in recordings)} if parts else None
    skipped = [(path, reason) for path, reason, split in found.skipped if asked is None or split in asked]
    notes = [f"{card.name}: {text}" for text, split in found.notes if asked is None or split in asked]
    result = build_from_recordings(
        recordings, found.root, skipped=skipped, journal=journal, num_workers=num_workers, progress=progress
    )
    notes += [f"{card.name}: {text}" for text in compare(card, result.manifest, parts)]
    return replace(result, notes=(*notes, *result.notes))


def compare(card: CorpusCard, manifest: Manifest, parts: Sequence[str] = ()) -> list[str]:
    """A line for everything that is absent or not as much as the card says."""
    counts, hours = _measure(manifest, "split")
    notes = []
    for split, expected in card.splits.items():
        if parts and split not in parts:
            continue
        if split not in counts:
            notes.append(f"the split {split} is not there")
            continue
        notes += _difference(split, counts[split], expected, hours[split], card.split_hours.get(split))
    notes += _compare_languages(card, manifest, parts)
    notes += _compare_subsets(card, manifest, parts)
    if not card.splits:
        notes += _difference(None, len(manifest), card.num_utterances, manifest.total_seconds / 3600, card.hours)
    return notes


def _splits_of(card: CorpusCard, parts: Sequence[str]) -> list[str]:
    """The splits that a layout must look at for some parts; all where a subset does not say which it is of."""
    chosen = {part if part in card.splits else card.subsets[part].split for part in parts}
    return list(card.splits) if not parts or None in chosen else [split for split in card.splits if split in chosen]


def _choose(card: CorpusCard, found: Found, parts: Sequence[str]) -> Recordings:
    """The recordings of the parts asked for."""
    if not parts:
        return found.recordings
    splits = {part for part in parts if part in card.splits}
    subsets = set().union(*(card.subset_members(part) for part in parts if part in card.subsets))
    chosen = Recordings(
        recording
        for recording in found.recordings
        if recording.extra.get("split") in splits or recording.extra.get("subset") in subsets
    )
    if not chosen:
        raise ManifestError(
            f"{found.root}: holds nothing of {', '.join(parts)}; leave --parts away to see what is there"
        )
    return chosen


def _measure(manifest: Manifest, *names: str) -> tuple[dict[str, int], dict[str, float]]:
    """Utterances and hours by the values of some columns, joined with `/`; empty where a column is absent."""
    if any(name not in manifest.column_names for name in names):
        return {}, {}
    columns = [manifest.column(name).cast(pa.string()) for name in names]
    keys = columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, "/")
    table = pa.table({"key": keys, "seconds": manifest.column("duration")})
    rows = table.group_by("key").aggregate([([], "count_all"), ("seconds", "sum")]).to_pylist()
    rows = [row for row in rows if row["key"] is not None]
    return (
        {row["key"]: row["count_all"] for row in rows},
        {row["key"]: row["seconds_sum"] / 3600 for row in rows},
    )


def _difference(
    part: str | None, count: int, expected: int | None, hours: float, expected_hours: float | None
) -> list[str]:
    """A line where a part's count is not the card's, or, where the card has none, its hours are far too few."""
    name = f"{part} has " if part else ""
    if expected is not None:
        return [] if count == expected else [f"{name}{count} utterances, the card expects {expected}"]
    if expected_hours is not None and hours < _FEW * expected_hours:
        return [f"{name}{hours:.3g} hours, the card expects {expected_hours:g}"]
    return []


def _compare_languages(card: CorpusCard, manifest: Manifest, parts: Sequence[str]) -> list[str]:
    counts, _ = _measure(manifest, "language", "split")
    present = {key.split("/")[0] for key in counts}
    notes = []
    absent = [language for language in card.language_splits if language not in present]
    if absent:
        notes.append(f"languages that are not there: {', '.join(absent)}")
    for language, splits in card.language_splits.items():
        for split, expected in splits.items():
            count = counts.get(f"{language}/{split}", 0)
            if language in present and count != expected and (not parts or split in parts):
                notes.append(f"{language} {split} has {count} utterances, the card expects {expected}")
    return notes


def _compare_subsets(card: CorpusCard, manifest: Manifest, parts: Sequence[str]) -> list[str]:
    counts, hours = _measure(manifest, "subset")
    notes = []
    absent = []
    for name, subset in card.subsets.items():
        if parts and name not in parts:
            continue
        members = card.subset_members(name) & counts.keys()
        if not members:
            absent.append(name)
            continue
        count = sum(counts[member] for member in members)
        notes += _difference(
            f"the subset {name}", count, subset.num_utterances, sum(hours[member] for member in members), subset.hours
        )
    return notes + ([f"subsets that are not there: {', '.join(absent)}"] if absent else [])
