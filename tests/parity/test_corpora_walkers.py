"""On the same miniature corpora our layouts find what the peers' walkers find: the names in them are the real ones.

Peers: torchaudio's dataset classes (without decoding) and lhotse's recipes. Not compared: AN4 and FSDD, which neither
knows; lhotse's Common Voice, which starts processes for what torchaudio's walker reads too; lhotse's trials of
VoxCeleb1, which it fetches. lhotse's table of VoxPopuli is put where it would be fetched to.
"""

import dataclasses
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechssl.manifest import BuildResult, Manifest, build_manifest, load_card, prepare_corpus
from tests.unit.manifest.corpora import trees

torchaudio_datasets = pytest.importorskip("torchaudio.datasets")


def split_of(manifest: Manifest, split: str) -> dict[str, Any]:
    """Utterances of a split by id; some are there, or else a comparison would say nothing."""
    found = {u.id: u for u in manifest if u.extra.get("split") == split}
    assert found
    return found


def supervisions(result: dict[str, Any]) -> list[Any]:
    return list(result["supervisions"])


def path_of(recordings: Any, supervision: Any) -> Path:
    return Path(recordings[supervision.recording_id].sources[0].source).resolve()


def lhotse_backend(name: str) -> AbstractContextManager[Any]:
    from lhotse.audio.backend import audio_backend

    backend: AbstractContextManager[Any] = audio_backend(name)
    return backend


def no_problems(result: BuildResult) -> None:
    assert result.skipped == ()


def test_librispeech_as_torchaudio_and_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.librispeech")
    result = build_manifest("librispeech", root=trees.librispeech(tmp_path, whole=True))
    no_problems(result)
    theirs = recipe.prepare_librispeech(tmp_path / "LibriSpeech", dataset_parts=("dev-clean", "test-other"))
    for split in ("dev-clean", "test-other"):
        ours = split_of(result.manifest, split)
        walker = torchaudio_datasets.LIBRISPEECH(tmp_path, url=split)
        found = {}
        for index in range(len(walker)):
            path, rate, text, speaker, chapter, number = walker.get_metadata(index)
            id = f"{speaker}-{chapter}-{number:04d}"
            found[id] = (os.path.join(walker._archive, path), rate, text, str(speaker), str(chapter))
        assert found == {
            u.id: (u.audio_filepath, u.sample_rate, u.text, u.speaker, u.extra["chapter"]) for u in ours.values()
        }
        assert {(s.id, s.text, s.speaker, round(s.duration, 6)) for s in supervisions(theirs[split])} == {
            (u.id, u.text, u.speaker, round(u.duration, 6)) for u in ours.values()
        }


@pytest.mark.parametrize("subset", ["10min", "1h", "10h"])
def test_libri_light_labels_as_torchaudio(tmp_path: Path, subset: str) -> None:
    result = build_manifest("libri-light", root=trees.libri_light_labelled(tmp_path, whole=True), parts=[subset])
    no_problems(result)
    walker = torchaudio_datasets.LibriLightLimited(tmp_path, subset=subset)
    metadata = torchaudio_datasets.librilight_limited._get_librispeech_metadata
    found = {}
    for folder, name in walker._fileids_paths:
        path, _, text, speaker, chapter, _ = metadata(name, walker._path, folder, ".flac", ".trans.txt")
        found[name] = (os.path.join(walker._path, path), text, str(speaker), str(chapter))
    assert found == {u.id: (u.audio_filepath, u.text, u.speaker, u.extra["chapter"]) for u in result.manifest}


def test_libri_light_books_as_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.librilight")
    trees.libri_light_books(tmp_path, whole=True)
    card = dataclasses.replace(load_card("libri-light"), details={"max_span_seconds": 0})  # each stretch a row
    result = prepare_corpus(card, tmp_path)
    no_problems(result)
    for size in ("small", "medium"):
        recordings, segments = recipe._prepare_subset(size, tmp_path)
        found = {(path_of(recordings, s), round(s.start, 4), round(s.duration, 4), s.speaker) for s in segments}
        assert found == {
            (Path(u.audio_filepath).resolve(), round(u.offset, 4), round(u.duration, 4), u.speaker)
            for u in split_of(result.manifest, size).values()
        }


