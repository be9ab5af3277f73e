"""What cutting a recording into chunks changes, against the whole in one piece.

Shapes: T frames, N vocabulary.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechssl.asr import SpeechRecognizer
from speechssl.ctc.chunking import Chunking
from speechssl.errors import AudioError
from speechssl.scoring import count_errors, error_rates

MAX_WHOLE_SECONDS = 1800.0
"""Attention over the whole takes time by the square of its length; longer recordings are not compared."""


@dataclass(frozen=True, kw_only=True)
class SeamError:
    """Chunks against the whole.

    Attributes:
        seconds: of the recording.
        num_seams: places where it was cut.
        wer: word error rate of the chunks' text with the whole's as reference; None where the whole has no words.
        cer: the same of characters.
        num_word_errors: words that differ.
        num_words: words of the whole.
        changed_frames: share of the frames whose best label differs.
        changed_frames_near_seams: the same within half a second of a seam.
        max_logit_difference: the largest of all frames and labels.
        max_logit_difference_near_seams: the largest within half a second of a seam.
        mean_logit_difference: the mean of the absolute differences.
        logit_deviation: standard deviation of the whole's logits, to compare these with.
    """

    seconds: float
    num_seams: int
    wer: float | None
    cer: float | None
    num_word_errors: int
    num_words: int
    changed_frames: float
    changed_frames_near_seams: float
    max_logit_difference: float
    max_logit_difference_near_seams: float
    mean_logit_difference: float
    logit_deviation: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def seam_error(
    recognizer: SpeechRecognizer, waveform: NDArray[np.float32], *, chunking: Chunking | None = None
) -> SeamError:
    """Compare the logits and texts of `waveform` `[S]` in chunks with those in one piece.

    Args:
        recognizer: whose decoder writes both texts.
        waveform: at the model's rate.
        chunking: None is the recognizer's own.

    Raises:
        AudioError: it is longer than `MAX_WHOLE_SECONDS`, or too short to be cut.
    """
    chunking = chunking or recognizer.chunking
    seconds = len(waveform) / recognizer.sample_rate
    if seconds > MAX_WHOLE_SECONDS:
        raise AudioError(
            f"{seconds:.0f} s are too long to be recognised in one piece; compare a span of up to"
            f" {MAX_WHOLE_SECONDS:.0f} s (--offset, --duration)"
        )
    if seconds <= max(chunking.whole_seconds, chunking.chunk_seconds):
        raise AudioError(f"{seconds:.1f} s are recognised in one piece: there is no seam to compare")
    whole_plan = Chunking(whole_seconds=seconds + 1, chunk_seconds=1.0, left_seconds=0.0, right_seconds=0.0)
    whole = torch.cat(list(recognizer.run(recognizer.chunked(whole_plan), [waveform])))
    chunked = torch.cat(list(recognizer.run(recognizer.chunked(chunking), [waveform])))
    texts = [recognizer.decode(logits[None], torch.tensor([len(logits)]))[0].text for logits in (whole, chunked)]
    errors = count_errors({"": texts[0]}, {"": texts[1]}, normalizer="none")[0] if texts[0] else None
    rates = error_rates([errors]) if errors is not None else (None, None)
    near = _near_seams(len(whole), chunking, recognizer.model.encoder.config.frame_rate)
    difference = (whole - chunked).abs()
    changed = (whole.argmax(dim=-1) != chunked.argmax(dim=-1)).double()
    return SeamError(
        seconds=round(seconds, 3),
        num_seams=int(near.num_seams),
        wer=rates[0],
        cer=rates[1],
        num_word_errors=errors.word_errors if errors is not None else len(texts[1].split()),
        num_words=errors.num_words if errors is not None else 0,
        changed_frames=float(changed.mean()),
        changed_frames_near_seams=float(changed[near.mask].mean()),
        max_logit_difference=float(difference.max()),
        max_logit_difference_near_seams=float(difference[near.mask].max()),
        mean_logit_difference=float(difference.double().mean()),
        logit_deviation=float(whole.double().std()),
    )


@dataclass(frozen=True)
class _Near:
    mask: Tensor
    num_seams: int


def _near_seams(num_frames: int, chunking: Chunking, frame_rate: float) -> _Near:
    seams = np.arange(chunking.chunk_seconds * frame_rate, num_frames, chunking.chunk_seconds * frame_rate)
    frames = np.arange(num_frames)
    distance = np.abs(frames[:, None] - seams[None, :]).min(axis=1)
    return _Near(mask=torch.from_numpy(distance <= frame_rate / 2), num_seams=len(seams))
