"""Tar shards: written, gone on with after a kill, indexed whoever wrote them, damaged and hostile ones included."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import soundfile
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from speechssl import audio
from speechssl.cli import main
from speechssl.errors import ConfigError, ManifestError
from speechssl.manifest import Manifest, build_manifest, validate_manifest
from speechssl.manifest.shards import ShardOptions, build_from_shards, iterate_shard, shard_manifest
from speechssl.manifest.shards.encode import to_integers
from speechssl.manifest.shards.keys import make_key, split_name
from speechssl.manifest.shards.storage import OutputFolder
from speechssl.manifest.shards.tar import TarWriter
from speechssl.types import Utterance

RATE = 16000


def write_clips(folder: Path, count: int, *, seconds: float = 0.3, subtype: str = "PCM_16") -> Manifest:
    """Clips of noise, with texts and speakers, as a manifest in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        samples = np.random.default_rng(number).uniform(-0.5, 0.5, int(seconds * RATE) + number)
        path = folder / f"clip {number}.wav"
        soundfile.write(path, samples, RATE, subtype=subtype)
        rows.append(utterance(f"take/{number}.x", path, num_samples=len(samples), text=f"text {number} é"))
    return Manifest.from_utterances(rows)


def utterance(id: str, path: Path | str, *, num_samples: int, **more: Any) -> Utterance:
    fields: dict[str, Any] = {
        "sample_rate": RATE,
        "duration": num_samples / RATE,
        "speaker": "s1",
        "extra": {"age": 30},
    }
    return Utterance(id=id, audio_filepath=str(path), num_samples=num_samples, **{**fields, **more})


def assert_same_audio(made: Manifest, original: Manifest) -> None:
    assert made.column("id").to_pylist() == original.column("id").to_pylist()
    for new, old in zip(made, original, strict=True):
        np.testing.assert_array_equal(audio.read_utterance(new, RATE), audio.read_utterance(old, RATE))
        assert (new.text, new.speaker, new.num_samples) == (old.text, old.speaker, old.num_samples)


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


# --- names ---


@settings(max_examples=300, deadline=None)
@given(st.sets(st.text(st.characters(exclude_categories=("Cs",)), max_size=120), min_size=1, max_size=8))
def test_keys_differ_and_are_read_back_by_webdataset(ids: set[str]) -> None:
    keys = {make_key(id) for id in ids}
    assert len(keys) == len(ids)
    for key in keys:
        assert key.isascii() and len(key) <= 80
        assert base_plus_ext(f"{key}.flac") == (key, "flac")
        assert split_name(f"{key}.flac") == (key, "flac")


def test_a_plain_id_is_its_own_key() -> None:
    assert make_key("1034-121119-0000") == "1034-121119-0000"
    assert make_key("a/b.c").startswith("a_b_c-")


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab./_-"), min_size=1, max_size=12))
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    key, extension = base_plus_ext(name)
    expected = None if key is None else (key, extension)
    assert split_name(name) == expected or name.startswith("./") or (key or "").endswith("/")


# --- writing ---


@pytest.mark.parametrize(("audio_format", "subtype"), [("flac", "PCM_16"), ("flac", "PCM_24"), ("wav", "PCM_16")])
def test_shards_hold_every_sample_and_every_column(tmp_path: Path, audio_format: Any, subtype: str) -> None:
    manifest = write_clips(tmp_path / "clips", 12, subtype=subtype)
    options = ShardOptions(audio_format=audio_format, max_megabytes=0.05)
    result = shard_manifest(manifest, tmp_path / "shards", options)
    assert result.num_shards > 2
    made = Manifest.load(result.manifest_path)
    assert_same_audio(made, manifest)
    assert made[3].extra == {"age": 30}
    assert made[3].audio_filepath.startswith(str(tmp_path / "shards" / "shard-00000"))
    assert all(path.stat().st_size <= 50_000 + 10_240 for path in (tmp_path / "shards").glob("*.tar"))


