"""Calibrating a model's confidences on a manifest, and using them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent))
from oracle import RATE, hear, oracle, speak

from speechssl import calibrate
from speechssl.asr import SpeechRecognizer, load_asr
from speechssl.calibrate import CalibrateConfig, judge_words, run
from speechssl.cli import main


def doubtful() -> SpeechRecognizer:
    """Hears the letter b too often as a, and is always as sure."""
    recognizer = oracle()

    def mishear(waveform):  # type: ignore[no-untyped-def]
        logits = hear(waveform, sharpness=6.0)
        return logits if len(waveform) % 2 else logits[:, [0, 1, 3, 2, *range(4, 10)]]

    recognizer._logits_of_piece = mishear  # type: ignore[method-assign]
    return recognizer


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = []
    for number in range(24):
        waveform = speak("bad feed cab")[: None if number % 2 else -1]
        soundfile.write(tmp_path / f"{number}.wav", waveform, RATE, subtype="FLOAT")
        facts = {"num_samples": len(waveform), "sample_rate": RATE, "duration": len(waveform) / RATE, "offset": 0.0}
        rows.append({"id": f"u{number}", "audio_filepath": f"{number}.wav", "text": "bad feed cab", **facts})
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "dev.jsonl"


def test_command_lowers_the_error_and_transcripts_use_it(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oracle().model.save(tmp_path / "model")
    monkeypatch.setattr(calibrate, "load_asr", lambda checkpoint, device: doubtful())
    assert main(["calibrate", str(tmp_path / "model"), str(manifest)]) == 0
    assert "expected calibration error" in capsys.readouterr().out
    stored = json.loads((tmp_path / "model" / "confidence.json").read_text())
    assert stored["num_words"] == 72
    assert stored["after"]["ece"] < 0.15 < 0.2 < stored["before"]["ece"]
    recognizer = load_asr(tmp_path / "model")
    assert recognizer.is_calibrated
    recognizer._logits_of_piece = doubtful()._logits_of_piece  # type: ignore[method-assign]
    transcript = recognizer.transcribe(speak("bad"), sample_rate=RATE)
    assert transcript.is_calibrated
    right = [entry["accuracy"] for entry in stored["before"]["bins"]][-1]
    assert transcript.words[0].confidence == pytest.approx(right, abs=0.1)  # was above 0.98
    recognizer.decoder = lambda logits, num_frames: recognizer.model.recognize(logits, num_frames)  # another one
    assert not recognizer.is_calibrated


def test_words_are_judged_by_the_alignment_with_the_reference() -> None:
    recognizer = oracle()
    found = recognizer.transcribe(speak("bad cab feed a"), sample_rate=RATE)
    assert [right for _, right in judge_words(found, "Bad deaf, feed", recognizer)] == [True, False, True, False]
    assert [right for _, right in judge_words(found, "", recognizer)] == [False] * 4


def test_unusable_recording_is_counted(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle().model.save(tmp_path / "model")
    monkeypatch.setattr(calibrate, "load_asr", lambda checkpoint, device: doubtful())
    soundfile.write(tmp_path / "3.wav", np.zeros(1), RATE)
    result = run(CalibrateConfig(checkpoint=str(tmp_path / "model"), manifest=manifest))
    assert list(result.failed) == ["u3"] and result.num_words == 69
