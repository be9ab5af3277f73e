"""Each way in which fine-tuning fails is provoked in a short run on recorded digits, and named in plain words.

A network of 64 dimensions learns three digits: seconds are enough for a healthy run and for every failure.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speechssl import finetune
from speechssl.config import from_dict
from speechssl.errors import TrainingError
from speechssl.finetune import FinetuneConfig, FinetuneResult
from speechssl.manifest import Manifest, build_manifest
from speechssl.text import Vocabulary
from speechssl.training import MonitorConfig
from speechssl.training.monitor import Monitor
from speechssl.training.records import read_metrics

NETWORK = {"model_dim": 64, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 128, "position_kernel": 16}
Train = Callable[..., FinetuneResult]


@pytest.fixture(scope="module")
def digits(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl (36 clips of the digits one to three) and valid.jsonl (6 clips)."""
    folder = tmp_path_factory.mktemp("digits")
    manifest = build_manifest(corpora / "fsdd").manifest
    columns = [manifest.column(name).to_pylist() for name in ("digit", "take", "speaker")]
    rows = list(zip(*columns, strict=True))
    train = [digit in ("1", "2", "3") and take in ("8", "9") for digit, take, _ in rows]
    valid = [digit in ("1", "2", "3") and take == "5" and who in ("jackson", "theo") for digit, take, who in rows]
    manifest.filter(train).save(folder / "train.jsonl")
    manifest.filter(valid).save(folder / "valid.jsonl")
    return folder


@pytest.fixture
def train(digits: Path, tmp_path: Path) -> Train:
    """Fine-tunes from scratch; dotted keys change the healthy configuration."""

    def run(*, rows: Callable[[Manifest], Manifest] | None = None, **changes: Any) -> FinetuneResult:
        manifest = Manifest.load(digits / "train.jsonl")
        (rows(manifest) if rows else manifest).save(tmp_path / "train.jsonl")
        values: Mapping[str, Any] = {
            "train_manifest": tmp_path / "train.jsonl",
            "valid_manifest": digits / "valid.jsonl",
            "run_directory": tmp_path / "run",
            "encoder": NETWORK,
            "mask": {"time_probability": 0, "channel_probability": 0},
            "head_dropout": 0,
            "data": {"batch_seconds": 8, "num_workers": 0, "cache_megabytes": 50},
            "training": {"max_steps": 120, "validate_interval": 40, "checkpoint_interval": 1000, "tensorboard": False},
            "device": "cpu",
        }
        return finetune.run(from_dict(FinetuneConfig, {**values, "training.optim.peak_lr": 3e-3, **changes}))

    return run


def messages(result: FinetuneResult) -> dict[str, str]:
    found: dict[str, str] = {}
    for diagnosis in result.training.diagnoses:
        found[diagnosis.kind] = found.get(diagnosis.kind, "") + diagnosis.message
    return found


def test_a_healthy_run_is_left_alone(train: Train) -> None:
    result = train()
    assert messages(result) == {}
    assert result.training.metrics["valid_cer"] < 0.6  # it did learn


def test_blank_plateau(train: Train) -> None:
    found = messages(train(**{"blank_bias": 3.0, "training.optim.peak_lr": 1e-6}))
    assert "still labels 100.0% of the frames blank after" in found["blank_plateau"]
    assert "raise peak_lr" in found["blank_plateau"]


def test_blank_collapse_after_the_model_had_learnt_to_speak(train: Train) -> None:
    """The rate keeps rising through 0.05, on a post-norm network."""
    rising = {"peak_lr": 0.1, "schedule": "constant", "warmup_steps": 300}
    network = {**NETWORK, "norm_position": "post"}
    found = messages(train(**{"encoder": network, "training.optim": rising, "training.max_steps": 240}))
    assert "has fallen silent" in found["blank_collapse"] and "lower peak_lr" in found["blank_collapse"]


def test_learning_rate_too_high(train: Train) -> None:
    found = messages(train(**{"training.optim.peak_lr": 1.0, "training.max_steps": 50}))
    assert "the learning rate is too high" in found["learning_rate_too_high"]
    assert "a third of peak_lr" in found["learning_rate_too_high"]


def test_a_rate_that_gives_no_numbers_ends_the_run(train: Train) -> None:
    with pytest.raises(TrainingError, match=r"NaN or infinite in 5 of the last .* Lower peak_lr"):
        train(**{"training.optim.peak_lr": 10.0})


