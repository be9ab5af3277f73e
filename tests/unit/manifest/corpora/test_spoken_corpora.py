"""Layouts of corpora of many speakers: VCTK, Common Voice, VoxPopuli, FLEURS, TED-LIUM, VoxCeleb."""

from pathlib import Path

import pytest

from speechssl.audio import read_utterance
from speechssl.errors import ManifestError
from speechssl.manifest import build_manifest
from speechssl.manifest.corpora.tedlium3 import spoken_text
from tests.unit.manifest.corpora import trees
from tests.unit.manifest.corpora.results import parts_of, reasons, rows, without


def test_vctk(tmp_path: Path) -> None:
    result = build_manifest("vctk", root=trees.vctk(tmp_path))
    found = rows(result)
    facts = {"gender": "F", "age": "23", "accent": "English", "region": "Southern England"}
    assert found["p225_001_mic2"] == (
        "Please call Stella, 001.",
        "p225",
        {"prompt": "001", "subset": "mic2"} | facts,
    )
    assert found["p280_002_mic1"][2]["region"] == "France" and found["s5_001_mic1"][1] == "s5"
    assert found["p315_001_mic1"][0] is None
    assert {u.sample_rate for u in result.manifest} == {48000}
    assert {subset: len(ids) for subset, ids in parts_of(result, "subset").items()} == {"mic1": 7, "mic2": 4}
    assert reasons(result) == {
        "p225_003": "has a text but no recording",
        "p225_004_mic2.flac": "is text, not audio",
    }
    assert any("1 recordings without a text: wav48_silence_trimmed/p315/p315_001" in note for note in result.notes)
    assert set(rows(build_manifest("vctk", root=tmp_path, parts=["mic1"]))) == set(parts_of(result, "subset")["mic1"])


def test_vctk_of_older_releases(tmp_path: Path) -> None:
    found = rows(build_manifest("vctk", root=trees.vctk_old(tmp_path)))
    assert list(found) == ["p225_001", "p225_002"]
    assert found["p225_001"][2]["gender"] == "F" and found["p225_001"][2]["subset"] == "mic1"


def test_common_voice(tmp_path: Path) -> None:
    result = build_manifest("common-voice", root=trees.common_voice(tmp_path))
    told = {"age": "thirties", "gender": "male"}
    assert rows(result) == {
        "eo/common_voice_eo_101": ('Li diris "ne.', "s1", {"split": "train"} | told),
        "eo/common_voice_eo_102": ("Jes.", "s2", {"split": "test"} | told),
        "eo/common_voice_eo_103": ("Bone.", "s3", {"split": "validated"} | told),
    }
    assert {u.language for u in result.manifest} == {"eo"}
    assert {name: reason for name, reason in reasons(result).items() if "106" not in name} == {
        "common_voice_eo_gone.mp3": "has a text but no recording",
        "common_voice_eo_104.mp3": "rejected by the community",
        "common_voice_eo_105.mp3": "no table names it",
    }
    assert "cannot be decoded" in reasons(result)["common_voice_eo_106.mp3"]
    assert "common-voice: eo/dev.tsv is not there" in result.notes
    one_language = build_manifest("common-voice", root=tmp_path / "eo")
    assert [u.id for u in one_language.manifest] == [f"common_voice_eo_10{number}" for number in (1, 2, 3)]
    (tmp_path / "eo/train.tsv").write_text("client_id\tpath\tsentence\ns1\tcommon_voice_eo_101.mp3\n")
    with pytest.raises(ManifestError, match=r"train.tsv:2: 2 fields, but the header has 3"):
        build_manifest("common-voice", root=tmp_path)
    (tmp_path / "eo/train.tsv").write_text("client_id\tclip\tsentence\n")
    with pytest.raises(ManifestError, match=r"train.tsv:1: the column path is missing; it has client_id, clip"):
        build_manifest("common-voice", root=tmp_path)


