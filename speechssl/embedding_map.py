"""The page of a collection of embeddings: a map to point at and listen to, and a matrix of similarities.

Shapes: B utterances, D dimensions.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speechssl.audio import read_utterance
from speechssl.embed import Embeddings, load_table
from speechssl.errors import AudioError, ConfigError
from speechssl.frames import CONTEXT
from speechssl.progress import Progress
from speechssl.report.embeddings import Projection, project, similarity_section
from speechssl.report.map import MAX_POINTS, MapPoint, map_section, write_map
from speechssl.report.page import note
from speechssl.report.player import SAMPLE_RATE, sound_uri
from speechssl.types import Utterance

COLOURS = ("language", "speaker", "text")
_MOST_VALUES = 60  # a column with more is a text or a name, not a kind


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """What to draw, and how.

    Attributes:
        embeddings: a folder that `speechssl embed` wrote with one vector an utterance (`--pool mean`).
        output: the page to write.
        layer: which, where there are several: a number, or `context` for the encoder's output.
        method: umap (extra `map`), tsne or pca.
        colours: columns that the reader can colour by; language, speaker and text where they are, when empty.
        num_points: utterances at most; of more a seeded sample is drawn.
        sound_seconds: how much of each utterance can be heard; 0 for none.
        max_megabytes: of sound in the page; utterances beyond it cannot be heard, and the page says how many can.
        seed: of the sample and the projection.
    """

    embeddings: Path
    output: Path
    layer: int | Literal["only", "context"] = "only"
    method: Projection = "tsne"
    colours: tuple[str, ...] = ()
    num_points: int = 1000
    sound_seconds: float = 3.0
    max_megabytes: float = 12.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.method not in ("umap", "tsne", "pca"):
            raise ConfigError(f"method must be umap, tsne or pca, but is {self.method!r}")
        if not 3 <= self.num_points <= MAX_POINTS:
            raise ConfigError(f"num_points must be between 3 and {MAX_POINTS}, but is {self.num_points}")
        for name in ("sound_seconds", "max_megabytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, but is {getattr(self, name)}")


def run(config: MapConfig, *, progress: Progress | None = None) -> Path:
    """Write the page; recordings that cannot be read any more have no sound.

    Raises:
        ConfigError: no utterance vectors there, too few of them, or no such column.
    """
    found = load_table(config.embeddings, layer=None if config.layer == CONTEXT else config.layer)
    if found.metadata["pool"] == "none":
        raise ConfigError(f"{config.embeddings}: holds frames; a map needs one vector an utterance (--pool mean)")
    rows = np.arange(len(found.vectors))
    if len(rows) > config.num_points:
        rows = np.sort(np.random.default_rng(config.seed).choice(len(rows), config.num_points, replace=False))
    columns = _colours(found, config)
    labels = {name: [_text(found.table[name][int(row)].as_py()) for row in rows] for name in columns}
    vectors = found.vectors[rows]
    points, sentence = project(vectors, config.method, seed=config.seed)
    utterances, num_failed = _points(found, rows, config, progress or (lambda done, total: None))
    sample = f"A sample of {len(rows):,} of {len(found.vectors):,}. " if len(rows) < len(found.vectors) else ""
    layer = found.table["layer"][0].as_py()
    source = f"{found.metadata['checkpoint']}, {'output' if layer is None else f'layer {layer}'}"
    the_map = map_section(points, utterances, labels, text=f"Utterance vectors of {source}. {sample}{sentence}")
    if num_failed:
        remark = note(f"{num_failed} recordings cannot be read any more and have no sound.")
        the_map = replace(the_map, html=the_map.html + remark)
    more = [similarity_section(vectors, labels[name], name=name, title=f"Similarity by {name}") for name in columns]
    title = f"Map of {len(rows):,} utterances"
    return write_map(config.output, title, str(config.embeddings), the_map, more)


def _colours(found: Embeddings, config: MapConfig) -> list[str]:
    known = found.table.column_names
    missing = [name for name in config.colours if name not in known]
    if missing:
        raise ConfigError(f"{config.embeddings}: has no column {missing[0]!r} to colour by; it has {', '.join(known)}")
    if config.colours:
        return list(config.colours)
    kinds = {name: set(found.table[name].to_pylist()) - {None, ""} for name in COLOURS if name in known}
    return [name for name, values in kinds.items() if 1 < len(values) <= _MOST_VALUES or (name == "speaker" and values)]


def _points(
    found: Embeddings, rows: NDArray[np.int64], config: MapConfig, progress: Progress
) -> tuple[list[MapPoint], int]:
    """The utterances with their sound as far as there is room, and how many could not be read."""
    points: list[MapPoint] = []
    used, failed = 0, 0
    folder = config.embeddings if config.embeddings.is_dir() else config.embeddings.parent
    for done, row in enumerate(rows):
        values = {name: found.table[name][int(row)].as_py() for name in found.table.column_names}
        sound = None
        if config.sound_seconds and used < config.max_megabytes * 1e6:
            try:
                sound = _sound(values, folder, config.sound_seconds)
                used += len(sound)
            except AudioError:
                failed += 1
        details = " · ".join(part for part in (_text(values.get("text")), _seconds(values.get("duration"))) if part)
        points.append(MapPoint(name=str(values["id"]), details=details, sound=sound))
        progress(done + 1, len(rows))
    return points, failed


def _sound(values: dict[str, object], folder: Path, seconds: float) -> str:
    path = str(values["audio_filepath"])
    utterance = Utterance(
        id=str(values["id"]),
        audio_filepath=path if "://" in path or Path(path).is_absolute() else str(folder / path),
        sample_rate=int(str(values["sample_rate"])),
        num_samples=int(str(values["num_samples"])),
        duration=float(str(values["duration"])),
        offset=float(str(values.get("offset") or 0.0)),
    )
    return sound_uri(read_utterance(utterance, SAMPLE_RATE), sample_rate=SAMPLE_RATE, max_seconds=seconds)


def _text(value: object) -> str | None:
    return None if value in (None, "") else str(value)


def _seconds(value: object) -> str | None:
    return None if value is None else f"{float(str(value)):.1f} s"
