"""Pre-training end to end on generated audio with a one-layer log-mel encoder, and each way it can fail."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import speechssl.pretrain
from speechssl.data import DataConfig
from speechssl.encoder import SpeechEncoder, encoder_config, load_encoder
from speechssl.errors import ConfigError, ManifestError, TrainingError
from speechssl.manifest import build_manifest
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective, build_contrastive
from speechssl.pretrain import PretrainConfig, PretrainResult, PretrainTask, run
from speechssl.training import MonitorConfig, OptimConfig, TrainingConfig
from speechssl.training.records import read_metrics

ENCODER = {
    "model_dim": 32, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 8,
    "position_groups": 4, "num_mels": 20, "dropout": 0.1,
}  # fmt: skip
TIMES = {"seconds_left", "audio_seconds_per_second", "data_wait", "seconds", "audio_hours"}


def write_clips(folder: Path, *, count: int = 8, silent: bool = False) -> Path:
    """A manifest of sweeps in noise, about a second each."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        time = np.arange(14_000 + 500 * number) / 16_000
        sweep = 0.2 * np.sin(2 * np.pi * (200 + 100 * number) * time * (1 + time))
        waveform = sweep + 0.05 * random.standard_normal(len(time))
        soundfile.write(folder / f"{number}.wav", (0 if silent else 1) * waveform, 16_000)
    build_manifest(folder, output=folder.parent / f"{folder.name}.jsonl")
    return folder.parent / f"{folder.name}.jsonl"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "train")


def config(manifest: Path, directory: Path, **changes: Any) -> PretrainConfig:
    """A few steps; `optim`, `contrastive`, `training` and `monitor` settings may be given by name."""
    optim = OptimConfig(**{"schedule": "constant", "warmup_steps": 0, "peak_lr": 1e-3, **changes.pop("optim", {})})
    monitor = MonitorConfig(**changes.pop("monitor", {}))
    training = {
        "max_steps": 5, "log_interval": 1, "validate_interval": None, "checkpoint_interval": 50, "tensorboard": False,
        **changes.pop("training", {}),
    }  # fmt: skip
    contrastive = {
        "num_entries": 8, "quantized_dim": 16, "final_dim": 16, "num_distractors": 10, **changes.pop("contrastive", {}),
    }  # fmt: skip
    values: dict[str, Any] = {
        "manifests": (manifest,),
        "run_directory": directory,
        "preset": "tiny",
        "encoder": ENCODER,
        "contrastive": ContrastiveConfig(**contrastive),
        "data": DataConfig(batch_seconds=3, num_workers=0),
        "training": TrainingConfig(optim=optim, monitor=monitor, **training),
        "device": "cpu",
        **changes,
    }
    return PretrainConfig(**values)


