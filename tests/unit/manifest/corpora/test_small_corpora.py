"""Layouts of small corpora: TIMIT, AN4, FSDD, Speech Commands."""

from pathlib import Path

import pytest
import soundfile

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from tests.unit.manifest.corpora import trees
from tests.unit.manifest.corpora.results import parts_of, reasons, rows


@pytest.mark.parametrize(("lower", "top"), [(False, "data"), (False, "TIMIT"), (True, "timit"), (True, "")])
def test_timit_in_upper_and_lower_case(tmp_path: Path, lower: bool, top: str) -> None:
    result = build_manifest("timit", root=trees.timit(tmp_path, lower=lower, top=top))
    assert rows(result)["felc0_si756"] == (
        "A big goat idly ambled through the farmyard.",
        "felc0",
        {
            "split": "test",
            "subset": "core-test",
            "sentence": "si756",
            "sentence_type": "diverse",
            "dialect_region": "dr1",
            "gender": "F",
            "phones": "h# sh iy h#",
        },
    )
    assert parts_of(result, "subset") == {"core-test": ["felc0_si756"], "dev": ["faks0_si943"]}
    assert parts_of(result, "sentence_type")["dialect"] == ["felc0_sa1", "fcjf0_sa1"]
    assert rows(result)["fcjf0_sx37"][0] is None
    assert {name.lower(): reason for name, reason in reasons(result).items()} == {
        "sx217.txt": "has a text but no recording",
        "sx11.wav": "is text, not audio",
    }
    assert any("1 recordings without a text" in note and "sx37" in note.lower() for note in result.notes)
    assert [u.id for u in build_manifest("timit", root=tmp_path, parts=["core-test"]).manifest] == ["felc0_si756"]


def test_timit_recordings_are_nist_sphere(tmp_path: Path) -> None:
    trees.timit(tmp_path)
    assert soundfile.info(tmp_path / "data/TRAIN/DR1/FCJF0/SA1.WAV").format == "NIST"


def test_timit_copies_compressed_and_cut_off_recordings_are_told(tmp_path: Path) -> None:
    trees.timit(tmp_path, whole=True)
    folder = tmp_path / "data/TRAIN/DR1/FCJF0"
    trees.write_audio(folder / "SA1.WAV.wav")
    trees.write_shorten(folder / "SX127.sph").rename(folder / "SX127.WAV")
    cut = tmp_path / "data/TEST/DR1/FELC0/SI756.WAV"
    cut.write_bytes(cut.read_bytes()[:5000])
    result = build_manifest("timit", root=tmp_path)
    assert reasons(result)["SA1.WAV.wav"] == "a second copy of the utterance"
    assert reasons(result)["SX127.WAV"].startswith("compressed NIST SPHERE")
    assert "truncated: its header promises 4800 samples but 1988 are there" in reasons(result)["SI756.WAV"]
    assert next(u for u in result.manifest if u.id == "fcjf0_sa1").audio_filepath.endswith("SA1.WAV")
    (folder / "SA1.TXT").write_text("She had your dark suit\n")
    with pytest.raises(ManifestError, match=r"SA1.TXT:1: must be `first_sample last_sample text`"):
        build_manifest("timit", root=tmp_path)


@pytest.mark.parametrize("extension", ["sph", "wav"])
def test_an4(tmp_path: Path, extension: str) -> None:
    result = build_manifest("an4", root=trees.an4(tmp_path, extension=extension))
    assert rows(result) == {
        "an251-fash-b": ("YES", "fash", {"split": "train", "gender": "F", "prompt": "an251"}),
        "cen2-mgah-b": ("G E O R G E", "mgah", {"split": "train", "gender": "M", "prompt": "cen2"}),
        "an406-fcaw-b": ("RUBOUT G M E F THREE NINE", "fcaw", {"split": "test", "gender": "F", "prompt": "an406"}),
        "cen1-marh-b": ("H O U S E R", "marh", {"split": "test", "gender": "M", "prompt": "cen1"}),
    }
    assert reasons(result) == {
        "an252-fash-b": "has a text but no recording",
        f"an999-fash-b.{extension}": "no list in etc names it",
        f"cen2-marh-b.{extension}": "is text, not audio",
    }
    assert "an4: test has 2 utterances, the card expects 130" in result.notes