def test_voxpopuli(tmp_path: Path) -> None:
    result = build_manifest("voxpopuli", root=trees.voxpopuli(tmp_path))
    found = rows(result)
    assert found["20180206-0900-PLENARY-15-hr_20180206-16:10:06_5"] == (
        "poštovani dvije stvari",
        "116663",
        {"split": "train", "session": "20180206-0900-PLENARY-15", "gender": "M", "raw_text": "Poštovani, 2 stvari."},
    )
    assert found["20190115-0900-PLENARY-3-hr_20190115-09:12:44_0"][1] is None  # the table says None
    assert parts_of(result, "subset") == {
        "10k": ["20190115-0900-PLENARY-3_hr_0"],
        "100k": ["20090112-0900-PLENARY-3_hr_0"],
        "400k": ["20190115-0900-DROI-1_hr_0"],
    }
    assert reasons(result) == {
        "20190115-0900-PLENARY-3-hr_20190115-09:12:44_2.ogg": "is text, not audio",
        "20190115-0900-PLENARY-3-hr_20190115-09:12:44_3.ogg": "has a text but no recording",
        "20190115-0900-PLENARY-3-hr_20190115-09:12:44_9.ogg": "no asr_*.tsv names it",
    }
    assert len(build_manifest("voxpopuli", root=tmp_path, parts=["100k"]).manifest) == 2
    without(tmp_path / "unlabelled_data")
    (tmp_path / "transcribed_data/hr/asr_dev.tsv").unlink()
    notes = build_manifest("voxpopuli", root=tmp_path).notes
    assert "voxpopuli: transcribed_data/hr/asr_dev.tsv is not there" in notes
    assert "voxpopuli: the split unlabelled is not there" in notes


def test_voxpopuli_without_cuts_is_spans_of_sessions(tmp_path: Path) -> None:
    trees.voxpopuli_sessions(tmp_path)
    result = build_manifest("voxpopuli", root=tmp_path)
    spans = {u.id: (Path(u.audio_filepath).name, u.offset, u.duration, u.extra["split"]) for u in result.manifest}
    assert spans == {
        "20180206-0900-PLENARY-15-hr_20180206-16:10:06_5": (
            "20180206-0900-PLENARY-15_original.ogg", 0.5, 1.0, "train"
        ),
        "20180206-0900-PLENARY-15-hr_20180206-16:10:06_6": (
            "20180206-0900-PLENARY-15_original.ogg", 1.5, 1.25, "dev"
        ),
        "20190115-0900-PLENARY-3-hr_20190115-09:12:44_0": ("20190115-0900-PLENARY-3_original.ogg", 0.0, 0.8, "test"),
    }  # fmt: skip
    assert read_utterance(result.manifest[1], 16000).shape == (20000,)
    left_out = reasons(result)
    assert left_out["asr_hr.tsv.gz:7"] == "belongs to no split, says asr_hr.tsv.gz"
    assert left_out["20200101-0900-PLENARY-1-hr_1"] == "has a text but no recording"
    assert "the span ends at 9.000 s but the recording is 3.000 s" in left_out["20190115-0900-PLENARY-3_original.ogg"]


