"""Layouts of corpora of read books: LibriSpeech, Libri-light, LJ Speech, Multilingual LibriSpeech."""

import json
from pathlib import Path

import pytest

from speechssl.audio import read_utterance
from speechssl.cli import main
from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.corpora.libri_light import merge_spans
from tests.unit.manifest.corpora import trees
from tests.unit.manifest.corpora.results import parts_of, reasons, rows, without


def test_librispeech(tmp_path: Path) -> None:
    result = build_manifest("librispeech", root=trees.librispeech(tmp_path))
    dev = {"split": "dev-clean", "chapter": "121123", "gender": "F"}
    other = {"split": "test-other", "chapter": "142285"}
    assert rows(result) == {
        "84-121123-0000": ("GO DO YOU HEAR", "84", dev),
        "84-121123-0001": ("BUT IN LESS THAN FIVE MINUTES", "84", dev),
        "84-121123-0003": (None, "84", dev),
        "1688-142285-0000": ("GO DO YOU HEAR", "1688", other),
        "1688-142285-0001": ("BUT IN LESS THAN FIVE MINUTES", "1688", other),
    }
    assert reasons(result) == {
        "stray.flac": "name is not {speaker}-{chapter}-{number}",
        "84-121123-0002": "has a text but no recording",
        "1688-142285-0002": "has a text but no recording",
        "84-121123-0004.flac": "is text, not audio",
    }
    notes = "\n".join(result.notes)
    assert "librispeech: dev-clean: 2 recordings without a text: dev-clean/84/121123/84-121123-0003.flac" in notes
    assert "librispeech: dev-clean: 1 left out (has a text but no recording): dev-clean/84-121123-0002" in notes
    assert "librispeech: dev-clean has 3 utterances, the card expects 2703" in notes
    assert "librispeech: the split train-clean-100 is not there" in notes
    assert "has a text but no recording" in result.summary() and "84-121123-0002" in result.summary()


def test_a_line_without_a_text_is_an_error(tmp_path: Path) -> None:
    trees.librispeech(tmp_path)
    table = tmp_path / "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt"
    table.write_text("84-121123-0000 GO\n84-121123-0001\n")
    with pytest.raises(ManifestError, match=r"84-121123.trans.txt:2: no text after '84-121123-0001'"):
        build_manifest("librispeech", root=tmp_path)


def test_ljspeech(tmp_path: Path) -> None:
    result = build_manifest("ljspeech", root=trees.ljspeech(tmp_path))
    assert rows(result) == {
        "LJ001-0001": (
            'in fourteen fifty-five, "so"',
            "linda_johnson",
            {"raw_text": 'in 1455, "so"', "chapter": "LJ001"},
        ),
        "LJ002-0003": ("a word", "linda_johnson", {"raw_text": "a word", "chapter": "LJ002"}),
    }
    assert reasons(result) == {
        "LJ001-0002": "has a text but no recording",
        "LJ001-0009.wav": "has no line in metadata.csv",
        "LJ001-0008.wav": "is text, not audio",
    }
    (tmp_path / "LJSpeech-1.1/metadata.csv").write_text("LJ001-0001\n")
    with pytest.raises(ManifestError, match=r"metadata.csv:1: 1 fields instead of"):
        build_manifest("ljspeech", root=tmp_path)


