"""The stages: make units from recordings, and give units to others."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.alignments import read_ctm
from speechssl.errors import ConfigError
from speechssl.files import write_text
from speechssl.frames import FrameSource
from speechssl.manifest import Manifest
from speechssl.progress import StepProgress
from speechssl.units.measures import matched_share, normalised_information, perplexity, score_units
from speechssl.units.model import MODEL_NAME, UnitModel, differing, open_source, read_units, source_facts, source_of
from speechssl.units.settings import ApplyConfig, UnitsConfig, UnitsResult
from speechssl.units.train import train
from speechssl.units.write import (
    TABLE_NAME,
    TEXT_NAME,
    Labels,
    Tally,
    aligned_labels,
    column_labels,
    write_manifest_units,
)

RESULT_NAME = "result.json"
STATE_NAME = ".training.safetensors"


def run(config: UnitsConfig, *, progress: StepProgress | None = None) -> UnitsResult:
    """Train units on a manifest, and write the manifest in them.

    Stopped at any moment, the same call goes on after the last chunk and ends with the same centers; where those are
    there already, it only writes the manifest in them.

    Args:
        config: what to do.
        progress: called with (what is being done, chunks or recordings done, of how many).

    Raises:
        ConfigError: a setting does not fit, or the output exists and was made in another way.
        ManifestError, CheckpointError: an input cannot be read.
        AudioError: the recordings give too few frames.
    """
    tell = progress or (lambda what, done, total: None)
    manifest = Manifest.load(config.manifest)
    labels = _labels(manifest, config.label, config.alignment)
    source = open_source(
        config.checkpoint, layer=config.layer, batch_seconds=config.batch_seconds, device=config.device
    )
    facts = {**source_facts(source), **_settings(config), "manifest_fingerprint": manifest.fingerprint()}
    config.output.mkdir(parents=True, exist_ok=True)
    if config.overwrite:
        for name in (MODEL_NAME, STATE_NAME, TEXT_NAME, TABLE_NAME, RESULT_NAME):
            (config.output / name).unlink(missing_ok=True)
    finished, state = config.output / MODEL_NAME, config.output / STATE_NAME
    skipped: dict[str, str] = {}
    if finished.exists():
        model = read_units(finished)
        _check_same(finished, model, facts)
    else:
        start = UnitModel(states=(), facts=facts)
        if state.exists():
            start = read_units(state)
            _check_same(state, start, facts)
        model = train(
            manifest,
            source,
            config,
            start=start,
            path=state,
            progress=lambda done, total: tell("training", done, total),
            skipped=skipped,
        )
        os.replace(state, finished)
    return _write(manifest, source, model, config.output, labels, tell, skipped)


def apply(config: ApplyConfig, *, progress: StepProgress | None = None) -> UnitsResult:
    """Write a manifest in units that were made before.

    Raises:
        ConfigError: the encoder is not the one that they were made with, or a label column is missing.
        ManifestError, CheckpointError: an input cannot be read.
        AudioError: not one recording can be used.
    """
    tell = progress or (lambda what, done, total: None)
    model = read_units(config.units)
    manifest = Manifest.load(config.manifest)
    labels = _labels(manifest, config.label, config.alignment)
    source = source_of(model, checkpoint=config.checkpoint, batch_seconds=config.batch_seconds, device=config.device)
    config.output.mkdir(parents=True, exist_ok=True)
    return _write(manifest, source, model, config.output, labels, tell, {})


def _write(
    manifest: Manifest,
    source: FrameSource,
    model: UnitModel,
    folder: Path,
    labels: Labels | None,
    tell: StepProgress,
    skipped: dict[str, str],
) -> UnitsResult:
    tally = write_manifest_units(
        manifest,
        source,
        model,
        folder,
        labels=labels,
        progress=lambda done, total: tell("writing", done, total),
        skipped=skipped,
    )
    tell("writing", len(manifest), len(manifest))
    result = _result(tally, model, folder, skipped)
    text = json.dumps({**result.to_dict(), "made_of": dict(model.facts)}, indent=2, ensure_ascii=False)
    write_text(folder / RESULT_NAME, text + "\n")
    return result


def _result(tally: Tally, model: UnitModel, folder: Path, skipped: Mapping[str, str]) -> UnitsResult:
    seed_scores: list[Mapping[str, float]] = []
    if tally.labels:
        counts = np.stack(list(tally.labels.values()), axis=1)  # [seeds, Y, K]
        seed_scores = [asdict(score_units(table)) for table in counts]
    stability = None
    if tally.pairs:
        tables = list(tally.pairs.values())
        stability = {
            "nmi": float(np.mean([normalised_information(table) for table in tables])),
            "matched": float(np.mean([matched_share(table) for table in tables])),
        }
    return UnitsResult(
        directory=folder,
        num_utterances=tally.num_utterances,
        num_frames=tally.num_frames,
        num_units=tally.num_units,
        used=int((tally.used > 0).sum()),
        perplexity=perplexity(tally.used),
        runs_per_second=tally.num_runs / (tally.num_frames * float(model.facts["frame_seconds"])),
        scores={name: float(np.mean([scores[name] for scores in seed_scores])) for name in seed_scores[0]}
        if seed_scores
        else None,
        seed_scores=tuple(seed_scores),
        stability=stability,
        num_unlabelled_frames=tally.num_unlabelled,
        skipped=tuple(skipped.items()),
    )


def _settings(config: UnitsConfig) -> dict[str, Any]:
    names = (
        "num_units", "num_passes", "num_seeds", "chunk_seconds", "update_frames", "first_frames", "batch_seconds",
        "seed",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names}


def _labels(manifest: Manifest, column: str | None, alignment: Path | None) -> Labels | None:
    if alignment is not None:
        return aligned_labels(read_ctm(alignment))
    if column is None:
        return None
    if column not in manifest.table.column_names:
        known = ", ".join(manifest.table.column_names)
        raise ConfigError(f"the manifest has no column {column!r} to score against; it has {known}")
    return column_labels(manifest, column)


def _check_same(path: Path, model: UnitModel, facts: Mapping[str, Any]) -> None:
    wrong = differing(model.facts, facts)
    if wrong:
        raise ConfigError(
            f"{path}: was made in another way ({', '.join(wrong)}); name another output, or set overwrite=true"
        )
