"""What fine-tuning learns from, what it trains and what it reports."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from speechssl import finetune
from speechssl.asr import CtcModel, load_asr
from speechssl.config import load_config
from speechssl.ctc import ctc_loss, ctc_nll
from speechssl.data import DataConfig
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import CheckpointError, ConfigError, ManifestError, TrainingError
from speechssl.finetune import CtcTask, FinetuneConfig, MaskConfig, build_encoder, prepare_training, prepare_validation
from speechssl.manifest import Manifest
from speechssl.text import Vocabulary
from speechssl.training import OptimConfig, TrainingConfig
from speechssl.types import Utterance

TINY = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 16}
WAVEFORM = EncoderConfig(conv_layers=((10, 5), (8, 4), (4, 4), (4, 4)), conv_dim=16, feature_gradient_scale=0.1, **TINY)
NO_MASK = MaskConfig(time_probability=0.0, channel_probability=0.0)


def write_manifest(folder: Path, texts: Mapping[str, str | None], *, name: str = "train", seconds: float = 1.0) -> Path:
    """`seconds` of noise for every text."""
    utterances = []
    for number, (key, text) in enumerate(texts.items()):
        path = folder / f"{name}-{key}.wav"
        num_samples = int(seconds * 16000) - 480 * number
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(num_samples), 16000)
        utterances.append(
            Utterance(
                id=key,
                audio_filepath=str(path),
                sample_rate=16000,
                num_samples=num_samples,
                duration=num_samples / 16000,
                text=text,
            )
        )
    Manifest.from_utterances(utterances).save(folder / f"{name}.jsonl")
    return folder / f"{name}.jsonl"


@pytest.fixture
def config(tmp_path: Path) -> FinetuneConfig:
    return FinetuneConfig(
        train_manifest=write_manifest(tmp_path, {"a": "ab ba", "b": "cab", "c": "bb"}),
        valid_manifest=write_manifest(tmp_path, {"v": "abc", "w": "b a"}, name="valid"),
        run_directory=tmp_path / "run",
        encoder=TINY,
        mask=NO_MASK,
        head_dropout=0.0,
        data=DataConfig(num_workers=0, batch_seconds=10),
        training=TrainingConfig(
            max_steps=2,
            validate_interval=2,
            checkpoint_interval=1,
            tensorboard=False,
            best_metric="valid_cer",
            optim=OptimConfig(peak_lr=1e-3),
        ),
        device="cpu",
    )


@pytest.fixture
def pretrained(tmp_path: Path) -> str:
    SpeechEncoder(WAVEFORM, seed=3).save(tmp_path / "pretrained")
    return str(tmp_path / "pretrained")


def make_task(config: FinetuneConfig) -> CtcTask:
    encoder = build_encoder(config)
    train_manifest, valid_manifest = Manifest.load(config.train_manifest), Manifest.load(config.valid_manifest)
    vocabulary = finetune.build_vocabulary(train_manifest, config)
    model = CtcModel(encoder, vocabulary, normalizer=config.normalizer, dropout=config.head_dropout)
    return CtcTask(
        model,
        prepare_training(train_manifest, vocabulary, encoder, config),
        prepare_validation(valid_manifest, vocabulary, config),
        config,
    )


def step_once(task: CtcTask, step: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """One plain gradient step as the loop makes it; returns the metrics with the loss."""
    task.model.train()
    task.before_step(step)
    optimizer = torch.optim.SGD([{"params": group["params"]} for group in task.parameter_groups()], lr=0.1)
    batch = task.to_device(next(task.batches(0)), torch.device("cpu"))
    output = task.loss(batch, step=step, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    output.loss.backward()
    optimizer.step()
    return {"loss": output.loss.detach(), "num_targets": output.num_targets, **output.metrics}


def snapshot(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(module: nn.Module, before: Mapping[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


# ---- labels


def test_vocabulary_is_made_of_the_training_texts_alone(config: FinetuneConfig, tmp_path: Path) -> None:
    write_manifest(tmp_path, {"v": "xyz"}, name="valid")
    vocabulary = finetune.build_vocabulary(Manifest.load(config.train_manifest), config)
    assert vocabulary.tokens[2:] == ("a", "b", "c")


def test_unusable_training_rows_are_listed_with_their_reason(config: FinetuneConfig, tmp_path: Path) -> None:
    texts = {"good": "ab", "none": None, "dots": "...", "strange": "añb", "long": "ab" * 40}
    manifest = Manifest.load(write_manifest(tmp_path, texts))
    data = prepare_training(manifest, Vocabulary.from_texts(["ab"]), build_encoder(config), config)
    assert data.manifest.column("id").to_pylist() == ["good"]
    assert data.labels == ((2, 3),)
    assert data.unknown_characters == {"ñ": 1}
    assert data.left_out["none"] == data.left_out["dots"] == "no text after the normalizer 'letters'"
    assert data.left_out["strange"] == "the vocabulary lacks 'ñ' (U+00F1) x1"
    assert data.left_out["long"] == ("too short for its text: long: 80 labels need 80 frames but its audio makes 43")


def test_feasibility_counts_frames_as_the_encoder_makes_them(config: FinetuneConfig, tmp_path: Path) -> None:
    # 49 frames a second: 49 different labels fit, 25 equal ones need 49 too, one more does not fit
    encoder = build_encoder(config)
    assert encoder.num_frames(16000) == 49
    vocabulary = Vocabulary.from_texts(["ab"])
    for text, fits in [(("ab" * 25)[:49], True), ("ab" * 25, False), ("a" * 25, True), ("a" * 26, False)]:
        manifest = Manifest.load(write_manifest(tmp_path, {"x": text}))
        if fits:
            assert len(prepare_training(manifest, vocabulary, encoder, config).labels) == 1
        else:
            with pytest.raises(TrainingError, match="too short for its text"):
                prepare_training(manifest, vocabulary, encoder, config)


def test_nothing_left_to_learn_from_is_refused_before_training(config: FinetuneConfig, tmp_path: Path) -> None:
    write_manifest(tmp_path, {"x": "abc" * 100, "y": "cba" * 100})
    with pytest.raises(TrainingError, match=r"train\.jsonl: none of the 2 utterances can be learnt from: x: too short"):
        finetune.run(config)
    assert not (config.run_directory / "checkpoints").exists()


def test_manifest_without_any_text_is_refused(config: FinetuneConfig, tmp_path: Path) -> None:
    write_manifest(tmp_path, {"x": None})
    with pytest.raises(ManifestError, match=r"train\.jsonl: .*give transcripts"):
        finetune.run(config)


def test_validation_without_text_is_refused(config: FinetuneConfig, tmp_path: Path) -> None:
    write_manifest(tmp_path, {"v": "ab", "w": None}, name="valid")
    with pytest.raises(ManifestError, match=r"valid\.jsonl: 1 of 2 utterances have no text, the first is 'w'"):
        finetune.run(config)


def test_validation_counts_unknown_characters_and_keeps_the_row(config: FinetuneConfig, tmp_path: Path) -> None:
    manifest = Manifest.load(write_manifest(tmp_path, {"v": "xaxb"}, name="valid"))
    data = prepare_validation(manifest, Vocabulary.from_texts(["ab"]), config)
    assert data.unknown_characters == {"x": 2}
    assert data.labels == ((2, 3),)


# ---- configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze_steps": 10}, "freeze_steps is 10, but there is no pretrained"),
        ({"freeze_feature_encoder": True}, "would stay random"),
        ({"head_lr_scale": 0.0}, "head_lr_scale must be above 0"),
        ({"freeze_steps": -1, "pretrained": "x"}, "freeze_steps must not be negative"),
    ],
)
def test_senseless_configuration_is_refused(config: FinetuneConfig, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(config, **options)


@pytest.mark.parametrize("options", [{"time_probability": 1.5}, {"channel_probability": -0.1}, {"time_span": 0}])
def test_senseless_mask_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))} must"):
        MaskConfig(**options)  # type: ignore[arg-type]


def test_configuration_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "finetune.yaml"
    path.write_text(
        "train_manifest: a.jsonl\nvalid_manifest: b.jsonl\nrun_directory: runs/x\nencoder: {num_layers: 3}\n"
        "mask: {time_probability: 0.5}\ntraining: {optim: {peak_lr: 1e-4}}\n"
    )
    loaded = load_config(FinetuneConfig, path, {"encoder.dropout": "0.2"})
    assert (loaded.mask.time_probability, loaded.mask.time_span) == (0.5, 10)
    assert (loaded.training.optim.peak_lr, loaded.training.optim.schedule) == (1e-4, "tri_stage")
    encoder = build_encoder(loaded)
    assert (encoder.config.num_layers, encoder.config.dropout) == (3, 0.2)


def test_unknown_encoder_field_is_refused_with_the_nearest_name(config: FinetuneConfig) -> None:
    with pytest.raises(ConfigError, match="layer_dropp.*did you mean 'layer_drop'"):
        build_encoder(replace(config, encoder={"layer_dropp": 0.1}))


def test_pretrained_weights_are_kept_while_dropout_is_replaced(config: FinetuneConfig, pretrained: str) -> None:
    encoder = build_encoder(replace(config, pretrained=pretrained, encoder={"layer_drop": 0.2}))
    assert (encoder.config.layer_drop, encoder.config.feature_gradient_scale) == (0.2, 1.0)
    assert changed(encoder, snapshot(SpeechEncoder(WAVEFORM, seed=3))) == set()


def test_shape_of_a_pretrained_encoder_cannot_be_changed(config: FinetuneConfig, pretrained: str) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.num_layers: cannot be changed in the pre-trained"):
        build_encoder(replace(config, pretrained=pretrained, encoder={"num_layers": 3}))


def test_missing_pretrained_run_is_named(config: FinetuneConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        build_encoder(replace(config, pretrained=str(tmp_path / "nowhere"), encoder={}))


# ---- what is trained


def test_from_scratch_nothing_is_frozen(config: FinetuneConfig) -> None:
    waveform = replace(config, preset="small", encoder={**TINY, "conv_dim": 16, "layer_drop": 0.0}, mask=MaskConfig())
    task = make_task(waveform)
    before = snapshot(task.model)
    step_once(task, 0)
    still = set(before) - changed(task.model, before)
    assert still == set()


def test_encoder_rests_for_the_first_steps_and_convolutions_always(config: FinetuneConfig, pretrained: str) -> None:
    task = make_task(replace(config, pretrained=pretrained, encoder={"layer_drop": 0.0}, freeze_steps=3))
    before = snapshot(task.model)
    step_once(task, 2)
    assert changed(task.model, before) == {"head.weight", "head.bias"}
    before = snapshot(task.model)
    step_once(task, 3)
    moved = changed(task.model, before)
    assert any(name.startswith("encoder.context_encoder.layers.0") for name in moved)
    assert "encoder.projection.weight" in moved
    assert not any(name.startswith("encoder.feature_encoder") for name in moved)


def test_convolutions_are_trained_when_asked_for(config: FinetuneConfig, pretrained: str) -> None:
    task = make_task(replace(config, pretrained=pretrained, encoder={}, freeze_feature_encoder=False))
    before = snapshot(task.model)
    step_once(task, 0)
    assert any(name.startswith("encoder.feature_encoder") for name in changed(task.model, before))


def test_learning_rates_fall_from_the_head_down(config: FinetuneConfig, pretrained: str) -> None:
    scales = replace(
        config, pretrained=pretrained, encoder={}, head_lr_scale=5.0, encoder_lr_scale=0.5, layer_lr_decay=0.1
    )
    task = make_task(scales)
    names = {id(parameter): name for name, parameter in task.model.named_parameters()}
    found = {names[id(p)]: group["lr_scale"] for group in task.parameter_groups() for p in group["params"]}
    assert found["head.weight"] == found["head.bias"] == 5.0
    assert found["encoder.context_encoder.layers.1.attention.output_projection.weight"] == pytest.approx(0.5)
    assert found["encoder.context_encoder.layers.0.attention.output_projection.weight"] == pytest.approx(0.05)
    assert found["encoder.projection.weight"] == pytest.approx(0.005)
    frozen = {name for name in names.values() if name.startswith("encoder.feature_encoder.")}
    assert frozen and set(found) == set(names.values()) - frozen


def test_weight_decay_spares_biases_norms_and_mask_embedding(config: FinetuneConfig) -> None:
    task = make_task(config)
    for group in task.parameter_groups():
        decays = "weight_decay" not in group
        assert all((parameter.dim() > 1) == decays for parameter in group["params"])


# ---- loss


def test_loss_is_ctc_per_label_of_the_batch(config: FinetuneConfig) -> None:
    task = make_task(replace(config, encoder={**TINY, "dropout": 0.0, "input_dropout": 0.0}))
    batch = next(task.batches(0))
    task.model.eval()
    output = task.model(batch.audio.waveform, batch.audio.num_samples)
    expected = ctc_loss(output.logits, output.num_frames, batch.targets, batch.target_lengths)
    placed = task.to_device(batch, torch.device("cpu"))
    loss = task.loss(placed, step=0, generator=torch.Generator())
    torch.testing.assert_close(loss.loss, expected)
    assert int(loss.num_targets) == len("ab ba") + len("cab") + len("bb")
    assert 0 <= float(loss.metrics["blank_fraction"]) <= 1
    assert float(loss.metrics["infeasible_utterances"]) == 0


def test_recording_shorter_than_the_manifest_says_is_left_out_of_loss_and_gradient(
    config: FinetuneConfig, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(config)
    batch = next(task.batches(0))
    row = batch.audio.utterance_ids.index("a")
    batch.audio.num_samples[row] = 1600  # 4 frames for 5 labels
    task.model.eval()
    with caplog.at_level(logging.WARNING):
        placed = task.to_device(batch, torch.device("cpu"))
    assert "left out a: its recording is shorter than the manifest says" in caplog.text
    assert set(task.unreadable) == {"a"}
    output = task.loss(placed, step=0, generator=torch.Generator())
    assert float(output.metrics["infeasible_utterances"]) == 1
    assert int(output.num_targets) == len("cab") + len("bb")
    output.loss.backward()
    ours = {name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None}
    task.model.zero_grad()
    others = [index for index in range(3) if index != row]
    logits = task.model(batch.audio.waveform, batch.audio.num_samples)
    nll = ctc_nll(logits.logits[others], logits.num_frames[others], batch.targets[others], batch.target_lengths[others])
    (nll.sum() / 5).backward()
    for name, parameter in task.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad)


def test_masks_come_from_the_step_s_generator_alone(config: FinetuneConfig) -> None:
    no_dropout = {**TINY, "dropout": 0.0, "input_dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0}
    mask = MaskConfig(time_probability=0.5, time_span=5, channel_probability=0.5, channel_span=8)
    task = make_task(replace(config, encoder=no_dropout, mask=mask))
    task.model.train()
    placed = task.to_device(next(task.batches(0)), torch.device("cpu"))
    losses = [
        task.loss(placed, step=0, generator=torch.Generator().manual_seed(seed)).loss.item() for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


# ---- validation


def test_validation_is_deterministic_and_does_not_depend_on_batches(config: FinetuneConfig) -> None:
    task = make_task(replace(config, mask=MaskConfig(), head_dropout=0.5))
    task.model.train()
    first, again = task.validate(0), task.validate(1)
    assert first == again
    assert task.model.training
    alone = make_task(replace(config, data=replace(config.data, batch_seconds=0.1)))
    alone.model.load_state_dict(task.model.state_dict())
    assert alone.validate(0) == pytest.approx(first, rel=1e-4)
    assert set(first) == {"valid_loss", "valid_wer", "valid_cer", "valid_blank_fraction"}


def test_validation_loss_is_the_mean_over_labels(config: FinetuneConfig) -> None:
    task = make_task(config)
    task.model.eval()
    total, count = 0.0, 0
    for utterance, labels in zip(Manifest.load(config.valid_manifest), ("abc", "b a"), strict=True):
        waveform, _ = soundfile.read(utterance.audio_filepath, dtype="float32")
        targets = torch.tensor([task.model.vocabulary.encode(labels)])
        with torch.no_grad():
            output = task.model(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
        total += float(ctc_nll(output.logits, output.num_frames, targets, torch.tensor([3])))
        count += 3
    assert task.validate(0)["valid_loss"] == pytest.approx(total / count, rel=1e-4)


def test_unreadable_validation_recording_counts_as_not_recognised(config: FinetuneConfig, tmp_path: Path) -> None:
    task = make_task(config)
    (tmp_path / "valid-v.wav").write_text("no audio")
    (tmp_path / "valid-w.wav").unlink()
    metrics = task.validate(0)
    assert (metrics["valid_wer"], metrics["valid_cer"], metrics["valid_loss"]) == (1.0, 1.0, 0.0)


# ---- runs


def test_run_leaves_a_recognizer_and_a_list_of_what_it_left_out(
    config: FinetuneConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_manifest(tmp_path, {"a": "ab", "b": "ab" * 60, "c": "ba"})
    write_manifest(tmp_path, {"v": "abz"}, name="valid")
    (tmp_path / "train-c.wav").write_text("no audio")
    with caplog.at_level(logging.WARNING):
        result = finetune.run(config)
    assert (result.num_train, result.num_valid) == (2, 1)
    assert set(result.left_out) == {"b", "c"}
    assert result.unknown_validation_characters == {"z": 1}
    assert "1 of 3 training utterances are left out" in caplog.text
    assert "count as errors: 'z' x1" in caplog.text
    lines = (config.run_directory / finetune.LEFT_OUT_FILE).read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["b"]
    assert load_asr(config.run_directory).model.vocabulary == result.vocabulary
    assert result.training.best_metric is not None


def test_interrupted_run_ends_with_the_same_bits(config: FinetuneConfig, tmp_path: Path) -> None:
    config = replace(config, mask=MaskConfig(), head_dropout=0.1, training=replace(config.training, max_steps=4))
    whole = finetune.run(config)
    again = replace(config, run_directory=tmp_path / "again")
    finetune.run(again)
    # without its last checkpoint the run goes on from the one before, as after a kill
    checkpoints = tmp_path / "again" / "checkpoints"
    shutil.rmtree(checkpoints / "step_4")
    for link in ("last", "best"):
        (checkpoints / link).unlink(missing_ok=True)
    assert (checkpoints / "step_3").is_dir()
    resumed = finetune.run(again)
    assert resumed.training.steps == 4
    first = load_asr(whole.training.last_checkpoint).model.state_dict()
    second = load_asr(resumed.training.last_checkpoint).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_shared_recordings_are_pointed_out(config: FinetuneConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        finetune.run(replace(config, valid_manifest=config.train_manifest))
    assert "3 of 3 utterances are in the training manifest too" in caplog.text


def test_given_vocabulary_is_used(config: FinetuneConfig, tmp_path: Path) -> None:
    Vocabulary.from_texts(["abxyz"]).save(tmp_path / "vocab.json")
    result = finetune.run(replace(config, vocabulary=tmp_path / "vocab.json"))
    assert result.vocabulary.tokens[2:] == ("a", "b", "x", "y", "z")
    assert result.left_out == {"b": "the vocabulary lacks 'c' x1"}