def test_libri_light_books_become_spans_of_speech(tmp_path: Path) -> None:
    result = build_manifest("libri-light", root=trees.libri_light_books(tmp_path))
    sea = "small/100/sea_fairies_0812_librivox_64kb_mp3"
    holland = "medium/960/history_of_holland_0910_librivox_64kb_mp3"
    spans = {u.id: (u.offset, round(u.duration, 4), u.speaker) for u in result.manifest}
    assert spans == {
        f"{sea}/01_baum_sea_fairies_64kb-0000": (0.1, 1.8, "100"),
        f"{sea}/02_baum_sea_fairies_64kb-0000": (0.2, 1.6, "100"),
        f"{holland}/holland_01_edmundson_64kb-0000": (0.0, 0.5, "960"),
        f"{holland}/holland_02_edmundson_64kb": (0.0, 1.0, "960"),
    }
    first = result.manifest[0]
    assert first.extra == {
        "split": "small",
        "book": "sea_fairies_0812_librivox_64kb_mp3",
        "snr": 9.88,
        "title": "Sea Fairies",
        "genre": "Literature",
    }
    assert read_utterance(first, 16000).shape == (28800,)
    assert reasons(result) == {
        "03_baum_sea_fairies_64kb.json": "has a .json but no recording",
        "holland_03_edmundson_64kb.flac": "is text, not audio",
    }
    notes = "\n".join(result.notes)
    assert "medium: 2 files have no .json and are one row each" in notes
    assert "the split large is not there" in notes and "subsets that are not there: 10min, 1h, 10h" in notes
    assert "small has 0.000944 hours, the card expects 577" in notes
    alone = build_manifest("libri-light", root=tmp_path / "small", parts=["small"])
    assert [u.id for u in alone.manifest] == [u.id for u in result.manifest][:2]


def test_voice_is_joined_up_to_a_length() -> None:
    voice = [(0.0, 4.0), (5.0, 9.0), (10.0, 12.0), (20.0, 55.0), (56.0, 57.0)]
    assert list(merge_spans(voice, 10)) == [(0.0, 9.0), (10.0, 12.0), (20.0, 55.0), (56.0, 57.0)]
    assert list(merge_spans(voice, 60)) == [(0.0, 57.0)]
    assert list(merge_spans(voice, 0)) == voice and list(merge_spans([], 10)) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ("[]", "must be a JSON object"), ("{}", "has no voice_activity of the form")],
)
def test_libri_light_facts_that_are_none(tmp_path: Path, content: str, message: str) -> None:
    trees.libri_light_books(tmp_path, whole=True)
    path = next(tmp_path.glob("small/*/*/01*.json"))
    path.write_text(content)
    with pytest.raises(ManifestError, match=f"{path}: {message}"):
        build_manifest("libri-light", root=tmp_path)


def test_libri_light_label_subsets_are_nested(tmp_path: Path) -> None:
    trees.libri_light_labelled(tmp_path)
    result = build_manifest("libri-light", root=tmp_path)
    subsets = parts_of(result, "subset")
    assert {subset: len(ids) for subset, ids in subsets.items()} == {"10min": 2, "1h": 10, "10h": 3}
    assert rows(result)["3526-175659-0000"] == (
        "TEXT OF 1H/0",
        "3526",
        {"split": "finetuning", "subset": "10min", "part": "other", "chapter": "175659"},
    )
    assert reasons(result) == {
        "3526-175658-0001": "has a text but no recording",
        "4000-175659-0002.flac": "is text, not audio",
    }
    chosen = [set(rows(build_manifest("libri-light", root=tmp_path, parts=[part]))) for part in ("10min", "1h", "10h")]
    assert chosen[0] < chosen[1] < chosen[2]
    assert [len(ids) for ids in chosen] == [2, 12, 15]
    inside = build_manifest("libri-light", root=tmp_path / "librispeech_finetuning", parts=["10min"])
    assert set(rows(inside)) == chosen[0]


def test_parts_that_are_not_asked_for_are_not_read(tmp_path: Path) -> None:
    trees.libri_light_labelled(trees.libri_light_books(tmp_path, whole=True), whole=True)
    next(tmp_path.glob("medium/*/*/*.json")).write_text("not JSON")
    assert len(build_manifest("libri-light", root=tmp_path, parts=["10min"]).manifest) == 2
    assert len(build_manifest("libri-light", root=tmp_path, parts=["small"]).manifest) == 2
    with pytest.raises(ManifestError, match="cannot be read as JSON"):
        build_manifest("libri-light", root=tmp_path, parts=["medium"])


