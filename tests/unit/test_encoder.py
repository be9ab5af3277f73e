"""The encoder's promises: padding never matters, saving keeps every bit, bad checkpoints say what is wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechssl.encoder import PRESETS, EncoderConfig, SpeechEncoder, encoder_config, load_encoder
from speechssl.errors import AudioError, CheckpointError, ConfigError
from speechssl.lengths import frame_stride, receptive_field
from speechssl.model_directory import resolve_model_directory
from speechssl.types import EncoderOutput

LENGTHS = [9000, 5111, 1234]
SMALL: dict[str, Any] = {
    "model_dim": 32, "num_layers": 2, "num_heads": 4, "feed_forward_dim": 64, "position_kernel": 8,
    "position_groups": 4,
}  # fmt: skip
NO_DROPOUT = {"input_dropout": 0.0, "dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0}


def shrunk(preset: str, **more: Any) -> EncoderConfig:
    """A preset's style at a size for tests."""
    narrow = {"num_mels": 20} if PRESETS[preset].get("front_end") == "log_mel" else {"conv_dim": 16}
    return encoder_config(preset, {**SMALL, **narrow, **more})


def make(preset: str = "tiny", **more: Any) -> SpeechEncoder:
    return SpeechEncoder(shrunk(preset, **more)).eval()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def padded(content: float = 0.0) -> tuple[Tensor, Tensor]:
    waveform, lengths = noise(3, max(LENGTHS)), torch.tensor(LENGTHS)
    beyond = torch.arange(max(LENGTHS)) >= lengths[:, None]
    return torch.where(beyond, content * noise(3, max(LENGTHS), seed=9) if content else 0.0, waveform), lengths


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_padding_content_does_not_change_context(preset: str) -> None:
    encoder = make(preset)
    silence = encoder(*padded(), layers=True)
    loud = encoder(*padded(100.0), layers=True)
    for row, count in enumerate(silence.num_frames.tolist()):
        for before, after in zip(all_layers(silence), all_layers(loud), strict=True):
            assert difference(after[row, :count], before[row, :count]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_a_clip_in_a_batch_is_the_clip_alone(preset: str) -> None:
    encoder = make(preset)
    waveform, lengths = padded(100.0)
    together = encoder(waveform, lengths, layers=True)
    for row, (length, count) in enumerate(zip(LENGTHS, together.num_frames.tolist(), strict=True)):
        alone = encoder(waveform[row : row + 1, :length], lengths[row : row + 1], layers=True)
        assert alone.num_frames.tolist() == [count] == [encoder.num_frames(length)]
        for batched, single in zip(all_layers(together), all_layers(alone), strict=True):
            assert difference(batched[row, :count], single[0]) < 1e-5


def all_layers(output: EncoderOutput) -> list[Tensor]:
    assert output.layers is not None
    return [output.latents, *output.layers, output.context]


@torch.no_grad()
def test_included_padding_statistics_do_depend_on_the_batch() -> None:
    """What the peers compute stays available by name; without padding both are the same."""
    masked, included = make("base"), make("base", conv_padding="included")
    waveform, lengths = padded()
    assert difference(included(waveform, lengths).context[2, :3], masked(waveform, lengths).context[2, :3]) > 0.05
    full = torch.full_like(lengths, waveform.shape[1])
    assert torch.equal(included(waveform, full).context, masked(waveform, full).context)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_see_20_ms_at_a_time(preset: str) -> None:
    layers = encoder_config(preset).strided_layers
    assert frame_stride(layers) == 320
    assert receptive_field(layers) == (560 if preset == "tiny" else 400)
    assert encoder_config(preset).frame_rate == 50


@pytest.mark.parametrize(("preset", "millions"), [("tiny", 3.3), ("small", 15.9), ("base", 94.4), ("large", 315.4)])
def test_presets_have_the_documented_size(preset: str, millions: float) -> None:
    if preset == "tiny":
        encoder = SpeechEncoder(encoder_config(preset))
    else:
        with torch.device("meta"):
            encoder = SpeechEncoder(encoder_config(preset))
    assert sum(parameter.numel() for parameter in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_weights_follow_from_the_seed_and_nothing_else_is_seeded() -> None:
    state = torch.get_rng_state()
    first, second, other = (SpeechEncoder(shrunk("base"), seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.dim() < 2 or not torch.equal(a, c), name


@torch.no_grad()
def test_dropout_and_layer_drop_are_off_in_evaluation() -> None:
    noisy = {"input_dropout": 0.3, "dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3}
    encoder = make("base", **noisy, layer_drop=0.9)
    plain = make("base", **NO_DROPOUT)
    waveform, lengths = padded()
    assert torch.equal(encoder(waveform, lengths).context, plain(waveform, lengths).context)
    encoder.train()
    assert not torch.equal(encoder(waveform, lengths).context, encoder(waveform, lengths).context)


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_layer_drop_never_loses_a_layer(preset: str) -> None:
    encoder = make(preset, layer_drop=0.9, num_layers=3).train()
    for _ in range(10):
        output = encoder(*padded(), layers=True)
        assert output.layers is not None and len(output.layers) == 4


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0])
def test_gradient_into_the_front_end_is_scaled(scale: float) -> None:
    gradients = []
    for value in (scale, 1.0):
        encoder = make("base", feature_gradient_scale=value)
        encoder(*padded()).context.square().sum().backward()
        gradient = encoder.feature_encoder.convs[0].weight.grad
        gradients.append(torch.zeros(1) if gradient is None else gradient)
        assert encoder.projection.weight.grad is not None
    torch.testing.assert_close(gradients[0].expand_as(gradients[1]), scale * gradients[1], rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_masked_frames_and_channels_are_hidden() -> None:
    encoder = make("tiny")
    waveform, lengths = padded()
    latents = encoder.extract_latents(waveform, lengths)
    frame_mask = torch.zeros(latents.latents.shape[:2], dtype=torch.bool)
    frame_mask[:, 1] = True
    channel_mask = torch.zeros(3, 32, dtype=torch.bool)
    channel_mask[:, 4] = True
    changed = latents.normalized.clone()
    changed[:, 1] += 10
    for option in ({"frame_mask": frame_mask}, {"frame_mask": frame_mask, "channel_mask": channel_mask}):
        first = encoder.contextualize(latents.normalized, latents.num_frames, **option).context
        second = encoder.contextualize(changed, latents.num_frames, **option).context
        assert torch.equal(first, second)
    x = encoder.projection(latents.normalized)
    encoder.context_encoder.forward = lambda x, padding, layers: (x, None)
    hidden = encoder.contextualize(
        latents.normalized, latents.num_frames, frame_mask=frame_mask, channel_mask=channel_mask
    ).context
    assert not hidden[:, :, 4].any()
    assert torch.equal(hidden[:, 1, 5:], encoder.mask_embedding[5:].expand(3, -1))
    assert torch.equal(hidden[:, 2:, 5:], x[:, 2:, 5:])


@pytest.mark.parametrize("preset", PRESETS)
def test_too_short_clips_are_refused_with_the_shortest_length(preset: str) -> None:
    shortest = receptive_field(encoder_config(preset).strided_layers)
    encoder = make(preset)
    assert encoder(noise(1, shortest), torch.tensor([shortest])).context.shape[1] == 1
    for waveform, lengths in ((noise(1, shortest - 1), [shortest - 1]), (noise(2, 9000), [9000, 1])):
        with pytest.raises(
            AudioError, match=f"has {lengths[-1]} samples at 16000 Hz, but the encoder needs at least {shortest}"
        ):
            encoder(waveform, torch.tensor(lengths))


# saving and loading


@torch.no_grad()
@pytest.mark.parametrize("preset", PRESETS)
def test_saving_and_loading_keeps_every_bit(preset: str, tmp_path: Path) -> None:
    encoder = SpeechEncoder(shrunk(preset), seed=5)
    encoder.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    loaded = SpeechEncoder.load(tmp_path / "model")
    assert loaded.config == encoder.config
    assert not loaded.training
    own, others = encoder.state_dict(), loaded.state_dict()
    assert own.keys() == others.keys()
    assert all(torch.equal(own[name], others[name]) for name in own)
    assert torch.equal(loaded(*padded()).context, encoder.eval()(*padded()).context)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make().save(tmp_path / "model")
    return tmp_path / "model"


def refused(directory: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        SpeechEncoder.load(directory)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_weights_cut_short_are_refused(saved: Path, share: float) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    message = refused(saved)
    assert str(path) in message
    assert "damaged or cut short" in message and "earlier checkpoint" in message


def test_missing_weights_are_refused(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    assert "model.safetensors: missing; the model directory is incomplete" in refused(saved)


def test_weights_that_do_not_fit_are_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    tensors = load_file(path)
    del tensors["projection.bias"]
    tensors["mask_embedding"] = tensors["mask_embedding"][:5].clone()
    tensors["stranger"] = torch.zeros(2)
    save_file(tensors, path)
    message = refused(saved)
    assert str(path) in message
    assert "missing projection.bias" in message
    assert "unknown stranger" in message
    assert "mask_embedding has shape [5] instead of [32]" in message


def edit(saved: Path, **changes: Any) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_configurations_of_other_tools_are_refused(saved: Path) -> None:
    (saved / "config.json").write_text('{"architectures": ["Wav2Vec2Model"], "hidden_size": 768}')
    assert "not a speechssl model" in refused(saved)
    (saved / "config.json").write_text("{ this is no JSON")
    assert "cannot be read as JSON" in refused(saved)
    (saved / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as JSON" in refused(saved)
    (saved / "config.json").write_text("[1, 2]")
    assert "not a speechssl model" in refused(saved)
    (saved / "config.json").unlink()
    assert "no config.json; give a model directory" in refused(saved)


def test_unknown_and_wrong_fields_are_refused(saved: Path) -> None:
    encoder = json.loads((saved / "config.json").read_text())["encoder"]
    edit(saved, encoder={**encoder, "num_lyers": 3})
    assert "num_lyers" in refused(saved)
    edit(saved, encoder={**encoder, "conv_norm": "batch"})
    assert "conv_norm: must be one of group, layer, but is 'batch'" in refused(saved)
    edit(saved, encoder={**encoder, "variant": {"activation": 3}})
    assert "variant.activation: must be one of" in refused(saved)
    edit(saved, encoder={**encoder, "num_heads": 5})
    assert "model_dim must be divisible by num_heads=5, but is 32" in refused(saved)
    edit(saved, encoder={**encoder, "conv_layers": 7})
    assert "not a usable encoder configuration" in refused(saved)
    edit(saved, encoder="tiny")
    assert "not a usable encoder configuration" in refused(saved)


def test_newer_formats_are_refused(saved: Path) -> None:
    edit(saved, format_version=99)
    assert "format version is 99" in refused(saved)
    assert "install a newer speechssl" in refused(saved)


@torch.no_grad()
def test_half_precision_weights_are_read_as_fp32(saved: Path) -> None:
    path = saved / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    loaded = SpeechEncoder.load(saved)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert loaded(*padded()).context.dtype == torch.float32


def test_run_checkpoint_and_model_directories_are_found(saved: Path, tmp_path: Path) -> None:
    assert resolve_model_directory(saved) == saved
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
        resolve_model_directory(tmp_path / "run")
    (checkpoints / "last").symlink_to(saved)
    assert resolve_model_directory(tmp_path / "run") == checkpoints / "last"
    (checkpoints / "best").symlink_to(saved)
    assert resolve_model_directory(tmp_path / "run") == checkpoints / "best"
    assert load_encoder(str(tmp_path / "run")).config == shrunk("tiny")
    with pytest.raises(CheckpointError, match="does not exist; give a run or model directory"):
        load_encoder(tmp_path / "nowhere")


# configuration


def test_unknown_presets_and_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be one of tiny, small, base, large, but is 'huge'"):
        encoder_config("huge")
    with pytest.raises(ConfigError, match="num_layer"):
        encoder_config("base", {"num_layer": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 7}, "model_dim must be divisible by num_heads=7, but is 768"),
        ({"position_groups": 7}, "model_dim must be divisible by position_groups=7, but is 768"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, but is 1.0"),
        ({"layer_drop": -0.1}, "layer_drop must be at least 0 and below 1, but is -0.1"),
        ({"num_layers": 0}, "num_layers must be at least 1, but is 0"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(EncoderConfig(), **change)


# embed


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    paths = []
    for number, length in enumerate([16_000, 4000, 9000, 700]):
        paths.append(tmp_path / f"{number}.wav")
        soundfile.write(paths[-1], 0.1 * noise(length, seed=number).numpy(), 16_000, subtype="FLOAT")
    return paths


@pytest.mark.parametrize("preset", ["tiny", "base"])
@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_embeddings_of_many_are_those_of_each(preset: str, layer: int | None, clips: list[Path]) -> None:
    encoder = make(preset)
    for batch_seconds in (0.01, 1.0, 60.0):
        together = encoder.embed(clips, layer=layer, batch_seconds=batch_seconds)
        assert isinstance(together, np.ndarray) and together.shape == (4, 32) and together.dtype == np.float32
        frames = encoder.embed(clips, layer=layer, pool="none", batch_seconds=batch_seconds)
        for path, vector, frame in zip(clips, together, frames, strict=True):
            alone = encoder.embed(path, layer=layer)
            assert isinstance(alone, np.ndarray) and alone.shape == (32,)
            assert np.linalg.norm(vector - alone) < 1e-5 * np.linalg.norm(alone)
            np.testing.assert_allclose(frame.mean(axis=0), alone, rtol=1e-4, atol=1e-5)
            assert np.array_equal(encoder.embed(str(path), layer=layer, pool="none").shape, frame.shape)


def test_arrays_are_resampled_and_must_name_their_rate(clips: list[Path]) -> None:
    encoder = make()
    waveform, _ = soundfile.read(clips[0], dtype="float32")
    np.testing.assert_allclose(encoder.embed(waveform, sample_rate=16_000), encoder.embed(clips[0]), rtol=1e-6)
    at_8_khz = encoder.embed(waveform[::2].copy(), sample_rate=8000, pool="none")
    assert len(at_8_khz) == encoder.num_frames(16_000)
    with pytest.raises(AudioError, match="sample_rate=16000"):
        encoder.embed(waveform)
    with pytest.raises(AudioError, match=r"one channel of shape \[S\], but has shape \[2, 5\]"):
        encoder.embed(np.zeros((2, 5), np.float32), sample_rate=16_000)


def test_embed_keeps_the_mode_and_names_what_is_wrong(clips: list[Path], tmp_path: Path) -> None:
    encoder = make("base", dropout=0.5).train()
    assert np.array_equal(encoder.embed(clips[0]), encoder.embed(clips[0]))
    assert encoder.training
    with pytest.raises(ConfigError, match="layer must be between 0 and 2, but is 3"):
        encoder.embed(clips[0], layer=3)
    with pytest.raises(AudioError, match="nowhere.wav"):
        encoder.embed([clips[0], tmp_path / "nowhere.wav"])
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    for source in (tmp_path / "short.wav", [clips[0], tmp_path / "short.wav"]):
        with pytest.raises(AudioError, match="short.wav has 100 samples at 16000 Hz, but the encoder needs at least"):
            encoder.embed(source)
    assert encoder.training


def test_embedding_nothing_gives_nothing() -> None:
    assert make().embed([]).shape == (0, 32)
    assert make().embed([], pool="none") == []
