"""Small folders of generated recordings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.manifest import Manifest
from speechssl.types import Utterance

WriteTone = Callable[..., Path]


@pytest.fixture
def write_tone(tmp_path: Path) -> WriteTone:
    """Writes a tone whose pitch follows from its name, so that no two recordings are alike."""

    def write(name: str, *, seconds: float = 0.2, sample_rate: int = 16000) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frequency = 100 + sum(ord(letter) * 7 for letter in name) % 1500
        time = np.arange(int(seconds * sample_rate)) / sample_rate
        arguments = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * frequency * time), sample_rate, **arguments)
        return path

    return write


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    """A manifest without recordings: one row for each duration, other columns by name."""

    def make(durations: list[float], **columns: list[str | None]) -> Manifest:
        rows = []
        for number, duration in enumerate(durations):
            known = {name: values[number] for name, values in columns.items()}
            core = {name: known.pop(name) for name in ("text", "speaker", "language") if name in known}
            rows.append(
                Utterance(
                    id=f"u{number}",
                    audio_filepath=known.pop("audio_filepath", None) or f"u{number}.wav",
                    sample_rate=16000,
                    num_samples=int(duration * 16000),
                    duration=duration,
                    extra=known,
                    **core,
                )
            )
        return Manifest.from_utterances(rows, folder="corpus")

    return make
