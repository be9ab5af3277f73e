"""Recordings to text: plain, JSON with times, subtitles, CTM or TextGrid.

A bad recording is reported and the others go on.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from speechssl.asr import CHUNK_SECONDS, CONTEXT_SECONDS, SpeechRecognizer, Transcript
from speechssl.audio import AUDIO_EXTENSIONS, Encoding
from speechssl.ctc.chunking import Chunking
from speechssl.ctc.decoding import BeamConfig, choose_decoder
from speechssl.ctc.decoding.choice import check_decoder
from speechssl.encoder import resolve_device
from speechssl.errors import AudioError, ConfigError
from speechssl.files import write_text
from speechssl.interop import load_asr
from speechssl.progress import Progress
from speechssl.seams import SeamError, seam_error
from speechssl.streaming import StreamConfig
from speechssl.timing import to_ctm, to_entries, to_srt, to_textgrid, to_vtt
from speechssl.timing.subtitles import MAX_CUE_CHARACTERS as MAX_CUE_CHARACTERS

logger = logging.getLogger(__name__)

Format = Literal["text", "json", "srt", "vtt", "ctm", "textgrid"]
_SUFFIXES: dict[Format, str] = {
    "text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt", "ctm": ".ctm", "textgrid": ".TextGrid"
}  # fmt: skip
_ONE_A_FILE = ("srt", "vtt", "textgrid")
PIPE = Path("-")


@dataclass(frozen=True, kw_only=True)
class TranscribeConfig:
    """What to transcribe and how to write it.

    Attributes:
        checkpoint: a fine-tuning run, one of its checkpoints, a model directory or another tool's recogniser.
        audio: recordings, and folders that are searched for recordings; `-` reads audio from standard input while it is
            being made.
        format: text, json (words with times and confidences), srt and vtt (subtitles), ctm or textgrid.
        timestamps: with text, one word a line with its start and end in seconds.
        decoder: greedy, beam, or a decoder.json that `speechssl evaluate --tune` wrote.
        beam: settings of the beam search; with several hypotheses json holds the others too.
        output: folder that gets one file a recording; null leaves the texts to the caller, who prints them.
        offset: where in the recording to begin, in seconds; one recording only.
        duration: of the span from there, in seconds; null goes on to the end.
        chunk_seconds: recordings longer than this and half as much again are cut; null is 30.
        context_seconds: what each piece sees of its neighbours on both sides; null is 4.
        verify_chunks: instead of texts, what the cuts change against the whole recording in one piece.
        partial: print words of one recording as they become final; always so with `-`.
        encoding: of standard input: wav with a header, or raw samples named as by FFmpeg (s16le, f32le, mulaw ...).
        sample_rate: of raw samples, in Hz.
        channels: of raw samples.
        stream: how far the network looks with `partial` and `-`.
        device: `auto` takes a GPU where there is one.
    """

    checkpoint: str
    audio: tuple[Path, ...]
    format: Format = "text"
    timestamps: bool = False
    decoder: str = "greedy"
    beam: BeamConfig = field(default_factory=BeamConfig)
    output: Path | None = None
    offset: float = 0.0
    duration: float | None = None
    chunk_seconds: float | None = None
    context_seconds: float | None = None
    verify_chunks: bool = False
    partial: bool = False
    encoding: Encoding = "wav"
    sample_rate: int | None = None
    channels: int = 1
    stream: StreamConfig = field(default_factory=StreamConfig)
    device: str = "auto"

    def __post_init__(self) -> None:
        check_decoder(self.decoder)
        self._check_span()
        self._check_stream()
        self.chunking  # noqa: B018  checks the values
        if not self.audio:
            raise ConfigError("audio must name at least one recording or folder, but is empty")
        if self.timestamps and self.format != "text":
            raise ConfigError(f"timestamps goes with the format text; {self.format} holds times already")

    def _check_span(self) -> None:
        if self.offset < 0:
            raise ConfigError(f"offset must be at least 0, but is {self.offset}")
        if self.duration is not None and self.duration <= 0:
            raise ConfigError(f"duration must be above 0, but is {self.duration}")
        if (self.offset or self.duration is not None) and (len(self.audio) != 1 or self.from_pipe):
            raise ConfigError("offset and duration go with one recording")

    def _check_stream(self) -> None:
        if self.from_pipe and len(self.audio) != 1:
            raise ConfigError("audio is - for standard input, or names recordings; not both")
        if self.streams and len(self.audio) != 1:
            raise ConfigError(f"partial goes with one recording, but audio names {len(self.audio)}")
        if self.streams and (self.output is not None or self.verify_chunks or self.timestamps):
            raise ConfigError("output, verify_chunks and timestamps go with whole recordings, without partial or -")
        if self.from_pipe and self.encoding != "wav" and self.sample_rate is None:
            raise ConfigError(f"raw samples ({self.encoding}) need their sample_rate: --sample_rate 16000")
        if (self.sample_rate is not None or self.channels != 1) and (not self.from_pipe or self.encoding == "wav"):
            raise ConfigError(
                "sample_rate and channels are those of raw samples from standard input (--encoding s16le); a wav header"
                " and files say them themselves"
            )

    @property
    def from_pipe(self) -> bool:
        """Whether audio comes from standard input."""
        return PIPE in self.audio

    @property
    def streams(self) -> bool:
        """Whether words are given as they become final."""
        return self.partial or self.from_pipe

    @property
    def chunking(self) -> Chunking | None:
        """How recordings are cut, None for the standard."""
        if self.chunk_seconds is None and self.context_seconds is None:
            return None
        chunk = CHUNK_SECONDS if self.chunk_seconds is None else self.chunk_seconds
        context = CONTEXT_SECONDS if self.context_seconds is None else self.context_seconds
        return Chunking(whole_seconds=1.5 * chunk, chunk_seconds=chunk, left_seconds=context, right_seconds=context)


@dataclass(frozen=True, kw_only=True)
class FileTranscript:
    """What became of one recording: a `transcript`, or the `error` why there is none."""

    path: Path
    transcript: Transcript | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class TranscribeResult:
    """One entry for every recording, in order; `written` the files in `config.output`."""

    files: tuple[FileTranscript, ...]
    written: tuple[Path, ...] = ()

    @property
    def num_failed(self) -> int:
        """Recordings that could not be used."""
        return sum(file.transcript is None for file in self.files)

    @property
    def exit_code(self) -> int:
        """0 when all recordings were transcribed, 2 when none was, else 1."""
        if self.num_failed == 0:
            return 0
        return 2 if self.num_failed == len(self.files) else 1


def run(
    config: TranscribeConfig,
    *,
    on_file: Callable[[FileTranscript], None] | None = None,
    progress: Progress | None = None,
) -> TranscribeResult:
    """Transcribe all recordings; after each, `on_file` is called, and `progress` with how many of all are done.

    Raises:
        CheckpointError: the model cannot be loaded.
        ConfigError: subtitles of several recordings are asked for without a folder to put them in.
    """
    targets = list(find_recordings(config.audio))
    if config.format in _ONE_A_FILE and config.output is None and len(targets) > 1:
        raise ConfigError(
            f"format {config.format} makes one file a recording and there are {len(targets)}; give output a folder"
        )
    recognizer = load_recognizer(config)
    names = _output_names([relative for _, relative in targets], _SUFFIXES[config.format])
    files, written = [], []
    for (path, _), name in zip(targets, names, strict=True):
        file = transcribe_file(recognizer, path, offset=config.offset, duration=config.duration)
        files.append(file)
        if config.output is not None and file.transcript is not None:
            written.append(config.output / name)
            write_text(written[-1], render([file], format=config.format, timestamps=config.timestamps))
        if on_file is not None:
            on_file(file)
        if progress is not None:
            progress(len(files), len(targets))
    return TranscribeResult(files=tuple(files), written=tuple(written))


def load_recognizer(config: TranscribeConfig) -> SpeechRecognizer:
    """The recogniser, with the decoder and the chunks that are asked for.

    Raises:
        CheckpointError: the model cannot be loaded.
        ConfigError: the decoder does not fit it.
    """
    recognizer = load_asr(config.checkpoint, device=resolve_device(config.device))
    recognizer.decoder = choose_decoder(config.decoder, config.beam, recognizer.model.vocabulary)
    recognizer.own_chunking = config.chunking
    return recognizer


def verify_chunks(config: TranscribeConfig) -> dict[Path, SeamError]:
    """What the cuts change in every recording.

    Raises:
        CheckpointError: the model cannot be loaded.
        AudioError: a recording cannot be read, is too long for one piece, or too short to be cut.
    """
    recognizer = load_recognizer(config)
    found = {}
    for path, _ in find_recordings(config.audio):
        waveform = np.concatenate(list(recognizer.read(path, offset=config.offset, duration=config.duration)))
        try:
            found[path] = seam_error(recognizer, waveform)
        except AudioError as error:
            raise AudioError(f"{path}: {error}") from error
    return found


def transcribe_file(
    recognizer: SpeechRecognizer, path: Path, *, offset: float = 0.0, duration: float | None = None
) -> FileTranscript:
    """The transcript of a recording or a span of it, or why there is none; the reason is logged too."""
    try:
        return FileTranscript(path=path, transcript=recognizer.transcribe(path, offset=offset, duration=duration))
    except AudioError as error:
        logger.warning("not transcribed: %s", error)
        return FileTranscript(path=path, error=str(error))


def find_recordings(sources: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Every recording with its path relative to the folder it was found in; folders are searched in depth.

    What does not exist is passed on, so that reading it reports it.

    Raises:
        AudioError: a folder holds no recording.
    """
    for source in sources:
        if not source.is_dir():
            yield source, Path(source.name)
            continue
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in AUDIO_EXTENSIONS and path.is_file())
        if not found:
            raise AudioError(
                f"{source}: holds no recordings; known are {', '.join(sorted(AUDIO_EXTENSIONS))}, in subfolders too"
            )
        for path in found:
            yield path, path.relative_to(source)


