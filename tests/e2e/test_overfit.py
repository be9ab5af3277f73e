"""Eight utterances are learnt by heart: the whole supervised path, from files to a word error rate of 0."""

import csv
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import evaluate, finetune
from speechssl.asr import load_asr
from speechssl.audio import probe
from speechssl.data import DataConfig
from speechssl.evaluate import EvaluateConfig
from speechssl.finetune import FinetuneConfig, MaskConfig
from speechssl.manifest import Manifest, build_manifest
from speechssl.training import OptimConfig, TrainingConfig
from speechssl.types import Utterance

RATE = 16000
TONE_SECONDS = 0.14
GAP_SECONDS = 0.04
TEXTS = ("abba", "cab", "deed", "bead a bed", "face", "decade", "dad fed a cab", "egg")


def tones(text: str, seed: int) -> np.ndarray:
    """A tone for every letter, silence for a space."""
    time = np.arange(int(RATE * TONE_SECONDS)) / RATE
    gap = np.zeros(int(RATE * GAP_SECONDS))
    parts = []
    for letter in text:
        frequency = 0.0 if letter == " " else 300 * 1.25 ** (ord(letter) - ord("a"))
        parts += [0.3 * np.hanning(len(time)) * np.sin(2 * np.pi * frequency * time), gap]
    waveform = np.concatenate(parts)
    return waveform + 0.003 * np.random.default_rng(seed).standard_normal(len(waveform))


def write_transcripts(folder: Path, texts: dict[str, str]) -> Path:
    path = folder / "transcripts.tsv"
    path.write_text("path\ttext\n" + "".join(f"{name}\t{text}\n" for name, text in texts.items()), encoding="utf-8")
    return path


def overfit(manifest: Path, folder: Path, *, steps: int, rate: float, **encoder: int) -> FinetuneConfig:
    """Train a small network from scratch on a manifest until it knows it."""
    small = {"model_dim": 64, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 128, "position_kernel": 16}
    config = FinetuneConfig(
        train_manifest=manifest,
        valid_manifest=manifest,
        run_directory=folder / "run",
        preset="tiny",
        encoder=small | encoder,
        head_dropout=0.0,
        mask=MaskConfig(time_probability=0.0, channel_probability=0.0),
        data=DataConfig(num_workers=0, cache_megabytes=50),
        training=TrainingConfig(
            max_steps=steps,
            validate_interval=60,
            checkpoint_interval=steps,
            tensorboard=False,
            best_metric="valid_wer",
            optim=OptimConfig(peak_lr=rate, schedule="linear", warmup_fraction=0.1),
        ),
        device="cpu",
    )
    finetune.run(config)
    return config


@dataclass(frozen=True)
class Tones:
    """A trained run on generated audio."""

    folder: Path
    manifest: Path
    run: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Tones:
    folder = tmp_path_factory.mktemp("tones")
    for number, text in enumerate(TEXTS):
        soundfile.write(folder / f"u{number}.wav", tones(text, number), RATE)
    transcripts = write_transcripts(folder, {f"u{number}.wav": text for number, text in enumerate(TEXTS)})
    build_manifest(folder, output=folder / "tones.jsonl", transcripts=transcripts)
    config = overfit(folder / "tones.jsonl", folder, steps=180, rate=3e-3)
    return Tones(folder=folder, manifest=folder / "tones.jsonl", run=config.run_directory)


def test_eight_generated_utterances_are_learnt_to_wer_0(trained: Tones) -> None:
    result = evaluate.run(
        EvaluateConfig(checkpoint=str(trained.run), manifest=trained.manifest, output=trained.folder / "result")
    )
    assert (result.report.wer, result.report.cer) == (0.0, 0.0)
    assert json.loads((trained.folder / "result" / "result.json").read_text())["hits"] == sum(
        len(text.split()) for text in TEXTS
    )
    with (trained.folder / "result" / "utterances.csv").open(encoding="utf-8", newline="") as file:
        assert sorted(row["hypothesis"] for row in csv.DictReader(file)) == sorted(TEXTS)


def test_words_are_timed_where_their_tones_are(trained: Tones) -> None:
    model = load_asr(trained.run)
    deviations = []
    for number, text in enumerate(TEXTS):
        transcript = model.transcribe(trained.folder / f"u{number}.wav")
        assert transcript.text == text
        place = 0
        for word in transcript.words:
            seconds = (place + len(word.text) / 2) * (TONE_SECONDS + GAP_SECONDS)
            deviations.append(abs((word.start_seconds + word.end_seconds) / 2 - seconds))
            place += len(word.text) + 1
    # every frame sees the whole utterance, so nothing ties a single word to its place; most of them stay there
    assert statistics.median(deviations) < 0.2


def test_checkpoint_carries_what_recognition_needs(trained: Tones) -> None:
    best = trained.run / "checkpoints" / "best"
    assert {"config.json", "model.safetensors", "vocab.json"} <= {path.name for path in best.iterdir()}
    recognizer = load_asr(best)
    assert "".join(recognizer.model.vocabulary.tokens[2:]) == "abcdefg"
    assert [transcript.text for transcript in recognizer.transcribe([trained.folder / "u0.wav"])] == ["abba"]


@pytest.mark.corpora
def test_eight_recorded_sentences_are_learnt_to_wer_0(tmp_path: Path, corpora: Path) -> None:
    corpus = corpora / "kathleen_en"
    if not corpus.is_dir():
        pytest.skip(f"{corpus} is not there")
    with (corpus / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file, delimiter="\t"), key=lambda row: (len(row["text"]), row["path"]))
    chosen = {row["prompt"]: row for row in rows[:24]}.values()
    utterances = []
    for row in list(chosen)[:8]:
        info = probe(corpus / row["path"])
        utterances.append(
            Utterance(
                id=row["prompt"],
                audio_filepath=str(corpus / row["path"]),
                sample_rate=info.sample_rate,
                num_samples=info.num_samples,
                duration=info.duration,
                text=row["text"],
            )
        )
    manifest = Manifest.from_utterances(utterances)
    assert len(manifest) == 8
    manifest.save(tmp_path / "eight.jsonl")
    config = overfit(tmp_path / "eight.jsonl", tmp_path, steps=200, rate=3e-3, model_dim=128, feed_forward_dim=256)
    report = evaluate.run(
        EvaluateConfig(checkpoint=str(config.run_directory), manifest=tmp_path / "eight.jsonl")
    ).report
    assert report.wer == 0.0, [(item.reference, item.hypothesis) for item in report.utterances]
