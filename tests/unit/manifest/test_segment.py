"""Promises of cutting long recordings: nothing overlaps, nothing is lost unsaid, memory stays bounded."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechssl.audio import UnreachableError, probe, read, read_blocks, read_sample_rate, resample
from speechssl.config import from_dict
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.manifest import Manifest, build_manifest, split_manifest
from speechssl.manifest.segmentation import Activity, SegmentConfig, find_activity, segment, segment_manifest
from speechssl.manifest.segmentation.activity import FRAME_HOPS, loud_level, spoken_windows
from speechssl.manifest.segmentation.clips import ClipLengths, make_clips, pad
from speechssl.manifest.segmentation.journal import Finished, Journal

RATE = 16_000
FRAME = 400
Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Talk:
    """Joined utterances: `samples` f32 `[S]`, and whether each frame of 400 samples is speech."""

    samples: Waveform
    spoken: NDArray[np.bool_]


@pytest.fixture(scope="module")
def talk(corpora: Path) -> Talk:
    """Sixteen readers with pauses of 0.7 to 3 s between them and a real room, 35 dB below, under everything."""
    random = np.random.default_rng(0)
    pieces, spoken = [], []
    for path in sorted((corpora / "librispeech_train100_251spk" / "audio").iterdir())[:40]:
        if probe(path).duration < 9.5 or len(pieces) == 32:
            continue
        clip = read(path, sample_rate=RATE, offset=0.5, duration=9.0)
        clip *= 0.05 / np.sqrt(np.mean(clip**2))
        powers = (clip.reshape(-1, FRAME) ** 2).mean(axis=1)
        pause = np.zeros(int(random.uniform(0.7, 3) * 40) * FRAME, dtype=np.float32)
        pieces += [clip, pause]
        # within 30 dB of the loudest, and 6 dB above the noise that some of these recordings bring with them
        floor = max(powers.max() * 1e-3, 4 * float(np.quantile(powers, 0.1)))
        spoken += [powers > floor, np.zeros(len(pause) // FRAME, bool)]
    samples = np.concatenate(pieces)
    room = np.concatenate([read(path) for path in sorted((corpora / "noise_rir/audio/mycroft_bg").iterdir())[:10]])
    under = np.resize(room, len(samples))
    samples += under * (0.05 * 10 ** (-35 / 20) / np.sqrt(np.mean(under**2)))
    return Talk(samples=samples.astype(np.float32), spoken=np.concatenate(spoken))


@pytest.fixture
def talks(talk: Talk, tmp_path: Path) -> Manifest:
    """A manifest of one recording, the talk."""
    return save_recordings(tmp_path, {"talk": talk.samples})


def save_recordings(folder: Path, recordings: dict[str, Waveform], *, rate: int = RATE) -> Manifest:
    audio = folder / "audio"
    audio.mkdir(exist_ok=True)
    for name, samples in recordings.items():
        soundfile.write(audio / f"{name}.flac", samples, rate)
    return build_manifest(audio, output=folder / "talks.jsonl", num_workers=1).manifest


def bursts(*seconds: float, rate: int = RATE, level: float = 0.1) -> Waveform:
    """Noise and silence in turns, of the given lengths."""
    random = np.random.default_rng(len(seconds))
    pieces = [
        level * (number % 2 == 0) * random.standard_normal(round(length * rate))
        for number, length in enumerate(seconds)
    ]
    return np.concatenate(pieces).astype(np.float32)


def spans(manifest: Manifest) -> NDArray[np.int64]:
    """First sample and end of every row."""
    rows = [(round(u.offset * u.sample_rate), u.num_samples) for u in manifest]
    return np.array([(start, start + count) for start, count in rows], dtype=np.int64)


def blocks_of(samples: Waveform, size: int) -> Iterator[Waveform]:
    return (samples[start : start + size] for start in range(0, len(samples), size))


# Blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a", "a.g722"])
@pytest.mark.parametrize("span", [{}, {"offset": 1.2345}, {"offset": 0.5, "duration": 2.0}])
def test_blocks_joined_are_what_is_read_at_once(talk: Talk, tmp_path: Path, name: str, span: dict[str, float]) -> None:
    path = tmp_path / name
    samples = np.stack([talk.samples[: 4 * RATE], talk.samples[RATE : 5 * RATE]], axis=1)
    if path.suffix in (".m4a", ".g722"):
        encode(path, samples[:, 0])
    else:
        soundfile.write(path, samples, RATE)
    blocks = list(read_blocks(path, block_seconds=0.37, **span))
    assert len(blocks) > 4 and {block.dtype for block in blocks} == {np.dtype(np.float32)}
    whole = read(path, **span)
    assert np.abs(np.concatenate(blocks) - whole).max() < 1e-6
    assert max(map(len, blocks)) < 0.6 * RATE


def encode(path: Path, samples: Waveform) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="g722" if path.suffix == ".g722" else None) as container:
        stream = container.add_stream("g722" if path.suffix == ".g722" else "aac", rate=RATE, layout="mono")
        for start in range(0, len(samples) - 1023, 1024):
            pcm = (samples[start : start + 1024] * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_damage_is_found_when_the_blocks_reach_it(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "cut.flac", bursts(5.0), RATE)
    content = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match="cut.flac: truncated"):
        list(read_blocks(tmp_path / "cut.flac", block_seconds=0.5))
    broken = bursts(1.0)
    broken[9000] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="nan.wav: samples are NaN or infinite"):
        list(read_blocks(tmp_path / "nan.wav", block_seconds=0.5))
    with pytest.raises(AudioError, match="span starts at 9.000 s"):
        list(read_blocks(tmp_path / "nan.wav", offset=9.0))


# What is heard ----------------------------------------------------------------------------------------------------


def test_silence_is_where_librosa_finds_it_in_the_whole_recording(talk: Talk) -> None:
    import librosa

    samples = talk.samples[: 60 * RATE + 123]
    activity = find_activity(blocks_of(samples, 7777), sample_rate=RATE, config=SegmentConfig(top_db=35))
    hop = activity.hop_samples
    expected = librosa.effects.split(
        samples, top_db=35, ref=loud_level(activity.levels), frame_length=FRAME_HOPS * hop, hop_length=hop
    )
    assert len(expected) > 10
    assert np.array_equal(activity.intervals, expected)


@pytest.mark.parametrize("method", ["silence", "speech"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_seams_between_blocks_change_nothing(talk: Talk, method: str, rate: int) -> None:
    if method == "speech":
        pytest.importorskip("silero_vad")
    samples = resample(talk.samples[: 12 * RATE], from_rate=RATE, to_rate=rate)
    config = SegmentConfig(method=method)  # type: ignore[arg-type]
    heard = [
        find_activity(blocks_of(samples, size), sample_rate=rate, config=config)
        for size in (len(samples), 1009, 30_000)
    ]
    assert heard[0].num_samples == len(samples) and len(heard[0].intervals) > 0
    for other in heard[1:]:
        assert np.array_equal(other.intervals, heard[0].intervals)
        assert np.allclose(other.levels, heard[0].levels, rtol=1e-6)


def test_speech_is_where_silero_finds_it_in_the_whole_recording(talk: Talk) -> None:
    silero_vad = pytest.importorskip("silero_vad")
    import torch

    samples = talk.samples[: 60 * RATE]
    activity = find_activity(blocks_of(samples, 9999), sample_rate=RATE, config=SegmentConfig(method="speech"))
    found = silero_vad.get_speech_timestamps(
        torch.from_numpy(samples), silero_vad.load_silero_vad(), speech_pad_ms=0, min_silence_duration_ms=100
    )
    expected = np.array([(span["start"], span["end"]) for span in found])
    assert len(expected) > 5
    assert np.array_equal(activity.intervals, expected)


def test_speech_begins_and_ends_at_two_thresholds_counted_by_hand() -> None:
    low, between, high = 0.2, 0.4, 0.6
    probabilities = [low, *[high] * 9, between, low, between, between, between, low, high, *[between] * 8]
    assert spoken_windows(probabilities, 0.5).tolist() == [[1, 11], [16, 25]]
    probabilities[15] = between  # so that no window is low 0.1 s after the first low one
    assert spoken_windows(probabilities, 0.5).tolist() == [[1, 25]]
    assert spoken_windows([high] * 7 + [low] * 9, 0.5).tolist() == []  # 0.22 s are no word
    assert spoken_windows([], 0.5).tolist() == []


def test_a_slammed_door_does_not_make_speech_silent() -> None:
    samples = bursts(5, 3, 5, 3, 5, 3, 5, level=0.01)
    samples[100_000:100_300] = 0.99  # 40 dB above
    activity = find_activity(blocks_of(samples, RATE), sample_rate=RATE, config=SegmentConfig(top_db=30))
    covered = sum(int(end - start) for start, end in activity.intervals) / RATE
    assert 20 <= covered < 20.5


def test_without_silero_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(ConfigError, match=r"pip install speechssl\[vad\]`, or use method silence"):
        find_activity(blocks_of(bursts(1.0), RATE), sample_rate=RATE, config=SegmentConfig(method="speech"))


# Clips ------------------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_clips_never_overlap_keep_their_bounds_and_lose_nothing_that_was_heard(data: st.DataObject) -> None:
    longest = data.draw(st.integers(20, 300))
    lengths = ClipLengths(
        shortest=data.draw(st.integers(1, (longest + 1) // 2)),
        longest=longest,
        padding=data.draw(st.integers(0, 40)),
        search=data.draw(st.integers(0, 40)),
        pause=data.draw(st.integers(0, 60)),
    )
    steps = data.draw(st.lists(st.integers(1, 700), min_size=0, max_size=12))
    edges = np.cumsum(steps)[: len(steps) // 2 * 2].reshape(-1, 2)
    num_samples = int(edges[-1, 1] if len(edges) else 0) + data.draw(st.integers(0, 50))
    hop = data.draw(st.integers(1, 50))
    levels = np.random.default_rng(len(steps)).random(1 + num_samples // hop, dtype=np.float32)
    activity = Activity(num_samples=num_samples, hop_samples=hop, levels=levels, intervals=edges)
    clips = make_clips(activity, lengths)
    sizes = clips.kept[:, 1] - clips.kept[:, 0]
    assert ((sizes >= lengths.shortest) & (sizes <= lengths.longest)).all()
    short = clips.too_short[:, 1] - clips.too_short[:, 0]
    assert ((short > 0) & (short < lengths.shortest)).all()
    everything = np.concatenate([clips.kept, clips.too_short])
    everything = everything[np.argsort(everything[:, 0])]
    assert (everything[1:, 0] >= everything[:-1, 1]).all()
    assert everything.min(initial=0) >= 0 and everything.max(initial=0) <= num_samples
    covered = np.zeros(num_samples, dtype=bool)
    for start, end in everything:
        covered[start:end] = True
    for start, end in edges:
        assert covered[start:end].all()


def test_speech_without_a_pause_is_cut_where_it_is_quietest() -> None:
    levels = np.ones(3000, dtype=np.float32)  # thirty seconds in hops of 10 ms
    levels[[1195, 1196, 1197, 1198, 1199]] = 0.2
    levels[300] = 0.0  # quieter, but in a clip's first half
    activity = Activity(num_samples=30 * RATE, hop_samples=160, levels=levels, intervals=np.array([[0, 30 * RATE]]))
    clips = make_clips(activity, ClipLengths(shortest=RATE, longest=15 * RATE, padding=0, search=0, pause=0))
    assert clips.kept[0].tolist() == [0, 1197 * 160]
    assert clips.kept[1, 0] == 1197 * 160 and clips.kept[-1, 1] == 30 * RATE


def test_speech_that_is_too_long_is_cut_in_its_longest_pause() -> None:
    seconds = np.array([[0, 8], [8.2, 10], [10.4, 12], [12.1, 20]])
    activity = Activity(
        num_samples=20 * RATE,
        hop_samples=160,
        levels=np.ones(2001, dtype=np.float32),
        intervals=(seconds * RATE).astype(np.int64),
    )
    clips = make_clips(activity, ClipLengths(shortest=RATE, longest=15 * RATE, padding=0, search=0, pause=RATE))
    assert (clips.kept / RATE).tolist() == [[0, 10], [10.4, 20]]


def test_a_clip_ends_where_it_is_quietest_close_by() -> None:
    levels = np.ones(3000, dtype=np.float32)
    levels[[480, 481, 482, 483, 484, 1015, 1016, 1017, 1018, 1019]] = 0.1
    activity = Activity(num_samples=30 * RATE, hop_samples=160, levels=levels, intervals=np.array([[80_000, 160_000]]))
    clips = make_clips(activity, ClipLengths(shortest=RATE, longest=15 * RATE, padding=0, search=3200, pause=0))
    assert clips.kept.tolist() == [[482 * 160, 1017 * 160]]


def test_padding_stops_half_way_into_a_pause() -> None:
    found = np.array([[30, 400], [500, 960]])
    assert pad(found, 80, 1000).tolist() == [[0, 450], [450, 1000]]
    assert pad(found, 20, 1000).tolist() == [[10, 420], [480, 980]]


# Real recordings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["silence", "speech"])
def test_of_real_speech_next_to_nothing_is_lost_and_pauses_are_left_out(
    talks: Manifest, talk: Talk, method: str
) -> None:
    if method == "speech":
        pytest.importorskip("silero_vad")
    result = segment_manifest(
        talks,
        SegmentConfig(method=method, top_db=33, min_seconds=0.5),
        num_workers=1,  # type: ignore[arg-type]
    )
    clips = spans(result.manifest)
    kept = np.zeros(len(talk.samples), dtype=bool)
    for start, end in clips:
        kept[start:end] = True
    kept_frames = kept[: len(talk.spoken) * FRAME].reshape(-1, FRAME).any(axis=1)
    assert kept_frames[talk.spoken].mean() > (0.99 if method == "silence" else 0.97)  # silero takes breaths for silence
    long_pauses = ~np.convolve(talk.spoken, np.ones(17), mode="same").astype(bool)  # 0.2 s from any speech
    # to a threshold the steady noise of some of these recordings is no silence
    assert kept_frames[long_pauses].mean() < (0.35 if method == "silence" else 0.2)
    edges = clips.reshape(-1) // FRAME
    edges = edges[(edges > 2) & (edges < len(talk.spoken) - 3)]
    cut_words = [talk.spoken[edge - 3 : edge + 4].all() for edge in edges]  # speech for 75 ms on both sides
    assert np.mean(cut_words) < 0.05
    assert (clips[1:, 0] >= clips[:-1, 1]).all()
    durations = result.manifest.durations
    assert durations.min() >= 0.5 and durations.max() <= 15.0


def test_a_clip_sounds_like_its_place_in_the_recording(talks: Manifest, talk: Talk) -> None:
    result = segment_manifest(talks, num_workers=1)
    for utterance, (start, end) in zip(result.manifest, spans(result.manifest), strict=True):
        found = read(utterance.audio_filepath, offset=utterance.offset, duration=utterance.duration)
        assert len(found) == utterance.num_samples == end - start
        assert np.abs(found - talk.samples[start:end]).max() < 1e-4  # 16 bits


def test_all_audio_is_accounted_for(tmp_path: Path) -> None:
    manifest = save_recordings(tmp_path, {"a": bursts(4, 3, 0.3, 3, 5), "b": bursts(2), "quiet": 0 * bursts(3)})
    config = SegmentConfig(padding_seconds=0.0, max_pause_seconds=0.2)
    seen: list[tuple[int, int]] = []
    result = segment_manifest(manifest, config, num_workers=1, progress=lambda done, total: seen.append((done, total)))
    assert result.total_seconds == pytest.approx(20.3, abs=1e-3) and result.num_rows == 3
    assert [round(seconds, 1) for seconds in result.manifest.durations] == [4.0, 5.0, 2.0]
    assert result.dropped_seconds["too_short"] == pytest.approx(0.3, abs=0.1)
    assert result.dropped_seconds["silence"] == pytest.approx(8.7, abs=0.2)
    assert result.kept_seconds + sum(result.dropped_seconds.values()) == pytest.approx(result.total_seconds)
    assert seen[-1] == (20, 20) and seen == sorted(seen)
    assert "3 clips of 3 rows" in result.summary() and "in clips too short" in result.summary()


def test_ids_say_where_and_siblings_stay_together(tmp_path: Path) -> None:
    manifest = save_recordings(tmp_path, {name: bursts(3, 1, 3, 1, 3) for name in "abcd"})
    clips = segment_manifest(manifest, SegmentConfig(padding_seconds=0), num_workers=1).manifest
    assert clips.column("id").to_pylist()[:4] == ["a@0", "a@3960", "a@7960", "b@0"]
    assert clips.column("recording").to_pylist() == [name for name in "abcd" for _ in range(3)]
    parts = split_manifest(clips, {"train": 0.5, "test": 0.5}, by="recording", seed=0)
    assert not set(parts["train"].column("recording").to_pylist()) & set(parts["test"].column("recording").to_pylist())
    saved = clips.save(tmp_path / "else" / "clips.jsonl")  # paths follow
    again = Manifest.load(tmp_path / "else" / "clips.jsonl")
    assert again.fingerprint() == saved.fingerprint()
    assert len(read(again[1].audio_filepath, offset=again[1].offset, duration=again[1].duration)) > 2 * RATE


def test_rows_that_are_spans_are_cut_within_their_span(tmp_path: Path) -> None:
    manifest = save_recordings(tmp_path, {"a": bursts(3, 1, 3, 1, 3)})
    halves = manifest.concat(manifest.with_column("id", ["x"]))
    for name, values in {
        "id": ["first", "a@6000"], "offset": [0.0, 6.0], "duration": [6.0, 5.0], "num_samples": [6 * RATE, 5 * RATE]
    }.items():  # fmt: skip
        halves = halves.with_column(name, values)
    clips = segment_manifest(halves, SegmentConfig(padding_seconds=0), num_workers=1).manifest
    assert clips.column("id").to_pylist() == ["first@0", "first@3960", "a@6000", "a@7960"]
    assert set(clips.column("recording").to_pylist()) == {"first"}
    found = spans(clips)
    assert found[1, 1] == 6 * RATE == found[2, 0] and found[3, 1] == 11 * RATE


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44_100, 2)])
def test_any_rate_and_channels(tmp_path: Path, rate: int, channels: int) -> None:
    samples = np.repeat(bursts(3, 1, 3, rate=rate)[:, None], channels, axis=1)
    manifest = save_recordings(tmp_path, {"a": samples}, rate=rate)
    clips = segment_manifest(manifest, SegmentConfig(padding_seconds=0), num_workers=1).manifest
    assert [round(seconds, 1) for seconds in clips.durations] == [3.0, 3.0]
    assert clips[1].sample_rate == rate and clips[1].offset == pytest.approx(4.0, abs=0.05)


def test_containers_that_only_ffmpeg_reads_are_cut_too(tmp_path: Path) -> None:
    encode(tmp_path / "a.m4a", bursts(3, 1, 3))
    assert read_sample_rate(tmp_path / "a.m4a") == RATE
    clips = segment_manifest(build_manifest(tmp_path, num_workers=1).manifest, num_workers=1).manifest
    assert [round(seconds, 1) for seconds in clips.durations] == pytest.approx([3.2, 3.2], abs=0.2)
    assert clips[1].offset == pytest.approx(3.9, abs=0.15)


# Texts and damage -------------------------------------------------------------------------------------------------


def test_texts_are_kept_whole_or_refused_or_dropped_on_request(tmp_path: Path) -> None:
    manifest = save_recordings(tmp_path, {"long": bursts(9, 1, 9), "short": bursts(2, 1, 2), "plain": bursts(2, 1, 2)})
    manifest = manifest.with_column("text", ["one", None, "two"])  # long, plain, short
    with pytest.raises(ManifestError, match="1 labelled rows are longer than 15 s, the first is 'long'.*--drop_text"):
        segment_manifest(manifest, num_workers=1)
    config = SegmentConfig(max_seconds=19.5, max_pause_seconds=0.2)
    result = segment_manifest(manifest, config, num_workers=1)
    texts = dict(zip(result.manifest.column("id").to_pylist(), result.manifest.column("text").to_pylist(), strict=True))
    assert texts == {"long": "one", "plain@0": None, "plain@2890": None, "short": "two"}
    assert result.num_whole == 2 and "2 labelled rows were short enough" in result.summary()
    dropped = segment_manifest(manifest, replace(config, drop_text=True), num_workers=1).manifest
    assert len(dropped) == 6 and dropped.column("text").null_count == 6


def test_what_cannot_be_read_is_set_aside_with_the_reason(tmp_path: Path) -> None:
    manifest = save_recordings(tmp_path, {name: bursts(3, 1, 3) for name in ("cut", "gone", "good")})
    content = (tmp_path / "audio/cut.flac").read_bytes()
    (tmp_path / "audio/cut.flac").write_bytes(content[: len(content) // 2])
    (tmp_path / "audio/gone.flac").unlink()
    result = segment_manifest(manifest, num_workers=2)
    assert len(result.manifest) == 2
    assert result.unreadable.column("id").to_pylist() == ["cut", "gone"]
    problems = result.unreadable.column("problem").to_pylist()
    assert "cut.flac: truncated" in problems[0] and "gone.flac: no such file" in problems[1]
    assert result.dropped_seconds["unreadable"] == pytest.approx(14.0)
    assert "1 unreadable: no such file" in result.summary()
    with pytest.raises(ManifestError, match="no clip is left of 2 rows, 2 of them unreadable; the first reason: .*cut"):
        segment_manifest(manifest.take([0, 1]), num_workers=1)


def test_nothing_but_silence_says_what_to_change(tmp_path: Path) -> None:
    manifest = save_recordings(tmp_path, {"a": 0 * bursts(2)})
    with pytest.raises(ManifestError, match="no clip is left of 1 rows, 0 of them unreadable; lower --min_seconds"):
        segment_manifest(manifest, num_workers=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_seconds": 8}, "min_seconds must be from 0.1 to half of max_seconds.*but they are 8 and 15"),
        ({"padding_seconds": -1}, "padding_seconds must be at least 0, but is -1"),
        ({"top_db": 0}, "top_db must be above 0"),
        ({"threshold": 1}, "threshold must be above 0.15 and below 1"),
        ({"method": "vad"}, "method: must be"),
    ],
)
def test_wrong_settings_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(SegmentConfig, values)


# Large jobs -------------------------------------------------------------------------------------------------------


def test_a_stopped_job_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = save_recordings(tmp_path, {name: bursts(2, 1, 2 + number) for number, name in enumerate("abcdef")})
    (tmp_path / "audio/b.flac").write_text("no audio")
    expected = segment_manifest(manifest, num_workers=1)
    journal = tmp_path / "clips.journal"

    def stop(done: int, total: int) -> None:
        if done > 18:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_manifest(manifest, journal=journal, num_workers=1, progress=stop)
    lines = journal.read_text().splitlines()
    assert 3 <= len(lines) < 7
    journal.write_text("\n".join(lines) + '\n{"row": 3, "sam')  # and killed in the middle of a line
    opened = []
    monkeypatch.setattr(
        segment, "read_sample_rate", lambda path: opened.append(Path(path).stem) or read_sample_rate(path)
    )
    again = segment_manifest(manifest, journal=journal, num_workers=1)
    assert opened == list("abcdef")[len(lines) - 1 :]
    assert again.manifest.fingerprint() == expected.manifest.fingerprint()
    assert again.to_dict() == expected.to_dict()
    opened.clear()
    segment_manifest(manifest, journal=journal, num_workers=1)
    assert opened == []


def test_storage_that_cannot_be_reached_ends_the_job_and_blames_no_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = save_recordings(tmp_path, {"a": bursts(2, 1, 2), "b": bursts(2, 1, 2)})
    journal = tmp_path / "clips.journal"

    def fail_on_b(path: str) -> int:
        if path.endswith("b.flac"):
            raise UnreachableError("s3://talks/b.flac: no answer", "unreadable")
        return read_sample_rate(path)

    monkeypatch.setattr(segment, "read_sample_rate", fail_on_b)
    with pytest.raises(UnreachableError, match="no answer"):
        segment_manifest(manifest, journal=journal, num_workers=1)
    assert [json.loads(line)["row"] for line in journal.read_text().splitlines()[1:]] == [0]


def test_a_journal_of_another_job_is_refused(tmp_path: Path) -> None:
    manifest = save_recordings(tmp_path, {"a": bursts(2, 1, 2)})
    journal = tmp_path / "clips.journal"
    segment_manifest(manifest, journal=journal, num_workers=1)
    with pytest.raises(ManifestError, match="clips.journal: is the journal of a job with another manifest or other"):
        segment_manifest(manifest, SegmentConfig(top_db=30), journal=journal, num_workers=1)
    journal.write_text("something else\n")
    with pytest.raises(ManifestError, match="clips.journal: is no journal, or a damaged one; remove it"):
        segment_manifest(manifest, journal=journal, num_workers=1)
    kept = Journal(None, {})
    kept.add(Finished(row=3, sample_rate=RATE, num_samples=5))
    assert list(kept.finished) == [3]


@pytest.fixture(scope="module")
def hour(talk: Talk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An hour of the talk over and over, as flac at 8 kHz."""
    path = tmp_path_factory.mktemp("hour") / "hour.flac"
    narrow = resample(talk.samples, from_rate=RATE, to_rate=8000)
    with soundfile.SoundFile(path, "w", 8000, 1) as file:
        for _ in range(-(-3600 * 8000 // len(narrow))):
            file.write(narrow)
    return path


def test_an_hour_takes_little_more_memory_than_a_minute(hour: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys, pyarrow as pa\n"
        "from speechssl.manifest import build_manifest\n"
        "from speechssl.manifest.segmentation import segment_manifest\n"
        "manifest = build_manifest(sys.argv[1], num_workers=1).manifest\n"
        "peaks = []\n"
        "for seconds in (60.0, manifest.total_seconds):\n"
        "    row = manifest.with_column('duration', pa.array([seconds]))\n"
        "    row = row.with_column('num_samples', pa.array([int(seconds * 8000)]))\n"
        "    result = segment_manifest(row, num_workers=1)\n"
        "    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)\n"
        "print(peaks[1] - peaks[0], len(result.manifest), result.kept_seconds)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(hour.parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    more_megabytes, num_clips, kept_seconds = map(float, done.stdout.split())
    assert more_megabytes < 40  # the hour is 115 MB as f32
    assert num_clips > 200 and kept_seconds > 2400


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg"])
def test_reading_a_clip_of_a_long_recording_reads_its_span_only(hour: Path, tmp_path: Path, suffix: str) -> None:
    if not Path("/proc/self/io").exists():
        pytest.skip("bytes read are counted by Linux's /proc")
    path = hour
    if suffix != "flac":  # some minutes are enough to tell, and quick to write
        path = tmp_path / f"long.{suffix}"
        with soundfile.SoundFile(path, "w", 8000, 1) as file:
            for block in read_blocks(hour, duration=600.0):
                file.write(block)
    total = probe(path).duration
    for offset in (0.1 * total, 0.95 * total):
        before = bytes_read()
        assert len(read(path, offset=offset, duration=5.0)) == 5 * 8000
        assert bytes_read() - before < 250_000 < 0.2 * os.path.getsize(path)


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


# Command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_clips_and_sets_aside_what_is_bad(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    save_recordings(tmp_path, {"a": bursts(3, 1, 3), "b": bursts(3, 1, 3)})
    (tmp_path / "audio/b.flac").unlink()
    source, output, bad = tmp_path / "talks.jsonl", tmp_path / "clips.jsonl", tmp_path / "bad.jsonl"
    code, out, _ = run("manifest", "segment", source, "--output", output, "--quarantine", bad, "--max_seconds", "5")
    assert code == 0 and "2 clips of 2 rows" in out and "1 unreadable: no such file" in out
    assert len(Manifest.load(output)) == 2
    assert "no such file" in json.loads(bad.read_text())["problem"]
    assert not (tmp_path / "clips.jsonl.journal").exists()
    code, out, _ = run("manifest", "segment", source, "--output", output, "--json")
    assert code == 0 and json.loads(out)["num_clips"] == 2
    code, _, err = run("manifest", "segment", source, "--output", source)
    assert code == 2 and "output must not be the manifest itself" in err
    code, _, err = run("manifest", "segment", source, "--output", tmp_path / "clips")
    assert code == 2 and "a manifest's name must end in .jsonl" in err
    code, _, err = run("manifest", "segment", source, "--output", output, "--max_seconds", "1.5")
    assert code == 2 and "half of max_seconds" in err
