"""Reading a few archives at a time: from real tar files, near and behind URLs."""

import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from fsspec.implementations.memory import MemoryFileSystem

from speechssl.audio import UnreachableError, remote
from speechssl.data import AudioBatches, DataConfig, iterate_once
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.types import Utterance

RATE, NUM_SHARDS, PER_SHARD = 16_000, 6, 40


def shard_content(shard: int) -> tuple[bytes, list[tuple[int, int, int]]]:
    """A tar file of wav files, and start, size in bytes and number of samples of each."""
    memory = io.BytesIO()
    random = np.random.default_rng(shard)
    with tarfile.open(fileobj=memory, mode="w") as tar:
        lengths = random.integers(800, 2400, PER_SHARD).tolist()
        for number, length in enumerate(lengths):
            clip = io.BytesIO()
            soundfile.write(clip, random.uniform(-0.1, 0.1, length), RATE, format="WAV")
            member = tarfile.TarInfo(f"{number}.wav")
            member.size = len(clip.getvalue())
            tar.addfile(member, io.BytesIO(clip.getvalue()))
    memory.seek(0)
    with tarfile.open(fileobj=memory) as tar:
        places = [(member.offset_data, member.size) for member in tar.getmembers()]
    return memory.getvalue(), [(start, size, n) for (start, size), n in zip(places, lengths, strict=True)]


def sharded(folder: str) -> Manifest:
    """Six shards in `folder`, a path or URL."""
    utterances = []
    for shard in range(NUM_SHARDS):
        content, members = shard_content(shard)
        with fsspec.open(f"{folder}/{shard}.tar", "wb") as file:
            file.write(content)
        for number, (start, size, length) in enumerate(members):
            utterances.append(
                Utterance(
                    id=f"{shard}-{number}", audio_filepath=f"{folder}/{shard}.tar:{start}:{size}", sample_rate=RATE,
                    num_samples=length, duration=length / RATE,
                )
            )  # fmt: skip
    return Manifest.from_utterances(utterances)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return sharded(str(tmp_path_factory.mktemp("shards")))


@pytest.fixture
def in_memory() -> Iterator[Manifest]:
    """Behind memory:// URLs, which go all the way of any other backend."""
    yield sharded("memory://loader-shards")
    fsspec.filesystem("memory").rm("/loader-shards", recursive=True)


def stream(manifest: Manifest, **config: object) -> AudioBatches:
    settings = DataConfig(**{"batch_seconds": 0.6, "num_workers": 0, "order": "by_shard", **config})
    return AudioBatches(manifest, settings, sample_rate=RATE, min_num_samples=400, seed=0)


def shards_of(names: tuple[str, ...]) -> set[str]:
    return {name.partition("-")[0] for name in names}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_few_shards_are_read_at_a_time_and_every_utterance_once(local: Manifest, num_workers: int) -> None:
    batches = stream(local, shards_at_once=2, num_workers=num_workers)
    per_epoch = batches.plan.num_batches
    orders = []
    for epoch in range(3):
        found = [batch.utterance_ids for batch in itertools.islice(batches.batches(epoch * per_epoch), per_epoch)]
        assert sorted(name for names in found for name in names) == sorted(local.column("id").to_pylist())
        windows = [sorted(group) for group in grouped(found)]
        assert len(windows) == 3 and all(len(window) == 2 for window in windows)
        orders.append(windows)
    assert {tuple(map(tuple, sorted(order))) for order in orders} == {tuple(map(tuple, sorted(orders[0])))}
    assert orders[0] != orders[1] or orders[1] != orders[2]


def grouped(found: list[tuple[str, ...]]) -> list[set[str]]:
    """The shards of consecutive batches, joined as long as they overlap."""
    groups: list[set[str]] = []
    for names in found:
        shards = shards_of(names)
        if groups and groups[-1] & shards:
            groups[-1] |= shards
        else:
            groups.append(shards)
    return groups


def test_a_run_resumes_within_a_window(local: Manifest) -> None:
    whole = list(itertools.islice(stream(local, shards_at_once=2).batches(), 60))
    rest = list(itertools.islice(stream(local, shards_at_once=2).batches(37), 23))
    for before, after in zip(whole[37:], rest, strict=True):
        assert before.utterance_ids == after.utterance_ids and before.waveform.equal(after.waveform)


def test_windows_too_small_for_good_batches_are_refused(local: Manifest) -> None:
    with pytest.raises(
        ConfigError, match=r"1 of the manifest's 6 files hold only 2\.\d batches; set shards_at_once to"
    ):
        stream(local, shards_at_once=1, batch_seconds=1.5)


def test_what_one_window_holds_needs_no_minimum(local: Manifest) -> None:
    assert stream(local, shards_at_once=6, batch_seconds=1000.0).plan.num_batches == 1


# behind URLs


def test_batches_from_urls_are_those_from_files(local: Manifest, in_memory: Manifest) -> None:
    near = itertools.islice(stream(local, shards_at_once=2).batches(), 20)
    far = itertools.islice(stream(in_memory, shards_at_once=2).batches(), 20)
    for first, second in zip(near, far, strict=True):
        assert first.utterance_ids == second.utterance_ids and first.waveform.equal(second.waveform)


def test_a_batch_is_fetched_in_few_requests(in_memory: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members that lie near each other come in one request, and no byte is asked for twice."""
    asked: list[tuple[str, int | None]] = []
    fetch = remote.fetch

    def counting(url: str, start: int | None = None, num_bytes: int | None = None) -> bytes:
        asked.append((url, start))
        return fetch(url, start, num_bytes)

    monkeypatch.setattr(remote, "fetch", counting)
    batch = next(stream(in_memory, shards_at_once=2, batch_seconds=1.0).batches())
    assert len(batch.utterance_ids) >= 6
    assert len(asked) == len(shards_of(batch.utterance_ids)) <= 2  # these shards are small: one request each
    asked.clear()
    assert (
        sum(len(batch.utterance_ids) for batch in iterate_once(in_memory, batch_seconds=2.0, sample_rate=RATE)) == 240
    )
    assert len(asked) < 120


def test_storage_that_cannot_be_reached_ends_the_run_and_drops_nothing(
    in_memory: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage says nothing against the recordings, so none of them is counted as left out."""

    def unreachable(*arguments: object, **named: object) -> bytes:
        raise ConnectionResetError("reset by peer")

    batches = stream(in_memory, shards_at_once=6)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", unreachable)
    monkeypatch.setattr(remote, "RETRY", remote.RetryPolicy(max_attempts=2, first_delay_seconds=0))
    with pytest.raises(UnreachableError, match=r"memory://.*cannot be reached"):
        next(batches.batches())
    assert batches.problems == {} and batches.coverage == ()


def test_spans_of_one_long_recording_are_read_together(tmp_path: Path) -> None:
    """A shard is a file: an archive or a recording with many utterances."""
    utterances = []
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", np.random.default_rng(0).uniform(-0.1, 0.1, 10 * RATE), RATE)
        utterances += [
            Utterance(
                id=f"{name}-{n}", audio_filepath=str(tmp_path / f"{name}.wav"), sample_rate=RATE, num_samples=1600,
                offset=n / 10, duration=0.1,
            )
            for n in range(100)
        ]  # fmt: skip
    found = itertools.islice(stream(Manifest.from_utterances(utterances), shards_at_once=1).batches(), 51)
    assert len(grouped([batch.utterance_ids for batch in found])) == 3
