"""Promises of `build_manifest` on folders: everything is found, nothing is dropped without a reason."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.audio import read_utterance
from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.build import Recording, build_from_recordings

WriteTone = Callable[..., Path]


def texts_of(manifest: Manifest) -> dict[str, str | None]:
    return {utterance.id: utterance.text for utterance in manifest}


def test_recordings_of_all_kinds_are_found_at_any_depth(tmp_path: Path, write_tone: WriteTone) -> None:
    names = ["a.wav", "b/c.flac", "b/d/e.ogg", "b/d/f.opus", "g.MP3"]
    for name in names:
        write_tone(name)
    (tmp_path / ".hidden").mkdir()
    write_tone(".hidden/x.wav")
    (tmp_path / "notes.pdf").write_text("not audio")
    seen: list[tuple[int, int]] = []
    result = build_manifest(tmp_path, language="de", progress=lambda done, total: seen.append((done, total)))
    assert [u.id for u in result.manifest] == ["a", "b/c", "b/d/e", "b/d/f", "g"]
    assert [u.language for u in result.manifest] == ["de"] * 5
    assert all(abs(u.duration - 0.2) < 0.1 and Path(u.audio_filepath).is_file() for u in result.manifest)
    assert result.skipped == () and seen[-1] == (5, 5)


def test_the_same_name_with_two_extensions_gives_two_ids(tmp_path: Path, write_tone: WriteTone) -> None:
    for name in ("a.wav", "a.flac", "b.wav"):
        write_tone(name)
    assert [u.id for u in build_manifest(tmp_path).manifest] == ["a.flac", "a.wav", "b"]


def test_texts_beside_the_recordings_are_used(tmp_path: Path, write_tone: WriteTone) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        write_tone(name)
    (tmp_path / "a.txt").write_text("  Grüße\n an  alle \n", encoding="utf-8-sig")
    (tmp_path / "c.txt").write_text("\n")
    result = build_manifest(tmp_path)
    assert texts_of(result.manifest) == {"a": "Grüße an alle", "b": None, "c": None}
    assert result.to_dict()["num_with_text"] == 1


@pytest.mark.parametrize(
    "table",
    [
        'path\tspeaker\ttext\nsub/a.wav\tann\tone "two"\nb.wav\tbob\tthree, four\n',
        'file_name,speaker_id,transcription\na,ann,"one ""two"""\nb,bob,"three, four"\n',
        'sub/a\tone "two"\n./b.wav\tthree, four\n',
        '\ufefftext\tpath\r\none "two"\tsub/a\r\nthree, four\tb\r\n',
    ],
    ids=["tsv", "csv", "no-header", "windows"],
)
def test_a_table_of_texts_is_matched_with_the_recordings(tmp_path: Path, write_tone: WriteTone, table: str) -> None:
    write_tone("sub/a.wav")
    write_tone("b.wav")
    (tmp_path / "texts.txt").write_bytes(table.encode())
    manifest = build_manifest(tmp_path, transcripts=tmp_path / "texts.txt").manifest
    assert texts_of(manifest) == {"b": "three, four", "sub/a": 'one "two"'}
    if "ann" in table:
        assert [u.speaker for u in manifest] == ["bob", "ann"]


def test_other_columns_of_the_table_are_kept(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("a.wav")
    (tmp_path / "transcripts.tsv").write_text("path\ttext\tprompt\na.wav\thi\tp1\n")
    result = build_manifest(tmp_path)
    assert result.manifest[0].extra == {"prompt": "p1"}
    assert "1 of 1 recordings have one" in result.summary()


def test_one_bad_recording_never_ends_a_build(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("good.wav")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("hello")
    flac = write_tone("cut.flac")
    flac.write_bytes(flac.read_bytes()[:20])
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0), 16000)
    result = build_manifest(tmp_path, output=tmp_path / "out/m.jsonl")
    assert [u.id for u in result.manifest] == ["good"]
    reasons = {Path(path).name: reason for path, reason in result.skipped}
    assert "is empty" in reasons["empty.wav"] and "is text" in reasons["text.wav"]
    assert "no such file" in reasons["gone.wav"] and "holds no samples" in reasons["nothing.wav"]
    assert set(reasons) == {"empty.wav", "text.wav", "cut.flac", "gone.wav", "nothing.wav"}
    assert "left out 1: is text, not audio" in result.summary()
    assert json.loads(json.dumps(result.to_dict()))["num_skipped"] == 5
    assert Path(Manifest.load(tmp_path / "out/m.jsonl")[0].audio_filepath).is_file()


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=rf"{tmp_path}: holds no recordings \(looked .* wav"):
        build_manifest(tmp_path)


