"""Recordings whose samples say where in the file they were: sample n has the value (n + 1) / 2^23."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.manifest import Manifest
from speechssl.types import Utterance

RATE = 16_000
SCALE = 2.0**-23  # exact in fp32


@pytest.fixture
def ramps(tmp_path: Path) -> Callable[..., Manifest]:
    """A manifest of ramps of the given lengths in samples; `offset` and `length` choose a span of each."""

    def make(lengths: list[int], *, offset: int = 0, length: int | None = None) -> Manifest:
        utterances = []
        for number, total in enumerate(lengths):
            path = tmp_path / f"{number:03d}.wav"
            soundfile.write(path, ((np.arange(total) + 1) * SCALE).astype(np.float32), RATE, subtype="FLOAT")
            span = total - offset if length is None else length
            utterances.append(
                Utterance(
                    id=f"u{number}", audio_filepath=str(path), sample_rate=RATE, num_samples=span, offset=offset / RATE,
                    duration=span / RATE, text=f"text {number}",
                )
            )  # fmt: skip
        return Manifest.from_utterances(utterances)

    return make
