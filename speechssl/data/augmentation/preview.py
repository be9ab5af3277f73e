"""Examples to listen to: utterances as they are and as training would hear them, with the values that were drawn."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.audio import Waveform, read_utterance
from speechssl.data.augmentation.augmenter import Augmenter
from speechssl.errors import AudioError, ManifestError
from speechssl.manifest.table import Manifest
from speechssl.progress import Progress

LIST_NAME = "augmented.json"


@dataclass(frozen=True, kw_only=True)
class Example:
    """One utterance in one epoch: two wav files, and effect -> parameters as `Augmented.to_dict` gives them."""

    utterance_id: str
    epoch: int
    original: Path
    augmented: Path
    effects: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; files by name."""
        return {
            "utterance_id": self.utterance_id,
            "epoch": self.epoch,
            "original": self.original.name,
            "augmented": self.augmented.name,
            "effects": self.effects,
        }


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The examples, and the utterances and sources that could not be read: id -> reason."""

    examples: tuple[Example, ...]
    problems: dict[str, str]


def write_preview(
    manifest: Manifest,
    augmenter: Augmenter,
    folder: str | os.PathLike[str],
    *,
    count: int,
    epoch: int = 0,
    progress: Progress | None = None,
) -> Preview:
    """Write `count` utterances, spread evenly over the manifest, as they are and augmented, to `folder`.

    `augmented.json` there lists them with what was done. A result beyond full scale is written quieter, since a wav
    file would clip it; its entry then has `written_gain_db`.

    Raises:
        ManifestError: none of the utterances can be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(count, len(manifest))).round().astype(int))
    examples = []
    problems = {}
    for done, row in enumerate(rows.tolist(), start=1):
        utterance = manifest[row]
        try:
            waveform = read_utterance(utterance, augmenter.sample_rate)
        except AudioError as error:
            problems[utterance.id] = str(error)
            continue
        augmented = augmenter.apply(waveform, utterance_id=utterance.id, epoch=epoch)
        name = f"{done:03d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', utterance.id)[-60:]}"
        original, changed = folder / f"{name}.wav", folder / f"{name}_augmented.wav"
        _write(original, waveform, augmenter.sample_rate)
        gain_db = _write(changed, augmented.waveform, augmenter.sample_rate)
        effects = augmented.to_dict() | ({"written": {"written_gain_db": gain_db}} if gain_db else {})
        examples.append(
            Example(utterance_id=utterance.id, epoch=epoch, original=original, augmented=changed, effects=effects)
        )
        if progress is not None:
            progress(done, len(rows))
    if not examples:
        raise ManifestError(f"none of {len(rows)} utterances can be read: {next(iter(problems.values()))}")
    listed = json.dumps([example.to_dict() for example in examples], indent=2, ensure_ascii=False)
    (folder / LIST_NAME).write_text(listed + "\n", encoding="utf-8")
    return Preview(examples=tuple(examples), problems=problems | augmenter.problems)


def _write(path: Path, waveform: Waveform, sample_rate: int) -> float:
    """Write 16-bit wav; returns the gain in decibels that keeps it within full scale, 0 where none is needed."""
    import soundfile

    peak = float(np.abs(waveform).max(initial=0))
    scale = 1 / peak if peak > 1 else 1.0
    soundfile.write(path, waveform * np.float32(scale), sample_rate, subtype="PCM_16")
    return float(20 * np.log10(scale))
