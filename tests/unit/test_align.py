"""Aligning texts with recordings: times, formats, manifests, and what is said of texts that do not fit."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))
from oracle import RATE, oracle, speak

from speechssl import align as stage
from speechssl.align import AlignConfig, align, run
from speechssl.cli import main
from speechssl.errors import AudioError, ConfigError, ManifestError

TEXT = "bad cab feed"
STEP, SILENCE = 0.16, 0.3


@pytest.fixture(autouse=True)
def hears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "load_asr", lambda checkpoint, device: oracle())


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "clip.wav", speak(TEXT), RATE, subtype="FLOAT")
    return tmp_path / "clip.wav"


def expected(text: str, *, start: float = SILENCE) -> list[tuple[str, float, float]]:
    """When `speak` says the words."""
    times, place = [], 0
    for word in text.split():
        times.append((word, start + place * STEP, start + (place + len(word)) * STEP - 0.06))
        place += len(word) + 1
    return times


def check(words: object, wanted: list[tuple[str, float, float]]) -> None:
    found = [(word.text, word.start_seconds, word.end_seconds) for word in words]  # type: ignore[attr-defined]
    assert [text for text, *_ in found] == [text for text, *_ in wanted]
    for (_, start, end), (_, true_start, true_end) in zip(found, wanted, strict=True):
        assert abs(start - true_start) <= 0.02 and abs(end - true_end) <= 0.02  # a frame


def test_words_and_characters_lie_where_they_were_said(clip: Path) -> None:
    found = align(oracle(), clip, "Bad cab, feed!")
    check(found.words, [(w, *t) for w, (_, *t) in zip(("Bad", "cab,", "feed!"), expected(TEXT), strict=True)])
    letters = found.words[1].characters
    assert [letter.text for letter in letters] == ["c", "a", "b"]
    assert all(abs(letter.start_seconds - (SILENCE + (4 + i) * STEP)) <= 0.02 for i, letter in enumerate(letters))
    assert all(word.confidence > 0.99 for word in found.words if word.confidence is not None)
    assert found.score > 0.99


def test_a_wrong_text_scores_low_where_it_is_wrong(clip: Path) -> None:
    found = align(oracle(), clip, "bad egg feed")
    assert [word.confidence is not None and word.confidence > 0.9 for word in found.words] == [True, False, True]
    assert found.score < 0.95


def test_long_recording_is_aligned_in_pieces_to_the_same_times(tmp_path: Path) -> None:
    text = " ".join(["bad cab feed a hag"] * 30)
    waveform = speak(text)
    assert len(waveform) > 80 * RATE
    soundfile.write(tmp_path / "long.wav", waveform, RATE, subtype="FLOAT")
    found = align(oracle(), tmp_path / "long.wav", text)
    check(found.words, expected(text))


def test_span_of_a_recording_gives_times_of_the_recording(tmp_path: Path) -> None:
    before = speak("hag")
    soundfile.write(tmp_path / "two.wav", np.concatenate([before, speak(TEXT)]), RATE, subtype="FLOAT")
    offset = len(before) / RATE
    check(align(oracle(), tmp_path / "two.wav", TEXT, offset=offset).words, expected(TEXT, start=offset + SILENCE))
    found = align(oracle(), tmp_path / "two.wav", "hag", duration=offset)
    check(found.words, expected("hag"))


def test_unknown_characters_are_refused_or_counted(clip: Path) -> None:
    with pytest.raises(ManifestError, match=r"no label for 'x' x2, '7' x1 of the text"):
        align(oracle(), clip, "bad 7 xx cab feed")
    found = align(oracle(), clip, "bad 7 xx cab feed", on_unknown="skip")
    assert (found.unknown, found.num_unaligned) == ({"7": 1, "x": 2}, 2)
    seven = found.words[1]
    assert (seven.text, seven.confidence) == ("7", None)
    assert found.words[0].end_seconds == seven.start_seconds
    assert seven.end_seconds == found.words[3].start_seconds
    check([found.words[i] for i in (0, 3, 4)], expected(TEXT))


def test_text_that_is_too_long_names_the_numbers(clip: Path) -> None:
    with pytest.raises(AudioError, match=r"labels, which need \d+ frames, but the audio makes \d+"):
        align(oracle(), clip, "bad " * 60)


def write_manifest(folder: Path) -> Path:
    rows = []
    for name, text in (("a/1", "bad cab"), ("b", "feed"), ("c", None), ("d", "xyz")):
        soundfile.write(
            folder / f"{name[-1]}.wav", speak("bad cab" if name == "a/1" else "feed"), RATE, subtype="FLOAT"
        )
        info = soundfile.info(folder / f"{name[-1]}.wav")
        row = {"id": name, "audio_filepath": f"{name[-1]}.wav", "duration": info.duration, "num_samples": info.frames}
        rows.append({**row, "sample_rate": RATE, "offset": 0.0, "text": text, "prompt": 7})
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows))
    return path


def test_manifest_in_manifest_out_with_failures_by_reason(tmp_path: Path) -> None:
    config = AlignConfig(checkpoint="x", audio=write_manifest(tmp_path), output=tmp_path / "out.jsonl")
    result = run(config)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a/1", "b"]
    assert rows[0]["prompt"] == 7
    assert [word["word"] for word in rows[0]["words"]] == ["bad", "cab"]
    assert (result.num_aligned, list(result.failed)) == (2, ["c", "d"])
    assert "has no text" in result.failed["c"] and "no label for" in result.failed["d"]


def test_manifest_to_ctm_and_to_a_folder(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    run(AlignConfig(checkpoint="x", audio=manifest, output=tmp_path / "all.ctm", format="ctm"))
    lines = [line.split() for line in (tmp_path / "all.ctm").read_text().splitlines()]
    assert [(line[0], line[4]) for line in lines] == [("a/1", "bad"), ("a/1", "cab"), ("b", "feed")]
    run(AlignConfig(checkpoint="x", audio=manifest, output=tmp_path / "grids", format="textgrid"))
    assert sorted(path.name for path in (tmp_path / "grids").iterdir()) == ["a_1.TextGrid", "b.TextGrid"]


def test_utterances_whose_ids_make_one_file_name_get_a_file_each(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    manifest.write_text(manifest.read_text().replace('"id": "b"', '"id": "a_1"'))
    run(AlignConfig(checkpoint="x", audio=manifest, output=tmp_path / "grids", format="srt"))
    texts = {path.name: path.read_text() for path in (tmp_path / "grids").iterdir()}
    assert "bad cab" in texts["a_1.srt"] and "feed" in texts["a_1-2.srt"] and len(texts) == 2


@pytest.mark.parametrize(
    ("format", "begins"),
    [("json", '{\n  "audio'), ("textgrid", "File type"), ("ctm", "clip 1 0."), ("srt", "1\n00:"), ("vtt", "WEBVTT")],
)
def test_command_prints_every_format(format: str, begins: str, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (clip.parent / "text.txt").write_text("Bad cab\nfeed\n")
    assert main(["align", "x", str(clip), str(clip.parent / "text.txt"), "--format", format]) == 0
    assert capsys.readouterr().out.startswith(begins)


def test_command_tells_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["align", "x", str(write_manifest(tmp_path)), "--output", str(tmp_path / "o.jsonl")])
    out = capsys.readouterr().out
    assert code == 1
    assert "2 aligned" in out and "2 could not be aligned; the first is\n  c: c: has no text" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": Path("a.wav")}, "no text to align with"),
        ({"audio": Path("m.jsonl"), "text": "a", "output": Path("o")}, "a manifest holds its texts"),
        ({"audio": Path("m.jsonl")}, "say with output"),
        ({"audio": Path("a.wav"), "text": "a", "prior_weight": 2.0}, "prior_weight must be between 0 and 1"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlignConfig(checkpoint="x", **options)  # type: ignore[arg-type]


def test_missing_text_file_is_not_taken_for_a_word(clip: Path) -> None:
    with pytest.raises(ManifestError, match=r"nothing\.txt: no such text file"):
        run(AlignConfig(checkpoint="x", audio=clip, text="nothing.txt"))