def test_two_channels_become_their_exact_mean(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (5000, 2))
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="PCM_16")
    manifest = Manifest.from_utterances([utterance("a", tmp_path / "a.wav", num_samples=5000)])
    result = shard_manifest(manifest, tmp_path / "shards")
    assert_same_audio(result.manifest, manifest)


def test_what_has_no_exact_form_is_rounded_to_16_bits_and_clipping_is_counted(tmp_path: Path) -> None:
    waveform = np.array([0.1, -0.2, 1.5, -1.5], np.float32)
    samples, subtype, is_clipped = to_integers(waveform)
    assert (samples.tolist(), subtype, is_clipped) == ([3277, -6554, 32767, -32768], "PCM_16", True)
    soundfile.write(tmp_path / "a.wav", np.tile(waveform, 400), RATE, subtype="FLOAT")
    result = shard_manifest(
        Manifest.from_utterances([utterance("a", tmp_path / "a.wav", num_samples=1600)]), tmp_path / "shards"
    )
    assert result.num_clipped == 1
    assert "clipped 1" in result.summary()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(1 << 23), (1 << 23) - 1), min_size=1, max_size=20), st.booleans())
def test_integers_of_up_to_24_bits_are_exact(values: list[int], coarse: bool) -> None:
    values = [value // 256 * 256 for value in values] if coarse else values
    samples, subtype, is_clipped = to_integers((np.array(values) / (1 << 23)).astype(np.float32))
    shift = 8 if subtype == "PCM_24" else -8
    assert not is_clipped
    assert [int(sample) >> shift if shift > 0 else int(sample) << -shift for sample in samples] == values


@pytest.mark.parametrize("audio_format", ["flac", "opus", "copy"])
def test_equal_inputs_make_equal_bytes_with_any_number_of_workers(tmp_path: Path, audio_format: Any) -> None:
    manifest = write_clips(tmp_path / "clips", 8)
    options = ShardOptions(audio_format=audio_format, max_megabytes=0.03)
    shard_manifest(manifest, tmp_path / "a", options, num_workers=1)
    shard_manifest(manifest, tmp_path / "b", options, num_workers=4)
    assert tars(tmp_path / "a") == tars(tmp_path / "b")


def test_opus_is_resampled_and_its_length_is_what_it_decodes_to(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 3)
    result = shard_manifest(manifest, tmp_path / "shards", ShardOptions(audio_format="opus", sample_rate=48000))
    for row in result.manifest:
        assert row.sample_rate == 48000
        assert len(audio.read(row.audio_filepath)) == row.num_samples == 3 * round(row.duration * RATE)


def test_opus_has_about_the_bits_that_were_asked_for(tmp_path: Path, corpora: Path) -> None:
    for clip in sorted((corpora / "kathleen_en/audio").iterdir())[:6]:
        shutil.copy(clip, tmp_path)
    manifest = build_manifest(tmp_path).manifest
    for kilobits in (12, 24, 48):
        options = ShardOptions(audio_format="opus", opus_kilobits=kilobits)
        result = shard_manifest(manifest, tmp_path / str(kilobits), options)
        sizes = [audio.locate(row.audio_filepath).num_bytes for row in result.manifest]
        assert sum(sizes) * 8e-3 / result.manifest.total_seconds == pytest.approx(kilobits, rel=0.25)


def test_peers_read_our_shards(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 7)
    result = shard_manifest(manifest, tmp_path / "shards", ShardOptions(max_megabytes=0.03))
    urls = [str(path) for path in sorted((tmp_path / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert len(samples) == 7
    for sample, row in zip(samples, result.manifest, strict=True):
        location = audio.locate(row.audio_filepath)
        with open(location.file, "rb") as file:
            file.seek(location.start or 0)
            assert file.read(location.num_bytes) == sample["flac"]
        assert sample["txt"].decode() == row.text
        told = json.loads(sample["json"])
        assert (told["id"], told["speaker"], told["age"]) == (row.id, "s1", 30)


def test_spans_are_cut_or_point_into_a_recording_that_is_stored_once(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", 1, seconds=3)
    path = tmp_path / "clips" / "clip 0.wav"
    spans = [(0.5, 0.25), (1.0, 1.5), (0.0, 0.3)]
    rows = [
        utterance(f"s{n}", path, num_samples=round(length * RATE), offset=start, text=f"t{n}")
        for n, (start, length) in enumerate(spans)
    ]
    manifest = Manifest.from_utterances(rows)
    cut = shard_manifest(manifest, tmp_path / "cut")
    assert_same_audio(cut.manifest, manifest)
    assert cut.num_recordings == 3
    assert cut.manifest.column("offset").to_pylist() == [0, 0, 0]
    copied = shard_manifest(manifest, tmp_path / "copied", ShardOptions(audio_format="copy"))
    assert_same_audio(copied.manifest, manifest)
    assert copied.num_recordings == 1
    assert copied.manifest.column("offset").to_pylist() == [0.5, 1.0, 0.0]
    assert len(set(copied.manifest.column("audio_filepath").to_pylist())) == 1
    found = build_from_shards(tmp_path / "copied").manifest  # the spans are in the shard itself
    assert list(found) == list(Manifest.load(copied.manifest_path))


def test_shuffled_shards_hold_the_same_rows_in_another_order(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 10)

    def keys(name: str, **options: Any) -> list[str]:
        result = shard_manifest(manifest, tmp_path / name, ShardOptions(**options))
        assert_same_audio(result.manifest, manifest)
        return [sample.key for sample in iterate_shard(str(tmp_path / name / "shard-000000.tar"))]

    plain, shuffled = keys("a"), keys("b", order="shuffled", seed=1)
    assert plain != shuffled
    assert sorted(plain) == sorted(shuffled)
    assert keys("c", order="shuffled", seed=1) == shuffled
    assert keys("d", order="shuffled", seed=2) != shuffled


def test_a_shard_holds_at_most_so_much_audio(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 9)
    result = shard_manifest(manifest, tmp_path / "shards", ShardOptions(max_hours=1 / 3600))
    assert result.num_shards == 3


def test_bad_recordings_are_set_aside_with_their_reasons(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 6)
    (tmp_path / "clips" / "clip 1.wav").unlink()
    (tmp_path / "clips" / "clip 3.wav").write_bytes(b"no audio at all, only words " * 20)
    content = (tmp_path / "clips" / "clip 4.wav").read_bytes()
    (tmp_path / "clips" / "clip 4.wav").write_bytes(content[: len(content) // 2])
    for audio_format in ("flac", "copy"):
        result = shard_manifest(manifest, tmp_path / audio_format, ShardOptions(audio_format=audio_format))
        assert_same_audio(result.manifest, manifest.take([0, 2, 5]))
        assert [id for id, _ in result.skipped] == ["take/1.x", "take/3.x", "take/4.x"]
        assert "left out 1: no such file" in result.summary()
        lines = [json.loads(line) for line in Path(result.quarantine or "").read_text().splitlines()]
        assert [line["kind"] for line in lines] == ["missing", "unreadable", "truncated"]
        assert lines[0]["reason"].startswith(f"{tmp_path}/clips/clip 1.wav: no such file")
    with pytest.raises(ManifestError, match=r"none of 2 rows can be used; the first: .*no such file"):
        shard_manifest(manifest.take([1, 3]), tmp_path / "none")


def test_a_span_outside_of_its_copied_recording_is_set_aside(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", 1)
    path = tmp_path / "clips" / "clip 0.wav"
    rows = [utterance("in", path, num_samples=1600), utterance("out", path, num_samples=1600, offset=9.0)]
    result = shard_manifest(Manifest.from_utterances(rows), tmp_path / "s", ShardOptions(audio_format="copy"))
    assert result.manifest.column("id").to_pylist() == ["in"]
    assert result.skipped[0][0] == "out"


def test_raw_g722_is_encoded_but_not_copied(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.g722").write_bytes(bytes(range(256)) * 20)
    manifest = Manifest.from_utterances([utterance("a", tmp_path / "a.g722", num_samples=10240)])
    with pytest.raises(ConfigError, match="1 rows are raw g722, which has no header.*audio_format flac"):
        shard_manifest(manifest, tmp_path / "copy", ShardOptions(audio_format="copy"))
    assert_same_audio(shard_manifest(manifest, tmp_path / "flac").manifest, manifest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_format": "ape"}, "audio_format must be flac, wav, opus or copy, is 'ape'"),
        ({"order": "sorted"}, "order must be manifest or shuffled"),
        ({"max_megabytes": 0}, "must be above 0"),
        ({"audio_format": "copy", "sample_rate": 8000}, "copy keeps each file's sample rate"),
        ({"audio_format": "opus", "sample_rate": 44100}, "opus knows 8000, 12000, 16000, 24000, 48000 Hz, not 44100"),
        ({"audio_format": "opus", "opus_kilobits": 3}, "opus_kilobits .* is 6 to 256, but it is 3 with opus"),
        ({"audio_format": "flac", "opus_kilobits": 24}, "opus_kilobits goes with audio_format opus .* 24 with flac"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShardOptions(**options)


# --- going on ---


def command(manifest: Path, output: Path) -> list[str]:
    words = [
        "manifest",
        "shard",
        str(manifest),
        "--output",
        str(output),
        "--max_megabytes",
        "0.2",
        "--num_workers",
        "1",
    ]
    return [sys.executable, "-m", "speechssl", *words]


def test_a_killed_run_goes_on_after_its_last_shard_and_makes_the_same_bytes(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 300, seconds=1.0)
    manifest.save(tmp_path / "m.jsonl")
    shard_manifest(manifest, tmp_path / "whole", ShardOptions(max_megabytes=0.2))
    killed = subprocess.Popen(command(tmp_path / "m.jsonl", tmp_path / "s"), stdout=subprocess.PIPE)
    notes = tmp_path / "s" / "shard.parts"
    deadline = time.time() + 60
    while len(list(notes.glob("*.parquet"))) < 3 and time.time() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = len(list(notes.glob("*.parquet")))
    assert 3 <= done < len(tars(tmp_path / "whole"))
    assert not (tmp_path / "s" / "shard.parquet").exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*.tar")}
    result = shard_manifest(manifest, tmp_path / "s", ShardOptions(max_megabytes=0.2))
    assert result.num_found == done
    assert f"{done} shards were there" in result.summary()
    assert tars(tmp_path / "s") == tars(tmp_path / "whole")
    assert sum(path.stat().st_mtime_ns == written for path, written in times.items()) >= done
    assert sorted(os.listdir(tmp_path / "s")) == sorted(os.listdir(tmp_path / "whole"))  # nothing half-done stays
    assert list(Manifest.load(result.manifest_path)) != []
    again = shard_manifest(manifest, tmp_path / "s", ShardOptions(max_megabytes=0.2))
    assert again.to_dict() == {**result.to_dict(), "num_shards_found": again.num_shards}


def test_two_runs_never_write_the_same_shards(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 3)
    with OutputFolder(tmp_path / "s").scratch("train") as other:
        (other / "000000.tar").write_bytes(b"half of a shard")
        with pytest.raises(ConfigError, match="another command is writing shards named train there; wait for it"):
            shard_manifest(manifest, tmp_path / "s", name="train")
        assert_same_audio(shard_manifest(manifest, tmp_path / "s", name="dev").manifest, manifest)
        assert (other / "000000.tar").exists()
    assert_same_audio(shard_manifest(manifest, tmp_path / "s", name="train").manifest, manifest)


def _shard_with_little_room(manifest: Path, output: Path, messages: "multiprocessing.Queue[str]") -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    try:
        shard_manifest(Manifest.load(manifest), output, ShardOptions(max_megabytes=0.1))
    except ManifestError as error:
        messages.put(str(error))


def test_a_full_disk_ends_the_run_and_the_next_goes_on(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 20)
    manifest.save(tmp_path / "m.jsonl")
    context = multiprocessing.get_context("fork")
    messages = context.Queue()
    child = context.Process(target=_shard_with_little_room, args=(tmp_path / "m.jsonl", tmp_path / "s", messages))
    child.start()
    message = messages.get(timeout=60)
    child.join()
    assert message.startswith(f"{tmp_path}/s: cannot be written (File too large); make room and run the same command")
    result = shard_manifest(manifest, tmp_path / "s", ShardOptions(max_megabytes=0.1))
    assert_same_audio(result.manifest, manifest)


def test_another_manifest_or_other_options_do_not_go_into_the_same_shards(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 3)
    shard_manifest(manifest, tmp_path / "s")
    with pytest.raises(ManifestError, match=r"shard\.shards\.json: was begun with another max_megabytes;"):
        shard_manifest(manifest, tmp_path / "s", ShardOptions(max_megabytes=1))
    with pytest.raises(ManifestError, match="was begun with another fingerprint"):
        shard_manifest(manifest.take([0, 1]), tmp_path / "s")
    shard_manifest(manifest.take([0, 1]), tmp_path / "s", name="other")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "shard-000000.tar").write_bytes(b"precious")
    with pytest.raises(ManifestError, match=r"shard-000000\.tar: is there already and not of this run"):
        shard_manifest(manifest, tmp_path / "foreign")
    assert (tmp_path / "foreign" / "shard-000000.tar").read_bytes() == b"precious"


# --- an object store ---


def test_shards_behind_a_url_are_written_indexed_and_read(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 6)
    url = f"memory://bucket/{tmp_path.name}/shards"
    with pytest.raises(ConfigError, match="say where the manifest of the shards goes"):
        shard_manifest(manifest, url)
    result = shard_manifest(manifest, url, ShardOptions(max_megabytes=0.03), manifest_path=tmp_path / "m.parquet")
    assert result.manifest[0].audio_filepath.startswith(f"{url}/shard-000000.tar:")
    assert_same_audio(Manifest.load(tmp_path / "m.parquet"), manifest)
    assert list(build_from_shards(url).manifest) == list(result.manifest)
    shard_manifest(manifest, tmp_path / "local", ShardOptions(max_megabytes=0.03))
    stored = fsspec.filesystem("memory")
    for name, content in tars(tmp_path / "local").items():
        assert stored.cat_file(f"/bucket/{tmp_path.name}/shards/{name}") == content


# --- the command ---


def test_the_command_shards_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_clips(tmp_path / "clips", 4)
    manifest.save(tmp_path / "m.jsonl")
    words = ["manifest", "shard", str(tmp_path / "m.jsonl"), "--output", str(tmp_path / "s"), "--sample_rate", "8000"]
    assert main([*words, "--audio_format", "flac", "--max_megabytes", "512"]) == 0
    assert "4 utterances" in capsys.readouterr().out
    made = Manifest.load(tmp_path / "s" / "shard.parquet")
    assert made.column("sample_rate").to_pylist() == [8000] * 4
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_shards_found"] == 1


def test_the_writer_is_a_plain_tar(tmp_path: Path) -> None:
    with open(tmp_path / "a.tar", "wb") as file:
        writer = TarWriter(file)
        starts = [writer.add(f"{n}.bin", bytes([n]) * n * 300) for n in range(5)]
        writer.close()
    content = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [(m.offset_data, m.size, m.mtime, m.uid, m.uname) for m in tar] == [
            (start, n * 300, 0, 0, "") for n, start in enumerate(starts)
        ]
    assert content[starts[2] : starts[2] + 600] == b"\2" * 600


def test_shards_are_valid_manifests_and_damage_to_them_is_found(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "clips", 5)
    path = shard_manifest(manifest, tmp_path / "s").manifest_path
    assert validate_manifest(path, audio=True).problems == ()
    shard = tmp_path / "s" / "shard-000000.tar"
    last = audio.locate(Manifest.load(path)[4].audio_filepath)
    shard.write_bytes(shard.read_bytes()[: (last.start or 0) + 100])
    for audio_too in (False, True):
        problems = validate_manifest(path, audio=audio_too).problems
        assert [(problem.line, problem.kind) for problem in problems] == [(5, "truncated")]
