"""How long recordings are cut."""

import math
from dataclasses import dataclass
from typing import Literal

from speechssl.errors import ConfigError

Method = Literal["silence", "speech"]


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """How long recordings are cut.

    Attributes:
        method: "silence" keeps what is louder than a threshold (librosa), "speech" what silero-vad takes for speech.
        min_seconds: shorter clips are left out; at most half of max_seconds.
        max_seconds: longer speech is cut at its longest pause, without one at its quietest place.
        padding_seconds: kept before and after what was found, and up to 0.2 s more to where it is quietest, as far as
            the next find leaves room.
        max_pause_seconds: a clip goes on over pauses up to this long.
        top_db: with "silence": what is quieter than the recording's loud level by more decibels is silence. The loud
            level is exceeded in a thousandth of the frames, so that a slammed door does not count.
        threshold: with "speech": probability from which a window of 32 ms begins speech; it ends 0.15 below.
        drop_text: cut labelled rows too; their clips have no text.
    """

    method: Method = "silence"
    min_seconds: float = 1.0
    max_seconds: float = 15.0
    padding_seconds: float = 0.1
    max_pause_seconds: float = 0.5
    top_db: float = 40.0
    threshold: float = 0.5
    drop_text: bool = False

    def __post_init__(self) -> None:
        if not 0.1 <= self.min_seconds <= self.max_seconds / 2 or math.isinf(self.max_seconds):
            raise ConfigError(
                f"min_seconds must be from 0.1 to half of max_seconds, so that any long clip can be cut, but they are"
                f" {self.min_seconds:g} and {self.max_seconds:g}"
            )
        for name in ("padding_seconds", "max_pause_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0, but is {getattr(self, name):g}")
        if not 0 < self.top_db < math.inf:
            raise ConfigError(f"top_db must be above 0, but is {self.top_db:g}")
        if not 0.15 < self.threshold < 1:
            raise ConfigError(f"threshold must be above 0.15 and below 1, but is {self.threshold:g}")