def test_libri_light_folds_that_are_absent_are_named(tmp_path: Path) -> None:
    trees.libri_light_labelled(tmp_path, whole=True)
    fold = tmp_path / "librispeech_finetuning/1h/3/other"
    fold.rename(tmp_path / "elsewhere")
    notes = "\n".join(build_manifest("libri-light", root=tmp_path, parts=["1h"]).notes)
    assert "librispeech_finetuning/1h/3/other is not there: the subsets from 1h on are not whole" in notes


@pytest.mark.parametrize("extension", ["flac", "opus"])
def test_mls(tmp_path: Path, extension: str) -> None:
    result = build_manifest("mls", root=trees.mls(tmp_path, extension=extension))
    found = rows(result)
    train = {"split": "train", "book": "10049", "gender": "M"}
    assert found["6892_10049_000000"] == ("zdanie 0", "6892", train | {"subset": "10min"})
    assert found["6892_10049_000003"] == ("zdanie 3", "6892", train)
    assert found["6892_10049_000007"] == (None, "6892", train)
    assert found["8758_8338_000000"] == ("zdanie 0", "8758", {"split": "dev", "book": "8338", "gender": "F"})
    assert {u.language for u in result.manifest} == {"pl"}
    assert {subset: len(ids) for subset, ids in parts_of(result, "subset").items()} == {"10min": 1, "1h": 1, "10h": 1}
    assert reasons(result) == {
        "6892_10049_000008": "has a text but no recording",
        f"6892_10049_000009.{extension}": "is text, not audio",
    }
    notes = "\n".join(result.notes)
    assert "limited_supervision names 1 recordings that are not there: 6892_10049_000099" in notes
    assert "mls: languages that are not there: en, de, nl, fr, es, it, pt" in notes
    assert "mls: pl train has 5 utterances, the card expects 25043" in notes
    assert len(build_manifest("mls", root=tmp_path, parts=["10h"]).manifest) == 3


def test_mls_of_one_language_and_in_both_formats(tmp_path: Path) -> None:
    trees.mls(tmp_path, whole=True)
    one = build_manifest("mls", root=tmp_path / "mls_polish")
    trees.mls(tmp_path, whole=True, extension="opus")
    both = build_manifest("mls", root=tmp_path)
    assert rows(one) == rows(both)
    assert any("mls_polish_opus is passed: it holds the recordings of mls_polish again" in note for note in both.notes)
    transcripts = tmp_path / "mls_polish/dev/transcripts.txt"
    transcripts.write_text("8758_8338_000000 zdanie\n")
    with pytest.raises(ManifestError, match=r"dev/transcripts.txt:1: no tab"):
        build_manifest("mls", root=tmp_path)
    without(tmp_path / "mls_polish/dev")
    assert any("mls_polish/dev is not there" in note for note in build_manifest("mls", root=tmp_path).notes)


def test_the_counts_of_json_are_complete(tmp_path: Path) -> None:
    result = build_manifest("librispeech", root=trees.librispeech(tmp_path))
    told = json.loads(json.dumps(result.to_dict()))
    assert told["num_skipped"] == len(told["skipped"]) == 4 and told["num_with_text"] == 4


def test_the_documented_command_selects_a_label_subset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.libri_light_labelled(tmp_path)
    output = tmp_path / "10min.jsonl"
    words = ["manifest", "build", "libri-light", "--root", str(tmp_path), "--output", str(output), "--parts", "10min"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "2 utterances" in out and "1h/0/clean: 1 left out (has a text but no recording)" in out
    assert {u.extra["subset"] for u in Manifest.load(output)} == {"10min"}
    assert main([*words[:-1], "10minutes"]) == 2
    assert "there is no part '10minutes'; its splits and subsets are small, medium," in capsys.readouterr().err
