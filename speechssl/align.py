"""When every word and character of a known text was said: forced alignment of recordings of any length.

Shapes: T frames, N vocabulary.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from speechssl.asr import SpeechRecognizer
from speechssl.ctc.alignment import align_labels
from speechssl.ctc.scored import ScoredToken, ScoredWord
from speechssl.ctc.spelling import OnUnknown, spell
from speechssl.encoder import resolve_device
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.files import write_text, writing
from speechssl.interop import load_asr
from speechssl.manifest import Manifest
from speechssl.progress import Progress
from speechssl.timing import Character, Word, to_ctm, to_entries, to_srt, to_textgrid, to_vtt
from speechssl.types import Utterance

logger = logging.getLogger(__name__)

AlignFormat = Literal["json", "textgrid", "ctm", "srt", "vtt"]
SUFFIXES: dict[AlignFormat, str] = {
    "json": ".json", "textgrid": ".TextGrid", "ctm": ".ctm", "srt": ".srt", "vtt": ".vtt"
}  # fmt: skip
MANIFEST_SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """What to align, and how to write it.

    Attributes:
        checkpoint: a fine-tuning run, one of its checkpoints, a model directory or another tool's recogniser.
        audio: a recording, or a manifest whose rows have texts.
        text: what is said in the recording: a file, or the words themselves; none with a manifest.
        output: the file to write; with a manifest a new manifest (`.jsonl`) for json, a file for ctm, else a folder of
            one file an utterance. Null leaves it to the caller, who prints it.
        format: json, textgrid (Praat), ctm (sclite, Kaldi), srt or vtt.
        characters: also times of every character, in json and textgrid.
        on_unknown: error refuses texts with characters that the vocabulary lacks, skip leaves these out and counts
            them.
        prior_weight: between 0 and 1; more makes words longer and starts them earlier. CTC networks say blank wherever
            they can.
        device: auto takes a GPU where there is one.
    """

    checkpoint: str
    audio: Path
    text: str | None = None
    output: Path | None = None
    format: AlignFormat = "json"
    characters: bool = True
    on_unknown: OnUnknown = "error"
    prior_weight: float = 0.0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.prior_weight <= 1:
            raise ConfigError(f"prior_weight must be between 0 and 1, but is {self.prior_weight}")
        if self.of_manifest and self.text is not None:
            raise ConfigError(f"{self.audio}: a manifest holds its texts; leave text out")
        if not self.of_manifest and self.text is None:
            raise ConfigError(
                f"{self.audio}: no text to align with; give a text file, the words in quotes, or a manifest with texts"
            )
        if self.of_manifest and self.output is None:
            raise ConfigError(f"{self.audio}: say with output where the alignments of a manifest go")

    @property
    def of_manifest(self) -> bool:
        """Whether `audio` is a manifest."""
        return self.audio.suffix.lower() in MANIFEST_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The words of a text as it was written, with times in seconds from the recording's start.

    A word of which nothing could be aligned (punctuation alone, or of characters that the vocabulary lacks) stands
    between its neighbours with confidence None. `score` is the geometric mean over the frames of the path's
    probabilities: low where text and recording differ.
    """

    words: tuple[Word, ...]
    duration_seconds: float
    offset_seconds: float
    score: float
    num_unaligned: int
    unknown: Counter[str]


@dataclass(frozen=True, kw_only=True)
class AlignResult:
    """How many utterances were aligned, what could not be and why, and what was written.

    `alignment` is there for one recording. `unknown` counts characters that were left out.
    """

    num_aligned: int
    failed: dict[str, str] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    num_unaligned: int = 0
    alignment: Alignment | None = None
    written: Path | None = None


def run(config: AlignConfig, *, progress: Progress | None = None) -> AlignResult:
    """Align a recording, or every row of a manifest; a row that cannot be is reported and the others go on.

    Raises:
        CheckpointError: the model cannot be loaded.
        AudioError: the recording cannot be read, or is too short for the text.
        ManifestError: the text holds characters that the vocabulary lacks, or nothing; no row has a text.
    """
    recognizer = load_asr(config.checkpoint, device=resolve_device(config.device))
    if config.of_manifest:
        return _align_manifest(config, recognizer, progress)
    assert config.text is not None
    alignment = align(
        recognizer, config.audio, read_text(config.text), on_unknown=config.on_unknown, characters=config.characters,
        prior_weight=config.prior_weight,
    )  # fmt: skip
    if config.output is not None:
        text = render(alignment, format=config.format, name=config.audio.stem, path=str(config.audio))
        write_text(config.output, text)
    return AlignResult(
        num_aligned=1,
        unknown=alignment.unknown,
        num_unaligned=alignment.num_unaligned,
        alignment=alignment,
        written=config.output,
    )