def curve(directory: Path) -> list[dict[str, Any]]:
    """All metrics but times."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in read_metrics(directory)]


def test_a_run_leaves_a_loadable_encoder_and_its_curves(clips: Path, tmp_path: Path) -> None:
    result = run(config(clips, tmp_path / "run"))
    assert isinstance(result, PretrainResult)
    assert result.training.steps == 5 and result.training.stopped_because == "max_steps"
    assert result.left_out == {}
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    wanted = {"loss", "contrastive_loss", "accuracy", "code_perplexity", "learning_rate", "gradient_norm", "latent_std"}
    assert wanted <= rows[-1].keys()
    last = tmp_path / "run" / "checkpoints" / "last"
    assert {path.name for path in last.iterdir()} == {
        "config.json", "model.safetensors", "objective.safetensors", "optimizer.safetensors", "state.json",
    }  # fmt: skip
    encoder = load_encoder(tmp_path / "run")
    embedding = encoder.embed(sorted(clips.with_suffix("").glob("*.wav")))
    assert isinstance(embedding, np.ndarray) and embedding.shape == (8, 32) and np.isfinite(embedding).all()
    assert json.loads((last / "config.json").read_text())["encoder"]["model_dim"] == 32


def test_masked_frames_are_predicted_better_than_chance(tmp_path: Path) -> None:
    """Tones of 0.2 s: a masked frame sounds like its neighbours. Chance is log 11 and 1 / 11."""
    folder = tmp_path / "tones"
    folder.mkdir()
    random = np.random.default_rng(0)
    time = np.arange(3200) / 16_000
    for number in range(8):
        tones = [0.2 * np.sin(2 * np.pi * f * time) for f in random.choice([300, 700, 1500, 3000], 6)]
        noise = 0.01 * random.standard_normal(6 * 3200)
        soundfile.write(folder / f"{number}.wav", np.concatenate(tones) + noise, 16_000)
    build_manifest(folder, output=tmp_path / "tones.jsonl")
    run(
        config(
            tmp_path / "tones.jsonl", tmp_path / "run", training={"max_steps": 80}, optim={"peak_lr": 1e-2},
            contrastive={"mask_span": 3},
        )
    )  # fmt: skip
    rows = read_metrics(tmp_path / "run")[-20:]
    assert np.mean([row["contrastive_loss"] for row in rows]) < np.log(11) - 0.2
    assert np.mean([row["accuracy"] for row in rows]) > 2 / 11


def test_two_runs_of_one_seed_have_the_same_curve(clips: Path, tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    run(config(clips, first))
    torch.manual_seed(99)
    torch.rand(5)
    run(config(clips, second, data=DataConfig(batch_seconds=3, num_workers=2)))
    run(config(clips, other, training={"seed": 2}))
    assert curve(first) == curve(second)
    assert curve(first)[0]["loss"] != curve(other)[0]["loss"]
    models = [(path / "checkpoints" / "last" / "model.safetensors").read_bytes() for path in (first, second, other)]
    assert models[0] == models[1] != models[2]


def test_activations_that_are_computed_again_change_no_curve(clips: Path, tmp_path: Path) -> None:
    encoder = {**ENCODER, "dropout": 0.1, "layer_drop": 0.2}
    for name, again in (("plain", False), ("again", True)):
        training = {"checkpoint_activations": again}
        run(config(clips, tmp_path / name, encoder=encoder, training=training))
    assert curve(tmp_path / "plain") == curve(tmp_path / "again")


def test_a_bad_recording_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "train")
    bad = tmp_path / "train" / "3.wav"
    bad.write_bytes(bad.read_bytes()[:30])
    (tmp_path / "train" / "5.wav").unlink()
    soundfile.write(tmp_path / "train" / "6.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    result = run(config(manifest, tmp_path / "run", training={"max_steps": 8}))
    assert result.training.steps == 8
    reasons = {Path(reason.split(": ")[0]).name for reason in result.left_out.values()}
    assert reasons == {"3.wav", "5.wav", "6.wav"}


def test_no_readable_recording_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "train", count=2)
    for path in (tmp_path / "train").glob("*.wav"):
        path.write_text("no recording")
    with pytest.raises(TrainingError, match="none of the 2 utterances can be read") as error:
        run(config(manifest, tmp_path / "run"))
    assert error.value.exit_code == 1


def test_held_out_metrics_are_those_of_the_held_out_clips(clips: Path, tmp_path: Path) -> None:
    held_out = write_clips(tmp_path / "valid", count=3)
    settings = config(
        clips, tmp_path / "run", valid_manifest=held_out, training={"validate_interval": 2, "max_steps": 4}
    )
    result = run(settings)
    rows = [row for row in read_metrics(tmp_path / "run") if "valid_loss" in row]
    assert [row["step"] for row in rows] == [2, 4]
    assert result.training.best_metric == min(row["valid_loss"] for row in rows)
    assert (tmp_path / "run" / "checkpoints" / "best").is_dir()
    assert {"valid_contrastive_loss", "valid_accuracy", "valid_code_perplexity"} <= rows[0].keys()


def test_held_out_metrics_are_repeatable_and_independent_of_batches(clips: Path, tmp_path: Path) -> None:
    """Weighted by targets. In evaluation nothing is random but masks and distractors, which are seeded."""
    held_out = speechssl.pretrain.Manifest.load(write_clips(tmp_path / "valid", count=3))
    encoder = SpeechEncoder(encoder_config("tiny", ENCODER))
    objective = ContrastiveObjective(
        config(clips, tmp_path).contrastive, latent_dim=encoder.config.latent_dim, model_dim=32
    )
    task = PretrainTask(encoder, objective, None, held_out, valid_batch_seconds=100, seed=0)
    encoder.train()
    first, second = task.validate(1), task.validate(1)
    assert first == second
    assert encoder.training and objective.training


def test_without_held_out_clips_validation_is_nothing(clips: Path, tmp_path: Path) -> None:
    result = run(config(clips, tmp_path / "run", training={"validate_interval": 1, "max_steps": 2}))
    assert result.training.steps == 2 and result.training.best_metric is None


def test_pretraining_can_go_on_from_another_encoder(clips: Path, tmp_path: Path) -> None:
    run(config(clips, tmp_path / "first"))
    run(
        config(
            clips, tmp_path / "second", initialize_from=str(tmp_path / "first"), encoder={},
            training={"max_steps": 1}, optim={"peak_lr": 1e-9},
        )
    )  # fmt: skip
    first, second = load_encoder(tmp_path / "first"), load_encoder(tmp_path / "second")
    assert first.config == second.config
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], tensor, rtol=0, atol=1e-7)


def test_several_manifests_are_joined(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError):
        run(config(clips, tmp_path / "run", manifests=(clips, clips)))  # the same ids twice
    folder = tmp_path / "more"
    folder.mkdir()
    soundfile.write(folder / "another.flac", 0.1 * np.random.default_rng(1).standard_normal(20_000), 16_000)
    build_manifest(folder, output=tmp_path / "more.jsonl")
    joined = speechssl.pretrain.load_joined((clips, tmp_path / "more.jsonl"))
    assert len(joined) == 9 and all(Path(utterance.audio_filepath).is_file() for utterance in joined)


def test_every_parameter_is_trained_and_only_matrices_decay(clips: Path, tmp_path: Path) -> None:
    encoder = SpeechEncoder(encoder_config("base", {**BASE_STYLE}))
    objective = ContrastiveObjective(ContrastiveConfig(), latent_dim=16, model_dim=32)
    task = PretrainTask(encoder, objective, None, None, valid_batch_seconds=1, seed=0)
    decayed, others = ({id(p) for p in group["params"]} for group in task.parameter_groups())
    every = {**dict(encoder.named_parameters()), **dict(objective.named_parameters())}
    assert decayed | others == {id(p) for p in every.values()} and not decayed & others
    names = {name for name, p in every.items() if id(p) in decayed}
    assert "projection.weight" in names and "feature_encoder.convs.0.weight" in names
    assert not any(name.endswith("bias") or "norm" in name or "codebooks" in name for name in names)
    assert "mask_embedding" not in names


BASE_STYLE: dict[str, Any] = {
    "conv_dim": 16, "model_dim": 32, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 8,
    "position_groups": 4,
}  # fmt: skip


@pytest.mark.parametrize("style", ["group", "layer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_waveform_encoders_train_in_both_precisions(clips: Path, tmp_path: Path, style: str, precision: str) -> None:
    settings = config(
        clips, tmp_path / "run", preset="base", encoder={**BASE_STYLE, "conv_norm": style},
        training={"max_steps": 2, "precision": precision},
    )  # fmt: skip
    before = SpeechEncoder(encoder_config(settings.preset, settings.encoder))
    result = run(settings)
    assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path / "run"))
    assert result.training.steps == 2
    after = load_encoder(tmp_path / "run")
    assert not torch.equal(after.feature_encoder.convs[0].weight, before.feature_encoder.convs[0].weight)


# the monitor on the real model

QUICK = {"action": "stop", "grace_steps": 5, "patience_steps": 5}


def stopped(settings: PretrainConfig) -> tuple[str, set[str]]:
    """The message that ended the run, and the kinds of all diagnoses in its log."""
    with pytest.raises(TrainingError) as error:
        run(settings)
    events = [row for row in read_metrics(settings.run_directory) if row.get("event") == "diagnosis"]
    assert error.value.exit_code == 1
    return str(error.value), {event["kind"] for event in events}


def test_monitor_sees_a_constant_codebook(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All targets the same: the contrastive loss is 0 at once, the failure users of the peers report most."""

    def constant(settings: PretrainConfig, encoder: SpeechEncoder, seed: int) -> ContrastiveObjective:
        objective = build_contrastive(settings.contrastive, encoder, seed)
        assert isinstance(objective, ContrastiveObjective)
        with torch.no_grad():
            objective.quantizer.logits.weight.zero_()
            objective.quantizer.logits.bias.copy_(torch.tensor([50.0, *[0.0] * 7] * 2))
        return objective

    monkeypatch.setitem(speechssl.pretrain.BUILDERS, "contrastive", constant)
    message, kinds = stopped(config(clips, tmp_path / "run", training={"max_steps": 40}, monitor=QUICK))
    assert "contrastive_collapse" in kinds
    assert "the contrastive task has become trivial" in message and "diversity_weight" in message


