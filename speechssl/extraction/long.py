"""Long recordings in bounded memory: chunks that see context on both sides, normalized as the whole is.

What an encoder normalizes over a whole recording (waveform, group norm, log-mel features) is measured in a pass of its
own; so the latents of a chunk are those of the whole recording. Only the transformer sees less: `context_seconds` on
either side of a chunk instead of everything. The result follows from the recording and the `ChunkSettings` alone.

Shapes: S samples, T frames, D model dim, K layers, E embedding dim.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.errors import AudioError, ConfigError
from speechssl.extraction.audio_blocks import Blocks, content_hash, cut
from speechssl.extraction.representation import Extractor
from speechssl.lengths import frame_stride, input_length, output_length, receptive_field, seconds_to_samples
from speechssl.nn.pooling import Summary
from speechssl.nn.statistics import TimeStatistics

_STATISTICS_SECONDS = 10.0  # measured at a time; the first convolution's output is large


@dataclass(frozen=True, kw_only=True)
class ChunkSettings:
    """Which recordings are cut, and how.

    Attributes:
        whole_seconds: up to this length a recording is encoded in one piece.
        chunk_seconds: what of a longer one is kept of each piece.
        context_seconds: what a piece sees before and after that.
    """

    whole_seconds: float = 60.0
    chunk_seconds: float = 30.0
    context_seconds: float = 10.0

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.chunk_seconds >= 0.1:
            raise ConfigError(f"chunk_seconds must be at least 0.1, but is {self.chunk_seconds}")
        if not self.context_seconds >= 0:
            raise ConfigError(f"context_seconds must be at least 0, but is {self.context_seconds}")
        if not self.whole_seconds >= 0:
            raise ConfigError(f"whole_seconds must be at least 0, but is {self.whole_seconds}")

    def is_long(self, num_samples: int, sample_rate: int) -> bool:
        """Whether a recording of so many samples is cut."""
        return num_samples > seconds_to_samples(self.whole_seconds, sample_rate)


@dataclass(frozen=True, kw_only=True)
class LongResult:
    """Vectors f32 `[K, E]`, or frames `[K, T, D]` without a pooling; the samples' number and SHA-256."""

    vectors: NDArray[np.float32]
    num_samples: int
    content_sha256: str


@dataclass(frozen=True, kw_only=True)
class LongFrames:
    """A recording that was listened to once and is still to be encoded.

    `pieces` gives its frames in order, f32 `[K, T, D]` in pieces that are `num_frames` in all; iterate over it once.
    """

    num_samples: int
    num_frames: int
    content_sha256: str
    pieces: Iterator[Tensor]


def open_long(
    extractor: Extractor, open_blocks: Callable[[], Blocks], settings: ChunkSettings, *, bf16: bool = False
) -> LongFrames:
    """The frames of a recording, piece by piece: it is read once here, and twice at most while they are made.

    Args:
        extractor: encoder and what is wanted of it; nothing is pooled here.
        open_blocks: begins a new pass over the recording, at the encoder's rate.
        settings: how to cut.
        bf16: compute under autocast.

    Raises:
        AudioError: it cannot be read or is too short.
    """
    survey = _survey(open_blocks())
    layers = extractor.encoder.strided_layers
    num_frames = output_length(survey.num_samples, layers)
    if num_frames == 0:
        raise AudioError(f"{survey.num_samples} samples are fewer than the encoder needs ({receptive_field(layers)})")
    return LongFrames(
        num_samples=survey.num_samples,
        num_frames=num_frames,
        content_sha256=survey.content_sha256,
        pieces=_encode_pieces(extractor, open_blocks, survey, num_frames, settings, bf16),
    )


def encode_long(
    extractor: Extractor, open_blocks: Callable[[], Blocks], settings: ChunkSettings, *, bf16: bool = False
) -> LongResult:
    """The representation of a recording that is read piece by piece, three times at most; see `open_long`.

    Raises:
        AudioError: it cannot be read or is too short.
    """
    recording = open_long(extractor, open_blocks, settings, bf16=bf16)
    return LongResult(
        vectors=collect(extractor, recording),
        num_samples=recording.num_samples,
        content_sha256=recording.content_sha256,
    )


@torch.inference_mode()
def collect(extractor: Extractor, recording: LongFrames) -> NDArray[np.float32]:
    """All pieces in memory: vectors f32 `[K, E]`, or frames `[K, T, D]` without a pooling."""
    summary: Summary | None = None
    shape = (len(extractor.wanted.keys), recording.num_frames if extractor.pooling is None else 0, extractor.dimension)
    vectors = np.empty(shape, dtype=np.float32)
    done = 0
    for frames in recording.pieces:
        if extractor.pooling is None:
            vectors[:, done : done + frames.shape[1]] = extractor.normalized(frames).cpu().numpy()
            done += frames.shape[1]
            continue
        more = extractor.summarize(frames[:, None], torch.tensor([frames.shape[1]], device=frames.device))
        summary = more if summary is None else extractor.pooling.merge(summary, more)
    return vectors if summary is None else np.asarray(extractor.finish(summary)[:, 0].cpu().numpy())


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """Of the whole waveform."""

    num_samples: int
    mean: float
    variance: float
    content_sha256: str


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """The samples that are encoded together, and the frames of them that are kept."""

    samples: tuple[int, int]
    keep: slice


