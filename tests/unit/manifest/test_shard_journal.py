"""Promises of builds from tar shards that go on: no shard that was read is read again unless it changed."""

import io
import multiprocessing
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile

from speechssl.cli import main
from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.build import BuildResult
from speechssl.manifest.shards import index
from speechssl.manifest.shards.journal import ShardJournal
from speechssl.manifest.shards.samples import FoundInShard, index_shard
from speechssl.manifest.shards.storage import StoredFile, list_files

RATE = 16000
NUM_SHARDS = 12


def flac(seed: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(seed).uniform(-0.5, 0.5, 800 + seed), RATE, format="FLAC")
    return buffer.getvalue()


def write_shard(path: Path, number: int) -> None:
    """Three clips with texts; columns differ between shards, and every third shard has a member that is no audio."""
    members = {}
    for clip in range(3):
        members[f"c{number}-{clip}.flac"] = flac(number * 3 + clip)
        members[f"c{number}-{clip}.txt"] = f"text ü {number}".encode()
        members[f"c{number}-{clip}.json"] = b'{"take": %d}' % clip if number % 2 else b'{"take": "x"}'
    if number % 3 == 0:
        members["bad.flac"] = b"no audio"
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(NUM_SHARDS):
        write_shard(folder / f"{number:02}.tar", number)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Names of the shards that were scanned to the end since the last call, by whatever process."""
    log = tmp_path / "opened.log"
    log.touch()

    def noting(shard: StoredFile, *, is_remote: bool) -> FoundInShard:
        found = index_shard(shard, is_remote=is_remote)
        with open(log, "a") as file:
            file.write(f"{shard.name}\n")
        return found

    monkeypatch.setattr(index, "index_shard", noting)

    def names() -> list[str]:
        found = sorted(log.read_text().split())
        log.write_text("")
        return found

    return names


def same(first: BuildResult, second: BuildResult) -> bool:
    return (
        first.manifest.table.equals(second.manifest.table)
        and first.manifest.fingerprint() == second.manifest.fingerprint()
        and first.skipped == second.skipped
    )


@pytest.mark.parametrize("after", [1, 7])
def test_a_build_that_is_killed_goes_on_with_the_shards_that_are_left(
    shards: Path, tmp_path: Path, opened: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    output = tmp_path / "m.parquet"
    whole = build_manifest(shards, num_workers=1)
    opened()
    noting, log = index.index_shard, tmp_path / "opened.log"

    def stuck(shard: StoredFile, *, is_remote: bool) -> FoundInShard:
        if log.read_text().count("\n") >= after:
            time.sleep(60)  # so that it cannot end before it is killed
        return noting(shard, is_remote=is_remote)

    monkeypatch.setattr(index, "index_shard", stuck)
    build = multiprocessing.get_context("fork").Process(
        target=build_manifest, args=(shards,), kwargs={"output": output, "num_workers": 1}
    )
    build.start()
    deadline = time.monotonic() + 30
    while log.read_text().count("\n") < after:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.1)
    assert build.pid is not None
    os.kill(build.pid, signal.SIGKILL)
    build.join()
    assert not output.exists()
    monkeypatch.setattr(index, "index_shard", noting)
    before = opened()
    result = build_manifest(shards, output=output, num_workers=2)
    after_names = opened()
    assert sorted({*before, *after_names}) == [f"{number:02}.tar" for number in range(NUM_SHARDS)]
    assert len(set(before) & set(after_names)) <= 1  # one worker: at most one that was read and waited
    assert after == 1 or len(after_names) < NUM_SHARDS
    assert result.manifest.fingerprint() == whole.manifest.fingerprint() and result.skipped == whole.skipped
    assert list(Manifest.load(output)) == list(build_manifest(shards, output=tmp_path / "n.parquet").manifest)


def test_only_shards_that_are_new_or_changed_are_read_again(
    shards: Path, tmp_path: Path, opened: Callable[[], list[str]]
) -> None:
    output = tmp_path / "m.jsonl"
    build_manifest(shards, output=output)
    opened()
    again = build_manifest(shards, output=output)
    assert opened() == []
    assert again.notes == ("12 shards, 12 known from an earlier build",)
    assert same(again, build_manifest(shards, output=output, fresh=True))
    assert len(opened()) == NUM_SHARDS
    write_shard(shards / "03.tar", 50)
    (shards / "05.tar").unlink()
    write_shard(shards / "99.tar", 99)
    changed = build_manifest(shards, output=output)
    assert opened() == ["03.tar", "99.tar"]
    assert same(changed, build_manifest(shards, output=tmp_path / "other.jsonl"))
    opened()
    journal = ShardJournal(tmp_path / ".m.jsonl.shards")
    assert sorted(journal.find(list_files(str(shards)))) == sorted(path.name for path in shards.iterdir())
    journal.close()
    shutil.copytree(shards, tmp_path / "moved")  # the same names and contents, but another place
    build_manifest(tmp_path / "moved", output=output)
    assert len(opened()) == NUM_SHARDS


@pytest.mark.parametrize("tail", [b"", bytes(200), b"\xff" * 9, b"garbage" * 30])
def test_a_journal_that_was_torn_keeps_the_shards_that_were_whole(shards: Path, tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / ".m.jsonl.shards"
    expected = build_manifest(shards, output=tmp_path / "m.jsonl")
    content, files = path.read_bytes(), list_files(str(shards))
    journal = ShardJournal(path)
    whole = journal.find(files)
    journal.close()
    ends = []  # of the entries
    journal = ShardJournal(tmp_path / "one")
    journal.find([])
    for file in files:
        journal.add(file, whole[file.name])
        ends.append((tmp_path / "one").stat().st_size)
    journal.close()
    assert ends[-1] == len(content)
    for cut in [*range(0, len(content), 997), *ends, *(end - 1 for end in ends), *(end - 8 for end in ends)]:
        torn = content[:cut] + tail
        path.write_bytes(torn)
        journal = ShardJournal(path)
        found = journal.find(files)
        assert len(found) == sum(torn[:end] == content[:end] for end in ends), cut
        missing = [file for file in files if file.name not in found]
        for file in missing[:1]:  # what is added after the cut is read again
            journal.add(file, whole[file.name])
        journal.close()
        journal = ShardJournal(path)
        assert len(journal.find(files)) == len(found) + len(missing[:1])
        journal.close()
    assert same(build_manifest(shards, output=tmp_path / "m.jsonl"), expected)


def test_a_shard_that_could_not_be_read_is_tried_again(
    shards: Path, tmp_path: Path, opened: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = StoredFile(path=str(shards / "gone"), name="04.tar", num_bytes=1, version="1")
    files = [broken if file.name == "04.tar" else file for file in list_files(str(shards))]
    with monkeypatch.context() as patched:
        patched.setattr(index, "list_files", lambda source: files)
        first = build_manifest(shards, output=tmp_path / "m.jsonl")
    assert any("04.tar" in path and "cannot be read" in reason for path, reason in first.skipped)
    opened()
    second = build_manifest(shards, output=tmp_path / "m.jsonl")
    assert opened() == ["04.tar"] and len(second.manifest) == 3 * NUM_SHARDS


def test_shards_behind_a_url_are_known_by_what_the_store_says(shards: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in sorted(shards.iterdir())[:3]:
        memory.pipe(f"/journal/{path.name}", path.read_bytes())
    assert all(file.version for file in list_files("memory://journal"))
    first = build_manifest("memory://journal", output=tmp_path / "m.jsonl")
    again = build_manifest("memory://journal", output=tmp_path / "m.jsonl")
    assert again.notes == ("3 shards, 3 known from an earlier build",) and same(first, again)
    memory.pipe("/journal/01.tar", (shards / "01.tar").read_bytes())  # the same size, written later
    assert "2 known" in build_manifest("memory://journal", output=tmp_path / "m.jsonl").notes[0]


def test_two_builds_of_one_manifest_do_not_mix(shards: Path, tmp_path: Path) -> None:
    journal = ShardJournal(tmp_path / ".m.jsonl.shards")
    journal.find([])
    with pytest.raises(ManifestError, match="another build of the same manifest is running"):
        build_manifest(shards, output=tmp_path / "m.jsonl")
    journal.close()
    assert main(["manifest", "build", str(shards), "--output", str(tmp_path / "m.jsonl")]) == 0
