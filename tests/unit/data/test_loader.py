"""Streams of batches: the same from anywhere, with any number of workers, whatever cannot be read."""

import itertools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.data import AudioBatches, DataConfig, LabeledBatches, iterate_once
from speechssl.errors import AudioError, ConfigError, TrainingError
from speechssl.manifest import Manifest
from speechssl.types import AudioBatch, LabeledBatch, Utterance

RATE, SCALE = 16_000, 2.0**-23
LENGTHS = [1600 + 400 * number for number in range(12)]
CONFIG = {"batch_seconds": 0.9, "max_crop_seconds": 0.3}


def stream(manifest: Manifest, *, seed: int = 0, **config: float) -> AudioBatches:
    settings = DataConfig(**{"num_workers": 0, **CONFIG, **config})
    return AudioBatches(manifest, settings, sample_rate=RATE, min_num_samples=400, seed=seed)


def labeled(manifest: Manifest, *, num_workers: int = 0) -> LabeledBatches:
    labels = [[1 + number, 2 + number] for number in range(len(manifest))]
    return LabeledBatches(
        manifest, labels, DataConfig(batch_seconds=2.0, num_workers=num_workers), sample_rate=RATE, min_num_samples=400,
        seed=0,
    )  # fmt: skip


def take(batches: Iterator[AudioBatch], count: int) -> list[AudioBatch]:
    return list(itertools.islice(batches, count))


def same(first: AudioBatch, second: AudioBatch) -> bool:
    return (
        first.utterance_ids == second.utterance_ids
        and torch.equal(first.waveform, second.waveform)
        and torch.equal(first.num_samples, second.num_samples)
    )


def all_same(first: list[AudioBatch], second: list[AudioBatch]) -> bool:
    return all(same(a, b) for a, b in zip(first, second, strict=True))


def test_an_epoch_has_every_utterance_once_within_the_budget(ramps: Callable[..., Manifest]) -> None:
    batches = stream(ramps(LENGTHS))
    for epoch in range(3):
        start = epoch * batches.plan.num_batches
        found = take(batches.batches(start), batches.plan.num_batches)
        assert sorted(name for batch in found for name in batch.utterance_ids) == sorted(f"u{n}" for n in range(12))
        assert all(batch.waveform.numel() <= 0.9 * RATE for batch in found)


def test_batches_are_equal_crops_from_within_the_files(ramps: Callable[..., Manifest]) -> None:
    for batch in take(stream(ramps(LENGTHS)).batches(), 10):
        assert set(batch.num_samples.tolist()) == {batch.waveform.shape[1]}
        assert batch.waveform.shape[1] <= 0.3 * RATE
        for name, row in zip(batch.utterance_ids, batch.waveform, strict=True):
            places = (row / SCALE).round().long() - 1
            assert torch.equal(places, torch.arange(int(places[0]), int(places[0]) + len(places)))
            assert int(places[0]) >= 0 and int(places[-1]) < LENGTHS[int(name[1:])]


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 3, 17])
def test_batch_n_does_not_depend_on_the_start_or_on_workers(
    ramps: Callable[..., Manifest], num_workers: int, start: int
) -> None:
    manifest = ramps(LENGTHS)
    expected = take(stream(manifest).batches(), start + 6)[start:]
    assert all_same(take(stream(manifest, num_workers=num_workers).batches(start), 6), expected)


