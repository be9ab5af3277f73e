"""The quickstart's audio: fetched or the user's own, built, checked, and divided without leaks."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from speechssl.errors import ManifestError
from speechssl.manifest import (
    Manifest,
    build_manifest,
    load_card,
    prepare_corpus,
    split_manifest,
    subset_manifest,
    validate_manifest,
)
from speechssl.quickstart.settings import QuickstartConfig

logger = logging.getLogger(__name__)

CARD = "voice-prompts"
FRACTIONS = {"train": 0.7, "dev": 0.1, "test": 0.2}
_LABELLED_LANGUAGE = "en"
_FEWEST_SPEAKERS = 8
_FEWEST_TRANSCRIBED = 12
_VALID_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Manifests as files, and words about them.

    `train` holds all audio that anything may be learned from, `dev` and `test` the rest, `valid` a few minutes of `dev`
    to watch pre-training by; the `labelled_*` are the transcribed utterances of each, None where too few are.
    """

    train: Path
    dev: Path
    test: Path
    valid: Path
    labelled_train: Path | None
    labelled_dev: Path | None
    labelled_test: Path | None
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def everything(self) -> dict[str, Manifest]:
        """Name -> manifest of the three disjoint parts."""
        return {
            name: Manifest.load(path) for name, path in (("train", self.train), ("dev", self.dev), ("test", self.test))
        }

    def labelled(self) -> dict[str, Manifest]:
        """Name -> manifest of the transcribed utterances of each part; empty where there are too few."""
        paths = {"train": self.labelled_train, "dev": self.labelled_dev, "test": self.labelled_test}
        return {name: Manifest.load(path) for name, path in paths.items() if path is not None}


def prepare(config: QuickstartConfig, folder: Path) -> Mapping[str, Any]:
    """Build, check and divide; writes manifests into `folder` and returns what `parts_of` reads."""
    notes: list[str] = []
    left_out: list[str] = []
    everything = _gather(config, folder, notes, left_out)
    clean = _check(everything, folder, left_out)
    by = _what_to_keep_apart(clean, notes)
    parts = split_manifest(clean, FRACTIONS, by=by, seed=config.seed)
    for name, part in parts.items():
        part.save(folder / f"{name}.jsonl")
    dev = parts["dev"]
    valid = subset_manifest(dev, [min(_VALID_SECONDS, dev.total_seconds)], seed=config.seed)[0]
    valid.save(folder / "valid.jsonl")
    labelled = {name: _labelled(part, config) for name, part in parts.items()}
    counts = {name: len(part) for name, part in labelled.items()}
    outcome: dict[str, Any] = {"notes": notes, "left_out": left_out, "labelled": []}
    if counts["train"] < _FEWEST_TRANSCRIBED or not counts["dev"] or not counts["test"]:
        left_out.append(
            f"fine-tuning and error rates: {sum(counts.values())} utterances have a text"
            f" ({counts['train']} to train on, {counts['dev']} dev, {counts['test']} test), which is too few;"
            " give texts with --transcripts TSV"
        )
        return outcome
    labelled["train"] = _limit(labelled["train"], config, notes)
    for name, part in labelled.items():
        part.save(folder / f"labelled_{name}.jsonl")
    outcome["labelled"] = sorted(labelled)
    return outcome


def parts_of(folder: Path, outcome: Mapping[str, Any]) -> Parts:
    """The parts that `prepare` left in `folder`."""
    labelled = {name: folder / f"labelled_{name}.jsonl" for name in outcome["labelled"]}
    return Parts(
        **{name: folder / f"{name}.jsonl" for name in (*FRACTIONS, "valid")},
        labelled_train=labelled.get("train"),
        labelled_dev=labelled.get("dev"),
        labelled_test=labelled.get("test"),
        notes=tuple(outcome["notes"]),
        left_out=tuple(outcome["left_out"]),
    )


