"""Evaluation drops nothing and writes what it did."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl import evaluate
from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import CheckpointError, ConfigError, ManifestError
from speechssl.evaluate import EvaluateConfig
from speechssl.manifest import Manifest
from speechssl.text import Vocabulary
from speechssl.types import Utterance


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    config = EncoderConfig(
        front_end="log_mel", model_dim=32, num_layers=1, num_heads=2, feed_forward_dim=64, position_kernel=16
    )
    model = CtcModel(SpeechEncoder(config), Vocabulary.from_texts(["abcdef"]), normalizer="letters")
    with torch.no_grad():
        model.head.weight *= 30
    model.save(tmp_path / "model")
    return str(tmp_path / "model")


def make_manifest(folder: Path, texts: dict[str, str | None], *, bad: str | None = None) -> Path:
    """One second of noise for every text; the recording of `bad` is no audio."""
    utterances = []
    for number, (name, text) in enumerate(texts.items()):
        path = folder / f"{name}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(16000 - 1000 * number), 16000)
        if name == bad:
            path.write_text("no audio")
        utterances.append(
            Utterance(
                id=name,
                audio_filepath=str(path),
                sample_rate=16000,
                num_samples=16000 - 1000 * number,
                duration=1 - number / 16,
                text=text,
                speaker=f"s{number}",
            )
        )
    Manifest.from_utterances(utterances).save(folder / "test.jsonl")
    return folder / "test.jsonl"


def test_unreadable_recording_counts_as_not_recognised_and_is_named(tmp_path: Path, checkpoint: str) -> None:
    manifest = make_manifest(tmp_path, {"good": "Abba!", "broken": "two words"}, bad="broken")
    result = evaluate.run(EvaluateConfig(checkpoint=checkpoint, manifest=manifest, output=tmp_path / "out"))
    assert set(result.failed) == {"broken"}
    assert "broken.wav" in result.failed["broken"]
    good, broken = result.report.utterances
    assert (good.reference, broken.hypothesis, broken.deletions) == ("abba", "", 2)
    assert good.hypothesis
    assert json.loads((tmp_path / "out" / "result.json").read_text())["failed"] == dict(result.failed)


def test_result_and_table_say_what_was_done(tmp_path: Path, checkpoint: str) -> None:
    texts: dict[str, str | None] = {f"u{number}": f"word {letter}" for number, letter in enumerate("bcdef")}
    manifest = make_manifest(tmp_path, texts)
    result = evaluate.run(
        EvaluateConfig(checkpoint=checkpoint, manifest=manifest, output=tmp_path / "out", normalizer="english")
    )
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    assert written["wer"] == result.report.wer
    assert written["wer_interval"] == list(result.report.wer_interval)
    assert (written["normalizer"], written["decoder"], written["interval_over"]) == ("english", "greedy", "speakers")
    assert written["normalizer_version"].startswith("whisper-normalizer")
    assert written["num_words"] == written["hits"] + written["substitutions"] + written["deletions"] == 10
    assert written["manifest_fingerprint"] == Manifest.load(manifest).fingerprint()
    with (tmp_path / "out" / "utterances.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == list(texts)
    assert [row["reference"] for row in rows] == list(texts.values())
    errors = sum(int(row[kind]) for row in rows for kind in ("substitutions", "deletions", "insertions"))
    assert errors / written["num_words"] == pytest.approx(written["wer"])


def test_result_does_not_depend_on_the_batches(tmp_path: Path, checkpoint: str) -> None:
    manifest = make_manifest(tmp_path, {f"u{number}": "a b" for number in range(4)})
    reports = [
        evaluate.run(EvaluateConfig(checkpoint=checkpoint, manifest=manifest, batch_seconds=seconds)).report
        for seconds in (0.1, 2.0, 100.0)
    ]
    assert reports[0] == reports[1] == reports[2]


def test_model_s_own_normalizer_is_the_default(tmp_path: Path, checkpoint: str) -> None:
    manifest = make_manifest(tmp_path, {"u": "Don't, STOP"})
    result = evaluate.run(EvaluateConfig(checkpoint=checkpoint, manifest=manifest))
    assert (result.report.normalizer, result.report.utterances[0].reference) == ("letters", "don't stop")
    assert result.directory is None


def test_rows_without_text_are_refused(tmp_path: Path, checkpoint: str) -> None:
    manifest = make_manifest(tmp_path, {"a": "yes", "b": None})
    with pytest.raises(ManifestError, match="1 of 2 utterances have no text .* is 'b'.*speechssl transcribe"):
        evaluate.run(EvaluateConfig(checkpoint=checkpoint, manifest=manifest))


def test_missing_checkpoint_is_named(tmp_path: Path) -> None:
    manifest = make_manifest(tmp_path, {"a": "yes"})
    with pytest.raises(CheckpointError, match="nowhere"):
        evaluate.run(EvaluateConfig(checkpoint=str(tmp_path / "nowhere"), manifest=manifest))


@pytest.mark.parametrize("option", [{"batch_seconds": 0}, {"num_bootstrap": 0}, {"confidence": 1}])
def test_senseless_options_are_refused(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(option))):
        EvaluateConfig(checkpoint="x", manifest=Path("y"), **option)  # type: ignore[arg-type]


def test_every_kind_of_recording_is_recognised_or_named(tmp_path: Path, checkpoint: str) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(16000)
    recordings = {
        "fine": (noise, 16000),
        "telephone": (noise[:8000], 8000),
        "studio": (np.stack([np.tile(noise, 6)] * 2, axis=1), 96000),
        "nan": (np.where(np.arange(16000) == 7, np.nan, noise), 16000),
        "one sample": (noise[:1], 16000),
    }
    utterances = []
    for name, (samples, rate) in recordings.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype="FLOAT")
        utterances.append(manifest_row(tmp_path / f"{name}.wav", rate, len(samples)))
    soundfile.write(tmp_path / "cut.flac", noise, 16000)
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:5000])
    (tmp_path / "empty.wav").write_bytes(b"")
    utterances += [manifest_row(tmp_path / name, 16000, 16000) for name in ("cut.flac", "empty.wav", "missing.wav")]
    Manifest.from_utterances(utterances).save(tmp_path / "all.jsonl")
    result = evaluate.run(EvaluateConfig(checkpoint=checkpoint, manifest=tmp_path / "all.jsonl"))
    assert set(result.failed) == {"nan", "one sample", "cut", "empty", "missing"}
    assert all(name in reason for name, reason in result.failed.items())
    assert len(result.report.utterances) == 8
    assert {item.id for item in result.report.utterances if not item.hypothesis} == set(result.failed)


def manifest_row(path: Path, rate: int, num_samples: int) -> Utterance:
    return Utterance(
        id=path.stem,
        audio_filepath=str(path),
        sample_rate=rate,
        num_samples=num_samples,
        duration=num_samples / rate,
        text="some words",
    )
