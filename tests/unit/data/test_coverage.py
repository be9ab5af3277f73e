"""Every utterance exactly once an epoch, or counted with the reason: over all ranks, workers and restarts."""

import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from speechssl.data import AudioBatches, DataConfig, EpochCoverage, LabeledBatches, Ranks, coverage_path
from speechssl.data.coverage import MAX_WARNINGS, CoverageFile, ProblemLog
from speechssl.data.dataset import Unreadable
from speechssl.data.loader import BatchStream
from speechssl.errors import ConfigError, TrainingError
from speechssl.manifest import Manifest
from speechssl.types import AudioBatch, LabeledBatch, Utterance

RATE, MIN_SAMPLES = 16_000, 400
READABLE, MISSING, SHORT, SPAN = "readable", "missing", "too_short", "span"
KINDS = st.sampled_from([READABLE, READABLE, READABLE, READABLE, MISSING, SHORT, SPAN])
ROWS = st.lists(st.tuples(KINDS, st.floats(0.03, 0.6)), min_size=1, max_size=30)
properties = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "one.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, RATE), RATE)
    return path


def manifest_of(rows: Sequence[tuple[str, float]], recording: Path) -> Manifest:
    """Spans of one recording; some of a file that is not there, too short, or beyond the end."""
    utterances = []
    for number, (kind, seconds) in enumerate(rows):
        seconds = 0.01 if kind == SHORT else seconds
        utterances.append(
            Utterance(
                id=f"u{number}",
                audio_filepath=str(recording if kind != MISSING else recording.with_name("gone.wav")),
                sample_rate=RATE,
                num_samples=int(seconds * RATE),
                offset=0.9 if kind == SPAN else 0.1,
                duration=seconds + 0.2 if kind == SPAN else seconds,
                text="a",
            )
        )
    return Manifest.from_utterances(utterances)


def make_stream(manifest: Manifest, config: DataConfig, *, labeled: bool, **ranks: int) -> BatchStream:
    if labeled:
        labels = [[1]] * len(manifest)
        return LabeledBatches(
            manifest, labels, config, sample_rate=RATE, min_num_samples=MIN_SAMPLES, seed=3, **ranks
        )  # fmt: skip
    return AudioBatches(manifest, config, sample_rate=RATE, min_num_samples=MIN_SAMPLES, seed=3, **ranks)


def names(batch: AudioBatch | LabeledBatch) -> tuple[str, ...]:
    return (batch.audio if isinstance(batch, LabeledBatch) else batch).utterance_ids


def consume(streams: Sequence[BatchStream], epochs: int) -> tuple[list[Counter[str]], list[EpochCoverage]]:
    """Every batch of the first epochs, each by the rank it belongs to: handed out ids and coverage, by epoch."""
    total = epochs * streams[0].plan.num_batches
    handed_out = [Counter[str]() for _ in range(epochs)]
    parts: dict[int, list[EpochCoverage]] = {}
    for stream in streams:
        numbers = range(stream.rank, total, stream.world_size)
        batches = stream.batches()
        for number, batch in zip(numbers, batches, strict=False):
            handed_out[stream.plan.epoch(number)].update(names(batch))
        batches.close()
        for part in stream.coverage:
            parts.setdefault(part.epoch, []).append(part)
    return handed_out, [parts[epoch][0].merged(*parts[epoch][1:]) for epoch in range(epochs)]


def check(rows: Sequence[tuple[str, float]], handed_out: list[Counter[str]], coverage: list[EpochCoverage]) -> None:
    expected = Counter(kind for kind, _ in rows)
    readable = {f"u{number}" for number, (kind, _) in enumerate(rows) if kind == READABLE}
    for seen, counted in zip(handed_out, coverage, strict=True):
        assert set(seen) == readable
        assert seen.total() == counted.delivered + counted.repeated
        assert counted.delivered == len(readable)
        assert {kind: count for kind, count in expected.items() if kind != READABLE} == counted.left_out
        assert counted.planned == counted.delivered + sum(counted.left_out.values()) == len(rows)
        assert counted.ended and counted.first_place == 0
        if counted.repeated == 0:
            assert set(seen.values()) == {1}


