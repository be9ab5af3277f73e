"""Proof on a sample that embeddings do not depend on how they were computed.

Shapes: S samples, K layers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.audio import read_utterance
from speechssl.embed.encode import EncodeSettings, encode_rows
from speechssl.embed.index import open_index
from speechssl.embed.settings import EmbedConfig
from speechssl.embed.shards import to_dtype
from speechssl.embed.stage import Job, load_job
from speechssl.errors import AudioError
from speechssl.extraction import encode_batch, encode_long
from speechssl.extraction.audio_blocks import Blocks, array_blocks

TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2}
STORED_TOLERANCE = {"float32": 0.0, "float16": 2**-10, "bfloat16": 2**-7}  # a last digit may round either way

Vectors = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One way to compute against each recording alone.

    `difference` is the largest absolute difference of a recording's layer over the largest absolute value in it, met
    in the recording `worst_id`; `tolerance` is None where a difference is expected and only measured.
    """

    name: str
    difference: float
    worst_id: str
    tolerance: float | None

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.tolerance is None or self.difference <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All comparisons on `num_clips` recordings."""

    comparisons: tuple[Comparison, ...]
    num_clips: int

    @property
    def holds(self) -> bool:
        """Whether all are within their tolerances."""
        return all(comparison.holds for comparison in self.comparisons)

    @property
    def max_difference(self) -> float:
        """The largest difference that has a tolerance."""
        return max(found.difference for found in self.comparisons if found.tolerance is not None)


def verify(config: EmbedConfig, *, num_clips: int = 16, seed: int = 0) -> Verification:
    """Embed a sample of a finished table again in other ways, and compare.

    The sample has the shortest and the longest recordings, and others at random. Each is encoded alone, without
    padding; beside that stand the table itself, small and large batches, batches at random with noise in the padding,
    and two worker processes. How much chunks differ from whole-file inference is measured on the longest recording.

    Raises:
        ConfigError: there is no finished table.
        AudioError: not one recording of the sample can be read any more.
    """
    index = open_index(config.output)
    job = load_job(config)
    places = _sample(job, set(index.clips["id"].to_pylist()), num_clips, seed)
    rows = job.manifest.take(places)
    settings = config.encoding
    waveforms = {row.id: read_utterance(row, job.extractor.sample_rate) for row in rows}
    if not waveforms:
        raise AudioError(f"{config.manifest}: none of its recordings is in {config.output}; embed it first")
    alone = {name: _alone(job, waveform, settings) for name, waveform in waveforms.items()}
    tolerance = TOLERANCE[config.precision]

    def other(**changes: object) -> Vectors:
        found = encode_rows(rows, job.extractor, replace(settings, **changes))  # type: ignore[arg-type]
        return {item.id: item.vectors for item in found if item.vectors is not None}

    stored = {
        name: np.stack([index.vectors(name, layer) for layer in index.layers]).reshape(alone[name].shape)
        for name in waveforms
    }
    rounded = {name: to_dtype(vectors, config.dtype) for name, vectors in alone.items()}
    comparisons = [
        _compare("the table", rounded, stored, tolerance + STORED_TOLERANCE[config.dtype]),
        _compare("small batches", alone, other(batch_seconds=1.0), tolerance),
        _compare("one large batch", alone, other(batch_seconds=settings.batch_seconds * 8), tolerance),
        _compare("random batches, noise in the padding", alone, _noisy(job, waveforms, settings, seed), tolerance),
        _compare("2 worker processes", alone, other(num_workers=2), tolerance),
    ]
    comparisons += _chunks_against_whole(job, waveforms, settings)
    return Verification(comparisons=tuple(comparisons), num_clips=len(waveforms))


def relative_difference(reference: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest over layers of: largest absolute difference over largest absolute value; of `[K, ...]`."""
    worst = 0.0
    for ours, theirs in zip(reference, other, strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        scale = float(np.abs(ours).max())
        worst = max(worst, float(np.abs(ours - theirs).max()) / max(scale, 1e-30))
    return worst


def _sample(job: Job, embedded: set[str], num_clips: int, seed: int) -> NDArray[np.int64]:
    names = job.manifest.column("id").to_pylist()
    usable = np.array([place for place, name in enumerate(names) if name in embedded], dtype=np.int64)
    by_length = usable[np.argsort(job.manifest.durations[usable], kind="stable")]
    ends = max(1, num_clips // 4)
    chosen = set(by_length[:ends].tolist()) | set(by_length[-ends:].tolist())
    for place in np.random.default_rng(seed).permutation(usable).tolist():
        if len(chosen) >= num_clips:
            break
        chosen.add(place)
    return np.array(sorted(chosen)[: max(num_clips, 1)] if len(chosen) > num_clips else sorted(chosen), dtype=np.int64)


def _alone(job: Job, waveform: NDArray[np.float32], settings: EncodeSettings) -> NDArray[np.float32]:
    bf16 = settings.precision == "bf16"
    if settings.chunks.is_long(len(waveform), job.extractor.sample_rate):
        return encode_long(job.extractor, _blocks(waveform, job), settings.chunks, bf16=bf16).vectors
    samples = torch.from_numpy(np.ascontiguousarray(waveform))[None]
    return encode_batch(job.extractor, samples, torch.tensor([len(waveform)]), bf16=bf16)[0]


def _blocks(waveform: NDArray[np.float32], job: Job) -> Callable[[], Blocks]:
    return lambda: array_blocks(waveform, job.extractor.sample_rate)


def _noisy(
    job: Job, waveforms: Mapping[str, NDArray[np.float32]], settings: EncodeSettings, seed: int
) -> dict[str, NDArray[np.float32]]:
    """In batches of up to four, drawn at random, with loud noise where a clip has ended."""
    rate = job.extractor.sample_rate
    names = [name for name, waveform in waveforms.items() if not settings.chunks.is_long(len(waveform), rate)]
    random = np.random.default_rng(seed)
    names = [names[place] for place in random.permutation(len(names))]
    found: dict[str, NDArray[np.float32]] = {}
    for start in range(0, len(names), 4):
        group = names[start : start + 4]
        lengths = [len(waveforms[name]) for name in group]
        padded = random.normal(size=(len(group), max(lengths) + rate // 3)).astype(np.float32)
        for row, name in zip(padded, group, strict=True):
            row[: len(waveforms[name])] = waveforms[name]
        vectors = encode_batch(
            job.extractor, torch.from_numpy(padded), torch.tensor(lengths), bf16=settings.precision == "bf16"
        )
        found.update(zip(group, vectors, strict=True))
    return found


def _chunks_against_whole(
    job: Job, waveforms: Mapping[str, NDArray[np.float32]], settings: EncodeSettings
) -> Sequence[Comparison]:
    """How far the longest recording up to `whole_seconds`, cut into thirds, is from itself in one piece."""
    rate = job.extractor.sample_rate
    names = [name for name, waveform in waveforms.items() if not settings.chunks.is_long(len(waveform), rate)]
    if not names:
        return []
    name = max(names, key=lambda found: len(waveforms[found]))
    seconds = max(0.1, len(waveforms[name]) / rate / 3)
    chunks = replace(settings.chunks, whole_seconds=0.0, chunk_seconds=seconds)
    bf16 = settings.precision == "bf16"
    cut = encode_long(job.extractor, _blocks(waveforms[name], job), chunks, bf16=bf16).vectors
    whole = _alone(job, waveforms[name], settings)
    title = f"cut into 3 chunks with {chunks.context_seconds:g} s of context"
    return [_compare(title, {name: whole}, {name: cut}, None)]


def _compare(name: str, reference: Vectors, other: Vectors, tolerance: float | None) -> Comparison:
    differences = {
        clip: relative_difference(vectors, other[clip]) if clip in other else float("inf")
        for clip, vectors in reference.items()
        if clip in other or "padding" not in name  # long recordings are never padded
    }
    if not differences:
        return Comparison(name=name, difference=0.0, worst_id="", tolerance=tolerance)
    worst = max(differences, key=lambda clip: differences[clip])
    return Comparison(name=name, difference=differences[worst], worst_id=worst, tolerance=tolerance)
