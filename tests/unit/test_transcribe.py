"""Transcribing files and folders."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl import transcribe
from speechssl.asr import CtcModel, Transcript, Word
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import AudioError, ConfigError
from speechssl.text import Vocabulary
from speechssl.transcribe import FileTranscript, TranscribeConfig, render, to_srt


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    config = EncoderConfig(
        front_end="log_mel", model_dim=32, num_layers=1, num_heads=2, feed_forward_dim=64, position_kernel=16
    )
    model = CtcModel(SpeechEncoder(config), Vocabulary.from_texts(["abcdef"]), normalizer="letters")
    with torch.no_grad():
        model.head.weight *= 30
    model.save(tmp_path / "model")
    return str(tmp_path / "model")


def write_noise(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    return path


def test_bad_recording_is_reported_and_the_others_go_on(tmp_path: Path, checkpoint: str) -> None:
    good = write_noise(tmp_path / "good.wav")
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    seen: list[FileTranscript] = []
    config = TranscribeConfig(checkpoint=checkpoint, audio=(text, tmp_path / "missing.wav", good))
    result = transcribe.run(config, on_file=seen.append)
    assert [file.transcript is None for file in result.files] == [True, True, False]
    assert "text.wav" in str(result.files[0].error)
    assert "missing.wav: no such file" in str(result.files[1].error)
    assert (result.num_failed, result.exit_code) == (2, 1)
    assert tuple(seen) == result.files


def test_exit_code_tells_all_some_and_none(tmp_path: Path, checkpoint: str) -> None:
    good = write_noise(tmp_path / "good.wav")
    assert transcribe.run(TranscribeConfig(checkpoint=checkpoint, audio=(good,))).exit_code == 0
    assert transcribe.run(TranscribeConfig(checkpoint=checkpoint, audio=(tmp_path / "no.wav",))).exit_code == 2


def test_folders_are_searched_and_mirrored_in_the_output(tmp_path: Path, checkpoint: str) -> None:
    for name in ("x/a.wav", "x/deep/b.flac", "x/a.flac"):
        write_noise(tmp_path / name)
    (tmp_path / "x" / "notes.txt").write_text("not audio")
    config = TranscribeConfig(checkpoint=checkpoint, audio=(tmp_path / "x",), format="srt", output=tmp_path / "out")
    result = transcribe.run(config)
    written = [path.relative_to(tmp_path / "out").as_posix() for path in result.written]
    assert written == ["a.srt", "a.wav.srt", "deep/b.srt"]
    assert "-->" in result.written[0].read_text()


def test_empty_folder_is_an_error(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match="empty: holds no recordings"):
        transcribe.run(TranscribeConfig(checkpoint=checkpoint, audio=(tmp_path / "empty",)))


def test_subtitles_of_several_recordings_need_a_folder(tmp_path: Path, checkpoint: str) -> None:
    audio = (write_noise(tmp_path / "a.wav"), write_noise(tmp_path / "b.wav"))
    with pytest.raises(ConfigError, match="there are 2; give output a folder"):
        transcribe.run(TranscribeConfig(checkpoint=checkpoint, audio=audio, format="srt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": ()}, "at least one"),
        ({"audio": (Path("a.wav"),), "format": "json", "timestamps": True}, "timestamps"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TranscribeConfig(checkpoint="x", **options)  # type: ignore[arg-type]


WORDS = (
    Word(text="one", start_seconds=0.5, end_seconds=1.0),
    Word(text="two", start_seconds=1.2, end_seconds=1.5),
    Word(text="three", start_seconds=3661.0, end_seconds=3661.9996),
)
FILE = FileTranscript(
    path=Path("talk.wav"),
    transcript=Transcript(text="one two three", words=WORDS, duration_seconds=3662.0, confidence=0.9),
)
FAILED = FileTranscript(path=Path("bad.wav"), error="bad.wav: is empty")


def test_subtitles_break_at_pauses() -> None:
    assert to_srt(WORDS) == ("1\n00:00:00,500 --> 00:00:01,500\none two\n\n2\n01:01:01,000 --> 01:01:02,000\nthree\n")


def test_subtitles_are_short() -> None:
    words = [Word(text="abcdefghi", start_seconds=0.5 * i, end_seconds=0.5 * i + 0.4) for i in range(40)]
    blocks = to_srt(words).strip().split("\n\n")
    lines = [block.split("\n")[2] for block in blocks]
    assert max(map(len, lines)) <= transcribe.MAX_CUE_CHARACTERS
    assert " ".join(lines).split() == [word.text for word in words]
    slow = [Word(text="a", start_seconds=float(i), end_seconds=i + 0.5) for i in range(30)]
    assert all(len(block.split("\n")[2].split()) <= 7 for block in to_srt(slow).strip().split("\n\n"))


def test_silence_gives_empty_subtitles() -> None:
    assert to_srt(()) == ""


def test_json_has_words_times_and_errors() -> None:
    entries = json.loads(render([FILE, FAILED], format="json"))
    assert entries[0]["words"][0] == {"word": "one", "start": 0.5, "end": 1.0}
    assert entries[1] == {"audio_filepath": "bad.wav", "error": "bad.wav: is empty"}
    assert json.loads(render([FILE], format="json")) == entries[0]


def test_text_names_the_file_only_when_there_are_several() -> None:
    assert render([FILE], format="text") == "one two three\n"
    assert render([FILE, FAILED], format="text") == "talk.wav: one two three\n"
    assert render([FILE], format="text", timestamps=True).splitlines()[0] == "0.50\t1.00\tone"
