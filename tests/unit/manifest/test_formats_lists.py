"""Promises of the formats that are lists: fairseq's .tsv with labels, NeMo's JSON Lines, CSV and TSV."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.formats import fairseq, read_format, write_format
from speechssl.manifest.formats import lines as lines_module

WriteTone = Callable[..., Path]


@pytest.fixture
def tones(tmp_path: Path, write_tone: WriteTone) -> Manifest:
    for name in ("a", "b", "c"):
        write_tone(f"audio/{name}.wav")
    return build_manifest(tmp_path / "audio").manifest.with_column("text", ["ab b", "Öl", "b"])


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# fairseq


def test_fairseq_files_have_the_layout_of_its_scripts(tones: Manifest, tmp_path: Path) -> None:
    write_format(tones, tmp_path / "lists/train.tsv", "fairseq")
    assert lines(tmp_path / "lists/train.tsv") == [f"{tmp_path}/audio", "a.wav\t3200", "b.wav\t3200", "c.wav\t3200"]
    assert lines(tmp_path / "lists/train.wrd") == ["ab b", "Öl", "b"]
    assert lines(tmp_path / "lists/train.ltr") == ["a b | b |", "Ö l |", "b |"]
    assert lines(tmp_path / "lists/dict.ltr.txt") == ["| 4", "b 3", "a 1", "l 1", "Ö 1"]


def test_labels_of_an_earlier_export_do_not_stay(tones: Manifest, tmp_path: Path) -> None:
    write_format(tones, tmp_path / "train.tsv", "fairseq")
    write_format(tones, tmp_path / "train.tsv", "fairseq2")
    assert (tmp_path / "train.wrd").exists() and not (tmp_path / "train.ltr").exists()
    write_format(tones.select([]), tmp_path / "train.tsv", "fairseq2")
    assert not (tmp_path / "train.wrd").exists()


def test_letters_are_put_together_where_there_are_no_words(tones: Manifest, tmp_path: Path) -> None:
    write_format(tones, tmp_path / "train.tsv", "fairseq")
    (tmp_path / "train.wrd").unlink()
    (tmp_path / "train.km").write_text("1 2\n3\n4\n")
    result = read_format(tmp_path / "train.tsv")
    assert [u.text for u in result.manifest] == ["ab b", "Öl", "b"]
    assert "not read: train.km" in result.notes


def test_a_dictionary_that_numbers_a_model_is_kept(tones: Manifest, tmp_path: Path) -> None:
    (tmp_path / "dict.ltr.txt").write_text("b 9\nl 8\na 7\nÖ 2\n| 1\nz 1\n", encoding="utf-8")
    write_format(tones, tmp_path / "train.tsv", "fairseq")
    assert lines(tmp_path / "dict.ltr.txt")[0] == "b 9"
    with pytest.raises(ManifestError, match=r"dict.ltr.txt: lacks 2 symbols of the texts: 1 2; remove it"):
        write_format(tones.with_column("text", ["a1", "2", "b"]), tmp_path / "dev.tsv", "fairseq")
    assert not (tmp_path / "dev.tsv").exists()


def test_a_folder_of_lists_is_a_manifest_with_splits(tones: Manifest, tmp_path: Path) -> None:
    split = tones.with_column("split", ["train", "dev", "train"])
    write_format(split, tmp_path / "lists", "fairseq")
    assert lines(tmp_path / "lists/dev.wrd") == ["Öl"]
    back = read_format(tmp_path / "lists").manifest
    assert {(u.id, u.text, u.extra["split"]) for u in back} == {
        ("a", "ab b", "train"), ("b", "Öl", "dev"), ("c", "b", "train"),
    }  # fmt: skip
    with pytest.raises(ManifestError, match=r"does not have; name a file, such as .*train.tsv"):
        write_format(tones, tmp_path / "others", "fairseq")
    (tmp_path / "lists/test.tsv").write_text((tmp_path / "lists/dev.tsv").read_text())
    both = read_format(tmp_path / "lists").manifest
    assert {u.id for u in both} == {"train/a", "train/c", "dev/b", "test/b"}


def test_a_corpus_that_moved_is_found_by_its_new_root(tones: Manifest, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("/once/upon/a/time\na.wav\t3200\n")
    with pytest.raises(ManifestError, match=r"t.tsv:2: /once/upon/a/time/a.wav: no such file"):
        read_format(tmp_path / "t.tsv")
    assert read_format(tmp_path / "t.tsv", audio_root=tmp_path / "audio").manifest[0].num_samples == 3200
    (tmp_path / "t.tsv").write_text("audio\na.wav\t3200\n")
    assert read_format(tmp_path / "t.tsv", "fairseq").manifest[0].num_samples == 3200


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.tsv",
            b"/audio\na.wav\t1\nb.wav 2\n",
            r"t.tsv:3: must be path<TAB>num_samples, 2 fields .* has 1: 'b.wav 2'",
        ),
        ("t.tsv", b"/audio\na.wav\t1\t2\n", r"t.tsv:2: must be path<TAB>num_samples, 2 fields .* has 3"),
        (
            "t.tsv",
            b"/audio\na.wav\t1\nb.wav\tlong\n",
            r"t.tsv:3: the number of samples must be a whole number, is 'long'",
        ),
        ("t.tsv", b"/audio\na.wav\t0\n", r"t.tsv:2: 1 rows have an impossible span"),
        ("t.tsv", b"a.wav\t1\nb.wav\t2\n", r"t.tsv:1: must be the root folder of the paths below, is 'a.wav"),
        ("t.tsv", b"/audio\n", r"t.tsv: names no recording"),
        ("t.tsv", b"", r"t.tsv: is empty"),
        ("t.tsv", b"/audio\na.wav\t1\ngr\xfc\xdfe.wav\t2\n", r"t.tsv:3: not UTF-8 \(byte 0xfc\)"),
        ("t.tsv", b"/audio\na.wav\t1\na.wav\t1\n", r"t.tsv:3: ids must be unique, but 'a.wav' is that of line 2 too"),
        ("t.wrd", b"one\n", r"t.wrd:2: holds 1 lines, but .*t.tsv names 2 recordings"),
        ("t.ltr", b"a |\nb |\nc |\n", r"t.ltr:3: holds 3 lines, but .*t.tsv names 2 recordings"),
        ("t.wrd", b"one\n\xff\n", r"t.wrd:2: not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_list_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / "t.tsv").write_text("/audio\na.wav\t1\nb.wav\t2\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_format(tmp_path / "t.tsv", "fairseq", sample_rate=16000)


def test_lists_from_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbf/audio\r\na b.wav\t160\r\n")
    (tmp_path / "t.wrd").write_bytes(b"one two\r\n")
    (utterance,) = read_format(tmp_path / "t.tsv", sample_rate=16000).manifest
    assert (utterance.audio_filepath, utterance.num_samples, utterance.text) == ("/audio/a b.wav", 160, "one two")


# NeMo


def test_nemo_lines_have_its_names(tones: Manifest, tmp_path: Path) -> None:
    rows = tones.take([0, 1]).with_column("offset", [0.0, 0.05]).with_column("duration", [0.2, 0.1])
    rows = rows.with_column("language", ["de", None]).with_column("num_samples", [3200, 1600])
    write_format(rows.with_column("speaker", ["s", None]), tmp_path / "x/nemo.json", "nemo")
    assert [json.loads(line) for line in lines(tmp_path / "x/nemo.json")] == [
        {"audio_filepath": "../audio/a.wav", "duration": 0.2, "text": "ab b", "speaker": "s", "lang": "de", "id": "a"},
        {"audio_filepath": "../audio/b.wav", "duration": 0.1, "offset": 0.05, "text": "Öl", "id": "b"},
    ]


def test_nemos_other_names_are_understood(tones: Manifest, tmp_path: Path) -> None:
    rows = [
        {"audio_filepath": "audio/a.wav", "duration": 0.2, "normalized_text": "x", "lang": "de", "speaker": 12},
        {"audio_filepath": "audio/b.wav", "duration": 0.1, "offset": None, "normalized_text": "y", "id": "own"},
    ]
    (tmp_path / "n.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    result = read_format(tmp_path / "n.jsonl")
    first, second = result.manifest
    assert result.format == "nemo"
    assert (first.id, first.text, first.language, first.speaker) == ("audio/a", "x", "de", "12")
    assert (second.id, second.num_samples, second.offset) == ("own", 1600, 0)


def test_paths_that_nemo_would_not_look_for_are_whole(tones: Manifest, tmp_path: Path) -> None:
    deep = tones.take([0]).with_column("audio_filepath", ["x/" * 130 + "a.wav"])
    write_format(deep, tmp_path / "nemo.json", "nemo")
    assert json.loads(lines(tmp_path / "nemo.json")[0])["audio_filepath"].startswith(f"{tmp_path}/audio/x/x/")
    with pytest.raises(ManifestError, match="NeMo takes this name for that of a list of tarred audio"):
        write_format(tones, tmp_path / "tarred_audio_manifest.json", "nemo")
    with pytest.raises(ManifestError, match="the column lang means something else to NeMo"):
        write_format(tones.with_column("lang", ["x"] * 3), tmp_path / "nemo.json", "nemo")
    (tmp_path / "tarred.json").write_text('{"audio_filepath": "a.wav", "duration": 1, "shard_id": 0}\n')
    with pytest.raises(ManifestError, match="tarred.json: is a list of NeMo's tarred audio"):
        read_format(tmp_path / "tarred.json", sample_rate=16000)
    bad = {"{}": "names no recording", '{"audio_filepath": "\\ud800", "duration": 1}': "ud800"}
    for wrong, message in bad.items():
        (tmp_path / "bad.json").write_text('{"audio_filepath": "a.wav", "duration": 1}\n' + wrong + "\n")
        with pytest.raises(ManifestError, match=f"bad.json:2: .*{message}"):
            read_format(tmp_path / "bad.json", "nemo", sample_rate=16000)
    (tmp_path / "bad.json").write_text('{"audio_filepath": "a.wav", "duration": 1}\n{"audio_filepath":\n')
    with pytest.raises(ManifestError, match=r"bad.json:2: not JSON"):
        read_format(tmp_path / "bad.json", "nemo", sample_rate=16000)


# CSV and TSV


def test_columns_of_other_tools_are_understood(tones: Manifest, tmp_path: Path) -> None:
    (tmp_path / "cv.tsv").write_text(
        'client_id\tpath\tsentence\tup_votes\tlocale\nx\taudio/a.wav\tsay "hi"\t2\tde\ny\taudio/b.wav\t\t\tde\n'
    )
    result = read_format(tmp_path / "cv.tsv")
    first, second = result.manifest
    assert (first.text, first.speaker, first.language, first.extra) == ('say "hi"', "x", "de", {"up_votes": 2})
    assert (second.text, second.num_samples, second.extra) == (None, 3200, {})
    assert result.notes == (
        "columns read: client_id as speaker, path as audio_filepath, sentence as text, locale as language",
    )
    (tmp_path / "s.csv").write_bytes('\ufefffile;transcript\r\naudio/c.wav;"a;b\nc"\r\n'.encode())
    assert read_format(tmp_path / "s.csv").manifest[0].text == "a;b\nc"


def test_only_values_written_as_numbers_are_numbers(tones: Manifest, tmp_path: Path) -> None:
    header = "path,code,count,ratio,flag,mixed,nan\n"
    (tmp_path / "m.csv").write_text(header + "audio/a.wav,007,7,0.5,true,1,nan\naudio/b.wav,010,,0.25,false,x,nan\n")
    manifest = read_format(tmp_path / "m.csv").manifest
    assert manifest.column("code").to_pylist() == ["007", "010"]
    assert manifest.column("count").to_pylist() == [7, None]
    assert manifest.column("ratio").to_pylist() == [0.5, 0.25]
    assert manifest.column("flag").to_pylist() == [True, False]
    assert manifest.column("mixed").to_pylist() == ["1", "x"]
    assert manifest.column("nan").to_pylist() == ["nan", "nan"]


def test_an_empty_text_is_not_an_unknown_one_in_csv(tones: Manifest, tmp_path: Path) -> None:
    write_format(tones.with_column("text", ["", None, "x"]), tmp_path / "m.csv")
    assert [u.text for u in read_format(tmp_path / "m.csv").manifest] == ["", None, "x"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "m.csv",
            b'path,"te\nxt"\na.wav,b\n',
            r"m.csv:1: the header must be one line .*without a line break",
        ),
        (
            "m.csv",
            b"path," + b"x" * 140000 + b"\na.wav,b\n",
            r"m.csv:1: the header cannot be read as CSV \(field",
        ),
        ("m.csv", b'path,"te\n\xb0xt"\na.wav,b\n', r"m.csv:2: not UTF-8 \(byte 0xb0\)"),
        ("m.csv", b"path,text\na.wav\n" + b"x" * 140000 + b",b,c\n", r"m.csv:2: 1 fields, but the header has 2"),
        (
            "m.csv",
            b"text,speaker\na,b\n",
            r"m.csv:1: no column names the recordings; .* path, audio_filepath.* is text, sp",
        ),
        (
            "m.csv",
            b"path,text\na.wav,one, two\n",
            r"m.csv:2: 3 fields, but the header has 2; put a field that holds ','",
        ),
        ("m.csv", b'path,text\na.wav,"x\ny"\nb.wav\n', r"m.csv:4: 1 fields, but the header has 2"),
        ("m.csv", b'path,text,duration\na.wav,"x\ny",1\nb.wav,z,0\n', r"m.csv:4: 1 rows have an impossible span"),
        ("m.csv", b"path,text\na.wav,gr\xfc\xdfe\n", r"m.csv:2: not UTF-8 \(byte 0xfc\)"),
        ("m.csv", b"path,text\n", r"m.csv: holds a header and no row"),
        ("m.csv", b"", r"m.csv: is empty"),
        ("m.csv", b"path,text\n,x\n", r"m.csv: row 1 names no recording"),
        ("m.csv", b"path,duration\na.wav,long\n", r"m.csv: the column duration must hold numbers"),
        ("m.csv", b"path,text,text\na.wav,x,y\n", r"m.csv:1: the header names 'text' more than once"),
        ("m.tsv", b"path\ttext\na.wav\tx\ty\n", r"m.tsv:2: must be like the header path, text, 2 fields .* has 3"),
        ("m.tsv", b"path\ttext\n", r"m.tsv: holds a header and no row"),
        ("m.tsv", b"path\ttext\na.wav\tx\nb.wav\t\xff\n", r"m.tsv:3: not UTF-8"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_format(tmp_path / name, name[2:], sample_rate=16000)


def test_rows_in_several_pieces_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairseq, "_ROWS_PER_PIECE", 4096)
    monkeypatch.setattr(lines_module, "_ROWS_PER_PIECE", 4096)
    monkeypatch.setattr(lines_module, "_SCAN_BYTES", 1 << 16)
    count = 30_000
    ids = np.arange(count).astype(str)
    table = pa.table(
        {
            "id": pa.array(ids),
            "audio_filepath": pa.array(np.char.add("/audio/", np.char.add(ids, ".wav"))),
            "sample_rate": np.full(count, 16000),
            "num_samples": np.arange(1, count + 1),
            "offset": np.zeros(count),
            "duration": np.arange(1, count + 1) / 16000,
            "text": pa.array(np.char.add("text ", ids)),
        }
    )
    manifest = Manifest(table)
    for target, name in (("t.tsv", "fairseq"), ("n.json", "nemo"), ("m.csv", "csv"), ("m.tsv", "tsv")):
        write_format(manifest, tmp_path / target, name, open_recordings=False)
        back = read_format(tmp_path / target, name, sample_rate=16000).manifest
        assert back.column("num_samples").equals(manifest.column("num_samples")), name
        assert back.column("text").equals(manifest.column("text")), name
    counted = dict(line.rsplit(" ", 1) for line in lines(tmp_path / "dict.ltr.txt"))
    assert counted["x"] == str(count) and counted["t"] == str(2 * count) and counted["|"] == str(2 * count)
    assert sum(int(counted[digit]) for digit in "0123456789") == sum(map(len, ids))
