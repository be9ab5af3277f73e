"""`speechssl transcribe`: recordings to text, or audio from standard input while it is being made."""

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from speechssl.cli.options import stage_config
from speechssl.cli.output import log_to_stderr, progress_bar, say, table

if TYPE_CHECKING:
    from speechssl.streaming import Listener, StreamUpdate
    from speechssl.transcribe import TranscribeConfig

EXAMPLE = (
    "speechssl transcribe runs/asr talk.flac interview.mp3\n"
    "speechssl transcribe runs/asr talk.flac --format srt\n"
    "arecord -q -f S16_LE -r 16000 -c 1 -t wav - | speechssl transcribe runs/asr -\n"
    "ffmpeg -v error -i talk.m4a -f s16le -ar 16000 -ac 1 - | speechssl transcribe runs/asr - --encoding s16le"
    " --sample_rate 16000 --format json"
)


def transcribe_command(words: list[str]) -> int:
    """Recordings to text."""
    from speechssl.transcribe import TranscribeConfig, render, run

    log_to_stderr()
    config = stage_config(
        "transcribe",
        TranscribeConfig,
        words,
        example=EXAMPLE,
        summary="Write down what is said in recordings, or in audio from standard input as it comes (-).",
        positionals=("checkpoint", "audio"),
    )
    if config is None:
        return 0
    if config.streams:
        return _stream(config)
    if config.verify_chunks:
        return _verify(config)
    with progress_bar("transcribing") as progress:
        result = run(config, progress=progress)
    if config.output is None:
        print(render(result.files, format=config.format, timestamps=config.timestamps), end="")
    else:
        say(f"{len(result.written)} of {len(result.files)} recordings transcribed into {config.output}")
    return result.exit_code


def _verify(config: "TranscribeConfig") -> int:
    from speechssl.transcribe import verify_chunks

    found = verify_chunks(config)
    if config.format == "json":
        say(json.dumps({str(path): error.to_dict() for path, error in found.items()}, indent=2))
        return 0
    for path, error in found.items():
        rows = [
            (name.replace("_", " "), f"{value:.4g}") for name, value in error.to_dict().items() if value is not None
        ]
        table(f"{path}: chunks against the whole", ("", "value"), rows)
    return 0


def _stream(config: "TranscribeConfig") -> int:
    """Words as they become final; Ctrl-C ends the audio, and what is left of it is still written."""
    from speechssl.audio import PipeFormat, PipeReader, resample_blocks
    from speechssl.streaming import Listener
    from speechssl.transcribe import load_recognizer

    recognizer = load_recognizer(config)
    listener = Listener(recognizer, config.stream)
    shown: _Shown = _Lines() if config.format == "json" else _Text() if config.format == "text" else _Shown()
    stop = _Stop()
    with stop:
        blocks: Iterable[NDArray[np.float32]]
        if config.from_pipe:
            raw = None
            if config.encoding != "wav":
                assert config.sample_rate is not None, "checked by the configuration"
                raw = PipeFormat(encoding=config.encoding, sample_rate=config.sample_rate, num_channels=config.channels)
            try:
                with stop.waiting():
                    pipe = PipeReader(sys.stdin.buffer, format=raw)
            except KeyboardInterrupt:
                blocks = ()
            else:
                blocks = resample_blocks(
                    stop.until_stopped(pipe), from_rate=pipe.sample_rate, to_rate=recognizer.sample_rate
                )
        else:
            blocks = stop.until_stopped(
                recognizer.read(config.audio[0], offset=config.offset, duration=config.duration, whole_seconds=0.0)
            )
        for block in blocks:
            for update in listener.push(block):
                shown.update(update)
        for update in listener.finish():
            shown.update(update)
    _show_end(config, listener, shown, interrupted=stop.stopped)
    return 0