def test_batches_follow_from_the_seed_and_not_from_global_randomness(ramps: Callable[..., Manifest]) -> None:
    manifest = ramps(LENGTHS)
    first = take(stream(manifest).batches(), 6)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert all_same(take(stream(manifest).batches(), 6), first)
    torch.set_rng_state(state)
    take(stream(manifest).batches(), 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not all(same(a, b) for a, b in zip(take(stream(manifest, seed=1).batches(), 6), first, strict=True))


def for_rank(manifest: Manifest, rank: int, world_size: int, **config: float) -> AudioBatches:
    settings = DataConfig(**{"num_workers": 0, **CONFIG, **config})
    return AudioBatches(
        manifest, settings, sample_rate=RATE, min_num_samples=400, seed=0, rank=rank, world_size=world_size
    )


@pytest.mark.parametrize("world_size", [2, 3, 20])
def test_ranks_share_the_batches_of_one_process_in_turn(ramps: Callable[..., Manifest], world_size: int) -> None:
    """Also with more ranks than an epoch has batches; all take the same number of steps."""
    manifest = ramps(LENGTHS)
    alone = take(stream(manifest).batches(), 60)
    for rank in range(world_size):
        share = take(for_rank(manifest, rank, world_size).batches(), 60 // world_size)
        assert all_same(share, alone[rank::world_size])


@pytest.mark.parametrize("after", [1, 4])
def test_a_run_goes_on_with_another_number_of_ranks_by_the_batches_consumed(
    ramps: Callable[..., Manifest], after: int
) -> None:
    manifest = ramps(LENGTHS)
    alone = take(stream(manifest).batches(), 24)
    consumed = 2 * 5  # two ranks, five steps each
    for rank in range(after):
        share = take(for_rank(manifest, rank, after).batches(consumed), 3)
        assert all_same(share, alone[consumed + rank :: after][:3])


def test_an_update_has_the_same_batches_for_every_split_into_ranks_and_accumulation(
    ramps: Callable[..., Manifest],
) -> None:
    """Six batches an update: one rank that accumulates six, two that accumulate three, six that accumulate none."""
    manifest = ramps(LENGTHS)
    updates = []
    for world_size in (1, 2, 6):
        ranks = [for_rank(manifest, rank, world_size).batches(6) for rank in range(world_size)]  # the second update
        batches = [batch for rank in ranks for batch in take(rank, 6 // world_size)]
        updates.append(sorted(batch.utterance_ids for batch in batches))
    assert updates[0] == updates[1] == updates[2]


def test_crops_differ_from_epoch_to_epoch(ramps: Callable[..., Manifest]) -> None:
    batches = stream(ramps([30_000]))
    first, second = take(batches.batches(), 2)
    assert first.utterance_ids == second.utterance_ids
    assert not torch.equal(first.waveform, second.waveform)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unreadable_files_are_left_out_and_recorded(ramps: Callable[..., Manifest], num_workers: int) -> None:
    manifest = ramps(LENGTHS)
    Path(manifest[3].audio_filepath).write_text("no recording")
    Path(manifest[7].audio_filepath).unlink()
    batches = stream(manifest, num_workers=num_workers)
    found = take(batches.batches(), batches.plan.num_batches)
    assert {name for batch in found for name in batch.utterance_ids} == {f"u{n}" for n in range(12)} - {"u3", "u7"}
    assert set(batches.problems) == {"u3", "u7"}
    assert "003.wav" in batches.problems["u3"] and "007.wav" in batches.problems["u7"]


def test_nothing_readable_at_all_ends_with_the_reason(ramps: Callable[..., Manifest]) -> None:
    manifest = ramps([3000, 3200])
    for utterance in manifest:
        Path(utterance.audio_filepath).unlink()
    with pytest.raises(TrainingError, match=r"none of the 2 utterances can be read; .*wav.* manifest validate --audio"):
        next(stream(manifest).batches())


def test_an_empty_manifest_is_refused(ramps: Callable[..., Manifest]) -> None:
    empty = ramps([3000]).take([])
    with pytest.raises(ConfigError, match="training manifest has no rows"):
        stream(empty)
    with pytest.raises(ConfigError, match="training manifest has no rows"):
        labeled(empty)
    assert list(iterate_once(empty, batch_seconds=1, sample_rate=RATE)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_labels_belong_to_their_utterances_though_some_are_left_out(
    ramps: Callable[..., Manifest], num_workers: int
) -> None:
    manifest = ramps(LENGTHS)
    Path(manifest[3].audio_filepath).unlink()
    batches = labeled(manifest, num_workers=num_workers)
    found: list[LabeledBatch] = list(itertools.islice(batches.batches(), batches.plan.num_batches))
    names = []
    for batch in found:
        for row, name in enumerate(batch.audio.utterance_ids):
            number = int(name[1:])
            assert batch.targets[row].tolist() == [1 + number, 2 + number]
            assert batch.references[row] == f"text {number}"
            assert int(batch.audio.num_samples[row]) == LENGTHS[number]  # whole, never cropped
            names.append(number)
    assert sorted(names) == [n for n in range(12) if n != 3]
    assert set(batches.problems) == {"u3"}


@pytest.mark.parametrize("batch_seconds", [0.01, 1.0, 100.0])
def test_one_pass_has_every_readable_utterance_once_longest_first(
    ramps: Callable[..., Manifest], batch_seconds: float
) -> None:
    manifest = ramps(LENGTHS)
    Path(manifest[11].audio_filepath).unlink()
    Path(manifest[2].audio_filepath).write_text("")
    failed: list[tuple[Utterance, AudioError]] = []
    batches = list(
        iterate_once(
            manifest, batch_seconds=batch_seconds, sample_rate=RATE, on_error=lambda u, error: failed.append((u, error))
        )
    )
    names = [name for batch in batches for name in batch.utterance_ids]
    assert names == [f"u{n}" for n in range(10, -1, -1) if n != 2]
    assert {utterance.id for utterance, _ in failed} == {"u11", "u2"}
    assert all(utterance.audio_filepath in str(error) for utterance, error in failed)
    for batch in batches:
        assert len(batch.utterance_ids) == 1 or batch.waveform.numel() <= batch_seconds * RATE
        for name, count in zip(batch.utterance_ids, batch.num_samples.tolist(), strict=True):
            assert count == LENGTHS[int(name[1:])]


def test_one_pass_without_a_handler_warns(ramps: Callable[..., Manifest], caplog: pytest.LogCaptureFixture) -> None:
    manifest = ramps([3000, 300])
    assert len(list(iterate_once(manifest, batch_seconds=1, sample_rate=RATE, min_num_samples=400))) == 1
    assert "left out u1" in caplog.text and "shorter than the encoder needs" in caplog.text


@pytest.mark.parametrize("make", [stream, labeled])
def test_workers_can_be_started_by_handing_over_the_stream(ramps: Callable[..., Manifest], make: Any) -> None:
    """Where processes cannot be forked (macOS), what they need is pickled."""
    batches = make(ramps(LENGTHS))
    request = next(iter(batches._requests(3)))
    copy = pickle.loads(pickle.dumps(batches._maker))
    first, second = batches._maker(request), copy(request)
    assert first.coverage == second.coverage
    assert audio(first.batch).utterance_ids == audio(second.batch).utterance_ids
    assert audio(first.batch).waveform.equal(audio(second.batch).waveform)


def audio(batch: AudioBatch | LabeledBatch) -> AudioBatch:
    return batch.audio if isinstance(batch, LabeledBatch) else batch


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_one_pass_hands_every_utterance_to_one_rank(
    ramps: Callable[..., Manifest], world_size: int, num_workers: int
) -> None:
    manifest = ramps(LENGTHS)
    Path(manifest[4].audio_filepath).unlink()
    alone = list(iterate_once(manifest, batch_seconds=0.7, sample_rate=RATE))
    failed: list[str] = []
    shares = [
        list(
            iterate_once(
                manifest, batch_seconds=0.7, sample_rate=RATE, rank=rank, world_size=world_size,
                num_workers=num_workers, on_error=lambda utterance, error: failed.append(utterance.id),
            )
        )
        for rank in range(world_size)
    ]  # fmt: skip
    assert failed == ["u4"]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    turns = [batch for turn in itertools.zip_longest(*shares) for batch in turn if batch is not None]
    assert all_same(turns, alone)


def test_one_pass_checks_its_rank(ramps: Callable[..., Manifest]) -> None:
    with pytest.raises(ConfigError, match="rank must be from 0 to 0 of 1 ranks, but is 1"):
        next(iterate_once(ramps([3000]), batch_seconds=1, sample_rate=RATE, rank=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_seconds": 0}, "batch_seconds must be above 0, but is 0"),
        ({"max_crop_seconds": -1}, "max_crop_seconds must be above 0, but is -1"),
        ({"max_batch_size": 0}, "max_batch_size must be at least 1 or null, but is 0"),
        ({"shards_at_once": 0}, "shards_at_once must be at least 1, but is 0"),
        ({"alike_batches": 0}, "alike_batches must be at least 1, but is 0"),
        ({"order": "sorted"}, "order must be random or by_shard, but is 'sorted'"),
        ({"num_workers": -1}, "num_workers and cache_megabytes must be at least 0, but are -1 and 0"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**change)