def test_ljspeech_as_torchaudio_and_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.ljspeech")
    result = build_manifest("ljspeech", root=trees.ljspeech(tmp_path, whole=True))
    no_problems(result)
    walker = torchaudio_datasets.LJSPEECH(tmp_path)
    ours = {(u.id, u.extra["raw_text"], u.text) for u in result.manifest}
    assert {tuple(line) for line in walker._flist} == ours
    theirs = supervisions(recipe.prepare_ljspeech(tmp_path / "LJSpeech-1.1"))
    assert {(s.id, s.text, s.custom["normalized_text"]) for s in theirs} == ours


@pytest.mark.parametrize("microphone", ["mic1", "mic2"])
def test_vctk_as_torchaudio_and_lhotse(tmp_path: Path, microphone: str) -> None:
    recipe = pytest.importorskip("lhotse.recipes.vctk")
    result = build_manifest("vctk", root=trees.vctk(tmp_path, whole=True), parts=[microphone])
    no_problems(result)
    walker = torchaudio_datasets.VCTK_092(str(tmp_path), mic_id=microphone)
    found = set()
    for speaker, number in walker._sample_ids:
        text = walker._load_text(os.path.join(walker._txt_dir, speaker, f"{speaker}_{number}.txt"))
        path = os.path.join(walker._audio_dir, speaker, f"{speaker}_{number}_{microphone}.flac")
        found.add((path, text.strip(), speaker, number))
    assert found == {(u.audio_filepath, u.text, u.speaker, u.extra["prompt"]) for u in result.manifest}
    theirs = recipe.prepare_vctk(tmp_path / "VCTK-Corpus-0.92", use_edinburgh_vctk_url=True, mic_id=microphone)
    assert {(s.id, s.text, s.speaker, s.gender, s.custom["accent"]) for s in supervisions(theirs)} == {
        (u.id, u.text, u.speaker, u.extra["gender"], u.extra["accent"]) for u in result.manifest
    }


def test_older_vctk_as_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.vctk")
    result = build_manifest("vctk", root=trees.vctk_old(tmp_path))
    theirs = supervisions(recipe.prepare_vctk(tmp_path / "VCTK-Corpus"))
    assert {(s.id, s.text, s.speaker, s.gender, s.custom["region"]) for s in theirs} == {
        (u.id, u.text, u.speaker, u.extra["gender"], u.extra["region"]) for u in result.manifest
    }


def test_common_voice_as_torchaudio(tmp_path: Path) -> None:
    result = build_manifest("common-voice", root=trees.common_voice(tmp_path, whole=True))
    for split in ("train", "test"):
        walker = torchaudio_datasets.COMMONVOICE(tmp_path / "eo", tsv=f"{split}.tsv")
        found = {tuple(dict(zip(walker._header, line, strict=True))[k] for k in ("client_id", "path", "sentence"))
                 for line in walker._walker}  # fmt: skip
        ours = split_of(result.manifest, split).values()
        assert found == {(u.speaker, Path(u.audio_filepath).name, u.text) for u in ours}


def test_voxpopuli_sessions_as_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.voxpopuli")
    trees.voxpopuli_sessions(tmp_path, whole=True, folder="hr")
    result = build_manifest("voxpopuli", root=tmp_path, parts=["train", "dev", "test"])
    no_problems(result)
    output = tmp_path / "lhotse"
    output.mkdir()
    shutil.copy(tmp_path / "transcribed_data/hr/asr_hr.tsv.gz", output)  # what the recipe would fetch
    theirs = recipe.prepare_voxpopuli(tmp_path, output, task="asr", lang="hr")
    for split in ("train", "dev", "test"):
        assert {
            (s.recording_id, s.start, round(s.duration, 6), s.text, s.custom["orig_text"], s.speaker)
            for s in supervisions(theirs[split])
        } == {
            (u.extra["session"], u.offset, round(u.duration, 6), u.text, u.extra["raw_text"], u.speaker)
            for u in split_of(result.manifest, split).values()
        }


