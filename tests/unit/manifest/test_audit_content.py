"""Promises of finding shared audio by content, on recorded speech."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl import audio
from speechssl.audio import Waveform, resample
from speechssl.data.augmentation.codecs import encode_decode
from speechssl.manifest.audit import matching
from speechssl.manifest.audit.fingerprint import SAMPLE_RATE, fingerprint
from speechssl.manifest.audit.matching import Candidate, find_candidates
from speechssl.manifest.audit.waveforms import Agreement, compare, required_score, speech_band

pytestmark = pytest.mark.corpora
RATE = 16_000
Change = Callable[[Waveform], Waveform]


@pytest.fixture(scope="module")
def speech(corpora: Path) -> list[Waveform]:
    """Six clips of up to 5 s at 16 kHz: readers of LibriSpeech, LJ Speech, and one in German."""
    names = [
        *sorted((corpora / "librispeech_train100_251spk" / "audio").iterdir())[:4],
        *sorted((corpora / "ljspeech_part" / "audio").iterdir())[3:4],
        sorted((corpora / "kerstin_de" / "audio").iterdir())[1],
    ]
    return [audio.read(name, sample_rate=RATE)[: 5 * RATE] for name in names]


def agreement(first: Waveform, second: Waveform) -> Agreement | None:
    """What the search says of two waveforms at 16 kHz; None where the fingerprints propose nothing."""
    low = [resample(waveform, from_rate=RATE, to_rate=SAMPLE_RATE) for waveform in (first, second)]
    frames = [fingerprint(waveform) for waveform in low]
    starts = np.cumsum([0, len(frames[0]), len(frames[1])])
    found = find_candidates(np.concatenate(frames), starts, np.arange(2))
    return compare(speech_band(low[0]), speech_band(low[1]), found[0]) if found else None


def noise(waveform: Waveform, snr_db: float) -> Waveform:
    random = np.random.default_rng(0).standard_normal(len(waveform)).astype(np.float32)
    return waveform + random * np.float32(waveform.std() * 10 ** (-snr_db / 20))


CHANGES: dict[str, Change] = {
    "softer": lambda w: w * np.float32(0.1),
    "turned over": lambda w: -w,
    "telephone rate": lambda w: resample(resample(w, from_rate=RATE, to_rate=8000), from_rate=8000, to_rate=RATE),
    "44.1 kHz": lambda w: resample(resample(w, from_rate=RATE, to_rate=44100), from_rate=44100, to_rate=RATE),
    "mp3": lambda w: encode_decode(w, "mp3", sample_rate=RATE, compression=0.9),
    "opus": lambda w: encode_decode(w, "opus", sample_rate=RATE, compression=0.95),
    "gsm": lambda w: encode_decode(w, "gsm", sample_rate=RATE, compression=0),
    "noise 20 dB below": lambda w: noise(w, 20),
    "clipped": lambda w: np.clip(w, -0.2 * np.abs(w).max(), 0.2 * np.abs(w).max()),
    "begins 0.337 s later": lambda w: w[round(0.337 * RATE) :],
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found_and_its_place_is_told(name: str, speech: list[Waveform]) -> None:
    for clip in speech[::2]:
        changed = CHANGES[name](clip)
        found = agreement(clip, changed)
        assert found is not None and found.is_same
        assert found.offset_seconds == pytest.approx((len(clip) - len(changed)) / RATE, abs=0.001)
        assert found.overlap_seconds == pytest.approx(len(changed) / RATE, abs=0.05)


@pytest.mark.parametrize(("seconds", "begins"), [(3.0, 1.234), (2.0, 2.3451), (1.0, 1.7001)])
def test_a_cut_is_found_in_its_recording(seconds: float, begins: float, speech: list[Waveform]) -> None:
    for clip in speech:
        start = round(begins * RATE)
        found = agreement(clip, clip[start : start + round(seconds * RATE)])
        assert found is not None and found.is_same
        assert found.offset_seconds == pytest.approx(begins, abs=0.001)
        assert found.overlap_seconds == pytest.approx(seconds, abs=0.05)


def test_cuts_that_overlap_at_their_ends_are_found(speech: list[Waveform]) -> None:
    for clip in speech:
        found = agreement(clip[: round(4.1 * RATE)], clip[round(2.6 * RATE) :])
        assert found is not None and found.is_same
        assert found.offset_seconds == pytest.approx(2.6, abs=0.001)
        assert found.overlap_seconds == pytest.approx(1.5, abs=0.05)


def test_a_piece_within_other_audio_is_found(speech: list[Waveform]) -> None:
    piece = speech[0][2 * RATE : round(4.5 * RATE)]
    found = agreement(np.concatenate([speech[1], piece, speech[2]]), np.concatenate([speech[3], piece]))
    assert found is not None and found.is_same
    assert found.overlap_seconds == pytest.approx(2.5, abs=0.1)


def test_sentences_read_again_are_not_the_same_recording(corpora: Path) -> None:
    """Kathleen read some prompts two or three times."""
    folder = corpora / "kathleen_en" / "audio"
    by_prompt: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        by_prompt.setdefault(path.stem.rpartition("_")[0], []).append(path)
    again = [paths for paths in by_prompt.values() if len(paths) > 1][:12]
    assert len(again) == 12
    for paths in again:
        clips = [audio.read(path, sample_rate=RATE) for path in paths[:2]]
        found = agreement(*clips)
        assert found is None or not found.is_same


def test_different_speech_is_not_the_same_recording(speech: list[Waveform]) -> None:
    frames = [fingerprint(resample(clip, from_rate=RATE, to_rate=SAMPLE_RATE)) for clip in speech]
    starts = np.cumsum([0, *map(len, frames)])
    assert find_candidates(np.concatenate(frames), starts, np.arange(len(speech))) == []


def test_spans_of_one_group_are_not_compared(speech: list[Waveform]) -> None:
    frames = fingerprint(resample(speech[0], from_rate=RATE, to_rate=SAMPLE_RATE))
    both, starts = np.concatenate([frames, frames]), np.array([0, len(frames), 2 * len(frames)])
    assert len(find_candidates(both, starts, np.array([0, 1]))) == 1
    assert find_candidates(both, starts, np.array([0, 0])) == []


def test_parts_by_hash_find_what_one_sort_finds(speech: list[Waveform], monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory that the search takes is bounded by the size of a part; the result does not depend on it."""
    clips = [*speech, *(CHANGES["mp3"](clip) for clip in speech), *(clip[RATE : 4 * RATE] for clip in speech)]
    frames = [fingerprint(resample(clip, from_rate=RATE, to_rate=SAMPLE_RATE)) for clip in clips]
    starts = np.cumsum([0, *map(len, frames)])

    def found() -> list[Candidate]:
        return find_candidates(np.concatenate(frames), starts, np.arange(len(clips)))

    whole = found()
    assert len(whole) == 3 * len(speech)
    monkeypatch.setattr(matching, "_PART_FRAMES", 500)
    monkeypatch.setattr(matching, "_VOTES_AT_ONCE", 64)
    assert found() == whole