def test_monitor_sees_codes_collapse_in_training(clips: Path, tmp_path: Path) -> None:
    """A negative weight rewards the model for using few codes."""
    message, kinds = stopped(
        config(
            clips, tmp_path / "run", training={"max_steps": 120}, monitor={**QUICK, "min_code_usage": 0.3},
            optim={"peak_lr": 0.2}, contrastive={"diversity_weight": -20.0},
        )
    )  # fmt: skip
    assert kinds & {"code_collapse", "contrastive_collapse"}
    assert "code" in message and "peak_lr" in message


def test_monitor_sees_an_absurd_learning_rate(clips: Path, tmp_path: Path) -> None:
    message, kinds = stopped(
        config(clips, tmp_path / "run", training={"max_steps": 30}, monitor=QUICK, optim={"peak_lr": 1e6})
    )
    assert "non_finite" in kinds
    assert "NaN or infinite" in message and "Lower peak_lr" in message


def test_monitor_sees_silent_audio(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "silence", silent=True)
    message, kinds = stopped(config(manifest, tmp_path / "run", training={"max_steps": 40}, monitor=QUICK))
    assert "latent_collapse" in kinds
    assert "silent" in message


def test_monitor_says_nothing_of_a_healthy_run(clips: Path, tmp_path: Path) -> None:
    run(config(clips, tmp_path / "run", training={"max_steps": 40}, monitor=QUICK))
    assert not [row for row in read_metrics(tmp_path / "run") if "event" in row]