def render(files: Sequence[FileTranscript], *, format: Format, timestamps: bool = False) -> str:
    """Transcripts as text to print or write, with a final line break; recordings without one appear in JSON only."""
    if format == "json":
        entries = [_to_dict(file) for file in files]
        return json.dumps(entries[0] if len(entries) == 1 else entries, ensure_ascii=False, indent=2) + "\n"
    done = [(file.path, file.transcript) for file in files if file.transcript is not None]
    if format == "srt":
        return "\n".join(to_srt(transcript.words) for _, transcript in done)
    if format == "vtt":
        return "\n".join(to_vtt(transcript.words) for _, transcript in done)
    if format == "ctm":
        return "".join(to_ctm(transcript.words, recording=path.stem) for path, transcript in done)
    if format == "textgrid":
        return "".join(to_textgrid(t.words, duration_seconds=t.duration_seconds) for _, t in done)
    lines = []
    for path, transcript in done:
        if timestamps:
            if len(files) > 1:
                lines.append(f"{path}:")
            lines += [f"{word.start_seconds:.2f}\t{word.end_seconds:.2f}\t{word.text}" for word in transcript.words]
        else:
            lines.append(transcript.text if len(files) == 1 else f"{path}: {transcript.text}")
    return "".join(f"{line}\n" for line in lines)


def _to_dict(file: FileTranscript) -> dict[str, object]:
    if file.transcript is None:
        return {"audio_filepath": str(file.path), "error": file.error}
    alternatives = file.transcript.alternatives
    return {
        "audio_filepath": str(file.path),
        "duration": round(file.transcript.duration_seconds, 3),
        "text": file.transcript.text,
        "confidence": round(file.transcript.confidence, 4),
        "words": to_entries(file.transcript.words),
        **({"confidence_calibrated": True} if file.transcript.is_calibrated else {}),
        **({"alternatives": [asdict(other) for other in alternatives]} if alternatives else {}),
    }


def _output_names(relative: Sequence[Path], suffix: str) -> list[Path]:
    """`talk.flac` -> `talk.txt`; where that is taken, `talk.flac.txt`, then `talk.flac-2.txt` and so on."""
    taken: set[Path] = set()
    names = []
    for path in relative:
        candidates = [path.with_suffix(suffix), path.with_name(path.name + suffix)]
        number = 2
        while candidates[0] in taken:
            candidates.pop(0)
            if not candidates:
                candidates.append(path.with_name(f"{path.name}-{number}{suffix}"))
                number += 1
        taken.add(candidates[0])
        names.append(candidates[0])
    return names
