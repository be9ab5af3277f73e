"""Promises of the audiofolder: what `datasets` would misread is refused or written otherwise, and said."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.formats import read_format, rows, write_format

WriteTone = Callable[..., Path]


@pytest.fixture
def tones(tmp_path: Path, write_tone: WriteTone) -> Manifest:
    for name in ("a", "b", "deep/c"):
        write_tone(f"set/{name}.wav")
    return build_manifest(tmp_path / "set").manifest.with_column("text", ["x", "y", "z"])


def test_metadata_is_written_beside_recordings_that_are_there(tones: Manifest, tmp_path: Path) -> None:
    exported = write_format(tones, tmp_path / "set", "audiofolder")
    assert [path.name for path in exported.files] == ["metadata.csv"]
    written = (tmp_path / "set/metadata.csv").read_text().splitlines()
    assert written[0] == '"file_name","id","sample_rate","num_samples","duration","text"'
    assert written[3] == '"deep/c.wav","deep/c",16000,3200,0.2,"z"'
    assert [u.id for u in read_format(tmp_path / "set").manifest] == ["a", "b", "deep/c"]


@pytest.mark.parametrize("place", ["link", "copy"])
def test_recordings_are_brought_in_only_when_asked(
    tones: Manifest, tmp_path: Path, write_tone: WriteTone, place: str
) -> None:
    write_tone("other/a.wav", seconds=0.3)
    both = tones.concat(build_manifest(tmp_path / "other").manifest.with_column("id", ["other"]))
    with pytest.raises(ManifestError, match=r"4 recordings do not lie in .*: use --place link or --place copy"):
        write_format(both, tmp_path / "out", "audiofolder")
    with pytest.raises(ManifestError, match="place must be one of keep, link, copy, is 'move'"):
        write_format(both, tmp_path / "out", "audiofolder", place="move")
    for _ in range(2):  # the second time everything is there
        write_format(both, tmp_path / "out", "audiofolder", place=place)
    found = sorted(path.name for path in (tmp_path / "out/audio").iterdir())
    assert found == ["a-2.wav", "a.wav", "b.wav", "c.wav"]
    assert (tmp_path / "out/audio/a.wav").is_symlink() == (place == "link")
    assert {u.id: u.num_samples for u in read_format(tmp_path / "out").manifest}["other"] == 4800


def test_columns_that_a_csv_changes_make_json_lines(tones: Manifest, tmp_path: Path) -> None:
    numbers = tones.with_column("speaker", ["007", "103", "12"]).with_column("text", ["NA", "", "x"])
    exported = write_format(numbers, tmp_path / "set", "audiofolder")
    assert [path.name for path in exported.files] == ["metadata.jsonl"]
    assert exported.notes[1] == (
        "no metadata.csv, in which `datasets` would change columns: text (2 values such as NA or nothing); speaker (all"
        " numbers)"
    )
    with pytest.raises(
        ManifestError, match=r"would not read .*speaker \(all numbers\); name .*metadata.jsonl as the file"
    ):
        write_format(numbers, tmp_path / "set/metadata.csv")
    dated = numbers.with_column("day", ["2020-01-01", "2021-02-03", None])
    exported = write_format(dated, tmp_path / "set", "audiofolder")
    assert [path.name for path in exported.files] == ["metadata.parquet"]
    assert not (tmp_path / "set/metadata.jsonl").exists()
    back = read_format(tmp_path / "set").manifest
    assert [(u.text, u.speaker, u.extra.get("day")) for u in back] == [
        ("NA", "007", "2020-01-01"), ("", "103", "2021-02-03"), ("x", "12", None),
    ]  # fmt: skip


def test_names_that_datasets_takes_for_splits_are_refused(
    tones: Manifest, tmp_path: Path, write_tone: WriteTone
) -> None:
    write_tone("named/eval_1.wav")
    write_tone("named/evaluate.wav")
    manifest = build_manifest(tmp_path / "named").manifest
    with pytest.raises(
        ManifestError, match=r"1 recordings have a name by which .*'eval_1.wav'; give .* a column split"
    ):
        write_format(manifest, tmp_path / "named", "audiofolder")
    write_format(manifest.with_column("split", ["train"] * 2), tmp_path / "out", "audiofolder", place="link")
    assert len(read_format(tmp_path / "out").manifest) == 2
    with pytest.raises(ManifestError, match=r"the split first is none that `datasets` knows"):
        write_format(
            tones.with_column("split", ["train", "first", "test"]), tmp_path / "o", "audiofolder", place="link"
        )
    with pytest.raises(ManifestError, match=r"the column cover_file_name means something else to `datasets`"):
        write_format(tones.with_column("cover_file_name", ["x"] * 3), tmp_path / "set", "audiofolder")


def test_splits_with_different_columns_are_written_as_parquet(tones: Manifest, tmp_path: Path) -> None:
    split = tones.with_column("split", ["train", "train", "test"]).with_column("text", ["x", "y", None])
    exported = write_format(split, tmp_path / "out", "audiofolder", place="link")
    assert {path.name for path in exported.files} == {"metadata.parquet"}
    assert "text (unknown in a whole split)" in exported.notes[1]
    assert {u.id: u.extra["split"] for u in read_format(tmp_path / "out").manifest} == {
        "a": "train", "b": "train", "deep/c": "test",
    }  # fmt: skip


def test_metadata_of_others_is_read(tones: Manifest, tmp_path: Path) -> None:
    (tmp_path / "set/metadata.jsonl").write_text(
        '{"file_name": "a.wav", "transcription": "one", "speaker_id": 7}\n{"file_name": "b.wav", "speaker_id": 8}\n'
    )
    first, second = read_format(tmp_path / "set").manifest
    assert (first.text, first.speaker, first.num_samples, second.text) == ("one", "7", 3200, None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", b"text\nx\n", r"metadata.csv:1: no column names the recordings"),
        ("metadata.csv", b"file_name,text\na.wav\n", r"metadata.csv:2: 1 fields, but the header has 2"),
        ("metadata.csv", b"file_name\nnone.wav\n", r"metadata.csv:2: .*none.wav: no such file"),
        ("metadata.jsonl", b'{"file_name": "a.wav"}\n{"file_name"\n', r"metadata.jsonl:2: not JSON"),
        ("metadata.jsonl", b'{"file_name": "a.wav", "duration": "long"}\n', r"the column duration must hold numbers"),
        ("metadata.parquet", b"PAR0", r"metadata.parquet: cannot be read as Parquet"),
    ],
)
def test_what_is_wrong_with_metadata_is_named(
    tones: Manifest, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / "set" / name).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_format(tmp_path / "set")


def test_two_metadata_files_are_not_guessed_between(tones: Manifest, tmp_path: Path) -> None:
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / "set" / name).write_text("")
    with pytest.raises(ManifestError, match=r"holds metadata.csv; metadata.jsonl; name the one to read"):
        read_format(tmp_path / "set")


def test_rows_without_any_field_are_named_and_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_ROWS_PER_PIECE", 1)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.wav", "duration": 1}\n{}\n')
    with pytest.raises(ManifestError, match="metadata.jsonl:2: an object without any field names no recording"):
        read_format(tmp_path, sample_rate=16000)


def test_a_folder_of_a_split_keeps_the_column_that_its_file_has(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        (tmp_path / name).mkdir()
        row = {"file_name": f"{name}.wav", "duration": 1} | ({"split": "mine"} if name == "dev" else {})
        (tmp_path / name / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    assert read_format(tmp_path, sample_rate=16000).manifest.column("split").to_pylist() == ["mine", "train"]


def test_parquet_that_is_damaged_is_named(tones: Manifest, tmp_path: Path) -> None:
    write_format(tones, tmp_path / "metadata.parquet", place="link")
    content = (tmp_path / "metadata.parquet").read_bytes()
    for broken in (content.replace(b"file_name", b"file\xffname"), content[:-40], content.replace(b"PAR1", b"PAR2")):
        (tmp_path / "metadata.parquet").write_bytes(broken)
        with pytest.raises(ManifestError, match=f"{tmp_path}/metadata.parquet: cannot be read as Parquet"):
            read_format(tmp_path)
