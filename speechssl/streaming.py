"""Recognition of audio while it is being made: samples in, words out as soon as nothing that follows can change them.

Shapes: S samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechssl.asr import SpeechRecognizer, Transcript
from speechssl.ctc.chunking import Chunking
from speechssl.ctc.scored import ScoredWord
from speechssl.ctc.streaming import GreedyStream, SegmentStream
from speechssl.errors import ConfigError
from speechssl.timing import Word


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How far the network looks, and so how late words come.

    A word comes between `right_seconds` and `right_seconds + chunk_seconds` after it was said, when the next word or a
    pause has ended it, plus the time to compute. Each step computes `left_seconds + chunk_seconds + right_seconds`.

    Attributes:
        chunk_seconds: audio between two steps; less is quicker to answer and computes more.
        left_seconds: past that the network sees with it.
        right_seconds: future that it waits for.
        pause_seconds: silence after which a word, and a line, is ended.
        max_segment_seconds: with a beam, speech without a pause is decoded after this.
    """

    chunk_seconds: float = 1.0
    left_seconds: float = 8.0
    right_seconds: float = 1.0
    pause_seconds: float = 1.0
    max_segment_seconds: float = 30.0

    def __post_init__(self) -> None:
        self.chunking  # noqa: B018  checks the values
        if self.pause_seconds <= 0:
            raise ConfigError(f"pause_seconds must be above 0, but is {self.pause_seconds}")
        if self.max_segment_seconds < self.pause_seconds:
            raise ConfigError(f"max_segment_seconds must be at least pause_seconds, but is {self.max_segment_seconds}")

    @property
    def chunking(self) -> Chunking:
        """The pieces that are computed."""
        return Chunking(
            whole_seconds=0.0,
            chunk_seconds=self.chunk_seconds,
            left_seconds=self.left_seconds,
            right_seconds=self.right_seconds,
        )


@dataclass(frozen=True, kw_only=True)
class StreamUpdate:
    """New words, which stay as they are, and `open_text`: what has begun and may go on.

    With greedy decoding the letters of `open_text` stay too; a beam may still change them. `settled_seconds` is up to
    where the audio has been recognised, `heard_seconds` up to where it has come in. `pause`: a line ends here.
    """

    words: tuple[Word, ...]
    open_text: str
    settled_seconds: float
    heard_seconds: float
    pause: bool = False


class Listener:
    """Takes samples, gives words. Holds one piece of audio, an open segment, and the words that it gave."""

    def __init__(self, recognizer: SpeechRecognizer, config: StreamConfig | None = None) -> None:
        """Words are those of `recognizer`'s decoder; `config` None is the default."""
        self._recognizer = recognizer
        self._config = config or StreamConfig()
        self._chunked = recognizer.chunked(self._config.chunking)
        frame_rate = recognizer.model.encoder.config.frame_rate
        pause = max(round(self._config.pause_seconds * frame_rate), 1)
        vocabulary = recognizer.model.vocabulary
        self._pause_seconds = self._config.pause_seconds
        self._stream: GreedyStream | SegmentStream
        if recognizer.decodes_greedily:
            self._stream = GreedyStream(vocabulary, pause_frames=pause)
        else:
            most = max(round(self._config.max_segment_seconds * frame_rate), pause)
            self._stream = SegmentStream(recognizer.decode, vocabulary, pause_frames=pause, max_frames=most)
        self._words: list[Word] = []
        self._line_open = False

    @property
    def num_kept_samples(self) -> int:
        """Samples held at the moment."""
        return self._chunked.num_kept_samples

    def push(self, samples: NDArray[np.float32]) -> Iterator[StreamUpdate]:
        """Take mono f32 `[S]` at the model's rate; an update for every piece that could be computed."""
        for logits in self._chunked.push(samples):
            yield self._update(self._stream.push(logits))

    def finish(self) -> Iterator[StreamUpdate]:
        """The updates for what is left; what is too short for a frame is silence."""
        for logits in self._chunked.finish():
            yield self._update(self._stream.push(logits))
        last = self._stream.finish()
        if last:
            yield self._update(last)

    def transcript(self) -> Transcript:
        """All that was given so far, as of a recording."""
        return Transcript(
            text=" ".join(word.text for word in self._words),
            words=tuple(self._words),
            duration_seconds=self._chunked.num_samples / self._recognizer.sample_rate,
            confidence=float(np.exp(self._stream.log_probability / max(self._stream.num_frames, 1))),
            is_calibrated=self._recognizer.is_calibrated,
        )

    def _update(self, words: list[ScoredWord]) -> StreamUpdate:
        heard = self._chunked.num_samples / self._recognizer.sample_rate
        timed = tuple(self._recognizer.timed_word(word, duration_seconds=heard) for word in words)
        self._words += timed
        settled = self._recognizer.edge(self._stream.num_frames, heard)
        open_text = self._stream.open_text
        self._line_open |= bool(timed)
        silent = not self._words or settled - self._words[-1].end_seconds >= self._pause_seconds
        pause = self._line_open and silent and not open_text
        if pause:
            self._line_open = False
        return StreamUpdate(
            words=timed, open_text=open_text, settled_seconds=settled, heard_seconds=round(heard, 3), pause=pause
        )
