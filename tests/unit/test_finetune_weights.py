"""What is trained, averaged and saved: adapters, moving averages, weighted layers, and settings by label budget."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from speechssl import finetune
from speechssl.asr import load_asr
from speechssl.config import from_dict, load_config
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import CheckpointError, ConfigError
from speechssl.evaluate import EvaluateConfig
from speechssl.evaluate import run as evaluate
from speechssl.finetune import FinetuneConfig, load_adapters
from speechssl.interop.export import export_model
from speechssl.manifest import Manifest
from speechssl.nn.lora import LowRankLinear
from speechssl.training.ema import averaging_decay
from speechssl.types import Utterance

NETWORK = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 16}
WAVEFORM = torch.randn(1, 8000, generator=torch.Generator().manual_seed(1))
LENGTH = torch.tensor([8000])


def write_manifest(folder: Path, name: str, texts: list[str]) -> Path:
    utterances = []
    for number, text in enumerate(texts):
        path = folder / f"{name}{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(16000), 16000)
        utterances.append(
            Utterance(
                id=f"{name}{number}", audio_filepath=str(path), sample_rate=16000, num_samples=16000, duration=1.0,
                text=text,
            )
        )  # fmt: skip
    Manifest.from_utterances(utterances).save(folder / f"{name}.jsonl")
    return folder / f"{name}.jsonl"


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., FinetuneConfig]:
    """A configuration of a few updates from a pre-trained encoder; keyword arguments change it."""
    SpeechEncoder(encoder_config("tiny", NETWORK), seed=3).save(tmp_path / "pretrained")
    train = write_manifest(tmp_path, "train", ["ab ba", "cab", "bb"])
    valid = write_manifest(tmp_path, "valid", ["abc", "b a"])

    def make(name: str = "run", **changes: Any) -> FinetuneConfig:
        values = {
            "train_manifest": train, "valid_manifest": valid, "run_directory": tmp_path / name,
            "pretrained": str(tmp_path / "pretrained"), "device": "cpu",
            "mask": {"time_probability": 0.2, "time_span": 3, "channel_span": 4},
            "data": {"num_workers": 0, "batch_seconds": 10},
            "training": {
                "max_steps": 4, "validate_interval": 4, "checkpoint_interval": 1, "keep_checkpoints": 10,
                "tensorboard": False, "optim": {"peak_lr": 1e-2, "schedule": "constant", "warmup_steps": 0},
            },
        }  # fmt: skip
        return from_dict(FinetuneConfig, {**values, **changes})

    return make


def logits(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        output: torch.Tensor = model(WAVEFORM, LENGTH).logits
    return output


def stored(config: FinetuneConfig, name: str, step: int | str = "last") -> dict[str, torch.Tensor]:
    folder = "last" if step == "last" else f"step_{step}"
    return load_file(config.run_directory / "checkpoints" / folder / f"{name}.safetensors")


# ---- adapters


def test_only_adapters_and_head_are_trained_and_stored_for_resuming(configure: Callable[..., FinetuneConfig]) -> None:
    config = configure(adapters={"rank": 2})
    result = finetune.run(config)
    before, after = SpeechEncoder.load(str(config.pretrained)).state_dict(), stored(config, "model")
    trained = {name for name in before if not torch.equal(before[name], after[f"encoder.{name}"])}
    adapted = {"input_projection.weight", "output_projection.weight", "expand.weight", "contract.weight"}
    assert {name.split(".", 4)[-1] for name in trained} == adapted and len(trained) == 2 * 4
    assert not any("weight" in name and "encoder" in name for name in stored(config, "trained"))
    rank, dim, hidden, labels = 2, 32, 64, len(result.vocabulary)
    per_layer = rank * ((dim + 3 * dim) + (dim + dim) + 2 * (dim + hidden))
    assert result.cost.num_trained_parameters == 2 * per_layer + (dim + 1) * labels
    assert result.cost.optimizer_bytes == 8 * result.cost.num_trained_parameters
    assert result.cost.peak_memory_bytes and result.cost.peak_memory_bytes > 10**6


def test_saved_model_is_the_one_that_was_validated(configure: Callable[..., FinetuneConfig]) -> None:
    config = configure(adapters={"rank": 2, "dropout": 0.1}, ema_decay=0.8)
    finetune.run(config)
    merged = load_asr(config.run_directory).model
    assert not any(isinstance(module, LowRankLinear) for module in merged.modules())
    alone = load_adapters(config.run_directory)
    torch.testing.assert_close(logits(alone), logits(merged), rtol=0, atol=1e-6)


def test_adapters_of_another_encoder_are_refused(configure: Callable[..., FinetuneConfig], tmp_path: Path) -> None:
    config = configure(adapters={"rank": 2})
    finetune.run(config)
    SpeechEncoder(encoder_config("tiny", NETWORK), seed=4).save(tmp_path / "other")
    with pytest.raises(CheckpointError, match="made for other weights than those of .*other"):
        load_adapters(config.run_directory, pretrained=str(tmp_path / "other"))
    SpeechEncoder(encoder_config("tiny", NETWORK), seed=4).save(tmp_path / "pretrained")
    with pytest.raises(ConfigError, match="pretrained_checksum was"):
        finetune.run(configure(adapters={"rank": 2}, **{"training.max_steps": 6}))


def test_changed_adapters_are_refused_with_what_is_wrong(
    configure: Callable[..., FinetuneConfig], tmp_path: Path
) -> None:
    config = configure(adapters={"rank": 2})
    finetune.run(config)
    path = max(config.run_directory.glob("checkpoints/*/adapters.json"))
    whole = json.loads(path.read_text())
    for change, message in [
        ({"head_input": None}, "lacks head_input; copy it anew"),
        ({"adapters": {**whole["adapters"], "rank": 4}}, "do not go together or were changed .*size mismatch"),
        ({"adapters": {**whole["adapters"], "width": 4}}, "do not go together or were changed .*width"),
    ]:
        described = {name: value for name, value in {**whole, **change}.items() if value is not None}
        path.write_text(json.dumps(described))
        with pytest.raises(CheckpointError, match=message):
            load_adapters(path.parent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapters": {"rank": 2}, "pretrained": None}, "weights under the adapters would stay random"),
        ({"adapters": {"rank": 2}, "freeze_feature_encoder": False}, "own weights stay as they are"),
        ({"adapters": {"rank": -1}}, "rank must be at least 0"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0 and below 1"),
        ({"head_input": "layers"}, "head_input"),
    ],
)
def test_senseless_options_are_refused(
    configure: Callable[..., FinetuneConfig], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        configure(**options)


# ---- moving average


@pytest.mark.parametrize("adapters", [{"rank": 0}, {"rank": 2}])
def test_an_interrupted_run_ends_with_the_same_average(
    configure: Callable[..., FinetuneConfig], adapters: dict[str, int]
) -> None:
    options = {"adapters": adapters, "ema_decay": 0.7, "head_input": "weighted_layers"}
    whole = configure("whole", **options)
    finetune.run(whole)
    part = configure("part", **options)
    finetune.run(configure("part", **options, **{"training.max_steps": 2}))
    assert not (part.run_directory / "checkpoints" / "step_3").exists()
    finetune.run(part)
    for name in ("model", "trained", "optimizer", *(["average", "adapters"] if adapters["rank"] else [])):
        one, other = stored(whole, name), stored(part, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_average_is_that_of_the_stored_weights_and_is_what_validation_reports(
    configure: Callable[..., FinetuneConfig],
) -> None:
    config = configure(ema_decay=0.7)
    result = finetune.run(config)
    trained = [stored(config, "trained", step) for step in (1, 2, 3, 4)]
    expected = stored(config, "model", 1)
    assert not torch.equal(expected["head.weight"], trained[0]["head.weight"])
    for step in (1, 2, 3):
        decay = averaging_decay(0.7, step)
        expected = {name: decay * value + (1 - decay) * trained[step][name] for name, value in expected.items()}
    for name, value in stored(config, "model").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    last = str(config.run_directory / "checkpoints" / "last")
    report = evaluate(EvaluateConfig(checkpoint=last, manifest=config.valid_manifest, device="cpu")).report
    assert report.cer == pytest.approx(result.training.metrics["valid_cer"])


# ---- weighted layers


def test_weights_of_layers_are_learnt_reported_and_saved(
    configure: Callable[..., FinetuneConfig], tmp_path: Path
) -> None:
    config = configure(head_input="weighted_layers", head_lr_scale=5.0)
    result = finetune.run(config)
    assert len(result.layer_weights) == 3 and sum(result.layer_weights) == pytest.approx(1)
    assert result.layer_weights != pytest.approx([1 / 3] * 3, abs=1e-4)
    assert result.training.metrics["valid_layer_weight_2"] == pytest.approx(result.layer_weights[2])
    model = load_asr(config.run_directory).model
    assert model.layer_mix is not None
    torch.testing.assert_close(model.layer_mix.weights, torch.tensor(result.layer_weights))
    with pytest.raises(CheckpointError, match="weighted sum of its layers, which huggingface has no place for"):
        export_model(config.run_directory, tmp_path / "out", format="huggingface")


# ---- settings by label budget


def budget(name: Any, **values: Any) -> FinetuneConfig:
    return FinetuneConfig.for_budget(
        name, train_manifest="a.jsonl", valid_manifest="b.jsonl", run_directory="r", **{"pretrained": "p", **values}
    )


@pytest.mark.parametrize(
    ("name", "max_steps", "peak_lr", "freeze_steps", "channel_probability", "layer_drop"),
    [
        ("10min", 13_000, 5e-5, 10_000, 0.25, 0.1),
        ("1h", 13_000, 5e-5, 10_000, 0.25, 0.1),
        ("10h", 20_000, 5e-5, 10_000, 0.5, 0.05),
        ("100h", 80_000, 3e-5, 0, 0.5, 0.1),
    ],
)
def test_budget_fills_in_the_published_table(
    name: str, max_steps: int, peak_lr: float, freeze_steps: int, channel_probability: float, layer_drop: float
) -> None:
    config = budget(name)
    assert (config.training.max_steps, config.training.optim.peak_lr) == (max_steps, peak_lr)
    assert config.freeze_steps == freeze_steps and config.freeze_feature_encoder is None
    mask = config.mask
    assert (mask.time_probability, mask.time_span) == (0.65, 10)
    assert (mask.channel_probability, mask.channel_span) == (channel_probability, 64)
    assert config.encoder["layer_drop"] == layer_drop
    optim = config.training.optim
    assert (optim.schedule, optim.warmup_fraction, optim.hold_fraction, optim.final_scale) == (
        "tri_stage", 0.1, 0.4, 0.05,
    )  # fmt: skip
    assert config.data.batch_seconds * config.training.accumulation_steps == 1600
    assert config.training.best_metric == "valid_cer"  # what the budget does not name stays


def test_what_is_given_goes_before_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "train_manifest: a\nvalid_manifest: b\nrun_directory: r\npretrained: p\nbudget: 10h\n"
        "mask: {time_span: 4}\nencoder: {dropout: 0.2}\n"
    )
    config = load_config(FinetuneConfig, path, {"training.max_steps": "50", "freeze_steps": "0"})
    assert (config.training.max_steps, config.freeze_steps, config.mask.time_span) == (50, 0, 4)
    assert (config.mask.channel_probability, config.encoder["dropout"], config.encoder["layer_drop"]) == (
        0.5,
        0.2,
        0.05,
    )
    assert from_dict(FinetuneConfig, {**vars(config)}) == config  # a written configuration reads back as it is


def test_budget_from_scratch_freezes_nothing() -> None:
    assert budget("1h", pretrained=None).freeze_steps == 0


def test_unknown_budget_and_the_plain_constructor_are_refused() -> None:
    with pytest.raises(ConfigError, match="budget must be one of 10min, 1h, 10h, 100h"):
        budget("5h")
    with pytest.raises(ConfigError, match=r"in Python write FinetuneConfig.for_budget\('10h'"):
        FinetuneConfig(budget="10h", train_manifest=Path("a"), valid_manifest=Path("b"), run_directory=Path("r"))