def align(
    recognizer: SpeechRecognizer,
    source: str | Path,
    text: str,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    on_unknown: OnUnknown = "error",
    characters: bool = True,
    prior_weight: float = 0.0,
) -> Alignment:
    """Times of all words of `text` in a recording, or in a span of it.

    The recording is read and encoded in pieces; of an hour only the log probabilities of the labels that occur in the
    text are held (four bytes each: 21 MB for 30 labels at 50 frames a second), and what `ctc.long_alignment` keeps.

    Raises:
        AudioError: unreadable, or too short for the text.
        ManifestError: the vocabulary lacks characters of the text, or nothing of it can be aligned.
    """
    vocabulary = recognizer.model.vocabulary
    spelled = spell(text, vocabulary, normalizer=recognizer.model.normalizer, on_unknown=on_unknown)
    used = sorted({vocabulary.blank, *spelled.labels})
    chunked = recognizer.chunked()
    pieces = [
        logits.float().log_softmax(dim=-1)[:, used]
        for logits in recognizer.run(chunked, recognizer.read(source, offset=offset, duration=duration))
    ]
    place = {label: index for index, label in enumerate(used)}
    found = align_labels(
        torch.cat(pieces),
        [place[label] for label in spelled.labels],
        blank=place[vocabulary.blank],
        prior_weight=prior_weight,
    )
    tokens = [
        ScoredToken(label=label, start_frame=t.start_frame, end_frame=t.end_frame, log_posterior=t.log_posterior)
        for label, t in zip(spelled.labels, found.tokens, strict=True)
    ]
    seconds = chunked.num_samples / recognizer.sample_rate
    words = [
        None if word is None else _timed(word, recognizer, seconds, offset, characters)
        for word in spelled.words_of(tokens, vocabulary)
    ]
    return Alignment(
        words=_fill(words, spelled.words, offset, offset + seconds),
        duration_seconds=seconds,
        offset_seconds=offset,
        score=float(torch.tensor(found.mean_log_probability).exp()),
        num_unaligned=spelled.num_unaligned,
        unknown=spelled.unknown,
    )


def _timed(word: ScoredWord, recognizer: SpeechRecognizer, seconds: float, offset: float, characters: bool) -> Word:
    timed = recognizer.timed_word(word, duration_seconds=seconds, offset=offset)
    timed = replace(timed, confidence=word.score)  # calibrations are fitted to recognised words, not to given ones
    if not characters:
        return timed
    vocabulary = recognizer.model.vocabulary
    return replace(
        timed,
        characters=tuple(
            Character(
                text=vocabulary.decode([token.label]),
                start_seconds=recognizer.edge(token.start_frame, seconds, offset),
                end_seconds=recognizer.edge(token.end_frame, seconds, offset),
                confidence=float(torch.tensor(token.log_posterior).exp()),
            )
            for token in word.tokens
        ),
    )


def _fill(words: Sequence[Word | None], texts: Sequence[str], start: float, end: float) -> tuple[Word, ...]:
    """Words that were not aligned lie from the end of the one before to the start of the next that was."""
    following = [end] * len(words)
    for index in range(len(words) - 2, -1, -1):
        after = words[index + 1]
        following[index] = after.start_seconds if after is not None else following[index + 1]
    filled = []
    place = start
    for word, text, until in zip(words, texts, following, strict=True):
        made = word or Word(text=text, start_seconds=place, end_seconds=max(place, until))
        place = made.end_seconds if word is not None else place
        filled.append(made)
    return tuple(filled)


def read_text(text: str) -> str:
    """The content of the file that `text` names, or `text` itself where it names none.

    Raises:
        ManifestError: it looks like the name of a file that is not there, or the file is no UTF-8 text.
    """
    path = Path(text)
    try:
        if len(text) < 4096 and path.is_file():
            return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 text: {error}; save it as UTF-8") from error
    except OSError:  # a text that is too long for a name
        return text
    if " " not in text.strip() and path.suffix in (".txt", ".text", ".md", ".lab"):
        raise ManifestError(f"{path}: no such text file")
    return text


