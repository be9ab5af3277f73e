"""Promises of `Manifest`: what is saved is what is loaded, by columns, and what is wrong is named."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, loading
from speechssl.types import Utterance

AWKWARD = ['say "hi"', "back\\slash", "tab\there", "new\nline", "bell\x07", "Grüße, 世界", "", "{}", "2020-01-01"]


def write_lines(path: Path, *rows: dict[str, object] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(name: str = "a", **fields: object) -> dict[str, object]:
    known = {"id": name, "audio_filepath": f"{name}.wav", "sample_rate": 16000, "num_samples": 16000, "duration": 1.0}
    return known | fields


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet", "m.json"])
def test_saving_and_loading_keeps_everything(tmp_path: Path, name: str) -> None:
    utterances = [
        Utterance(
            id=f"u{number}",
            audio_filepath=f"audio/{number}.wav",
            sample_rate=8000,
            num_samples=8000 + number,
            duration=(8000 + number) / 8000,
            offset=number / 3,
            text=text,
            speaker="s" if number % 2 else None,
            extra={"take": number, "score": number / 7, "date": "2020-01-01", "good": number > 2, "tags": ["a", "b"]},
        )
        for number, text in enumerate(AWKWARD)
    ]
    saved = Manifest.from_utterances(utterances, folder=tmp_path).save(tmp_path / name)
    loaded = Manifest.load(tmp_path / name)
    for before, after in zip(utterances, loaded, strict=True):
        assert after.text == before.text and after.speaker == before.speaker
        assert (after.offset, after.duration, after.num_samples) == (before.offset, before.duration, before.num_samples)
        assert dict(after.extra) == dict(before.extra)
        assert after.audio_filepath == str(tmp_path / before.audio_filepath)
    assert loaded.fingerprint() == saved.fingerprint()


def test_lines_are_json_without_nulls(tmp_path: Path) -> None:
    lines = [row("a", text="x\n\x01"), row("b", text=None)]
    Manifest.load(write_lines(tmp_path / "m.jsonl", *lines)).save(tmp_path / "n.jsonl")
    written = [json.loads(line) for line in (tmp_path / "n.jsonl").read_text().splitlines()]
    assert written == [row("a", text="x\n\x01", offset=0), row("b", offset=0)]


def test_indexing_iterating_and_slicing_agree(make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest([1.0, 2.0, 3.0], text=["a", None, "c"], speaker=["x", "y", "x"])
    assert [manifest[number] for number in range(3)] == list(manifest)
    assert manifest[-1] == manifest[2]
    assert [u.id for u in manifest.take([2, 0])] == ["u2", "u0"]
    assert [u.id for u in manifest.filter(manifest.durations > 1.5)] == ["u1", "u2"]
    assert manifest.total_seconds == 6.0
    with pytest.raises(IndexError, match="utterance 3 of a manifest of 3"):
        manifest[3]


def test_a_manifest_is_not_changed_by_its_methods(make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest([1.0, 2.0])
    before = manifest.fingerprint()
    changed = manifest.with_column("split", ["train", "test"])
    assert changed[1].extra == {"split": "test"} and "split" not in manifest.table.column_names
    assert manifest.fingerprint() == before != changed.fingerprint()


def test_the_fingerprint_sees_contents_not_storage(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest([1.0, 2.0, 3.0], text=["a", None, "c"])
    pieces = Manifest(pa.concat_tables([manifest.table.slice(0, 1), manifest.table.slice(1)]), "elsewhere")
    assert pieces.fingerprint() == manifest.fingerprint()
    assert manifest.take([0, 1, 2]).fingerprint() == manifest.fingerprint()
    assert manifest.take([0, 2, 1]).fingerprint() != manifest.fingerprint()
    assert make_manifest([1.0, 2.0, 3.0], text=["a", "", "c"]).fingerprint() != manifest.fingerprint()
    assert make_manifest([1.0, 2.0, 3.0], text=["ac", None, ""]).fingerprint() != manifest.fingerprint()


def test_paths_stay_openable_when_a_manifest_moves(tmp_path: Path) -> None:
    (tmp_path / "corpus/audio").mkdir(parents=True)
    target = tmp_path / "corpus/audio/a.wav"
    target.touch()
    write_lines(tmp_path / "corpus/m.jsonl", row("audio/a"), row("b", audio_filepath="https://host/b.wav"))
    manifest = Manifest.load(tmp_path / "corpus/m.jsonl")
    for place in (tmp_path / "m.jsonl", tmp_path / "corpus/deep/er/m.parquet", tmp_path / "other/m.jsonl"):
        manifest = manifest.save(place)
        again = Manifest.load(place)
        assert Path(again[0].audio_filepath).samefile(target)
        assert not Path(again.column("audio_filepath")[0].as_py()).is_absolute()
        assert again[1].audio_filepath == "https://host/b.wav"


def test_absolute_paths_become_relative_only_inside_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "m/audio/a.wav", tmp_path / "elsewhere/b.wav"
    lines = [row("a", audio_filepath=str(inside)), row("b", audio_filepath=str(outside))]
    (tmp_path / "m").mkdir()
    saved = Manifest.load(write_lines(tmp_path / "x.jsonl", *lines)).save(tmp_path / "m/m.jsonl")
    assert saved.column("audio_filepath").to_pylist() == ["audio/a.wav", str(outside)]


def test_joining_moves_paths_and_refuses_repeated_ids(make_manifest: Callable[..., Manifest]) -> None:
    one = make_manifest([1.0, 2.0])
    two = Manifest(one.table.set_column(0, "id", pa.array(["v0", "v1"])), "other").with_column("take", [1, 2])
    joined = one.concat(two)
    assert joined.column("audio_filepath").to_pylist() == ["u0.wav", "u1.wav", "../other/u0.wav", "../other/u1.wav"]
    assert joined.column("take").to_pylist() == [None, None, 1, 2]
    with pytest.raises(ManifestError, match="ids must be unique, but 2 occur more than once: 'u0', 'u1'"):
        one.concat(one)


def test_a_nemo_manifest_is_completed_from_the_recordings(tmp_path: Path, write_tone: Callable[..., Path]) -> None:
    write_tone("a.wav", seconds=0.5, sample_rate=8000)
    write_tone("b.flac", seconds=1.0, sample_rate=22050)
    write_lines(
        tmp_path / "nemo.json",
        {"audio_filepath": "a.wav", "duration": 0.5, "text": "one", "speaker": 7},
        {"audio_filepath": "b.flac", "duration": 0.25, "offset": 0.5, "text": "two"},
        {"audio_filepath": "b.flac", "offset": 0.75},
    )
    first, second, third = Manifest.load(tmp_path / "nemo.json")
    assert (first.id, first.sample_rate, first.num_samples, first.speaker) == ("a", 8000, 4000, "7")
    assert (second.id, second.sample_rate, second.num_samples, second.offset) == ("b@500", 22050, 5513, 0.5)
    assert (third.id, third.duration) == ("b@750", 0.25)


def test_a_duration_that_cannot_be_found_names_the_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", {"audio_filepath": "nowhere.wav"})
    with pytest.raises(ManifestError, match=r"1 rows have no duration.*\n.*row 1: .*nowhere.wav: no such file"):
        Manifest.load(path)


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "m.jsonl", row("a"), "{oops", row("b", duration="1.0"), row("c", num_samples=1.5), "[]"
    )
    with pytest.raises(ManifestError) as caught:
        Manifest.load(path)
    message = str(caught.value)
    assert f"{path}:2: not JSON" in message
    assert f"{path}:3: duration must be a number, is text ('1.0')" in message
    assert f"{path}:4: num_samples must be a whole number, is 1.5" in message
    assert f"{path}:5: must be a JSON object, is a list" in message
    assert "--quarantine" in message


def test_a_manifest_that_is_not_utf_8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    lines = [json.dumps(row("a")), json.dumps(row("b", text="Grüße"), ensure_ascii=False)]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    with pytest.raises(ManifestError, match=rf"{path}:2: not UTF-8 \(byte 0xfc .*iconv"):
        Manifest.load(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([row("a"), row("a")], "ids must be unique, but 1 occur more than once: 'a'"),
        ([row("a", duration=0.0)], "1 rows have an impossible duration, the first is row 1, 'a': 0.0"),
        ([row("a", offset=-1.0)], "impossible offset"),
        ([row("a", sample_rate=0)], "impossible sample_rate"),
        ([{"id": "a", "path": "a.wav"}], "no field audio_filepath, only id, path"),
        ([""], "holds no utterance|is empty"),
    ],
)
def test_what_cannot_be_used_is_refused_when_loaded(
    tmp_path: Path, lines: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        Manifest.load(write_lines(tmp_path / "m.jsonl", *lines))


def test_wrong_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest"):
        Manifest.load(tmp_path / "m.jsonl")
    with pytest.raises(ManifestError, match="is a folder"):
        Manifest.load(tmp_path)
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(ManifestError, match=r"must end in .jsonl, .json or .parquet"):
        Manifest.load(tmp_path / "m.txt")
    (tmp_path / "m.parquet").write_text("x")
    with pytest.raises(ManifestError, match="cannot be read as parquet"):
        Manifest.load(tmp_path / "m.parquet")
    (tmp_path / "m.jsonl").touch()
    with pytest.raises(ManifestError, match="is empty"):
        Manifest.load(tmp_path / "m.jsonl")


def test_saving_leaves_no_other_file_and_keeps_the_old_one_when_it_fails(
    tmp_path: Path, make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_manifest([1.0])
    manifest.save(tmp_path / "m.jsonl")
    before = (tmp_path / "m.jsonl").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("speechssl.manifest.table.write_json_lines", fail)
    with pytest.raises(OSError, match="disk full"):
        manifest.with_column("x", [1]).save(tmp_path / "m.jsonl")
    assert (tmp_path / "m.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


def test_many_rows_are_handled_by_columns(tmp_path: Path) -> None:
    count = 100_000
    numbers = pa.array(np.arange(count)).cast(pa.large_string())
    prefix = pa.scalar("speaker/chapter/", pa.large_string())
    table = pa.table(
        {
            "id": numbers,
            "audio_filepath": pc.binary_join_element_wise(prefix, numbers, pa.scalar("", pa.large_string())),
            "sample_rate": np.full(count, 16000),
            "num_samples": np.full(count, 16000),
            "offset": np.zeros(count),
            "duration": np.ones(count),
        }
    )
    started = time.process_time()
    manifest = Manifest(table, tmp_path)
    manifest.save(tmp_path / "m.jsonl")
    loaded = Manifest.load(tmp_path / "m.jsonl")
    half = loaded.filter(loaded.durations > 0).take(np.arange(0, count, 2)).save(tmp_path / "sub/m.parquet")
    assert half.fingerprint() == Manifest.load(tmp_path / "sub/m.parquet").fingerprint()
    # About one second of processor time; a Python object for every row at every step would take ten times as long.
    assert time.process_time() - started < 6


def test_integers_beyond_those_of_a_float_have_a_fingerprint(tmp_path: Path) -> None:
    manifests = [Manifest.load(write_lines(tmp_path / "m.jsonl", row(take=number))) for number in (2**60 + 1, 2**61)]
    assert manifests[0].fingerprint() != manifests[1].fingerprint()


@pytest.mark.parametrize("where", ["a text", "the name of a column"])
@pytest.mark.parametrize("large", [False, True])
def test_parquet_that_is_not_utf_8_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, large: bool
) -> None:
    monkeypatch.setattr(loading, "LARGE_ROWS", 1 if large else 1000)
    utterance = Utterance(
        id="a", audio_filepath="a.wav", sample_rate=8000, num_samples=80, duration=0.01, extra={"mood": "happy"}
    )
    path = tmp_path / "m.parquet"
    Manifest.from_utterances([utterance]).save(path)
    table = pq.read_table(path).cast(pa.schema([(f.name, f.type) for f in pq.read_schema(path)]))
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    content, old, new = path.read_bytes(), *((b"happy", b"h\xffppy") if where == "a text" else (b"mood", b"m\xffod"))
    path.write_bytes(content.replace(old, new))
    assert path.read_bytes() != content
    with pytest.raises(ManifestError, match="m.parquet: cannot be read as parquet .*; write it again"):
        list(Manifest.load(path, cache_folder=tmp_path / "cache"))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    Manifest.from_utterances(
        [Utterance(id="a", audio_filepath="a.wav", sample_rate=8000, num_samples=80, duration=0.01)]
    ).save(path)
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(40)  # the page of ids
    path.write_bytes(bytes(content))
    with pytest.raises(ManifestError, match="m.parquet: cannot be read as parquet .*; write it again"):
        list(Manifest.load(path))


@pytest.mark.parametrize("levels", [60, 99_999])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[[],", "]")])
def test_json_that_lies_too_deep_is_named(tmp_path: Path, opening: str, closing: str, levels: int) -> None:
    """Arrow's reader would end the process at some thousands of levels."""
    row = {"id": "a", "audio_filepath": "a.wav", "sample_rate": 8000, "num_samples": 80, "offset": 0, "duration": 0.01}
    deep = json.dumps(row | {"id": "b", "x": 1})[:-2] + opening * levels + "1" + closing * levels + "}"
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n" + deep + "\n")
    with pytest.raises(ManifestError, match=r"m.jsonl:2: lists or objects lie more than 50 deep"):
        Manifest.load(tmp_path / "m.jsonl")


def test_many_lists_and_brackets_in_texts_are_not_deep(tmp_path: Path) -> None:
    row = {"id": "a", "audio_filepath": "a.wav", "sample_rate": 8000, "num_samples": 80, "offset": 0, "duration": 0.01}
    row |= {"text": '"[' * 99, "words": [{"at": [1, 2]}] * 99}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    assert Manifest.load(tmp_path / "m.jsonl")[0].text == '"[' * 99