def test_audio_too_short_for_its_labels(train: Train, tmp_path: Path) -> None:
    """A third of the clips are cut to 60 ms: two frames for three letters and more."""

    def cut(manifest: Manifest) -> Manifest:
        return Manifest.from_utterances(
            replace(u, num_samples=960, duration=0.06) if u.text == "three" else u for u in manifest
        )

    result = train(rows=cut, **{"training.max_steps": 2})
    message = messages(result)["audio_too_short"]
    assert "33.3% of the training utterances are too short" in message and "50 a second" in message
    assert len(result.left_out) == 12


def test_audio_that_becomes_too_short_when_played_faster_is_counted(train: Train) -> None:
    """All clips last 0.2 s, 9 frames: enough for `three` with its blank, and too few at twice the speed."""

    def cut(manifest: Manifest) -> Manifest:
        return Manifest.from_utterances(replace(u, num_samples=3200, duration=0.2) for u in manifest)

    fast = {"data.augment.speed": {"probability": 1.0, "factors": [2.0]}, "training.max_steps": 30}
    result = train(rows=cut, **fast)
    assert result.left_out == {}  # the manifest's own lengths fit
    assert result.num_infeasible == pytest.approx(result.num_seen / 3, rel=0.2)  # every `three`, in every epoch
    assert "33.3% of the training utterances" in messages(result)["audio_too_short"]
    assert "played 2 times as fast" in messages(result)["audio_too_short"]
    lines = [line for line in read_metrics(result.directory) if "loss" in line]
    assert all(line["loss"] is not None for line in lines)
    assert sum(line["infeasible_share"] for line in lines) / len(lines) == pytest.approx(1 / 3, rel=0.2)


def test_vocabulary_mismatch_of_training_texts(train: Train, tmp_path: Path) -> None:
    Vocabulary.from_texts(["one two"]).save(tmp_path / "vocab.json")
    result = train(**{"vocabulary": tmp_path / "vocab.json", "training.max_steps": 2})
    message = messages(result)["vocabulary_mismatch"]
    assert "33.3% of the training texts are lost" in message and "lacks: 'h' x12, 'r' x12" in message
    assert "18.2% of the characters of the validation texts are not in the vocabulary" in message


def test_told_to_stop_the_run_does_not_begin_on_bad_data(train: Train, tmp_path: Path) -> None:
    Vocabulary.from_texts(["one two"]).save(tmp_path / "vocab.json")
    with pytest.raises(TrainingError, match=r"stopped before the first step: 33\.3% of the training texts"):
        train(**{"vocabulary": tmp_path / "vocab.json", "training.monitor.action": "stop"})


def test_overfitting(train: Train) -> None:
    """Three clips of one voice, learnt by heart, say little about other voices."""

    def few(manifest: Manifest) -> Manifest:
        return manifest.filter([u.speaker == "george" and u.extra["take"] == "8" for u in manifest])

    found = messages(train(rows=few, **{"training.max_steps": 160, "training.validate_interval": 20}))
    assert "learns its training texts by heart" in found["overfitting"]
    assert "is kept" in found["overfitting"]


def test_overfitting_needs_a_validation_that_gets_worse() -> None:
    monitor = Monitor(MonitorConfig())
    for step in range(1, 2000):
        assert monitor.observe(step, {"loss": 2.0 / step, "gradient_norm": 1.0}) == []
        if step % 100 == 0:  # the loss stays, the error rate still falls
            metrics = {"valid_loss": 0.5, "valid_cer": 0.5 - step / 10_000}
            assert monitor.observe_validation(step, metrics, best_metric="valid_cer") == []


def test_limits_are_kept_in_the_measure_of_a_short_run_and_not_of_a_long_one(tmp_path: Path) -> None:
    def limits(max_steps: int, freeze_steps: int = 0) -> MonitorConfig:
        values = {"train_manifest": "a", "valid_manifest": "b", "run_directory": "c", "pretrained": "p"}
        config = from_dict(
            FinetuneConfig, {**values, "freeze_steps": freeze_steps, "training": {"max_steps": max_steps}}
        )
        return finetune.monitor_for(config)

    assert limits(20_000) == MonitorConfig()
    assert limits(13_000, 10_000).blank_steps == 10_000 + 1200
    assert (limits(400).blank_steps, limits(400).grace_steps) == (160, 80)