@properties
@given(
    rows=ROWS, budget=st.floats(0.1, 4.0), largest=st.none() | st.integers(1, 4), world_size=st.integers(1, 5),
    alike=st.integers(1, 3), labeled=st.booleans(),
)  # fmt: skip
def test_every_utterance_is_delivered_once_or_counted_at_any_world_size(
    recording: Path, rows: list[tuple[str, float]], budget: float, largest: int | None, world_size: int, alike: int,
    labeled: bool,
) -> None:  # fmt: skip
    assume(any(kind == READABLE for kind, _ in rows))
    manifest = manifest_of(rows, recording)
    config = DataConfig(
        batch_seconds=budget, max_batch_size=largest, max_crop_seconds=0.3, num_workers=0, alike_batches=alike
    )
    streams = [
        make_stream(manifest, config, labeled=labeled, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    check(rows, *consume(streams, epochs=2))


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(KINDS, st.floats(0.03, 0.6)), min_size=8, max_size=30), world_size=st.integers(1, 2))
def test_workers_change_neither_batches_nor_counts(
    recording: Path, rows: list[tuple[str, float]], world_size: int
) -> None:
    assume(any(kind == READABLE for kind, _ in rows))
    manifest = manifest_of(rows, recording)
    results = []
    for num_workers in (0, 1, 3):
        config = DataConfig(batch_seconds=1.0, num_workers=num_workers)
        streams = [
            make_stream(manifest, config, labeled=False, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        results.append(consume(streams, epochs=2))
        check(rows, *results[-1])
    assert results[0] == results[1] == results[2]


def test_a_batch_of_which_nothing_can_be_read_is_replaced_by_one_from_elsewhere_in_the_epoch(
    ramps: Callable[..., Manifest],
) -> None:
    """All other batches stay what they are; the replacement is cropped anew and counted."""
    manifest = ramps([8000 + 100 * number for number in range(9)])
    config = DataConfig(max_batch_size=1, max_crop_seconds=0.1, num_workers=0)
    whole = list(itertools.islice(make_stream(manifest, config, labeled=False).batches(), 18))
    Path(manifest[4].audio_filepath).unlink()
    stream = make_stream(manifest, config, labeled=False)
    left = list(itertools.islice(stream.batches(), 18))
    for number, (before, after) in enumerate(zip(whole, left, strict=True)):
        if before.utterance_ids != ("u4",):
            assert before.waveform.equal(after.waveform)
            continue
        other = whole[next(stream.plan.substitutes(number))]
        assert abs(number - next(stream.plan.substitutes(number))) in (4, 5)  # half an epoch of nine
        assert after.utterance_ids == other.utterance_ids
        assert not after.waveform.equal(other.waveform)
    first, second = stream.coverage
    for part in (first, second):
        assert (part.planned, part.delivered, part.left_out, part.repeated) == (9, 8, {"missing": 1}, 1)


def test_storage_that_is_gone_ends_the_run_before_all_of_a_large_manifest_was_tried(recording: Path) -> None:
    manifest = manifest_of([(MISSING, 0.1)] * 200, recording)
    stream = make_stream(manifest, DataConfig(max_batch_size=1, num_workers=0), labeled=False)
    with pytest.raises(TrainingError, match=r"nothing of 33 batches can be read; the first problem: .*gone\.wav"):
        next(stream.batches())


def test_a_manifest_of_clips_too_short_is_refused(recording: Path) -> None:
    with pytest.raises(TrainingError, match=r"none of the 3 utterances can be used; the first problem: .*0\.0100 s is"):
        make_stream(manifest_of([(SHORT, 0.01)] * 3, recording), DataConfig(num_workers=0), labeled=False)


def test_a_stream_that_begins_within_an_epoch_counts_the_rest_of_it(recording: Path) -> None:
    rows = [(READABLE, 0.1)] * 8 + [(SHORT, 0.01)]
    stream = make_stream(manifest_of(rows, recording), DataConfig(max_batch_size=1, num_workers=0), labeled=False)
    for _ in zip(range(13), stream.batches(5), strict=False):
        pass
    rest, whole, begun = stream.coverage
    assert (rest.epoch, rest.first_place, rest.ended, rest.planned) == (0, 5, True, 3)
    assert (whole.epoch, whole.first_place, whole.ended, whole.planned) == (1, 0, True, 9)
    assert (begun.epoch, begun.first_place, begun.ended, begun.planned) == (2, 0, False, 3)
    assert whole.left_out == {"too_short": 1}
    assert "u8" in stream.problems and "0.0100 s is shorter" in stream.problems["u8"]


def test_ranks_are_checked(recording: Path) -> None:
    with pytest.raises(ConfigError, match="rank must be from 0 to 1 of 2 ranks, but is 2"):
        make_stream(manifest_of([(READABLE, 0.1)], recording), DataConfig(), labeled=False, rank=2, world_size=2)


# what a user sees


def test_shares_are_measured(ramps: Callable[..., Manifest], caplog: pytest.LogCaptureFixture) -> None:
    """Clips of 0.5, 0.4 and 0.3 s: crops of 0.3 s keep 0.9 of 1.2 s; padding to 0.5 s makes 1.5 s of them."""
    caplog.set_level(logging.INFO)
    manifest = ramps([8000, 6400, 4800])
    config = DataConfig(batch_seconds=1.5, num_workers=0)
    crops, whole = (make_stream(manifest, config, labeled=labeled) for labeled in (False, True))
    next(crops.batches())
    next(whole.batches())
    assert crops.coverage[0].cropped_share == pytest.approx(0.25) and crops.coverage[0].padding_share == 0
    assert whole.coverage[0].padding_share == pytest.approx(0.2)
    assert whole.coverage[0].cropped_share == pytest.approx(0, abs=1e-9)
    assert "epoch 0: 3 utterances delivered, 0 left out; padding 0.0 %, cropped 25.0 %" in caplog.text
    assert crops.describe() == "1 batches an epoch, about 25.0 % of the audio cropped off"
    assert whole.describe() == "1 batches an epoch, about 20.0 % padding"


def test_expected_crops_count_what_max_crop_seconds_cuts_off(ramps: Callable[..., Manifest]) -> None:
    stream = make_stream(ramps([8000, 8000]), DataConfig(max_crop_seconds=0.1, num_workers=0), labeled=False)
    next(stream.batches())
    assert stream.coverage[0].cropped_share == pytest.approx(0.8)
    assert "about 80.0 % of the audio" in stream.describe()


def test_the_summary_names_everything() -> None:
    part = EpochCoverage(
        epoch=2, first_place=7, planned=10, delivered=6, left_out={"too_short": 1, "missing": 3}, repeated=2,
        seconds=90.0, padded_seconds=100.0, source_seconds=120.0,
    )  # fmt: skip
    assert part.describe() == (
        "epoch 2: 6 utterances delivered, 4 left out (3 missing, 1 too_short), 2 repeated, from batch 7 of the epoch"
        " on; padding 10.0 %, cropped 25.0 %"
    )


def test_each_epoch_leaves_a_line(recording: Path, tmp_path: Path) -> None:
    path = coverage_path(tmp_path / "run", Ranks())
    manifest = manifest_of([(READABLE, 0.1)] * 4 + [(MISSING, 0.1)], recording)
    stream = AudioBatches(
        manifest, DataConfig(max_batch_size=1, num_workers=0), sample_rate=RATE, min_num_samples=400, seed=0,
        coverage_path=path,
    )  # fmt: skip
    batches = stream.batches()
    for _ in range(5 + 3):
        next(batches)
    batches.close()
    assert path.name == "coverage.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["epoch"], line["ended"], line["planned"]) for line in lines] == [(0, True, 5), (1, False, 3)]
    assert lines[0]["left_out"] == {"missing": 1} and {"padding_share", "cropped_share"} <= lines[0].keys()
    assert coverage_path(tmp_path, Ranks(rank=3, world_size=4)).name == "coverage.rank3.jsonl"


def test_what_a_killed_run_goes_through_again_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "coverage.jsonl"
    first, second, third = CoverageFile(path), CoverageFile(path), CoverageFile(path)
    first.write(EpochCoverage(epoch=0, ended=True))
    first.write(EpochCoverage(epoch=1, planned=5))
    with path.open("a") as file:
        file.write('{"epoch": 1, "firs')  # killed here; the last checkpoint is from place 2 of epoch 1
    second.write(EpochCoverage(epoch=1, first_place=2, ended=True))
    second.write(EpochCoverage(epoch=2, ended=True))  # killed again, and resumed from the same checkpoint
    third.write(EpochCoverage(epoch=1, first_place=2, ended=True))
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["epoch"], line["first_place"], line["ended"]) for line in told] == [
        (0, 0, True), (1, 0, False), (1, 2, True),
    ]  # fmt: skip


def test_epochs_of_one_batch_do_not_fill_the_log(recording: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stream = make_stream(manifest_of([(READABLE, 0.1)], recording), DataConfig(num_workers=0), labeled=False)
    for _ in zip(range(50), stream.batches(), strict=False):
        pass
    assert len(stream.coverage) == 50 and all(part.ended for part in stream.coverage)
    assert len(caplog.records) == 1


def test_a_thousand_bad_recordings_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    log = ProblemLog()
    log.add([Unreadable(utterance_id=f"u{number}", reason="gone", kind="missing") for number in range(1000)])
    assert len(caplog.records) == MAX_WARNINGS + 1
    assert "counted at the end of each epoch" in caplog.records[-1].message
    assert len(log.problems) == 1000