def test_voxpopuli_unlabelled_sessions(tmp_path: Path) -> None:
    for name in ("20090112-0900-PLENARY-3_hr", "20200901-0900-PLENARY-1_hr"):
        trees.write_audio(tmp_path / f"raw_audios/hr/{name[:4]}/{name}.ogg", seconds=2.0)
    whole = build_manifest("voxpopuli", root=tmp_path)
    assert [(u.id, u.duration) for u in whole.manifest] == [
        ("20090112-0900-PLENARY-3_hr", 2.0),
        ("20200901-0900-PLENARY-1_hr", 2.0),
    ]
    assert any("whole sessions, of up to hours, for want of" in note for note in whole.notes)
    header = "event_id\tsegment_no\tstart\tend\n"
    lines = "20090112-0900-PLENARY-3_hr\t0\t0.25\t0.75\n20090112-0900-PLENARY-3_hr\t1\t1.0\t2.0\n"
    other = "20090112-0900-PLENARY-3_de\t0\t0.25\t0.75\n20110112-0900-PLENARY-3_hr\t0\t0.25\t0.75\n"
    trees.write_text(tmp_path / "unlabelled_data/unlabelled_v2.tsv", header + lines + other)
    cut = build_manifest("voxpopuli", root=tmp_path)
    assert [(u.id, u.offset, u.duration) for u in cut.manifest] == [
        ("20090112-0900-PLENARY-3_hr_0", 0.25, 0.5),
        ("20090112-0900-PLENARY-3_hr_1", 1.0, 1.0),
    ]
    assert reasons(cut) == {"20200901-0900-PLENARY-1_hr.ogg": "unlabelled_v2.tsv does not name it"}
    assert any("1 sessions of unlabelled_v2.tsv are not there: 20110112-0900-PLENARY-3_hr" in n for n in cut.notes)
    (tmp_path / "unlabelled_data/unlabelled_v2.tsv").write_text(header + "20090112-0900-PLENARY-3_hr\t0\tx\t1\n")
    with pytest.raises(ManifestError, match=r"unlabelled_v2.tsv:2: is no line of VoxPopuli's table"):
        build_manifest("voxpopuli", root=tmp_path)


def test_fleurs(tmp_path: Path) -> None:
    result = build_manifest("fleurs", root=trees.fleurs(tmp_path))
    found = rows(result)
    assert found["en_us/train/10004088536354799741"] == (
        "a tornado he said",
        None,
        {"split": "train", "prompt": "903", "raw_text": "A tornado, he said.", "gender": "F"},
    )
    assert {split: len(ids) for split, ids in parts_of(result, "split").items()} == {"train": 2, "dev": 1, "test": 1}
    assert {u.language for u in result.manifest} == {"en_us"}
    assert reasons(result) == {
        "gone.wav": "has a text but no recording",
        "broken.wav": "is text, not audio",
        "unnamed.wav": "has no line in train.tsv",
    }
    assert rows(build_manifest("fleurs", root=tmp_path / "data/en_us")) == found
    (tmp_path / "data/en_us/test.tsv").unlink()
    without(tmp_path / "data/en_us/audio/dev")
    (tmp_path / "data/en_us/audio/dev.tar.gz").touch()
    notes = "\n".join(build_manifest("fleurs", root=tmp_path).notes)
    assert "en_us/test.tsv is not there" in notes and "en_us/audio/dev.tar.gz is not unpacked" in notes
    (tmp_path / "data/en_us/dev.tsv").write_text("1\t2.wav\ttext\n")
    with pytest.raises(ManifestError, match=r"dev.tsv:1: 3 fields instead of 7"):
        build_manifest("fleurs", root=tmp_path)


def test_tedlium3_stretches_of_talks_become_spans(tmp_path: Path) -> None:
    result = build_manifest("tedlium3", root=trees.tedlium3(tmp_path))
    found = rows(result)
    assert len(found) == 6
    assert found["AlGore_2006-0000050-0000175"] == (
        "thank you so much and it's truly a great honor",
        "AlGore",
        {
            "split": "train",
            "talk": "AlGore_2006",
            "gender": "M",
            "num_unknown_words": 1,
            "published_text": "thank you so much <unk> and it 's truly a great honor",
        },
    )
    spans = {u.id: (u.offset, u.duration) for u in result.manifest}
    assert spans["AimeeMullins_2009P-0000200-0000325"] == (2.0, 1.25)
    assert read_utterance(result.manifest[0], 16000).shape == (20000,)
    left_out = reasons(result)
    assert left_out["Gone_2001.stm"] == "has a text but no recording"
    assert left_out["Untold_2002.sph"] == "has no .stm"
    assert left_out["Broken_2003.sph"] == "is text, not audio"
    assert left_out["Packed_2004.sph"].startswith("compressed NIST SPHERE (pcm,embedded-shorten-v2.00), which cannot")
    assert "ffmpeg -i Packed_2004.sph -f wav OUT.wav" in left_out["Packed_2004.sph"]
    assert "the span ends at 9.500 s but the recording is 4.000 s long" in left_out["BillGates_2010.sph"]
    assert "tedlium3: dev: 1 stretches marked ignore_time_segment_in_scoring are left out" in result.notes
    table = next(tmp_path.rglob("AlGore_2006.stm"))
    table.write_text("AlGore_2006 1 AlGore start end <o,f0,male> text\n")
    with pytest.raises(ManifestError, match=r"AlGore_2006.stm:1: must be `talk channel speaker start end"):
        build_manifest("tedlium3", root=tmp_path)


