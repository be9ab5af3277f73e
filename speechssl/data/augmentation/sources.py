"""Noises, impulse responses and other talkers: rows of a manifest, read when they are drawn.

A file that cannot be used is noted with its reason and another one is drawn; it never ends a run. Storage that cannot
be reached does.
Shapes: S samples.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechssl.audio import UnreachableError, Waveform, probe, read, read_utterance
from speechssl.data.augmentation.levels import SILENT_POWER, mean_power, repeat
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.lengths import seconds_to_samples
from speechssl.types import Utterance

logger = logging.getLogger(__name__)

MAX_DRAWS = 5
"""So many rows are tried before an effect is left out."""

WHOLE_SECONDS = 60.0
"""Longer rows are not kept decoded: only the span that is needed is read."""

FADE_SECONDS = 0.02

Accept = Callable[[Utterance], bool]


class ClipCache:
    """Decoded clips up to a number of bytes; those not used for longest give way."""

    def __init__(self, megabytes: float) -> None:
        self.max_bytes = int(megabytes * 1e6)
        self.num_bytes = 0
        self._clips: OrderedDict[tuple[str, int], Waveform] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int], load: Callable[[], Waveform]) -> Waveform:
        """The clip of that key, from memory or from `load`."""
        with self._lock:
            if key in self._clips:
                self._clips.move_to_end(key)
                return self._clips[key]
        clip = load()
        with self._lock:
            if clip.nbytes <= self.max_bytes and key not in self._clips:
                self._clips[key] = clip
                self.num_bytes += clip.nbytes
                while self.num_bytes > self.max_bytes:
                    self.num_bytes -= self._clips.popitem(last=False)[1].nbytes
        return clip

    def __getstate__(self) -> dict[str, Any]:
        return {"max_bytes": self.max_bytes}  # another process fills its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["max_bytes"] / 1e6)  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A segment f32 `[S]` of the row `utterance_id`."""

    utterance_id: str
    waveform: Waveform


class ClipSource:
    """Draws from a manifest at random."""

    def __init__(self, path: Path, *, key: str, sample_rate: int, cache: ClipCache, problems: dict[str, str]) -> None:
        """Rows of the manifest `path`, which the configuration names in `key`; unusable files go to `problems`.

        Raises:
            ConfigError: the manifest is missing, empty or damaged.
        """
        from speechssl.manifest import Manifest

        try:
            self.manifest = Manifest.load(path)
        except ManifestError as error:
            raise ConfigError(f"{key}: {error}") from None
        self.key = key
        self.sample_rate = sample_rate
        self.problems = problems
        self._cache = cache
        self._unusable: set[int] = set()

    def segment(self, num_samples: int, random: np.random.Generator, *, accept: Accept | None = None) -> Drawn | None:
        """`num_samples` from a random place of a random row, going round where it is too short; None without luck."""

        def cut(row: int, utterance: Utterance, place: float) -> Waveform:
            needed = num_samples / self.sample_rate
            if utterance.duration > max(WHOLE_SECONDS, needed):
                offset = utterance.offset + place * (utterance.duration - needed)
                clip = read(utterance.audio_filepath, sample_rate=self.sample_rate, offset=offset, duration=needed)
            else:
                clip = self._whole(row, utterance)
            if len(clip) < num_samples:
                fade = seconds_to_samples(FADE_SECONDS, self.sample_rate)
                return repeat(clip, num_samples, start=int(place * len(clip)), fade_samples=fade)
            start = int(place * (len(clip) - num_samples + 1))
            return clip[start : start + num_samples]

        return self._draw(random, cut, accept)

    def impulse_response(self, random: np.random.Generator, *, max_seconds: float) -> Drawn | None:
        """A random row in full; rows with several channels or longer than `max_seconds` are unusable."""

        def read_checked(utterance: Utterance) -> Waveform:
            num_channels = probe(utterance.audio_filepath).num_channels
            if num_channels > 1:
                raise AudioError(
                    f"{utterance.audio_filepath}: has {num_channels} channels, whose mean is no impulse response; save"
                    " one of them as a file of its own"
                )
            return read_utterance(utterance, self.sample_rate)

        def load(row: int, utterance: Utterance, place: float) -> Waveform:
            if utterance.duration > max_seconds:
                raise AudioError(
                    f"{utterance.audio_filepath}: {utterance.duration:.1f} s is no impulse response; they are at most"
                    f" {max_seconds:g} s long"
                )
            return self._cache.get((self.key, row), lambda: read_checked(utterance))

        return self._draw(random, load, None)

    def _draw(
        self,
        random: np.random.Generator,
        load: Callable[[int, Utterance, float], Waveform],
        accept: Accept | None,
    ) -> Drawn | None:
        for _ in range(MAX_DRAWS):
            row, place = int(random.integers(len(self.manifest))), float(random.random())
            if row in self._unusable:
                continue
            utterance = self.manifest[row]
            if accept is not None and not accept(utterance):
                continue
            try:
                waveform = load(row, utterance, place)
            except UnreachableError:
                raise  # another noise would be drawn than the next time, and nothing is known against this one
            except AudioError as error:
                self._note(row, utterance, str(error))
                continue
            if mean_power(waveform) > SILENT_POWER:  # a silent stretch: other places may be audible
                return Drawn(utterance_id=utterance.id, waveform=waveform)
        return None

    def _whole(self, row: int, utterance: Utterance) -> Waveform:
        return self._cache.get((self.key, row), lambda: read_utterance(utterance, self.sample_rate))

    def _note(self, row: int, utterance: Utterance, reason: str) -> None:
        self._unusable.add(row)
        if utterance.id not in self.problems:
            self.problems[utterance.id] = reason
            logger.warning("%s: passed over %s: %s", self.key, utterance.id, reason)
