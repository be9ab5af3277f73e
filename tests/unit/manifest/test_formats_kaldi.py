"""Promises of Kaldi's data directory: commands are understood or refused but never run, and lines are named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.formats import read_format, write_format
from speechssl.manifest.formats.commands import CommandError, decoding_command, file_of_command

WriteTone = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path, write_tone: WriteTone) -> Path:
    """A data directory of two recordings in three segments, as a recipe leaves it."""
    for name in ("one.wav", "two.flac"):
        write_tone(f"audio/{name}", seconds=1.0)
    folder = tmp_path / "data"
    folder.mkdir()
    flac = tmp_path / "audio/two.flac"
    (folder / "wav.scp").write_text(f"rec1 {tmp_path}/audio/one.wav\nrec2 flac -c -d -s {flac} |\n")
    (folder / "segments").write_text("a-1 rec1 0.10 0.50\na-2 rec1 0.5 -1\nb-1  rec2\t0.29 0.75\n")
    (folder / "text").write_text("a-1 ein Wort\na-2\nb-1 größer als  das\n", encoding="utf-8")
    (folder / "utt2spk").write_text("a-1 a\na-2 a\nb-1 b-1\n")
    (folder / "spk2gender").write_text("a f\n")
    return folder


def test_a_directory_with_segments_is_read(data: Path, tmp_path: Path) -> None:
    (data / "feats.scp").write_text("a-1 x.ark:5\n")
    result = read_format(data)
    first, second, third = result.manifest
    assert (first.id, first.offset, first.duration, first.num_samples) == ("a-1", 0.1, 0.4, 6400)
    assert (first.text, first.speaker, first.extra) == ("ein Wort", "a", {"gender": "f"})
    assert (second.text, second.offset, second.duration) == ("", 0.5, 0.5)
    assert (third.text, third.speaker, third.num_samples) == ("größer als  das", None, 7360)
    assert Path(third.audio_filepath) == tmp_path / "audio/two.flac"
    assert result.format == "kaldi" and result.notes == ("not read: feats.scp",)


def test_without_segments_every_recording_is_an_utterance(data: Path) -> None:
    (data / "segments").unlink()
    (data / "text").write_text("rec2 zwei\nrec1 eins\nrec9 nirgends\n")
    (data / "utt2spk").unlink()
    result = read_format(data)
    assert [(u.id, u.text, u.num_samples) for u in result.manifest] == [
        ("rec1", "eins", 16000),
        ("rec2", "zwei", 16000),
    ]
    assert result.left_out == {"line of text for an utterance that is not in wav.scp": 1}


def test_lengths_that_are_written_need_no_header(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("a /nowhere/a.wav\nb /nowhere/b.wav\n")
    (tmp_path / "utt2dur").write_text("b 2.5\na 1.25\n")
    manifest = read_format(tmp_path, sample_rate=8000).manifest
    assert manifest.durations.tolist() == [1.25, 2.5]
    (tmp_path / "utt2num_samples").write_text("a 10001\nb 20000\n")
    assert [u.num_samples for u in read_format(tmp_path, sample_rate=8000).manifest] == [10001, 20000]


def test_relative_paths_are_those_of_the_working_folder_or_of_the_directory(
    tmp_path: Path, write_tone: WriteTone, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = write_tone("corpus/wav/a.wav")
    (tmp_path / "corpus/wav.scp").write_text("a wav/a.wav\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Path(read_format(tmp_path / "corpus").manifest[0].audio_filepath).samefile(target)
    (tmp_path / "corpus/wav.scp").write_text("a corpus/wav/a.wav\n")
    with pytest.raises(ManifestError, match=r"relative path 'corpus/wav/a.wav' is neither in .*--audio_root"):
        read_format(tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    assert Path(read_format(tmp_path / "corpus").manifest[0].audio_filepath).samefile(target)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Path(read_format(tmp_path / "corpus", audio_root=tmp_path).manifest[0].audio_filepath).samefile(target)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        ("flac -c -d -s /a/b.flac", "/a/b.flac"),
        ("flac -cds 'with space (1).flac' ", "with space (1).flac"),
        ("/usr/bin/flac --decode --stdout --silent a.flac", "a.flac"),
        ("sox a.wav -t wav -", "a.wav"),
        ("sox -t wav a.wav -r 16000 -b 16 -c 1 -e signed -t wav - rate 16k", "a.wav"),
        ("sox -V1 a.mp3 -t wav -r 8k - rate -h 8000", "a.mp3"),
        ("sph2pipe -f wav -p a.sph", "a.sph"),
        ("ffmpeg -threads 1 -i a.m4a -ar 16000 -map_channel 0.0.0  -f wav -threads 1 pipe:1", "a.m4a"),
        ("ffmpeg -v 8 -i a.mp3 -f wav -ar 16000 -ac 1 -acodec pcm_s16le -", "a.mp3"),
        ("cat a.wav", "a.wav"),
        (decoding_command("/a/it's (2).opus", sample_rate=16000), "/a/it's (2).opus"),
        (decoding_command("/a/b.wav", sample_rate=8000, mono=True), "/a/b.wav"),
    ],
)
def test_commands_that_only_decode_stand_for_their_file(command: str, file: str) -> None:
    assert file_of_command(command) == file


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sox -t wav a.wav -t wav - speed 0.9", "has sox change the sound: speed 0.9"),
        ("sox a.wav -t wav - rate 16k trim 0 5", "has sox change the sound: trim"),
        ("sox a.wav -t wav - remix 2", "change the sound"),
        ("sox -v 0.5 a.wav -t wav -", "option -v"),
        ("sox a.wav b.wav -t wav -", "names 2 files"),
        ("sph2pipe -f wav -p -c 2 a.sph", "option -c"),
        ("ffmpeg -ss 5 -i a.mp3 -f wav -", "option -ss"),
        ("ffmpeg -i a.mp3 -map_channel 0.0.1 -f wav -", "-map_channel 0.0.1"),
        ("ffmpeg -i a.mp3 out.wav", "has ffmpeg write out.wav"),
        ("ffmpeg -i a.mp3 -i b.mp3 -f wav -", "names 2 files"),
        ("flac -c -d -s --skip=100 a.flac", "option --skip=100"),
        ("sph2pipe -f wav a.sph | sox - -t wav -", "joins several commands"),
        ("cat $HOME/a.wav", "uses the shell"),
        ("cat a.wav; rm -rf /", "joins several commands"),
        ("cat `ls`", "uses the shell"),
        ("gunzip -c a.wav.gz", "calls 'gunzip'; known are cat, flac"),
        ("flac -c -d 'a.flac", "cannot be taken apart"),
        ("", "is empty"),
        ("cat -", "names no files"),
    ],
)
def test_other_commands_are_refused(command: str, reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        file_of_command(command)


def test_a_command_is_never_run(data: Path, tmp_path: Path) -> None:
    scp = (data / "wav.scp").read_text()
    (data / "wav.scp").write_text(scp + f"rec3 touch {tmp_path}/ran |\nrec4 cat x; touch {tmp_path}/ran |\n")
    with pytest.raises(ManifestError) as caught:
        read_format(data)
    assert "2 commands in wav.scp do not stand for a file; commands are never run here" in str(caught.value)
    assert f"{data}/wav.scp:3: the command calls 'touch'" in str(caught.value)
    assert f"{data}/wav.scp:4: the command joins several commands" in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("segments", b"a-1 rec1 0.1 0.5\na-2 rec1 0.5\n", r"segments:2: must be utterance, recording, start and end"),
        ("segments", b"a-1 rec1 0.1 0.5\na-2 rec7 0 1\n", r"segments:2: there is no recording 'rec7' in .*wav.scp"),
        ("segments", b"a-1 rec1 0.1 half\n", r"segments:1: the end must be a number, is 'half'"),
        (
            "segments",
            b"a-1 rec1 0.1 0.5\na-1 rec1 0 1\n",
            r"segments:2: ids must be unique, but 'a-1' is that of line 1",
        ),
        ("segments", b"a-1 rec1 0.5 0.5\n", r"segments:1: 1 rows have an impossible span; the first is 0 s at 0.5 s"),
        ("segments", b"", r"segments: is empty"),
        ("wav.scp", b"rec1\n", r"wav.scp:1: must be recording and path with a space between them, is 'rec1'"),
        ("wav.scp", b"rec1 a.wav\nrec1 b.wav\n", r"wav.scp:2: 'rec1' stands in line 1 too; keep one"),
        ("wav.scp", b"rec1 a.ark:1234\n", r"wav.scp:1: 'a.ark:1234' is no file; write the archive's recordings"),
        ("text", b"a-1 ok\na-2 gr\xfc\xdfe\n", r"text:2: not UTF-8 \(byte 0xfc\).*iconv"),
        ("utt2spk", b"a-1 a\na-2\n", r"utt2spk:2: must be utterance and value"),
        ("text", b"a-1 x\na-2 y\na-1 z\n", r"text:3: 'a-1' stands in line 1 too"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(data: Path, name: str, content: bytes, message: str) -> None:
    (data / name).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_format(data)


def manifest_of(tmp_path: Path, write_tone: WriteTone, names: list[str], **columns: list[str | None]) -> Manifest:
    for name in names:
        write_tone(f"audio/{name}.wav")
    manifest = build_manifest(tmp_path / "audio").manifest
    for name, values in columns.items():
        manifest = manifest.with_column(name, values)
    return manifest


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_ids_get_their_speaker_in_front_where_kaldi_needs_it(tmp_path: Path, write_tone: WriteTone) -> None:
    names = ["a", "b", "c"]
    manifest = manifest_of(tmp_path, write_tone, names, speaker=["z", "y", "z"], gender=["F", "male", "F"])
    exported = write_format(manifest, tmp_path / "k", "kaldi")
    assert exported.left_out == {"id: its speaker was put in front": 3}
    assert lines(tmp_path / "k/utt2spk") == ["y-b y", "z-a z", "z-c z"]
    assert lines(tmp_path / "k/spk2utt") == ["y y-b", "z z-a z-c"]
    assert lines(tmp_path / "k/spk2gender") == ["y m", "z f"]
    named = manifest.with_column("id", ["z_1", "y_1", "z_2"])
    assert write_format(named, tmp_path / "k2", "kaldi").left_out == {}
    assert lines(tmp_path / "k2/utt2spk") == ["y_1 y", "z_1 z", "z_2 z"]


def test_names_that_cannot_be_sorted_are_refused(tmp_path: Path, write_tone: WriteTone) -> None:
    manifest = manifest_of(tmp_path, write_tone, ["a", "b"], id=["s-!", "s"], speaker=["s-!x", "s"])
    with pytest.raises(ManifestError, match="a speaker's name is the beginning of another's"):
        write_format(
            manifest.with_column("id", ["1", "2"]).with_column("speaker", ["s", "s-"]), tmp_path / "k", "kaldi"
        )
    conflicting = manifest.with_column("speaker", ["f", "f"]).with_column("gender", ["m", "f"])
    with pytest.raises(ManifestError, match="speakers with more than one gender: f"):
        write_format(conflicting, tmp_path / "k", "kaldi")


def test_unknown_speakers_and_white_space_in_names_are_counted(tmp_path: Path, write_tone: WriteTone) -> None:
    manifest = manifest_of(tmp_path, write_tone, ["a", "b"], id=["x y", "z"])
    manifest = manifest.with_column("note", ["n", None])
    exported = write_format(manifest, tmp_path / "k", "kaldi")
    assert exported.left_out == {
        "white space in the id: '_' instead": 1,
        "no speaker: the utterance counts as one": 2,
        "field note": 1,
    }
    assert lines(tmp_path / "k/utt2spk") == ["x_y x_y", "z z"]
    assert [u.speaker for u in read_format(tmp_path / "k").manifest] == [None, None]


def test_files_sort_by_bytes(tmp_path: Path, write_tone: WriteTone) -> None:
    ids = ["b", "a-1", "B", "a", "ä", "a1"]
    manifest = manifest_of(tmp_path, write_tone, list("uvwxyz"), id=ids)
    write_format(manifest, tmp_path / "k", "kaldi")
    assert [line.split()[0] for line in lines(tmp_path / "k/wav.scp")] == ["B", "a", "a-1", "a1", "b", "ä"]


def test_times_of_segments_are_right_for_readers_that_cut_off(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("audio/a.wav", seconds=1.0, sample_rate=16000)
    manifest = build_manifest(tmp_path / "audio").manifest
    first = np.arange(0, 12000, 7)
    spans = manifest.take(np.zeros(len(first), dtype=int)).with_column("id", [f"{n:05d}" for n in first])
    spans = spans.with_column("offset", first / 16000).with_column("num_samples", np.full(len(first), 4000))
    write_format(spans.with_column("duration", np.full(len(first), 0.25)), tmp_path / "k", "kaldi")
    for line, sample in zip(lines(tmp_path / "k/segments"), first.tolist(), strict=True):
        start, end = map(float, line.split()[2:])
        assert (int(start * 16000), int(end * 16000)) == (sample, sample + 4000)
        assert (round(start * 16000), round(end * 16000)) == (sample, sample + 4000)