def test_tedlium3_takes_training_talks_from_data_too(tmp_path: Path) -> None:
    trees.tedlium3(tmp_path, whole=True)
    base = tmp_path / "TEDLIUM_release-3"
    (base / "legacy/train").rename(base / "data")
    result = build_manifest("tedlium3", root=base, parts=["train"])
    assert list(rows(result)) == ["AlGore_2006-0000050-0000175", "AlGore_2006-0000200-0000325"]


def test_tedlium3_text_is_what_is_spoken() -> None:
    assert spoken_text("{COUGH} i 'd say <unk> it 's the dogs ' bowl") == "i'd say it's the dogs ' bowl"


def test_voxceleb1(tmp_path: Path) -> None:
    result = build_manifest("voxceleb", root=trees.voxceleb1(tmp_path))
    assert rows(result)["id10006-nLEBBc9oIFs-00003"] == (
        None,
        "id10006",
        {
            "split": "voxceleb1-dev",
            "video": "nLEBBc9oIFs",
            "gender": "M",
            "nationality": "USA",
            "identification_split": "validation",
        },
    )
    assert {split: len(ids) for split, ids in parts_of(result, "split").items()} == {
        "voxceleb1-dev": 2,
        "voxceleb1-test": 3,
    }
    assert reasons(result) == {
        "stray.wav": "path does not end in {speaker}/{video}/{number}",
        "00001": "named in veri_test.txt but not there",
        "00002.wav": "is text, not audio",
    }
    assert any("veri_test.txt: 1 left out" in note and "id10270/GONE0000000/00001" in note for note in result.notes)
    (tmp_path / "iden_split.txt").write_text("4 id10001/1zcIwhmdeo4/00001.wav\n")
    with pytest.raises(ManifestError, match=r"iden_split.txt:1: must be `1 speaker/video/number.wav`"):
        build_manifest("voxceleb", root=tmp_path)


def test_voxceleb2(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="m4a needs PyAV")
    result = build_manifest("voxceleb", root=trees.voxceleb2(tmp_path))
    assert rows(result) == {
        "id00012-21Uxsk56VDQ-00001": (
            None, "id00012", {"split": "voxceleb2-dev", "video": "21Uxsk56VDQ", "gender": "M"}
        ),
        "id00017-01dfn2spqyE-00001": (
            None, "id00017", {"split": "voxceleb2-test", "video": "01dfn2spqyE", "gender": "M"}
        ),
    }  # fmt: skip
    assert "cannot be decoded" in reasons(result)["00002.m4a"]
    (tmp_path / "dev/aac").rename(tmp_path / "aac")
    by_table = build_manifest("voxceleb", root=tmp_path)
    assert rows(by_table) == rows(result)
    (tmp_path / "vox2_meta.csv").unlink()
    notes = "\n".join(build_manifest("voxceleb", root=tmp_path).notes)
    assert "recordings of VoxCeleb2 have no split, for want of vox2_meta.csv: aac/id00012" in notes