def test_an4_without_headers_says_what_to_do(tmp_path: Path) -> None:
    trees.an4(tmp_path, whole=True)
    wav = tmp_path / "an4/wav/an4_clstk/fash/an251-fash-b"
    wav.with_suffix(".sph").rename(wav.with_suffix(".raw"))
    lists = tmp_path / "an4/etc/an4_train.transcription"
    lists.write_text(lists.read_text() + "<s> MORE </s> (an253-fash-b)\n")
    trees.write_audio(tmp_path / "an4/wav/an4_clstk/mgah/cen2-mgah-b.wav")
    result = build_manifest("an4", root=tmp_path / "an4")
    assert "take an4_sphere.tar.gz, or convert them with `sox -t raw" in reasons(result)["an251-fash-b.raw"]
    assert reasons(result)["an253-fash-b"] == "has a text but is not in an4_train.fileids"
    assert reasons(result)["cen2-mgah-b.wav"] == "a second copy of the recording"
    lists.write_text("<s> YES </s>\n")
    with pytest.raises(ManifestError, match=r"an4_train.transcription:1: must be `TEXT \(utterance\)`"):
        build_manifest("an4", root=tmp_path)


def test_fsdd(tmp_path: Path) -> None:
    for name in ("0_george_4", "0_george_5", "7_jackson_32"):
        trees.write_audio(tmp_path / f"recordings/{name}.wav", sample_rate=8000)
    trees.write_audio(tmp_path / "recordings/noise.wav", sample_rate=8000)
    trees.write_broken(tmp_path / "recordings/8_theo_1.wav")
    result = build_manifest("fsdd", root=tmp_path, output=tmp_path / "m.jsonl")
    assert {u.id: (u.text, u.speaker, u.extra) for u in Manifest.load(tmp_path / "m.jsonl")} == {
        "0_george_4": ("zero", "george", {"digit": 0, "take": 4, "split": "test"}),
        "0_george_5": ("zero", "george", {"digit": 0, "take": 5, "split": "train"}),
        "7_jackson_32": ("seven", "jackson", {"digit": 7, "take": 32, "split": "train"}),
    }
    assert reasons(result) == {
        "noise.wav": "name is not {digit}_{speaker}_{take}",
        "8_theo_1.wav": "is text, not audio",
    }
    assert "fsdd: train has 2 utterances, the card expects 2700" in result.notes


@pytest.mark.parametrize("top", ["speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02", ""])
def test_speech_commands(tmp_path: Path, top: str) -> None:
    result = build_manifest("speech-commands", root=trees.speech_commands(tmp_path, top=top))
    assert rows(result)["zero/8a28231e_nohash_3"] == ("zero", "8a28231e", {"split": "test", "take": 3})
    assert parts_of(result, "split") == {
        "train": ["backward/0165e0e8_nohash_0", "right/94de6a6a_nohash_4"],
        "validation": ["right/c518d1b1_nohash_0"],
        "test": ["backward/0165e0e8_nohash_1", "zero/8a28231e_nohash_3"],
    }
    assert reasons(result) == {
        "running_tap.wav": "background noise, not speech",
        "unnamed.wav": "name is not {word}/{hash}_nohash_{number}.wav",
        "00000000_nohash_0.wav": "named in testing_list.txt but not there",
        "11111111_nohash_0.wav": "is text, not audio",
    }
    (tmp_path / top / "validation_list.txt").unlink()
    notes = build_manifest("speech-commands", root=tmp_path).notes
    assert any("validation_list.txt is not there, so that the split validation is in train" in note for note in notes)