class _Moments:
    """Mean and spread of each channel over a stream of steps, in float64 (Chan et al. 1979, equation 2.1)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor = torch.zeros(1, dtype=torch.float64)
        self.spread: Tensor = torch.zeros(1, dtype=torch.float64)

    def add(self, steps: Tensor) -> None:
        """`[T, C]`."""
        steps = steps.double()
        count, mean = len(steps), steps.mean(dim=0)
        spread = (steps - mean).square().sum(dim=0)
        total = self.count + count
        difference = mean - self.mean.to(mean.device)
        self.spread = self.spread.to(mean.device) + spread + difference.square() * (self.count * count / total)
        self.mean = self.mean.to(mean.device) + difference * (count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Biased, `[C]`."""
        return self.spread / max(1, self.count)


def _survey(blocks: Blocks) -> _Survey:
    moments = _Moments()

    def watched() -> Iterator[NDArray[np.float32]]:
        for block in blocks:
            if len(block):
                moments.add(torch.from_numpy(np.ascontiguousarray(block))[:, None])
            yield block

    digest = content_hash(watched())
    return _Survey(
        num_samples=moments.count,
        mean=float(moments.mean[0]),
        variance=float(moments.variance[0]),
        content_sha256=digest,
    )


def _normalized(extractor: Extractor, blocks: Blocks, survey: _Survey) -> Blocks:
    config = extractor.encoder.config
    if not config.normalize_waveform:
        yield from blocks
        return
    mean, scale = np.float32(survey.mean), np.float32((survey.variance + config.normalize_eps) ** -0.5)
    for block in blocks:
        yield (block - mean) * scale


def _time_statistics(extractor: Extractor, blocks: Blocks, num_samples: int) -> TimeStatistics:
    first_layer = extractor.encoder.strided_layers[:1]
    total = output_length(num_samples, first_layer)
    step = max(1, output_length(seconds_to_samples(_STATISTICS_SECONDS, extractor.sample_rate), first_layer))
    bounds = [(start, min(start + step, total)) for start in range(0, total, step)]
    hop = first_layer[0][1]
    spans = ((first * hop, first * hop + input_length(last - first, first_layer)) for first, last in bounds)
    moments = _Moments()
    for waveform in cut(blocks, spans):
        samples = torch.from_numpy(np.ascontiguousarray(waveform))[None].to(extractor.device)
        moments.add(extractor.encoder.feature_encoder.unnormalized(samples)[0])
    return TimeStatistics(mean=moments.mean.float(), variance=moments.variance.float(), count=moments.count)


def _pieces(num_frames: int, extractor: Extractor, settings: ChunkSettings) -> Iterator[_Piece]:
    layers = extractor.encoder.strided_layers
    stride = frame_stride(layers)
    chunk = max(1, seconds_to_samples(settings.chunk_seconds, extractor.sample_rate) // stride)
    context = seconds_to_samples(settings.context_seconds, extractor.sample_rate) // stride
    for start in range(0, num_frames, chunk):
        end = min(start + chunk, num_frames)
        first, last = max(start - context, 0), min(end + context, num_frames)
        # Frame t sees the samples [t * stride, t * stride + field), so these give the frames first ... last - 1.
        samples = (first * stride, first * stride + input_length(last - first, layers))
        yield _Piece(samples=samples, keep=slice(start - first, end - first))


@torch.inference_mode()
def _encode_pieces(
    extractor: Extractor,
    open_blocks: Callable[[], Blocks],
    survey: _Survey,
    num_frames: int,
    settings: ChunkSettings,
    bf16: bool,
) -> Iterator[Tensor]:
    def normalized() -> Blocks:
        return _normalized(extractor, open_blocks(), survey)

    statistics = None
    if extractor.encoder.feature_encoder.normalizes_over_time:
        statistics = _time_statistics(extractor, normalized(), survey.num_samples)
    pieces = list(_pieces(num_frames, extractor, settings))
    waveforms = cut(normalized(), (piece.samples for piece in pieces))
    for piece, waveform in zip(pieces, waveforms, strict=True):
        yield _encode_piece(extractor, waveform, statistics, bf16)[:, 0, piece.keep]


def _encode_piece(
    extractor: Extractor, waveform: NDArray[np.float32], statistics: TimeStatistics | None, bf16: bool
) -> Tensor:
    """Waveform `[S]`, normalized already -> the wanted layers f32 `[K, 1, T, D]`."""
    encoder, device = extractor.encoder, extractor.device
    samples = torch.from_numpy(np.ascontiguousarray(waveform))[None].to(device)
    num_samples = torch.tensor([len(waveform)]).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        latents, num_frames = encoder.feature_encoder(samples, num_samples, statistics)
        output = encoder.contextualize(encoder.latent_norm(latents), num_frames, layers=extractor.needs_layers)
    return extractor.chosen(output)
