"""What every task is handed, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from speechssl.errors import AudioError
from speechssl.frames import FrameSource
from speechssl.manifest import Manifest
from speechssl.probe.classify import Labels
from speechssl.probe.parts import Part, strings
from speechssl.probe.results import Outcome
from speechssl.probe.settings import ProbeConfig
from speechssl.types import Utterance

Sources = Mapping[str, Sequence[FrameSource]]
"""For each representation one source, or one for every seed."""


@dataclass
class Job:
    """What all tasks need: both parts with their manifests, and where failures and remarks go."""

    config: ProbeConfig
    manifests: tuple[Manifest, Manifest]
    parts: tuple[Part, Part]
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def failed(self, utterance: Utterance, error: AudioError) -> None:
        """Remember a recording that cannot be used."""
        self.failures.setdefault(utterance.id, str(error))

    def left(self, part: int) -> Part:
        """A part without what failed."""
        return self.parts[part].without(list(self.failures))

    def rows(self, part: int, ids: Sequence[str] | Labels | None = None) -> Manifest:
        """The recordings of a part, or some of them."""
        wanted = self.parts[part].ids if ids is None else np.asarray(ids)
        return self.manifests[part].filter(np.isin(strings(self.manifests[part], "id"), wanted))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a task adds to the outcomes."""

    outcomes: Mapping[str, Outcome]
    metric: str
    better: Literal["higher", "lower"]
    chance: float | None
    sizes: tuple[int, int]
    unit: str
    num_classes: int | None
    interval_over: str