def _gather(config: QuickstartConfig, folder: Path, notes: list[str], left_out: list[str]) -> Manifest:
    if config.audio is not None:
        result = build_manifest(config.audio, transcripts=config.transcripts, language=config.language)
    else:
        from speechssl.manifest.corpora import voice_prompts

        card = load_card(CARD)
        for line in card.licence_notice().splitlines():
            logger.info("%s", line)
        notes.append(f"{card.title}; licence: {card.licence}; {card.attribution.strip()}; {card.homepage}")
        root = voice_prompts.fetch(config.cache, card=card, progress=_LogProgress("fetching the voice prompts"))
        result = prepare_corpus(card, root)
    notes += result.notes
    if result.skipped:
        path, reason = result.skipped[0]
        left_out.append(f"{len(result.skipped)} recordings, the first is {path}: {reason}")
    logger.info("%d recordings, %.1f minutes", len(result.manifest), result.manifest.total_seconds / 60)
    return result.manifest.save(folder / "all.jsonl")


def _check(manifest: Manifest, folder: Path, left_out: list[str]) -> Manifest:
    """Decode every recording; those with problems go to quarantine.jsonl with the reasons."""
    report = validate_manifest(folder / "all.jsonl", audio=True)
    clean, bad = folder / "clean.jsonl", folder / "quarantine.jsonl"
    report.write_quarantine(clean, bad)
    if report.num_bad:
        kinds: dict[str, int] = {}
        for problem in report.problems:
            kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        left_out.append(f"{report.num_bad} of {report.num_rows} recordings in quarantine ({counted}); see {bad}")
        logger.info("%s", left_out[-1])
    if report.num_bad == report.num_rows:
        raise ManifestError(f"{folder / 'all.jsonl'}: none of the {len(manifest)} recordings can be used; see {bad}")
    return Manifest.load(clean)


def _what_to_keep_apart(manifest: Manifest, notes: list[str]) -> list[str]:
    """Columns by which the parts are disjoint, as far as the data allow; what they do not allow is noted."""
    by = ["recording"]
    texts = _values(manifest, "text")
    if texts:
        if len(set(texts)) >= len(texts) / 2:
            by.append("text")
        else:
            notes.append(
                f"{len(texts)} utterances share {len(set(texts))} texts, so the same texts are on both sides:"
                " the error rates are those of a small vocabulary"
            )
    num_speakers = len(set(_values(manifest, "speaker")))
    if num_speakers >= _FEWEST_SPEAKERS:
        by.append("speaker")
    elif num_speakers:
        notes.append(f"{num_speakers} speakers are too few to keep them apart: the same voices are on both sides")
    return by


def _labelled(part: Manifest, config: QuickstartConfig) -> Manifest:
    if "text" not in part.table.column_names:
        return part.take([])
    mask = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(part.column("text"), ""))), 0)
    if config.audio is None:
        mask = pc.and_(mask, pc.equal(part.column("language"), _LABELLED_LANGUAGE))
    chosen: Manifest = part.filter(mask)
    return chosen


def _limit(train: Manifest, config: QuickstartConfig, notes: list[str]) -> Manifest:
    minutes = config.label_minutes
    if minutes is None or train.total_seconds <= 60 * minutes:
        return train
    notes.append(f"fine-tuned on {minutes:g} of {train.total_seconds / 60:.1f} transcribed minutes")
    return subset_manifest(train, [60 * minutes], seed=config.seed)[0]


def _values(manifest: Manifest, column: str) -> list[str]:
    if column not in manifest.table.column_names:
        return []
    return [value for value in manifest.column(column).to_pylist() if value]


def listing(audio: Path, transcripts: Path | None) -> list[tuple[str, int, int]]:
    """Path, bytes and time of change of every file that the manifest depends on, to notice when they change."""
    paths = [path for path in sorted(audio.rglob("*")) if path.is_file()] if audio.is_dir() else []
    paths += [transcripts] if transcripts is not None and transcripts.is_file() else []
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


class _LogProgress:
    """Logs how far something is, at every fifth of it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.shown = 0

    def __call__(self, done: int, total: int) -> None:
        fifths = 5 * done // total if total else 0
        if fifths > self.shown:
            self.shown = fifths
            logger.info("%s: %d %%", self.title, 20 * fifths)
