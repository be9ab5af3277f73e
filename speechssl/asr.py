"""The CTC model, encoder plus a linear layer over characters, and the recognizer that turns recordings into text.

Shapes: B utterances, S samples, T frames, D model dim, N vocabulary.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from speechssl.audio import RecordingError
from speechssl.ctc.chunking import ChunkedLogits, Chunking
from speechssl.ctc.confidence import Calibration
from speechssl.ctc.decoding import Hypothesis, greedy_decode
from speechssl.ctc.scored import ScoredWord, score_words
from speechssl.ctc.streaming import GreedyStream
from speechssl.encoder import SpeechEncoder, config_from_dict
from speechssl.errors import AudioError, CheckpointError, ConfigError
from speechssl.lengths import frame_to_seconds, seconds_to_samples
from speechssl.model_directory import (
    CONFIG_FILE,
    MODEL_FILE,
    load_weights,
    read_model,
    resolve_model_directory,
    save_model,
)
from speechssl.nn.layer_mix import LayerMix
from speechssl.text import NormalizerName, Vocabulary, normalize
from speechssl.timing import Word
from speechssl.types import AudioBatch, CtcOutput, EncoderOutput

__all__ = [
    "CHUNK_SECONDS",
    "CONTEXT_SECONDS",
    "MAX_SECONDS",
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

VOCABULARY_FILE = "vocab.json"
Source = str | Path | NDArray[np.floating]
Decoder = Callable[[Tensor, Tensor], list[Hypothesis]]
"""Logits `[B, T, N]` and num_frames `[B]` to one hypothesis an utterance: all that a recognizer knows of decoding."""
HeadInput = Literal["context", "weighted_layers"]

MAX_SECONDS = 40.0
"""Recordings up to this long are recognised in one piece."""
CHUNK_SECONDS = 30.0
"""Longer ones are cut into pieces of this length, and each piece is read with `CONTEXT_SECONDS` more on both sides."""
CONTEXT_SECONDS = 4.0


class CtcModel(nn.Module):
    """A speech encoder with dropout and a linear layer to the labels of a vocabulary.

    Attributes:
        encoder: the `SpeechEncoder`.
        vocabulary: labels of the N outputs.
        normalizer: the rule by which the training texts were normalised, which is the language that the model writes.
        layer_mix: the weighted sum of the encoder's layers that the linear layer reads; None where it reads the
            context.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        vocabulary: Vocabulary,
        *,
        normalizer: NormalizerName,
        dropout: float = 0.0,
        blank_bias: float = 0.0,
        head_input: HeadInput = "context",
        seed: int = 0,
    ) -> None:
        """A fresh linear layer: weights normal with deviation 0.02 drawn from `seed`, biases 0.

        Args:
            encoder: kept, not copied.
            vocabulary: labels.
            normalizer: recorded, and used as the default of an evaluation.
            dropout: on the context before the linear layer, in training.
            blank_bias: initial bias of the blank. CTC training first learns to write blanks everywhere; a positive
                value starts there, a negative one keeps it from staying there.
            head_input: the linear layer reads the `context`, or the sum of all layers with weights that are learnt
                (`weighted_layers`, equal at first).
            seed: of the linear layer's weights.
        """
        super().__init__()
        normalize("", normalizer)  # refuses an unknown name
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, but is {dropout}")
        if head_input not in get_args(HeadInput):
            raise ConfigError(f"head_input must be one of {', '.join(get_args(HeadInput))}, but is {head_input!r}")
        self.encoder = encoder
        self.vocabulary = vocabulary
        self.normalizer: NormalizerName = normalizer
        self.dropout = dropout
        weighted = head_input == "weighted_layers"
        self.layer_mix: LayerMix | None = LayerMix(encoder.config.num_layers + 1) if weighted else None
        # built without torch's own initialization, which would draw from the global random state
        self.head: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, encoder.config.model_dim, len(vocabulary)
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(self.head.weight.shape, generator=generator) * 0.02)
            self.head.bias.zero_()
            self.head.bias[vocabulary.blank] = blank_bias

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def forward(
        self,
        waveform: Tensor,
        num_samples: Tensor,
        *,
        frame_mask: Tensor | None = None,
        channel_mask: Tensor | None = None,
    ) -> CtcOutput:
        """Label logits of waveforms.

        Args:
            waveform: f32 `[B, S]` at the encoder's sampling rate; what lies beyond a row's length does not matter.
            num_samples: i64 `[B]`, each at least the encoder's receptive field.
            frame_mask: bool `[B, T]`, True frames are hidden behind the encoder's mask embedding (training).
            channel_mask: bool `[B, D]`, True channels are set to 0 (training).

        Raises:
            AudioError: an utterance is too short to give a frame.
        """
        latents = self.encoder.extract_latents(waveform, num_samples)
        output = self.encoder.contextualize(
            latents.normalized,
            latents.num_frames,
            frame_mask=frame_mask,
            channel_mask=channel_mask,
            layers=self.layer_mix is not None,
        )
        dropped = functional.dropout(self.head_features(output), self.dropout, self.training)
        return CtcOutput(logits=self.head(dropped), num_frames=output.num_frames)

    def head_features(self, output: EncoderOutput) -> Tensor:
        """What the linear layer reads `[B, T, D]`: the context, or the weighted sum of `output.layers`."""
        if self.layer_mix is None:
            return output.context
        assert output.layers is not None, "a model with weighted layers needs the encoder's layers"
        mixed: Tensor = self.layer_mix(output.layers)
        return mixed

    @torch.no_grad()
    def recognize(self, waveform: Tensor, num_samples: Tensor) -> list[Hypothesis]:
        """Greedy hypotheses of a padded batch, in evaluation mode; the model is left in the mode it was in."""
        was_training = self.training
        self.eval()
        try:
            output = self(waveform.to(self.device), num_samples.to(self.device))
        finally:
            self.train(was_training)
        return greedy_decode(output.logits, output.num_frames, self.vocabulary)

    def save(self, directory: str | Path) -> None:
        """Write a model directory: `config.json`, `model.safetensors` and `vocab.json`."""
        description: dict[str, Any] = {
            "model_type": "ctc",
            "encoder": asdict(self.encoder.config),
            "normalizer": self.normalizer,
            "dropout": self.dropout,
        }
        if self.layer_mix is not None:
            description["head_input"] = "weighted_layers"
        facts = self.vocabulary.facts()
        if facts:
            description["vocabulary"] = facts
        save_model(directory, self, description)
        self.vocabulary.save(Path(directory) / VOCABULARY_FILE)

    @classmethod
    def load(cls, directory: str | Path, *, device: torch.device | str = "cpu") -> "CtcModel":
        """Read what `save` wrote, in evaluation mode.

        Raises:
            CheckpointError: a file is missing or damaged, or the directory holds an encoder without a CTC layer.
        """
        directory = Path(directory)
        description, tensors = read_model(directory, device=device)
        if description["model_type"] != "ctc":
            raise CheckpointError(
                f"{directory}: is a model of type {description['model_type']!r}, which cannot write text; "
                "fine-tune it first (speechssl finetune) and give that run"
            )
        encoder = SpeechEncoder(config_from_dict(description["encoder"], source=directory / CONFIG_FILE))
        try:
            model = cls(
                encoder,
                Vocabulary.load(directory / VOCABULARY_FILE, facts=description.get("vocabulary")),
                normalizer=description["normalizer"],
                dropout=description["dropout"],
                head_input=description.get("head_input", "context"),
            )
        except (KeyError, ConfigError) as error:
            raise CheckpointError(f"{directory / CONFIG_FILE}: not a usable CTC model: {error}") from error
        load_weights(model, tensors, source=directory / MODEL_FILE)
        return model.to(device).eval()


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Another text that the beam search found; see `Hypothesis` for the scores."""

    text: str
    log_probability: float
    lm_log10: float
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was recognised in one recording of `duration_seconds`.

    `confidence` is the geometric mean over the frames of the best path's probabilities: between 0 and 1, comparable
    between recordings of one model only. `is_calibrated`: those of the words were fitted to how often they are right.
    """

    text: str
    words: tuple[Word, ...]
    duration_seconds: float
    confidence: float
    alternatives: tuple[Alternative, ...] = ()
    is_calibrated: bool = False


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
            first = next(blocks, None)  # what is wrong with the recording names it already
            try:
                return self.recognize_blocks(_chain(first, blocks), offset=offset)
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
    ) -> Iterator[NDArray[np.float32]]:
        """A recording, or a span of it, as mono blocks f32 `[S]` at the model's rate; arguments as `transcribe`.

        What is longer than `whole_seconds` (`MAX_SECONDS` where None) is decoded and resampled block by block.

        Raises:
            AudioError: it cannot be read.
        """
        from speechssl.audio import probe, read, read_blocks, read_sample_rate, resample, resample_blocks

        if isinstance(source, np.ndarray):
            if sample_rate is None:
                raise AudioError("an array needs its sampling rate: transcribe(array, sample_rate=16000)")
            if source.ndim != 1:
                raise AudioError(f"the array must be one channel of shape [S], but has shape {list(source.shape)}")
            start = seconds_to_samples(offset, sample_rate)
            stop = None if duration is None else start + seconds_to_samples(duration, sample_rate)
            waveform = np.asarray(source[start:stop], dtype=np.float32)
            yield from self._blocks(resample(waveform, from_rate=sample_rate, to_rate=self.sample_rate))
            return
        left = duration if duration is not None else probe(source).duration - offset
        if left <= (MAX_SECONDS if whole_seconds is None else whole_seconds):
            yield read(source, sample_rate=self.sample_rate, offset=offset, duration=duration)
            return
        blocks = read_blocks(source, offset=offset, duration=duration)
        yield from resample_blocks(blocks, from_rate=read_sample_rate(source), to_rate=self.sample_rate)

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

    def _blocks(self, waveform: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        size = seconds_to_samples(CHUNK_SECONDS, self.sample_rate)
        for start in range(0, max(len(waveform), 1), size):
            yield waveform[start : start + size]

    @torch.inference_mode()
    def _logits_of_piece(self, waveform: Tensor) -> Tensor:
        device = self.model.device
        output = self.model(waveform[None].to(device), torch.tensor([len(waveform)]).to(device))
        logits: Tensor = output.logits[0].float().cpu()
        return logits


def _chain(first: NDArray[np.float32] | None, rest: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    if first is not None:
        yield first
    yield from rest


def load_vocabulary(path: str | Path) -> Vocabulary:
    """The labels in a `vocab.json`; of another tool's kind where the model's `config.json` beside it says so.

    Raises:
        CheckpointError: the file is missing or cannot be used.
    """
    config = Path(path).with_name(CONFIG_FILE)
    try:
        facts = json.loads(config.read_text(encoding="utf-8")).get("vocabulary")
    except (OSError, ValueError, AttributeError):
        facts = None
    return Vocabulary.load(Path(path), facts=facts)


def load_asr(source: str | Path, *, device: torch.device | str = "cpu") -> SpeechRecognizer:
    """Load a recognizer from a fine-tuning run, one of its checkpoints or a model directory.

    Raises:
        CheckpointError: nothing usable is there, a file is damaged, or the model has no CTC layer.
    """
    directory = resolve_model_directory(source)
    recognizer = SpeechRecognizer(CtcModel.load(directory, device=device))
    recognizer.calibration = Calibration.load(directory)
    return recognizer