def render(alignment: Alignment, *, format: AlignFormat, name: str, path: str) -> str:
    """An alignment as the text of a file; `name` stands in ctm, `path` in json."""
    words = alignment.words
    if format == "textgrid":
        return to_textgrid(words, duration_seconds=alignment.offset_seconds + alignment.duration_seconds)
    if format == "ctm":
        return to_ctm(words, recording=name)
    if format == "srt":
        return to_srt(words)
    if format == "vtt":
        return to_vtt(words)
    entry = {"audio_filepath": path, "duration": round(alignment.duration_seconds, 3), **columns(alignment)}
    return json.dumps(entry, ensure_ascii=False, indent=2) + "\n"


def columns(alignment: Alignment) -> dict[str, Any]:
    """What JSON and manifests hold of an alignment."""
    return {
        "alignment_score": round(alignment.score, 4),
        "words": to_entries(alignment.words),
        **({"num_unaligned_words": alignment.num_unaligned} if alignment.num_unaligned else {}),
        **({"unknown_characters": dict(alignment.unknown)} if alignment.unknown else {}),
    }


def _align_manifest(config: AlignConfig, recognizer: SpeechRecognizer, progress: Progress | None) -> AlignResult:
    assert config.output is not None
    manifest = Manifest.load(config.audio)
    failed: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    aligned = unaligned = 0

    def results() -> Iterator[tuple[Utterance, Alignment]]:
        nonlocal aligned, unaligned
        for number, utterance in enumerate(manifest, start=1):
            try:
                found = align_utterance(config, recognizer, utterance)
            except (AudioError, ManifestError) as error:
                failed[utterance.id] = str(error)
                logger.warning("%s is not aligned: %s", utterance.id, error)
            else:
                aligned += 1
                unaligned += found.num_unaligned
                unknown.update(found.unknown)
                yield utterance, found
            if progress is not None:
                progress(number, len(manifest))

    _write_all(config, results())
    return AlignResult(
        num_aligned=aligned, failed=failed, unknown=unknown, num_unaligned=unaligned, written=config.output
    )


def align_utterance(config: AlignConfig, recognizer: SpeechRecognizer, utterance: Utterance) -> Alignment:
    """`align` of a row of a manifest: only its span is decoded.

    Raises:
        AudioError, ManifestError: like `align`; also where the row has no text.
    """
    if utterance.text is None:
        raise ManifestError(f"{utterance.id}: has no text")
    return align(
        recognizer,
        utterance.audio_filepath,
        utterance.text,
        offset=utterance.offset,
        duration=utterance.duration if utterance.duration > 0 else None,
        on_unknown=config.on_unknown,
        characters=config.characters,
        prior_weight=config.prior_weight,
    )


def _write_all(config: AlignConfig, results: Iterator[tuple[Utterance, Alignment]]) -> None:
    """Results as they come: one manifest or ctm file, which appears when it is complete, or a file each."""
    assert config.output is not None
    if config.format not in ("json", "ctm"):
        taken: set[str] = set()
        for utterance, found in results:
            text = render(found, format=config.format, name=utterance.id, path=utterance.audio_filepath)
            write_text(config.output / (_file_name(utterance.id, taken) + SUFFIXES[config.format]), text)
        return
    with writing(config.output) as file:
        for utterance, found in results:
            if config.format == "ctm":
                file.write(to_ctm(found.words, recording=utterance.id))
            else:
                file.write(json.dumps(_row(utterance, found), ensure_ascii=False) + "\n")


def _file_name(utterance_id: str, taken: set[str]) -> str:
    """The id without slashes; with a number where that is the name of another, which is then `taken` too."""
    plain = name = utterance_id.replace("/", "_")
    number = 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    taken.add(name)
    return name


def _row(utterance: Utterance, found: Alignment) -> dict[str, Any]:
    known = {"id": utterance.id, "audio_filepath": utterance.audio_filepath, "offset": utterance.offset}
    known |= {"duration": utterance.duration, "num_samples": utterance.num_samples}
    known |= {"sample_rate": utterance.sample_rate, "text": utterance.text, "speaker": utterance.speaker}
    known |= {"language": utterance.language, **utterance.extra, **columns(found)}
    return {key: value for key, value in known.items() if value is not None}