def test_mls_as_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.mls")
    result = build_manifest("mls", root=trees.mls(tmp_path, whole=True))
    no_problems(result)
    theirs = recipe.prepare_mls(tmp_path, opus=False)["polish"]
    for split in ("train", "dev", "test"):
        assert {(s.id, s.text, s.speaker, s.gender, round(s.duration, 6)) for s in supervisions(theirs[split])} == {
            (u.id, u.text, u.speaker, u.extra["gender"], round(u.duration, 6))
            for u in split_of(result.manifest, split).values()
        }


def test_fleurs_as_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.fleurs")
    result = build_manifest("fleurs", root=trees.fleurs(tmp_path, whole=True))
    no_problems(result)
    corpus = tmp_path / "lhotse"  # the recipe's own download puts the same files so
    (corpus / "en_us").mkdir(parents=True)
    (corpus / "metadata/en_us").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        (corpus / "en_us" / split).symlink_to(tmp_path / "data/en_us/audio" / split)
        shutil.copy(tmp_path / f"data/en_us/{split}.tsv", corpus / "metadata/en_us")
    theirs = recipe.prepare_fleurs(corpus, tmp_path / "out", languages="en_us")["en_us"]
    for split in ("train", "dev", "test"):
        recordings = theirs[split]["recordings"]
        assert {
            (path_of(recordings, s), s.text, s.custom["raw_text"], s.gender[0]) for s in supervisions(theirs[split])
        } == {
            (Path(u.audio_filepath).resolve(), u.text, u.extra["raw_text"], u.extra["gender"])
            for u in split_of(result.manifest, split).values()
        }


def test_tedlium3_as_torchaudio_and_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.tedlium")
    result = build_manifest("tedlium3", root=trees.tedlium3(tmp_path, whole=True))
    no_problems(result)
    base = tmp_path / "TEDLIUM_release-3"
    with lhotse_backend("LibsndfileBackend"):  # its own choice for .sph is a program, sph2pipe
        theirs = recipe.prepare_tedlium(base)
    (base / "data").symlink_to(base / "legacy/train")  # torchaudio takes training talks from there
    for split in ("train", "dev", "test"):
        ours = split_of(result.manifest, split).values()
        assert {
            (s.recording_id, s.start, round(s.duration, 6), s.text.replace("[NOISE]", "{NOISE}"))
            for s in supervisions(theirs[split])
        } == {(u.extra["talk"], u.offset, round(u.duration, 6), u.extra["published_text"]) for u in ours}
        walker = torchaudio_datasets.TEDLIUM(tmp_path, release="release3", subset=split)
        walker._load_audio = lambda path, start_time, end_time: ((path, float(start_time), float(end_time)), 16000)
        found = set()
        for index in range(len(walker)):
            (path, start, end), _, text, talk, speaker, _ = walker[index]
            if text.strip() != "ignore_time_segment_in_scoring":
                found.add((Path(path).resolve(), start, round(end - start, 6), text.strip(), talk, speaker))
        assert found == {
            (
                Path(u.audio_filepath).resolve(),
                u.offset,
                round(u.duration, 6),
                u.extra["published_text"],
                u.extra["talk"],
                u.speaker,
            )
            for u in ours
        }


def test_timit_as_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.timit")
    result = build_manifest("timit", root=trees.timit(tmp_path, whole=True))
    no_problems(result)
    theirs = recipe.prepare_timit(tmp_path, num_phones=60)
    dev, core = recipe.get_speakers()
    assert {"dev": sorted(dev), "core-test": sorted(core)} == {
        name: sorted(speakers) for name, speakers in load_card("timit").details["speakers"].items()
    }
    chosen = {
        "TRAIN": [u for u in result.manifest if u.extra["split"] == "train"],
        "DEV": [u for u in result.manifest if u.speaker in dev],
        "TEST": [u for u in result.manifest if u.speaker in core],
    }
    for part, ours in chosen.items():
        found = {
            (
                s.id.lower().replace("-", "_"),
                s.text,
                s.speaker.lower(),
                s.gender[0].upper(),
                " ".join(item.symbol for item in s.alignment["phone"]),
            )
            for s in supervisions(theirs[part])
        }
        assert found == {(u.id, u.text, u.speaker, u.extra["gender"], u.extra["phones"]) for u in ours}
        assert found


