"""Manifests of shards and of recordings behind URLs, through the same command as those of folders."""

import io
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from speechssl import audio
from speechssl.audio import UnreachableError, remote
from speechssl.audio.remote import RetryPolicy
from speechssl.cli import main
from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.shards import shard_manifest


def clip(seed: int, seconds: float = 0.2) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(seed).uniform(-0.5, 0.5, int(16000 * seconds)), 16000, format="FLAC")
    return buffer.getvalue()


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    """Three recordings with texts and one that is none, in memory."""
    url = f"memory://sources/{tmp_path.name}"
    files = fsspec.filesystem("memory")
    for number in range(3):
        files.pipe(f"{url}/talks/{number}.flac", clip(number))
        files.pipe(f"{url}/talks/{number}.txt", f"text {number}\n".encode())
    files.pipe(f"{url}/bad.flac", b"words " * 99)
    files.pipe(f"{url}/readme.md", b"hello")
    return url


def test_recordings_behind_a_url_become_a_manifest(bucket: str, tmp_path: Path) -> None:
    result = build_manifest(bucket, output=tmp_path / "m.jsonl", language="en")
    made = Manifest.load(tmp_path / "m.jsonl")
    assert [(row.id, row.text, row.language) for row in made] == [
        (f"talks/{number}", f"text {number}", "en") for number in range(3)
    ]
    assert made[1].audio_filepath == f"{bucket}/talks/1.flac"
    assert len(audio.read_utterance(made[1], 16000)) == made[1].num_samples == 3200
    assert [path for path, _ in result.skipped] == [f"{bucket}/bad.flac"]
    assert "is text, not audio" in result.skipped[0][1]


def test_a_table_of_texts_beside_them_is_used(bucket: str, tmp_path: Path) -> None:
    table = "path\ttext\tspeaker\ntalks/0.flac\tzero\ta\ntalks/9.flac\tnine\tb\n"
    fsspec.filesystem("memory").pipe(f"{bucket}/transcripts.tsv", table.encode())
    result = build_manifest(bucket)
    assert [row.text for row in result.manifest] == ["zero", None, None]
    assert f"texts from {bucket}/transcripts.tsv: 1 of 4 recordings have one" in result.notes
    assert any("no such recording: talks/9.flac" in reason for _, reason in result.skipped)
    (tmp_path / "mine.tsv").write_text("path\ttext\n1\tone\n")
    assert [row.text for row in build_manifest(bucket, transcripts=tmp_path / "mine.tsv").manifest] == [
        None, "one", None,
    ]  # fmt: skip


def test_one_recording_by_its_url(bucket: str) -> None:
    made = build_manifest(f"{bucket}/talks/2.flac").manifest
    assert [(row.id, row.audio_filepath) for row in made] == [("2", f"{bucket}/talks/2.flac")]


def test_shards_are_found_in_folders_and_behind_urls(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(3):
        (tmp_path / "clips" / f"{number}.flac").write_bytes(clip(number))
    manifest = build_manifest(tmp_path / "clips").manifest
    shard_manifest(manifest, tmp_path / "shards")
    url = f"memory://sources/{tmp_path.name}/shards"
    shard_manifest(manifest, url, manifest_path=tmp_path / "remote.parquet")
    for source in (tmp_path / "shards", tmp_path / "shards" / "shard-000000.tar", url, f"{url}/shard-000000.tar"):
        assert main(["manifest", "build", str(source), "--output", str(tmp_path / "m.parquet")]) == 0
        made = Manifest.load(tmp_path / "m.parquet")
        assert made.column("id").to_pylist() == ["0", "1", "2"]
        for row, original in zip(made, manifest, strict=True):
            np.testing.assert_array_equal(audio.read_utterance(row, 16000), audio.read_utterance(original, 16000))
    assert len(build_manifest(tmp_path / "clips").manifest) == 3  # recordings win where there are both
    (tmp_path / "clips" / "old.tar").write_bytes(b"")
    assert len(build_manifest(tmp_path / "clips").manifest) == 3
    with pytest.raises(ManifestError, match="shards bring their own texts"):
        build_manifest(tmp_path / "shards", transcripts=tmp_path / "texts.tsv")


def test_a_url_without_anything_is_named() -> None:
    with pytest.raises(ManifestError, match="memory://sources/none: nothing is there; check the URL"):
        build_manifest("memory://sources/none")


def test_an_outage_ends_the_build_instead_of_thinning_it_out(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY", RetryPolicy(max_attempts=2, first_delay_seconds=0.001))
    files = fsspec.filesystem("memory")

    def broken(*arguments: object, **named: object) -> bytes:
        raise ConnectionResetError("by peer")

    monkeypatch.setattr(type(files), "cat_file", broken)
    with pytest.raises(UnreachableError, match="cannot be reached, tried 2 times"):
        build_manifest(bucket)