def test_a_folder_of_bad_recordings_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_text("hello")
    with pytest.raises(ManifestError, match="none of 1 recordings can be used: .*a.wav: is text"):
        build_manifest(tmp_path)


def test_a_source_that_is_neither_folder_nor_card_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="neither a folder nor a corpus card; did you mean 'librispeech'"):
        build_manifest("libri-speech")


@pytest.mark.parametrize("name", ["transcripts.tsv", "a.txt"])
def test_a_transcript_that_is_not_utf_8_names_file_and_line(tmp_path: Path, write_tone: WriteTone, name: str) -> None:
    write_tone("a.wav")
    (tmp_path / name).write_bytes("path\ttext\na.wav\tGrüße\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=rf"{tmp_path / name}:2: not UTF-8 \(byte 0xfc\); convert it with `iconv"):
        build_manifest(tmp_path)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path\ttext\na.wav\thi\textra\n", r"texts.tsv:2: 3 fields, but the header has 2"),
        ("path\ttext\na.wav\thi\na.wav\tho\n", r"texts.tsv:3: a second line for the recording a.wav"),
        ("clip\ttext\na.wav\thi\n", r"texts.tsv:1: no column names the recording.*path, audio_filepath"),
        ("path\ttext\nx/y.wav\thi\n", r"none of its 1 lines names one of the 1 recordings.*'x/y.wav'.*'a.wav'"),
        ("path\ttext\n", r"holds no texts"),
        ("", r"is empty"),
    ],
)
def test_a_bad_table_of_texts_names_the_line(tmp_path: Path, write_tone: WriteTone, table: str, message: str) -> None:
    write_tone("a.wav")
    (tmp_path / "texts.tsv").write_text(table)
    with pytest.raises(ManifestError, match=message):
        build_manifest(tmp_path, transcripts=tmp_path / "texts.tsv")
    with pytest.raises(ManifestError, match="no such file"):
        build_manifest(tmp_path, transcripts=tmp_path / "nowhere.tsv")


def test_lines_without_a_recording_are_counted(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("a.wav")
    (tmp_path / "transcripts.tsv").write_text("path\ttext\na.wav\thi\nb.wav\tho\n")
    result = build_manifest(tmp_path)
    assert [reason for _, reason in result.skipped] == [f"{tmp_path / 'transcripts.tsv'}:3: no such recording: b.wav"]


def test_a_real_corpus_becomes_a_manifest(corpora: Path, tmp_path: Path) -> None:
    result = build_manifest(corpora / "ljspeech_part", output=tmp_path / "m.parquet")
    assert len(result.manifest) == 385 and not result.skipped
    assert abs(result.manifest.total_seconds / 3600 - 0.69) < 0.01
    assert all(u.text and Path(u.audio_filepath).is_file() for u in Manifest.load(tmp_path / "m.parquet"))


def test_spans_of_a_recording_become_rows_without_copies(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("talk.wav", seconds=1.0)
    (tmp_path / "bad.wav").write_text("hello")
    spans = [("a", "talk.wav", 0.0, 0.25), ("b", "talk.wav", 0.5, 0.5), ("c", "talk.wav", 0.9, 2.0)]
    spans += [("d", "talk.wav", 1.5, 0.1), ("e", "bad.wav", 0.0, 0.1), ("f", "bad.wav", 0.1, 0.1)]
    recordings = [Recording(id=id, path=path, offset=offset, duration=long) for id, path, offset, long in spans]
    seen: list[tuple[int, int]] = []
    result = build_from_recordings(recordings, tmp_path, progress=lambda done, total: seen.append((done, total)))
    rows = [(u.id, u.offset, u.duration, u.num_samples) for u in result.manifest]
    assert rows == [("a", 0.0, 0.25, 4000), ("b", 0.5, 0.5, 8000)]
    assert read_utterance(result.manifest[1], 16000).shape == (8000,)
    assert seen[-1] == (2, 2)  # two files, read once each
    reasons = [reason for _, reason in result.skipped]
    assert "the span ends at 2.900 s but the recording is 1.000 s long" in reasons[0]
    assert "the span starts at 1.500 s" in reasons[1] and reasons[2] == reasons[3]
