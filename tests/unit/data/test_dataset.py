"""Reading rows: crops lie within the span, and what cannot be read is reported with its reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.data import UtteranceReader
from speechssl.data.collate import collate_audio, collate_labeled
from speechssl.data.coverage import ProblemLog
from speechssl.data.dataset import SPAN_READ_FACTOR, Clip, Unreadable, random_crop
from speechssl.manifest import Manifest
from speechssl.types import Utterance

RATE, SCALE = 16_000, 2.0**-23


def places(waveform: np.ndarray) -> np.ndarray:
    """The sample numbers of a ramp."""
    return np.round(waveform / SCALE).astype(int) - 1


def clip(result: Clip | Unreadable) -> Clip:
    assert isinstance(result, Clip)
    return result


def reason(result: Clip | Unreadable) -> str:
    assert isinstance(result, Unreadable)
    return result.reason


def test_a_row_is_read_from_its_offset_for_its_duration(ramps: Callable[..., Manifest]) -> None:
    reader = UtteranceReader(ramps([5000], offset=1000, length=2500), sample_rate=RATE)
    assert np.array_equal(places(clip(reader.read(0)).waveform), np.arange(1000, 3500))


@pytest.mark.parametrize("total", [SPAN_READ_FACTOR * 1600 - 400, 40_000], ids=["read whole", "read by the span"])
def test_crops_lie_within_the_span_and_reach_all_of_it(ramps: Callable[..., Manifest], total: int) -> None:
    """Long recordings are not decoded whole; both ways crop alike."""
    offset = 320
    reader = UtteranceReader(ramps([total + 500], offset=offset, length=total), sample_rate=RATE)
    random = np.random.default_rng(0)
    starts = []
    for _ in range(150):
        found = places(clip(reader.read_crop(0, max_seconds=0.1, random=random)).waveform)
        assert len(found) == 1600
        assert np.array_equal(found, np.arange(found[0], found[0] + 1600))
        assert offset <= found[0] and found[-1] < offset + total
        starts.append(found[0] - offset)
    span = total - 1600
    assert min(starts) < 0.05 * span and max(starts) > 0.95 * span
    assert abs(np.mean(starts) / span - 0.5) < 0.1


def test_short_rows_are_not_cropped(ramps: Callable[..., Manifest]) -> None:
    reader = UtteranceReader(ramps([1000]), sample_rate=RATE)
    found = clip(reader.read_crop(0, max_seconds=0.1, random=np.random.default_rng(0)))
    assert np.array_equal(places(found.waveform), np.arange(1000))


def test_crops_follow_from_their_source_of_randomness(ramps: Callable[..., Manifest]) -> None:
    reader = UtteranceReader(ramps([20_000]), sample_rate=RATE)
    first, second, other = (
        clip(reader.read_crop(0, max_seconds=0.1, random=np.random.default_rng(seed))).waveform for seed in (1, 1, 2)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("length", [1, 5, 100])
def test_random_crop_is_uniform_over_all_places(length: int) -> None:
    random = np.random.default_rng(0)
    waveform = np.arange(100, dtype=np.float32)
    starts = {int(random_crop(waveform, length, random)[0]) for _ in range(1500)}
    assert starts == set(range(100 - length + 1))


def test_cached_audio_is_the_same_audio_and_bounded(ramps: Callable[..., Manifest]) -> None:
    manifest = ramps([4000, 4000, 4000])
    reader = UtteranceReader(manifest, sample_rate=RATE, cache_megabytes=0.035)  # two clips of 16 kB
    before = [clip(reader.read(index)).waveform for index in range(3)]
    for utterance in manifest:
        Path(utterance.audio_filepath).unlink()
    assert all(np.array_equal(clip(reader.read(index)).waveform, before[index]) for index in (0, 1))
    assert "002.wav" in reason(reader.read(2))


@pytest.mark.parametrize("cache_megabytes", [0.0, 1.0])
def test_compact_reading_changes_no_batch(tmp_path: Path, cache_megabytes: float) -> None:
    """Samples stored as 16 bits become f32 in the batch, others before; with crops, spans and both kinds together."""
    rows = []
    for number, subtype in enumerate(("PCM_16", "FLOAT", "PCM_16")):
        values = np.random.default_rng(number).uniform(-1, 1, 3000)
        soundfile.write(tmp_path / f"{number}.wav", values, RATE, subtype=subtype)
        span = {"offset": 0.0625 * number, "duration": 0.1, "num_samples": 1600}
        rows.append(
            Utterance(id=str(number), audio_filepath=str(tmp_path / f"{number}.wav"), sample_rate=RATE, **span)  # type: ignore[arg-type]
        )
    manifest = Manifest.from_utterances(rows)
    batches = []
    for compact in (False, True):
        reader = UtteranceReader(manifest, sample_rate=RATE, cache_megabytes=cache_megabytes, compact=compact)
        random = np.random.default_rng(0)
        for _ in range(2):  # the second time from the cache
            crops = [clip(reader.read_crop(index, max_seconds=0.05, random=random)) for index in range(3)]
            kinds = {found.waveform.dtype for found in crops}
            assert kinds == ({np.dtype("f4"), np.dtype("i2")} if compact else {np.dtype("f4")})
            batches.append(collate_audio(crops, sample_rate=RATE).waveform)
    assert batches[0].dtype is batches[2].dtype and batches[0].shape == (3, 800)
    assert (batches[0] == batches[2]).all() and (batches[1] == batches[3]).all()


def test_the_cache_keeps_a_span_and_not_the_file_around_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(200_000), RATE, subtype="PCM_16")
    row = Utterance(
        id="a", audio_filepath=str(tmp_path / "a.wav"), sample_rate=RATE, offset=1.0, duration=0.1, num_samples=1600
    )
    reader = UtteranceReader(Manifest.from_utterances([row]), sample_rate=RATE, cache_megabytes=1.0, compact=True)
    reader.read(0)
    kept = clip(reader.read(0)).waveform
    assert kept.nbytes == 3200 and kept.base is None


def test_what_cannot_be_read_is_reported_and_not_raised(ramps: Callable[..., Manifest], tmp_path: Path) -> None:
    manifest = ramps([4000] * 6)
    paths = [Path(utterance.audio_filepath) for utterance in manifest]
    paths[0].unlink()
    paths[1].write_text("this is no recording")
    paths[2].write_bytes(b"")
    soundfile.write(paths[3], np.full(4000, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(paths[4], np.zeros(0), RATE)
    reader = UtteranceReader(manifest, sample_rate=RATE)
    random = np.random.default_rng(0)
    for index in range(5):
        for result in (reader.read(index), reader.read_crop(index, max_seconds=0.1, random=random)):
            assert str(paths[index]) in reason(result)
            assert isinstance(result, Unreadable) and result.utterance_id == f"u{index}"
    assert isinstance(reader.read(5), Clip)


def test_too_short_rows_are_reported(ramps: Callable[..., Manifest]) -> None:
    reader = UtteranceReader(ramps([399, 400]), sample_rate=RATE, min_num_samples=400)
    assert "0.0249 s is shorter than" in reason(reader.read(0))
    assert len(clip(reader.read(1)).waveform) == 400


def problem(utterance_id: str, reason: str) -> Unreadable:
    return Unreadable(utterance_id=utterance_id, reason=reason, kind="unreadable")


def test_the_log_keeps_the_first_reason_of_each_utterance(caplog: pytest.LogCaptureFixture) -> None:
    log = ProblemLog()
    log.add([problem("a", "gone"), problem("b", "cut")])
    log.add([problem("a", "gone again")])
    assert log.problems == {"a": "gone", "b": "cut"}
    assert len(caplog.records) == 2


# collation


def made_clip(length: int, *, name: str = "x", text: str | None = None) -> Clip:
    utterance = Utterance(
        id=name, audio_filepath=f"{name}.wav", sample_rate=RATE, num_samples=length, duration=length / RATE, text=text
    )
    waveform = np.arange(1, length + 1, dtype=np.float32)
    return Clip(utterance=utterance, waveform=waveform, source_seconds=length / RATE)


def test_padding_is_zeros_beyond_the_length() -> None:
    batch = collate_audio([made_clip(5, name="a"), made_clip(3, name="b")], sample_rate=RATE)
    assert batch.utterance_ids == ("a", "b")
    assert batch.num_samples.tolist() == [5, 3]
    assert batch.waveform.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]]
    assert batch.seconds == 8 / RATE


def test_cropping_cuts_all_to_the_shortest() -> None:
    batch = collate_audio(
        [made_clip(50), made_clip(7)], sample_rate=RATE, lengths="crop", random=np.random.default_rng(0)
    )
    assert batch.num_samples.tolist() == [7, 7]
    assert batch.waveform.shape == (2, 7)
    assert is_consecutive(batch.waveform[0].tolist())


def is_consecutive(values: list[float]) -> bool:
    return values == [values[0] + step for step in range(len(values))]


def test_labels_stay_with_their_clips() -> None:
    clips = [made_clip(5, name="a", text="ab"), made_clip(3, name="b"), made_clip(4, name="c", text="")]
    batch = collate_labeled(clips, [[4, 5], [6], []], sample_rate=RATE)
    assert batch.targets.tolist() == [[4, 5], [6, 0], [0, 0]]
    assert batch.target_lengths.tolist() == [2, 1, 0]
    assert batch.references == ("ab", "", "")
    assert batch.audio.utterance_ids == ("a", "b", "c")


def test_collation_does_not_change_what_it_was_handed() -> None:
    first = made_clip(5)
    batch = collate_audio([first, made_clip(3)], sample_rate=RATE)
    batch.waveform[0] = 0
    assert first.waveform.tolist() == [1, 2, 3, 4, 5]