def _show_end(
    config: "TranscribeConfig",
    listener: "Listener",
    shown: "_Shown",
    *,
    interrupted: bool,
) -> None:
    from speechssl.transcribe import FileTranscript, render

    transcript = listener.transcript()
    shown.end(
        {
            "text": transcript.text,
            "duration": round(transcript.duration_seconds, 3),
            "confidence": round(transcript.confidence, 4),
            "interrupted": interrupted,
        }
    )
    if config.format not in ("json", "text"):
        print(render([FileTranscript(path=config.audio[0], transcript=transcript)], format=config.format), end="")


class _Shown:
    """Shows nothing until the end; for formats that are written at once."""

    def update(self, update: "StreamUpdate") -> None:
        """New words."""

    def end(self, facts: dict[str, Any]) -> None:
        """The audio has ended."""


class _Lines(_Shown):
    """One JSON object a line: `words` with each update that brings something, and `end` with the whole text."""

    def __init__(self) -> None:
        self._open = ""

    def update(self, update: "StreamUpdate") -> None:
        from speechssl.timing import to_entries

        if not update.words and update.open_text == self._open and not update.pause:
            return
        self._open = update.open_text
        self._print(
            {
                "event": "words",
                "words": to_entries(update.words),
                "open": update.open_text,
                "settled": update.settled_seconds,
                "heard": update.heard_seconds,
                "pause": update.pause,
            }
        )

    def end(self, facts: dict[str, Any]) -> None:
        self._print({"event": "end", **facts})

    def _print(self, entry: dict[str, Any]) -> None:
        print(json.dumps(entry, ensure_ascii=False), flush=True)


class _Text(_Shown):
    """Text, a line from pause to pause. On a terminal the line also shows the word that has begun, and is redrawn."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._line = ""
        self._num_shown = 0

    def update(self, update: "StreamUpdate") -> None:
        for word in update.words:
            self._add(word.text)
        if self._terminal:
            self._draw(f"{self._line} {update.open_text}".strip())
        if update.pause:
            self._end_line()
        sys.stdout.flush()

    def end(self, facts: dict[str, Any]) -> None:
        if self._terminal:
            self._draw(self._line)
        self._end_line()
        sys.stdout.flush()

    def _add(self, word: str) -> None:
        if self._terminal:
            width = max(os.get_terminal_size(sys.stdout.fileno()).columns - 1, 20)
            if self._line and len(self._line) + 1 + len(word) > width:
                self._draw(self._line)
                self._end_line()
        else:
            sys.stdout.write(f" {word}" if self._line else word)
        self._line = f"{self._line} {word}".strip()

    def _draw(self, text: str) -> None:
        width = max(os.get_terminal_size(sys.stdout.fileno()).columns - 1, 20)
        sys.stdout.write("\r" + text[-width:] + " " * (self._num_shown - len(text)))
        self._num_shown = len(text[-width:])

    def _end_line(self) -> None:
        if self._line:
            sys.stdout.write("\n")
        self._line, self._num_shown = "", 0


class _Stop:
    """Ctrl-C once: ends the audio, wherever it comes from. While samples are computed it waits for the next read, so
    that nothing is left half done; a second Ctrl-C ends the program as everywhere.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._waits = False
        self._before: Any = None

    def __enter__(self) -> "_Stop":
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before if self._before is not None else signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.stopped or self._waits:
            self.stopped = True
            raise KeyboardInterrupt
        self.stopped = True

    def waiting(self) -> "_Waiting":
        """Within it, Ctrl-C interrupts at once."""
        return _Waiting(self)

    def until_stopped(self, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """The blocks until Ctrl-C."""
        iterator = iter(blocks)
        while not self.stopped:
            try:
                with self.waiting():
                    block = next(iterator, None)
            except KeyboardInterrupt:
                return
            if block is None:
                return
            yield block


class _Waiting:
    def __init__(self, stop: _Stop) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        self._stop._waits = True

    def __exit__(self, *_: object) -> None:
        self._stop._waits = False