def test_speech_commands_as_torchaudio_and_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.speechcommands")
    result = build_manifest("speech-commands", root=trees.speech_commands(tmp_path, whole=True))
    assert [path for path, _ in result.skipped] == ["_background_noise_/running_tap.wav"]
    names = {"train": "training", "validation": "validation", "test": "testing"}
    for split, subset in names.items():
        walker = torchaudio_datasets.SPEECHCOMMANDS(tmp_path, subset=subset)
        found = set()
        for index in range(len(walker)):
            path, _, word, speaker, take = walker.get_metadata(index)
            found.add((os.path.join(walker._archive, path), word, speaker, take))
        ours = split_of(result.manifest, split).values()
        assert found == {(u.audio_filepath, u.text, u.speaker, u.extra["take"]) for u in ours}
    train, validation = recipe._split_train_valid("2", tmp_path / "SpeechCommands")
    noise = "_background_noise_/running_tap.wav"
    assert {path for path in train if path != noise} == {f"{id}.wav" for id in split_of(result.manifest, "train")}
    assert {path for path in validation if path != noise} == {
        f"{id}.wav" for id in split_of(result.manifest, "validation")
    }


def test_voxceleb1_as_torchaudio_and_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.voxceleb")
    result = build_manifest("voxceleb", root=trees.voxceleb1(tmp_path, whole=True))
    no_problems(result)
    for name, subset in (("train", "train"), ("validation", "dev"), ("test", "test")):
        walker = torchaudio_datasets.VoxCeleb1Identification(tmp_path, subset=subset)
        found = set()
        for index in range(len(walker)):
            path, _, speaker, id = walker.get_metadata(index)
            found.add((os.path.join(walker._path, path), f"id1{speaker:04d}", id))
        ours = [u for u in result.manifest if u.extra["identification_split"] == name]
        assert found == {(u.audio_filepath, u.speaker, u.id) for u in ours}
    pairs = torchaudio_datasets.VoxCeleb1Verification(tmp_path)
    named = {id for index in range(len(pairs)) for id in pairs.get_metadata(index)[-2:]}
    assert named == set(split_of(result.manifest, "voxceleb1-test"))
    theirs = recipe._prepare_voxceleb_v1(tmp_path, 1)
    for split, part in (("voxceleb1-dev", "train"), ("voxceleb1-test", "test")):
        assert {(s.id, s.speaker, s.gender.upper(), s.custom["nationality"]) for s in supervisions(theirs[part])} == {
            (u.id, u.speaker, u.extra["gender"], u.extra["nationality"])
            for u in split_of(result.manifest, split).values()
        }


def test_voxceleb2_as_lhotse(tmp_path: Path) -> None:
    recipe = pytest.importorskip("lhotse.recipes.voxceleb")
    pytest.importorskip("av", reason="m4a needs PyAV")
    result = build_manifest("voxceleb", root=trees.voxceleb2(tmp_path, whole=True))
    no_problems(result)
    for path in tmp_path.rglob("*.m4a"):  # lhotse reads m4a with what torchaudio 2.9 no longer has; only names matter
        soundfile.write(path, np.zeros(1600), 16000, format="WAV")
    with lhotse_backend("LibsndfileBackend"):
        theirs = supervisions(recipe.prepare_voxceleb(voxceleb2_root=tmp_path)["train"])
    assert {(s.id, s.speaker, s.gender.upper(), f"voxceleb2-{s.custom['split']}") for s in theirs} == {
        (u.id, u.speaker, u.extra["gender"], u.extra["split"]) for u in result.manifest
    }
