"""Batches and results that pass between parts. Imports nothing, torch for its names only.

Shapes: B utterances, S samples, T frames, M masked frames, C latent dim, D model dim, Q quantized dim, G codebooks,
V entries, K distractors, L labels, N vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:  # manifests have utterances, and no tensors
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One row of a manifest: a span of a recording, with what is known of it.

    `audio_filepath` is ready to open (relative paths are already resolved). `offset` and `duration` are in seconds,
    `sample_rate` in Hz as stored in the file, `num_samples` at that rate within the span.
    """

    id: str
    audio_filepath: str
    sample_rate: int
    num_samples: int
    duration: float
    offset: float = 0.0
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AudioBatch:
    """Padded waveforms. `waveform` f32 `[B, S]`, `num_samples` i64 `[B]`, `sample_rate` in Hz.

    `source_seconds`, where known, is what the utterances last together, without the crops. `is_full`, whether no row is
    padded, is found out where the lengths are on the CPU and stays known when they leave it.
    """

    utterance_ids: tuple[str, ...]
    waveform: Tensor
    num_samples: Tensor
    sample_rate: int
    source_seconds: float | None = None
    is_full: bool | None = None

    def __post_init__(self) -> None:
        if self.is_full is None and self.num_samples.device.type == "cpu":
            object.__setattr__(self, "is_full", bool((self.num_samples == self.waveform.shape[1]).all()))

    @property
    def seconds(self) -> float:
        """Seconds of audio without padding. Waits for the device when `num_samples` lives on one."""
        return float(self.num_samples.sum()) / self.sample_rate

    def to(self, device: torch.device | str) -> AudioBatch:
        """The same batch on `device`; the copy overlaps with computation when the memory is pinned."""
        waveform = self.waveform.to(device, non_blocking=True)
        return replace(self, waveform=waveform, num_samples=self.num_samples.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, from which copies to a GPU overlap with computation."""
        return replace(self, waveform=self.waveform.pin_memory(), num_samples=self.num_samples.pin_memory())


@dataclass(frozen=True, kw_only=True)
class LabeledBatch:
    """Audio with label sequences. `targets` i64 `[B, L]`, `target_lengths` i64 `[B]`, `references` the plain texts."""

    audio: AudioBatch
    targets: Tensor
    target_lengths: Tensor
    references: tuple[str, ...]

    def to(self, device: torch.device | str) -> LabeledBatch:
        """The same batch on `device`."""
        return LabeledBatch(
            audio=self.audio.to(device),
            targets=self.targets.to(device, non_blocking=True),
            target_lengths=self.target_lengths.to(device, non_blocking=True),
            references=self.references,
        )

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory."""
        return replace(
            self,
            audio=self.audio.pin_memory(),
            targets=self.targets.pin_memory(),
            target_lengths=self.target_lengths.pin_memory(),
        )


@dataclass(frozen=True, kw_only=True)
class LatentOutput:
    """What a front end makes of waveforms.

    `latents` `[B, T, C]` is the raw output of the feature encoder, zero in the padding; `normalized` `[B, T, C]` is
    the same after layer norm: what the quantizer and the context encoder see; `num_frames` i64 `[B]`.
    """

    latents: Tensor
    normalized: Tensor
    num_frames: Tensor


@dataclass(frozen=True, kw_only=True)
class EncoderOutput:
    """`latents` `[B, T, C]` (layer-normalized), `context` `[B, T, D]`, `num_frames` i64 `[B]`.

    `layers`, when asked for, holds num_layers + 1 tensors `[B, T, D]`: the transformer's input, then every layer's
    output.
    """

    latents: Tensor
    context: Tensor
    num_frames: Tensor
    layers: list[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizerOutput:
    """`quantized` `[B, M, Q]`; `codes` i64 `[B, M, G]`; perplexities `[G]`, each between 1 and V.

    `code_perplexity` is that of the chosen codes, `prob_perplexity` that of the averaged softmax (with gradient).
    """

    quantized: Tensor
    codes: Tensor
    code_perplexity: Tensor
    prob_perplexity: Tensor


@dataclass(frozen=True, kw_only=True)
class ObjectiveOutput:
    """`loss` scalar with gradient, the mean over `num_targets` (an i64 scalar tensor: masked frames, or labels).

    `metrics` are detached scalar tensors for logging; reading them is left to the loop, which does so rarely.
    """

    loss: Tensor
    num_targets: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CtcOutput:
    """`logits` `[B, T, N]` (unnormalized), `num_frames` i64 `[B]`."""

    logits: Tensor
    num_frames: Tensor


@dataclass(frozen=True, kw_only=True)
class UtteranceErrors:
    """Word and character edit counts of one utterance, with the word alignment.

    `alignment` holds `(kind, reference words, hypothesis words)` chunks, kind one of `equal`, `substitute`, `delete`,
    `insert`.
    """

    id: str
    reference: str
    hypothesis: str
    hits: int
    substitutions: int
    deletions: int
    insertions: int
    char_errors: int
    num_chars: int
    alignment: tuple[tuple[str, str, str], ...]
    speaker: str | None = None

    @property
    def num_words(self) -> int:
        """Words in the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def word_errors(self) -> int:
        """Substitutions + deletions + insertions."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True, kw_only=True)
class ErrorReport:
    """Error rates of an evaluation; all rates are fractions (0.25 = 25 %).

    `wer_interval` and `cer_interval` are `(low, high)` of a bootstrap at `confidence` that resamples `interval_over`.
    `normalizer` and `normalizer_version` say how texts were normalised, `alignment` how words were set against each
    other (`speechssl.scoring.alignment`).
    """

    utterances: tuple[UtteranceErrors, ...]
    wer: float
    cer: float
    hits: int
    substitutions: int
    deletions: int
    insertions: int
    wer_interval: tuple[float, float]
    cer_interval: tuple[float, float]
    confidence: float
    normalizer: str
    interval_over: Literal["speakers", "utterances"] = "utterances"
    normalizer_version: str = ""
    alignment: Literal["levenshtein", "sclite"] = "levenshtein"