def test_many_copies_of_one_recording_are_all_tied_together(speech: list[Waveform]) -> None:
    frames = fingerprint(resample(speech[0][RATE : 2 * RATE], from_rate=RATE, to_rate=SAMPLE_RATE))
    count = 70
    starts = np.arange(count + 1) * len(frames)
    found = find_candidates(np.tile(frames, count), starts, np.arange(count))
    assert len(found) < 33 * count
    reached = {0}
    for candidate in found:  # in order of the first span
        if candidate.first in reached:
            reached.add(candidate.second)
    assert reached == set(range(count))


def test_silence_and_pauses_have_no_hashes(speech: list[Waveform]) -> None:
    assert not fingerprint(np.zeros(SAMPLE_RATE, dtype=np.float32)).any()
    clip = resample(speech[0], from_rate=RATE, to_rate=SAMPLE_RATE)
    frames = fingerprint(np.concatenate([clip, np.zeros(3 * SAMPLE_RATE, dtype=np.float32), clip]))
    silent = slice(round(64 * (len(clip) / SAMPLE_RATE + 0.6)), round(64 * (len(clip) / SAMPLE_RATE + 2.6)))
    assert not frames[silent].any()
    assert np.count_nonzero(frames) > len(fingerprint(clip))


@settings(max_examples=30, deadline=None)
@given(num_samples=st.integers(1, 5000), seed=st.integers(0, 99))
def test_any_length_can_be_fingerprinted_and_compared(num_samples: int, seed: int) -> None:
    waveform = np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)
    frames = fingerprint(waveform)
    assert frames.dtype == np.uint32
    candidate = Candidate(first=0, second=1, offset=0, start=0, end=max(1, len(frames)), bit_errors=0.0)
    found = compare(speech_band(waveform), speech_band(waveform), candidate)
    assert 0 <= found.score <= 1 + 1e-9
    assert 0 <= found.overlap_seconds <= num_samples / SAMPLE_RATE


def test_short_overlaps_must_agree_more() -> None:
    assert required_score(0.2) == 0.75
    assert required_score(0.6) == pytest.approx(0.625)
    assert required_score(0.8) > required_score(1.2) > required_score(9.0) == 0.4
