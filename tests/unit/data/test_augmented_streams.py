"""Streams with augmentation: what is done to an utterance follows from seed, id and epoch, and the budget holds."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch

from speechssl.data import AudioBatches, AugmentConfig, DataConfig, LabeledBatches, iterate_once
from speechssl.data.augmentation import GainConfig, SpeedConfig
from speechssl.manifest import Manifest
from speechssl.types import LabeledBatch

RATE = 16_000
LENGTHS = [1600 + 400 * number for number in range(12)]
MIXED = AugmentConfig(
    speed=SpeedConfig(probability=0.7, factors=(0.8, 1.25)), gain=GainConfig(probability=0.7, gain_db=(-6.0, 6.0))
)


def labeled(manifest: Manifest, augment: AugmentConfig, *, num_workers: int = 0, **ranks: int) -> LabeledBatches:
    config = DataConfig(batch_seconds=1.0, augment=augment, num_workers=num_workers)
    labels = [[1]] * len(manifest)
    return LabeledBatches(manifest, labels, config, sample_rate=RATE, min_num_samples=400, seed=0, **ranks)


def crops(manifest: Manifest, augment: AugmentConfig, **config: float) -> AudioBatches:
    settings = DataConfig(**{"batch_seconds": 1.0, "num_workers": 0, **config}, augment=augment)
    return AudioBatches(manifest, settings, sample_rate=RATE, min_num_samples=400, seed=0)


def waveforms(batches: list[LabeledBatch]) -> dict[str, torch.Tensor]:
    """Each utterance without its padding."""
    return {
        name: row[:count]
        for batch in batches
        for name, row, count in zip(
            batch.audio.utterance_ids, batch.audio.waveform, batch.audio.num_samples.tolist(), strict=True
        )
    }


def test_the_same_under_any_workers_ranks_and_resume(ramps: Callable[..., Manifest]) -> None:
    manifest = ramps(LENGTHS)
    stream = labeled(manifest, MIXED)
    per_epoch = stream.plan.num_batches
    alone = list(itertools.islice(stream.batches(), 2 * per_epoch))
    workers = list(itertools.islice(labeled(manifest, MIXED, num_workers=2).batches(), 2 * per_epoch))
    resumed = list(itertools.islice(labeled(manifest, MIXED).batches(per_epoch + 1), per_epoch - 1))
    rank = list(itertools.islice(labeled(manifest, MIXED, rank=1, world_size=2).batches(), per_epoch))
    for expected, others in ((alone, workers), (alone[per_epoch + 1 :], resumed), (alone[1::2], rank)):
        for first, second in zip(expected, others, strict=True):
            assert first.audio.utterance_ids == second.audio.utterance_ids
            assert first.audio.waveform.equal(second.audio.waveform)


def test_every_epoch_sounds_different(ramps: Callable[..., Manifest]) -> None:
    stream = labeled(ramps(LENGTHS), MIXED)
    first, second = (
        waveforms(list(itertools.islice(stream.batches(epoch * stream.plan.num_batches), stream.plan.num_batches)))
        for epoch in (0, 1)
    )
    assert first.keys() == second.keys() and len(first) == 12
    assert sum(not torch.equal(first[name], second[name]) for name in first) > 6


def test_slow_speeds_stay_within_the_budget(ramps: Callable[..., Manifest]) -> None:
    slow = AugmentConfig(speed=SpeedConfig(probability=1.0, factors=(0.5,)))
    stream = labeled(ramps(LENGTHS), slow)
    for batch in itertools.islice(stream.batches(), stream.plan.num_batches):
        assert len(batch.references) == 1 or batch.audio.waveform.numel() <= 1.0 * RATE
        for name, count in zip(batch.audio.utterance_ids, batch.audio.num_samples.tolist(), strict=True):
            assert count == 2 * LENGTHS[int(name[1:])]


def test_crops_are_as_long_as_without_fast_speeds(ramps: Callable[..., Manifest]) -> None:
    """More is read than the crop needs, because a faster clip is shorter; read whole and by the span alike."""
    fast = AugmentConfig(speed=SpeedConfig(probability=1.0, factors=(2.0,)))
    stream = crops(ramps([8000, 8000, 60_000]), fast, max_crop_seconds=0.2)
    for batch in itertools.islice(stream.batches(), 3 * stream.plan.num_batches):
        assert batch.waveform.shape[1] == 0.2 * RATE
    # 0.5 s and 3.75 s at double speed are 0.25 s and 1.875 s, of which 0.2 s are kept
    assert stream.coverage[0].cropped_share == pytest.approx(1 - 0.6 / (0.25 + 0.25 + 1.875), abs=1e-6)


def test_off_leaves_the_samples_of_the_file(ramps: Callable[..., Manifest]) -> None:
    manifest = ramps(LENGTHS)
    off = crops(manifest, AugmentConfig(), max_crop_seconds=0.2)
    ramp = next(off.batches()).waveform[0] * 2.0**23
    assert torch.equal(ramp, torch.arange(int(ramp[0]), int(ramp[0]) + len(ramp)).float())


def test_one_pass_is_never_augmented(ramps: Callable[..., Manifest]) -> None:
    manifest = ramps([1600])
    batch = next(iterate_once(manifest, batch_seconds=1.0, sample_rate=RATE))
    assert np.array_equal(batch.waveform[0].numpy(), (np.arange(1600) + 1).astype(np.float32) * 2.0**-23)
