"""The recognizer, which turns recordings of any length into text with a CTC model.

The model itself is in `model`, what was recognised in `transcript`, and how a recording is read in `source`.

Shapes: B utterances, S samples, T frames, N vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechssl.asr.model import VOCABULARY_FILE, CtcModel, HeadInput, load_vocabulary
from speechssl.asr.source import Blocks, Source, array_blocks, array_span, file_blocks
from speechssl.asr.transcript import Alternative, Transcript
from speechssl.audio import RecordingError
from speechssl.ctc.chunking import ChunkedLogits, Chunking
from speechssl.ctc.confidence import Calibration
from speechssl.ctc.decoding import Hypothesis, greedy_decode
from speechssl.ctc.scored import ScoredWord, score_words
from speechssl.ctc.streaming import GreedyStream
from speechssl.errors import AudioError
from speechssl.lengths import frame_to_seconds, seconds_to_samples
from speechssl.model_directory import resolve_model_directory
from speechssl.timing import Word
from speechssl.types import AudioBatch, CtcOutput

__all__ = [
    "CHUNK_SECONDS",
    "CONTEXT_SECONDS",
    "MAX_SECONDS",
    "VOCABULARY_FILE",
    "Alternative",
    "CtcModel",
    "Decoder",
    "HeadInput",
    "SpeechRecognizer",
    "Transcript",
    "Word",
    "load_asr",
    "load_vocabulary",
]

Decoder = Callable[[Tensor, Tensor], list[Hypothesis]]
"""Logits `[B, T, N]` and num_frames `[B]` to one hypothesis an utterance: all that a recognizer knows of decoding."""

MAX_SECONDS = 40.0
"""Recordings up to this long are recognised in one piece."""
CHUNK_SECONDS = 30.0
"""Longer ones are cut into pieces of this length, and each piece is read with `CONTEXT_SECONDS` more on both sides."""
CONTEXT_SECONDS = 4.0


class SpeechRecognizer:
    """Recordings to text with a CTC model, whatever their length.

    A recording longer than `MAX_SECONDS` is cut into pieces of `CHUNK_SECONDS` on frame boundaries. Each is encoded
    with `CONTEXT_SECONDS` of its neighbours on both sides, whose frames are then dropped, and the frames of all pieces
    are decoded as one sequence: no word is cut or doubled at a seam. Statistics that the encoder takes over a whole
    input (waveform normalisation, group norm) are then taken over a piece.
    """

    def __init__(self, model: CtcModel, *, decoder: Decoder | None = None) -> None:
        """`decoder` turns logits into text; None is `greedy_decode`."""
        self.model = model.eval()
        self.decoder = decoder
        self.calibration: Calibration | None = None
        """Maps the scores of words to confidences where it was fitted; it holds for greedy decoding."""
        self.own_chunking: Chunking | None = None
        """Replaces the standard lengths of `chunking`."""

    @property
    def chunking(self) -> Chunking:
        """How long recordings are cut."""
        return self.own_chunking or Chunking(
            whole_seconds=MAX_SECONDS,
            chunk_seconds=CHUNK_SECONDS,
            left_seconds=CONTEXT_SECONDS,
            right_seconds=CONTEXT_SECONDS,
        )

    @property
    def sample_rate(self) -> int:
        """Sampling rate in Hz that the model takes; recordings are resampled to it."""
        return self.model.encoder.config.sample_rate

    # A text is a sequence of texts too; it is taken as a path.
    @overload
    def transcribe(  # type: ignore[overload-overlap]
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        offset: float = 0.0,
        duration: float | None = None,
    ) -> Transcript: ...

    @overload
    def transcribe(self, source: Sequence[str | Path], *, sample_rate: int | None = None) -> list[Transcript]: ...

    def transcribe(
        self,
        source: Source | Sequence[str | Path],
        *,
        sample_rate: int | None = None,
        offset: float = 0.0,
        duration: float | None = None,
    ) -> Transcript | list[Transcript]:
        """Recognise a recording, or every one of a list.

        Args:
            source: a path, an array `[S]` of one channel (with `sample_rate`), or a list of paths.
            sample_rate: of an array, in Hz; it is resampled where it differs from the model's.
            offset: where in one recording to begin, in seconds; only the span is decoded. Times in the transcript
                count from the recording's start.
            duration: of the span; to the end when None.

        Raises:
            AudioError: a recording cannot be read or is too short; the message names it.
        """
        if isinstance(source, (np.ndarray, str, Path)):
            name = "" if isinstance(source, np.ndarray) else f"{source}: "
            blocks = self.read(source, sample_rate=sample_rate, offset=offset, duration=duration)
            begun = list(islice(blocks, 1))  # what is wrong with the recording names it already
            try:
                return self.recognize_blocks(chain(begun, blocks), offset=offset)
            except RecordingError:
                raise
            except AudioError as error:
                raise AudioError(f"{name}{error}") from error
        return [self.transcribe(path) for path in source]

    def read(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        offset: float = 0.0,
        duration: float | None = None,
        whole_seconds: float | None = None,
    ) -> Blocks:
        """A recording, or a span of it, as mono blocks f32 `[S]` at the model's rate; arguments as `transcribe`.

        What is longer than `whole_seconds` (`MAX_SECONDS` where None) is decoded and resampled block by block.

        Raises:
            AudioError: it cannot be read.
        """
        if isinstance(source, np.ndarray):
            return self._blocks(
                array_span(source, sample_rate=sample_rate, to_rate=self.sample_rate, offset=offset, duration=duration)
            )
        return file_blocks(
            source,
            to_rate=self.sample_rate,
            offset=offset,
            duration=duration,
            whole_seconds=MAX_SECONDS if whole_seconds is None else whole_seconds,
        )

    def recognize(self, waveform: NDArray[np.float32]) -> Transcript:
        """Recognise one waveform f32 `[S]` at the model's sampling rate.

        Raises:
            AudioError: it is too short to give a frame.
        """
        return self.recognize_blocks(self._blocks(waveform))

    def recognize_blocks(self, blocks: Iterable[NDArray[np.float32]], *, offset: float = 0.0) -> Transcript:
        """Recognise one recording that comes as blocks f32 `[S]` at the model's rate; see `chunking` for the memory.

        `offset` in seconds is added to all times.

        Raises:
            AudioError: it is too short to give a frame.
        """
        if self.decodes_greedily:
            return self._recognize_greedily(blocks, offset)
        chunked = self.chunked()
        logits = torch.cat(list(self.run(chunked, blocks)))
        hypothesis = self.decode(logits[None], torch.tensor([len(logits)]))[0]
        log_probabilities = logits.float().log_softmax(dim=-1)
        transcript = self._transcript(
            hypothesis.text,
            score_words(log_probabilities, hypothesis, separator=self.model.vocabulary.separator),
            num_samples=chunked.num_samples,
            offset=offset,
            mean_log_probability=float(log_probabilities.amax(dim=-1).double().mean()),
        )
        others = [
            Alternative(text=o.text, log_probability=o.log_probability, lm_log10=o.lm_log10, score=o.score)
            for o in hypothesis.alternatives
        ]
        return replace(transcript, alternatives=tuple(others))

    def _recognize_greedily(self, blocks: Iterable[NDArray[np.float32]], offset: float) -> Transcript:
        """Like any decoder, but nothing is kept of the logits."""
        chunked = self.chunked()
        stream = GreedyStream(self.model.vocabulary)
        words = [word for logits in self.run(chunked, blocks) for word in stream.push(logits)]
        words += stream.finish()
        return self._transcript(
            " ".join(word.text for word in words),
            words,
            num_samples=chunked.num_samples,
            offset=offset,
            mean_log_probability=stream.log_probability / stream.num_frames,
        )

    def _transcript(
        self, text: str, words: Sequence[ScoredWord], *, num_samples: int, offset: float, mean_log_probability: float
    ) -> Transcript:
        duration = num_samples / self.sample_rate
        return Transcript(
            text=text,
            words=tuple(self.timed_word(word, duration_seconds=duration, offset=offset) for word in words),
            duration_seconds=duration,
            confidence=float(np.exp(mean_log_probability)),
            is_calibrated=self.is_calibrated,
        )

    def timed_word(self, word: ScoredWord, *, duration_seconds: float, offset: float = 0.0) -> Word:
        """A word with seconds in place of frames, within what was read from `offset` on."""
        return Word(
            text=word.text,
            start_seconds=self.edge(word.start_frame, duration_seconds, offset),
            end_seconds=self.edge(word.end_frame, duration_seconds, offset),
            confidence=self._confidence(word.score),
        )

    def _confidence(self, score: float) -> float:
        return self.calibration.apply(score) if self.calibration is not None and self.decodes_greedily else score

    @property
    def is_calibrated(self) -> bool:
        """Whether confidences of words are calibrated: fitted, and for the decoder at hand."""
        return self.calibration is not None and self.decodes_greedily

    def recognize_batch(self, batch: AudioBatch) -> list[Hypothesis]:
        """Hypotheses of a batch; in one piece each, or cut as `transcribe` does when one is longer than that."""
        output = self.logits_of_batch(batch)
        return self.decode(output.logits, output.num_frames)

    @torch.inference_mode()
    def logits_of_batch(self, batch: AudioBatch) -> CtcOutput:
        """What `recognize_batch` decodes: logits `[B, T, N]` and num_frames i64 `[B]`."""
        if int(batch.num_samples.max()) <= seconds_to_samples(MAX_SECONDS, self.sample_rate):
            device = self.model.device
            output: CtcOutput = self.model(batch.waveform.to(device), batch.num_samples.to(device))
            return output
        lengths = batch.num_samples.tolist()
        logits = [self._logits(row[:length]) for row, length in zip(batch.waveform, lengths, strict=True)]
        num_frames = torch.tensor([len(row) for row in logits])
        return CtcOutput(logits=nn.utils.rnn.pad_sequence(logits, batch_first=True), num_frames=num_frames)

    def edge(self, frame: int, duration: float, offset: float = 0.0) -> float:
        """Time of the border before frame number `frame`, within `duration` seconds that begin at `offset`."""
        seconds = frame_to_seconds(frame - 0.5, self.model.encoder.strided_layers, self.sample_rate)
        return round(offset + min(max(seconds, 0.0), duration), 3)

    @property
    def decodes_greedily(self) -> bool:
        """Whether the text is the best path, which needs no look ahead."""
        return self.decoder is None

    def decode(self, logits: Tensor, num_frames: Tensor) -> list[Hypothesis]:
        """Logits `[B, T, N]` and num_frames `[B]` to text, with the recognizer's decoder."""
        if self.decoder is not None:
            return self.decoder(logits, num_frames)
        return greedy_decode(logits, num_frames, self.model.vocabulary)

    def chunked(self, chunking: Chunking | None = None) -> ChunkedLogits:
        """What turns samples into logits piece by piece; `chunking` is the recognizer's where None."""
        return ChunkedLogits(
            self._logits_of_piece,
            chunking or self.chunking,
            layers=self.model.encoder.strided_layers,
            sample_rate=self.sample_rate,
        )

    def run(self, chunked: ChunkedLogits, blocks: Iterable[NDArray[np.float32]]) -> Iterator[Tensor]:
        """All logits `[T, N]` of a recording, piece by piece.

        Raises:
            AudioError: it is too short to give a frame.
        """
        for block in blocks:
            yield from chunked.push(block)
        yield from chunked.finish()
        if chunked.num_frames == 0:
            self._logits_of_piece(torch.zeros(chunked.num_samples))  # raises what the encoder says of it

    def _logits(self, waveform: Tensor) -> Tensor:
        """Waveform `[S]` -> logits `[T, N]`, piece by piece where it is long."""
        return torch.cat(list(self.run(self.chunked(), self._blocks(waveform.numpy()))))

    def _blocks(self, waveform: NDArray[np.float32]) -> Blocks:
        return array_blocks(waveform, seconds_to_samples(CHUNK_SECONDS, self.sample_rate))

    @torch.inference_mode()
    def _logits_of_piece(self, waveform: Tensor) -> Tensor:
        device = self.model.device
        output = self.model(waveform[None].to(device), torch.tensor([len(waveform)]).to(device))
        logits: Tensor = output.logits[0].float().cpu()
        return logits


def load_asr(source: str | Path, *, device: torch.device | str = "cpu") -> SpeechRecognizer:
    """Load a recognizer from a fine-tuning run, one of its checkpoints or a model directory.

    Raises:
        CheckpointError: nothing usable is there, a file is damaged, or the model has no CTC layer.
    """
    directory = resolve_model_directory(source)
    recognizer = SpeechRecognizer(CtcModel.load(directory, device=device))
    recognizer.calibration = Calibration.load(directory)
    return recognizer
