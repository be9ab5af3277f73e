"""An interactive map of utterances in two dimensions: hover to see one, click to hear it. One page, no network."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechssl.errors import ConfigError
from speechssl.report.map_script import MAP_MARKUP, MAP_SCRIPT
from speechssl.report.page import Section, paragraph, section, write_report

MAX_POINTS = 3000
_SIZE = 1000  # of the drawing's coordinates


@dataclass(frozen=True, kw_only=True)
class MapPoint:
    """One utterance: what is shown when the reader points at it, and a data URI of its sound, if there is one."""

    name: str
    details: str = ""
    sound: str | None = None


def map_section(
    points: NDArray[np.float64],
    utterances: Sequence[MapPoint],
    labels: Mapping[str, Sequence[str | None]],
    *,
    text: str = "",
) -> Section:
    """The map as a section; the page that holds it must run `MAP_SCRIPT`.

    Args:
        points: `[B, 2]`.
        utterances: B of them.
        labels: what to colour by -> a value for each utterance; the reader chooses, None means unknown.
        text: what the points are, in words.

    Raises:
        ConfigError: lists of other lengths, or more points than a page can bear.
    """
    if len(points) > MAX_POINTS:
        raise ConfigError(f"a map can show {MAX_POINTS} utterances, but has {len(points)}; draw a sample")
    for name, values in {"utterances": utterances, **labels}.items():
        if len(values) != len(points):
            raise ConfigError(f"{len(values)} values of {name!r} for {len(points)} points; give one for each")
    low, high = points.min(axis=0), points.max(axis=0)
    spread = max(float((high - low).max()), 1e-9)
    placed = (points - (low + high) / 2) / spread * (0.94 * _SIZE) + _SIZE / 2
    data = {
        "points": [[round(float(x), 1), round(_SIZE - float(y), 1)] for x, y in placed],
        "names": [one.name for one in utterances],
        "details": [one.details for one in utterances],
        "sounds": [one.sound for one in utterances],
        "labels": {name: list(values) for name, values in labels.items()},
    }
    # In a data block nothing is markup but its end tag, so no "<" may stand in it.
    stored = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    heard = sum(one.sound is not None for one in utterances)
    use = f"Point at an utterance to see what it is, click to hear it ({heard} of {len(points)} can be heard)."
    block = f'<script type="application/json" id="map-data">{stored}</script>'
    return section("Map", paragraph(f"{text} {use}".strip()), MAP_MARKUP, block)


def write_map(path: Path, title: str, subtitle: str, the_map: Section, more: Sequence[Section] = ()) -> Path:
    """Write the page of a map, followed by other sections."""
    return write_report(path, title, subtitle, [the_map, *more], script=MAP_SCRIPT)
