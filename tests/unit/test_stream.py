"""Recognition of audio while it is being made, in the same process."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))
from oracle import RATE, oracle, speak

from speechssl.asr import SpeechRecognizer
from speechssl.ctc import greedy_decode
from speechssl.errors import AudioError, ConfigError
from speechssl.seams import seam_error
from speechssl.streaming import Listener, StreamConfig
from speechssl.transcribe import TranscribeConfig

TEXT = "bad cab feed a hag deaf"


def listen(recognizer: SpeechRecognizer, waveform: np.ndarray, size: int, **options: float) -> Listener:
    listener = Listener(recognizer, StreamConfig(**options))
    for start in range(0, len(waveform), size):
        for _ in listener.push(waveform[start : start + size]):
            pass
    for _ in listener.finish():
        pass
    return listener


@pytest.mark.parametrize("size", [37, 1600, 10**6])
def test_stream_writes_what_the_whole_recording_says(size: int) -> None:
    waveform = speak(TEXT)
    whole = oracle().recognize(waveform)
    assert whole.text == TEXT
    transcript = listen(oracle(), waveform, size, chunk_seconds=0.2, right_seconds=0.1).transcript()
    assert (transcript.text, transcript.duration_seconds) == (whole.text, whole.duration_seconds)
    assert transcript.words == whole.words
    assert transcript.confidence == pytest.approx(whole.confidence)


def test_words_are_never_taken_back_and_come_in_time() -> None:
    listener = Listener(oracle(), StreamConfig(chunk_seconds=0.5, left_seconds=1.0, right_seconds=0.3))
    waveform = np.concatenate([speak(TEXT), np.zeros(2 * RATE, np.float32)])
    seen: list[str] = []
    for start in range(0, len(waveform), 160):
        for update in listener.push(waveform[start : start + 160]):
            seen += [word.text for word in update.words]
            assert TEXT.startswith(" ".join([*seen, update.open_text]).strip())
            assert update.heard_seconds - update.settled_seconds <= 0.3 + 0.5 + 0.05
    assert " ".join(seen) == TEXT  # without the end of the stream: the pause has ended the last word
    assert listener.transcript().text == TEXT


def test_memory_does_not_grow_with_the_stream() -> None:
    listener = Listener(oracle(), StreamConfig(chunk_seconds=0.5, left_seconds=1.0, right_seconds=0.5))
    kept = []
    for _ in range(40):
        for _ in listener.push(speak("bad cab")):
            pass
        kept.append(listener.num_kept_samples)
    assert max(kept) <= 2.1 * RATE + len(speak("bad cab"))


def test_another_decoder_writes_segments_between_pauses() -> None:
    recognizer = oracle()
    calls = []

    def decoder(logits, num_frames):  # type: ignore[no-untyped-def]
        calls.append(len(logits[0]))
        return greedy_decode(logits, num_frames, recognizer.model.vocabulary)

    recognizer.decoder = decoder
    pause = np.zeros(RATE, np.float32)
    waveform = np.concatenate([speak("bad cab"), pause, speak(" feed")])
    listener = listen(recognizer, waveform, 800, pause_seconds=0.5, chunk_seconds=0.2)
    whole = oracle().recognize(waveform)
    assert listener.transcript().text == "bad cab feed"
    assert listener.transcript().words == whole.words
    assert len(calls) == 2 and max(calls) < 120
    calls.clear()
    listen(recognizer, speak("abcdefgh" * 8), 800, pause_seconds=0.5, max_segment_seconds=2.0)
    assert max(calls) <= 100  # frames of two seconds


def test_nothing_and_almost_nothing_are_silence() -> None:
    for num_samples in (0, 100, 700):
        assert listen(oracle(), np.zeros(num_samples, np.float32), 50).transcript().text == ""


def test_oracle_in_chunks_has_no_seam_error() -> None:
    recognizer = oracle()
    recognizer.own_chunking = TranscribeConfig(
        checkpoint="x", audio=(Path("a"),), chunk_seconds=1.0, context_seconds=0.2
    ).chunking
    found = seam_error(recognizer, speak(TEXT))
    assert (found.wer, found.cer, found.max_logit_difference, found.changed_frames) == (0.0, 0.0, 0.0, 0.0)
    assert found.num_seams == 4 and found.num_words == 6


def test_seam_error_counts_what_chunks_change() -> None:
    recognizer = oracle()
    hear = recognizer._logits_of_piece
    recognizer.own_chunking = TranscribeConfig(
        checkpoint="x", audio=(Path("a"),), chunk_seconds=1.0, context_seconds=0.0
    ).chunking

    def deaf_at_the_edges(waveform):  # type: ignore[no-untyped-def]
        logits = hear(waveform)
        if len(waveform) < 1.2 * RATE:
            logits[:8] = 0
            logits[:8, 0] = 12
        return logits

    recognizer._logits_of_piece = deaf_at_the_edges  # type: ignore[method-assign]
    found = seam_error(recognizer, speak(TEXT))
    assert found.wer is not None and found.wer > 0 and found.num_word_errors >= 1
    assert found.max_logit_difference == found.max_logit_difference_near_seams == 12
    assert 0 < found.changed_frames < found.changed_frames_near_seams < 1
    with pytest.raises(AudioError, match="no seam to compare"):
        seam_error(recognizer, speak("a"))


def test_long_file_is_read_in_blocks_to_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join([TEXT] * 14)
    waveform = speak(text)
    assert len(waveform) > 45 * RATE
    soundfile.write(tmp_path / "long.wav", waveform, RATE, subtype="FLOAT")
    recognizer = oracle()
    longest = 0
    hear = recognizer._logits_of_piece

    def measure(waveform):  # type: ignore[no-untyped-def]
        nonlocal longest
        longest = max(longest, len(waveform))
        return hear(waveform)

    recognizer._logits_of_piece = measure  # type: ignore[method-assign]
    monkeypatch.setattr("speechssl.audio.read", None)  # which would read it whole
    found = recognizer.transcribe(tmp_path / "long.wav")
    assert found.text == text
    assert longest <= 38.1 * RATE
    spoken = recognizer.transcribe(tmp_path / "long.wav", offset=1.0, duration=41.0)
    first = next(i for i, word in enumerate(found.words) if word.start_seconds > spoken.words[1].start_seconds - 0.01)
    for word, same in zip(spoken.words[1:-1], found.words[first:], strict=False):
        assert (word.text, word.start_seconds) == (same.text, pytest.approx(same.start_seconds, abs=0.002))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": (Path("-"), Path("a.wav"))}, "not both"),
        ({"audio": (Path("-"),), "encoding": "s16le"}, "need their sample_rate"),
        ({"audio": (Path("-"),), "sample_rate": 8000}, "sample_rate and channels are those of raw samples"),
        ({"audio": (Path("-"),), "output": Path("out")}, "output, verify_chunks and timestamps go with whole"),
        ({"audio": (Path("a"), Path("b")), "partial": True}, "partial goes with one recording"),
        ({"audio": (Path("a"), Path("b")), "offset": 3.0}, "offset and duration go with one recording"),
        ({"audio": (Path("a"),), "duration": 0.0}, "duration must be above 0"),
        ({"audio": (Path("a"),), "chunk_seconds": 0.0}, "chunk_seconds must be above 0"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TranscribeConfig(checkpoint="x", **options)  # type: ignore[arg-type]