def test_monitor_can_be_told_to_warn_only(tmp_path: Path) -> None:
    manifest = write_clips(tmp_path / "silence", silent=True)
    result = run(config(manifest, tmp_path / "run", training={"max_steps": 20}, monitor={**QUICK, "action": "warn"}))
    assert result.training.steps == 20
    assert "latent_collapse" in {diagnosis.kind for diagnosis in result.training.diagnoses}


# configuration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"manifests": ()}, "manifests must name at least one manifest, but is empty"),
        ({"objective": "contrastve"}, "objective must be one of contrastive, cluster, but is 'contrastve'"),
        ({"preset": "huge"}, "preset must be one of tiny, small, base, large, but is 'huge'"),
        ({"encoder": {"num_layer": 3}}, "num_layer"),
        ({"encoder": {"num_layers": "many"}}, "num_layers"),
    ],
)
def test_wrong_settings_are_refused(clips: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(clips, tmp_path, **change)


@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_devices_that_are_not_there_are_refused(clips: Path, tmp_path: Path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="auto"):
        run(config(clips, tmp_path / "run", device=device))


def test_a_run_with_other_settings_is_not_continued(clips: Path, tmp_path: Path) -> None:
    settings = config(clips, tmp_path / "run", training={"max_steps": 2})
    run(settings)

    def changed(**values: Any) -> PretrainConfig:
        return replace(settings, **values)

    with pytest.raises(ConfigError, match="num_entries"):
        run(changed(contrastive=replace(settings.contrastive, num_entries=4)))
    result = run(changed(training=replace(settings.training, max_steps=3)))
    assert result.training.steps == 3
    assert [row["step"] for row in read_metrics(tmp_path / "run")] == [1, 2, 3]
