"""Recordings to text: plain, JSON with times, or SRT subtitles. A bad recording is reported and the others go on."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from speechssl.asr import SpeechRecognizer, Transcript
from speechssl.audio import AUDIO_EXTENSIONS
from speechssl.ctc.decoding import BeamConfig, choose_decoder
from speechssl.ctc.decoding.choice import check_decoder
from speechssl.encoder import resolve_device
from speechssl.errors import AudioError, ConfigError
from speechssl.interop import load_asr
from speechssl.timing import to_entries, to_srt
from speechssl.timing.subtitles import MAX_CUE_CHARACTERS as MAX_CUE_CHARACTERS

logger = logging.getLogger(__name__)

Format = Literal["text", "json", "srt"]
_SUFFIXES: dict[Format, str] = {"text": ".txt", "json": ".json", "srt": ".srt"}


@dataclass(frozen=True, kw_only=True)
class TranscribeConfig:
    """What to transcribe and how to write it.

    Attributes:
        checkpoint: a fine-tuning run, one of its checkpoints, a model directory or another tool's recogniser.
        audio: recordings, and folders that are searched for recordings.
        format: text, json (words with their times) or srt (subtitles).
        timestamps: with text, one word a line with its start and end in seconds.
        decoder: greedy, beam, or a decoder.json that `speechssl evaluate --tune` wrote.
        beam: settings of the beam search; with several hypotheses json holds the others too.
        output: folder that gets one file a recording; null leaves the texts to the caller, who prints them.
        device: `auto` takes a GPU where there is one.
    """

    checkpoint: str
    audio: tuple[Path, ...]
    format: Format = "text"
    timestamps: bool = False
    decoder: str = "greedy"
    beam: BeamConfig = field(default_factory=BeamConfig)
    output: Path | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        check_decoder(self.decoder)
        if not self.audio:
            raise ConfigError("audio must name at least one recording or folder, but is empty")
        if self.timestamps and self.format != "text":
            raise ConfigError(f"timestamps goes with the format text; {self.format} holds times already")


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


def run(config: TranscribeConfig, *, on_file: Callable[[FileTranscript], None] | None = None) -> TranscribeResult:
    """Transcribe all recordings; `on_file` is called after each.

    Raises:
        CheckpointError: the model cannot be loaded.
        ConfigError: subtitles of several recordings are asked for without a folder to put them in.
    """
    targets = list(find_recordings(config.audio))
    if config.format == "srt" and config.output is None and len(targets) > 1:
        raise ConfigError(f"format srt makes one file a recording and there are {len(targets)}; give output a folder")
    recognizer = load_asr(config.checkpoint, device=resolve_device(config.device))
    recognizer.decoder = choose_decoder(config.decoder, config.beam, recognizer.model.vocabulary)
    names = _output_names([relative for _, relative in targets], _SUFFIXES[config.format])
    files, written = [], []
    for (path, _), name in zip(targets, names, strict=True):
        file = transcribe_file(recognizer, path)
        files.append(file)
        if config.output is not None and file.transcript is not None:
            written.append(config.output / name)
            _write(written[-1], render([file], format=config.format, timestamps=config.timestamps))
        if on_file is not None:
            on_file(file)
    return TranscribeResult(files=tuple(files), written=tuple(written))


def transcribe_file(recognizer: SpeechRecognizer, path: Path) -> FileTranscript:
    """The transcript of a recording, or why there is none; the reason is logged too."""
    try:
        return FileTranscript(path=path, transcript=recognizer.transcribe(path))
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


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
