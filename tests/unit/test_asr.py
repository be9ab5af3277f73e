"""The CTC model and the recognizer."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechssl import asr
from speechssl.asr import CtcModel, SpeechRecognizer, load_asr, load_vocabulary
from speechssl.encoder import EncoderConfig, SpeechEncoder, load_encoder, resolve_device
from speechssl.errors import AudioError, CheckpointError, ConfigError
from speechssl.text import Vocabulary
from speechssl.types import AudioBatch

VOCABULARY = Vocabulary.from_texts(["abcde fgh"])
LOG_MEL = EncoderConfig(
    front_end="log_mel",
    model_dim=32,
    num_layers=2,
    num_heads=2,
    feed_forward_dim=64,
    norm_position="pre",
    position_kernel=16,
)
WAVEFORM = EncoderConfig(
    conv_layers=((10, 5), (8, 4), (4, 4), (4, 4)),
    conv_dim=16,
    model_dim=32,
    num_layers=2,
    num_heads=2,
    feed_forward_dim=64,
    position_kernel=16,
)


def make_model(config: EncoderConfig = LOG_MEL, *, scale: float = 30.0) -> CtcModel:
    """A random model whose logits are spread enough to write something."""
    model = CtcModel(SpeechEncoder(config), VOCABULARY, normalizer="letters").eval()
    with torch.no_grad():
        model.head.weight *= scale
    return model


def noise(num_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(num_samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [LOG_MEL, WAVEFORM], ids=["log_mel", "waveform"])
def test_logits_in_a_padded_batch_equal_those_alone(config: EncoderConfig) -> None:
    model = make_model(config, scale=1.0)
    waveform = torch.stack([noise(16000), noise(16000, 1)])
    num_samples = torch.tensor([16000, 9000])
    with torch.no_grad():
        together = model(waveform, num_samples)  # the second row goes on with noise in its padding
        for row, length in enumerate(num_samples.tolist()):
            alone = model(waveform[row : row + 1, :length], num_samples[row : row + 1])
            count = int(alone.num_frames)
            assert int(together.num_frames[row]) == count
            torch.testing.assert_close(together.logits[row, :count], alone.logits[0], rtol=1e-4, atol=1e-5)


def test_head_is_drawn_from_its_seed_and_leaves_the_global_state() -> None:
    encoder = SpeechEncoder(LOG_MEL)
    before = torch.get_rng_state()
    first, again, other = (CtcModel(encoder, VOCABULARY, normalizer="none", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_blank_bias_is_that_of_the_blank_alone() -> None:
    bias = CtcModel(SpeechEncoder(LOG_MEL), VOCABULARY, normalizer="none", blank_bias=-3.0).head.bias
    assert bias[0] == -3.0 and not bias[1:].any()


def test_masks_reach_the_encoder() -> None:
    model = make_model()
    waveform, num_samples = noise(16000)[None], torch.tensor([16000])
    with torch.no_grad():
        plain = model(waveform, num_samples).logits
        hidden = torch.zeros(plain.shape[:2], dtype=torch.bool)
        hidden[:, :10] = True
        channels = torch.zeros(1, 32, dtype=torch.bool)
        channels[:, :8] = True
        assert not torch.allclose(plain, model(waveform, num_samples, frame_mask=hidden).logits)
        assert not torch.allclose(plain, model(waveform, num_samples, channel_mask=channels).logits)


@pytest.mark.parametrize("config", [LOG_MEL, WAVEFORM], ids=["log_mel", "waveform"])
def test_model_directory_round_trips_and_holds_an_encoder(tmp_path: Path, config: EncoderConfig) -> None:
    model = make_model(config)
    model.save(tmp_path)
    loaded = CtcModel.load(tmp_path)
    assert (loaded.vocabulary, loaded.normalizer, loaded.training) == (VOCABULARY, "letters", False)
    waveform, num_samples = noise(8000)[None], torch.tensor([8000])
    with torch.no_grad():
        assert torch.equal(model(waveform, num_samples).logits, loaded(waveform, num_samples).logits)
        encoder = load_encoder(tmp_path)
        assert torch.equal(encoder(waveform, num_samples).context, model.encoder(waveform, num_samples).context)


def test_encoder_without_a_head_cannot_be_loaded_as_asr(tmp_path: Path) -> None:
    SpeechEncoder(LOG_MEL).save(tmp_path)
    with pytest.raises(CheckpointError, match="fine-tune it first"):
        load_asr(tmp_path)


def test_checkpoint_cut_short_is_named(tmp_path: Path) -> None:
    make_model().save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_asr(tmp_path)


def test_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    make_model().save(tmp_path)
    Vocabulary.from_texts(["ab"]).save(tmp_path / "vocab.json")
    with pytest.raises(CheckpointError, match="head"):
        load_asr(tmp_path)


@pytest.mark.parametrize("change", [{"normalizer": "leters"}, {"dropout": 1.5}])
def test_damaged_description_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    make_model().save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=r"config\.json: not a usable CTC model"):
        load_asr(tmp_path)


def test_labels_are_not_read_past_a_damaged_description(tmp_path: Path) -> None:
    VOCABULARY.save(tmp_path / "vocab.json")
    assert load_vocabulary(tmp_path / "vocab.json") == VOCABULARY  # without one they are our own
    (tmp_path / "config.json").write_text('{"vocabulary": ')
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read as JSON: .* so restore it"):
        load_vocabulary(tmp_path / "vocab.json")


def test_path_array_and_list_give_the_same_text(tmp_path: Path) -> None:
    recognizer = SpeechRecognizer(make_model())
    soundfile.write(tmp_path / "a.wav", noise(16000).numpy(), 16000, subtype="FLOAT")
    from_path = recognizer.transcribe(tmp_path / "a.wav")
    assert from_path.text
    assert from_path == recognizer.transcribe(noise(16000).numpy(), sample_rate=16000)
    assert [from_path, from_path] == recognizer.transcribe([tmp_path / "a.wav", str(tmp_path / "a.wav")])
    assert from_path.duration_seconds == 1.0
    assert 0 < from_path.confidence <= 1


def test_words_lie_in_order_within_the_recording() -> None:
    transcript = SpeechRecognizer(make_model()).transcribe(noise(48000).numpy(), sample_rate=16000)
    assert " ".join(word.text for word in transcript.words) == transcript.text
    times = [time for word in transcript.words for time in (word.start_seconds, word.end_seconds)]
    assert times == sorted(times)
    assert 0 <= times[0] and times[-1] <= 3.0


def test_array_of_another_rate_is_resampled() -> None:
    transcript = SpeechRecognizer(make_model()).transcribe(noise(8000).numpy(), sample_rate=8000)
    assert transcript.duration_seconds == 1.0


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (np.zeros(16000, np.float32), None, "needs its sampling rate"),
        (np.zeros((2, 16000), np.float32), 16000, r"one channel of shape \[S\], but has shape \[2, 16000\]"),
        (np.zeros(10, np.float32), 16000, "10 samples"),
    ],
)
def test_unusable_array_is_explained(array: np.ndarray, rate: int | None, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        SpeechRecognizer(make_model()).transcribe(array, sample_rate=rate)


def test_too_short_file_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "blip.wav", np.zeros(1), 16000)
    with pytest.raises(AudioError, match=r"blip\.wav"):
        SpeechRecognizer(make_model()).transcribe(tmp_path / "blip.wav")


def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asr, "MAX_SECONDS", 1.5)
    monkeypatch.setattr(asr, "CHUNK_SECONDS", 1.3)
    monkeypatch.setattr(asr, "CONTEXT_SECONDS", 0.5)


def test_pieces_of_a_long_recording_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without attention, and without norms over time, a frame sees less than the overlap: nothing may differ at all.
    model = make_model(replace(WAVEFORM, conv_norm="layer"))
    with torch.no_grad():
        for layer in model.encoder.context_encoder.layers:
            layer.attention.output_projection.weight.zero_()
    recognizer = SpeechRecognizer(model)
    waveform = noise(16000 * 7 + 123)
    whole = recognizer._logits(waveform)
    cut_short(monkeypatch)
    torch.testing.assert_close(recognizer._logits(waveform), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [LOG_MEL, WAVEFORM], ids=["log_mel", "waveform"])
def test_pieces_give_as_many_frames_as_the_whole(config: EncoderConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = SpeechRecognizer(make_model(config))
    cut_short(monkeypatch)
    for num_samples in (24001, 41600, 60123, 83200):
        assert len(recognizer._logits(noise(num_samples))) == recognizer.model.encoder.num_frames(num_samples)


def test_long_utterance_in_a_batch_is_cut_like_a_long_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = SpeechRecognizer(make_model())
    cut_short(monkeypatch)
    waveform = noise(40000)
    batch = AudioBatch(
        utterance_ids=("long", "short"),
        waveform=torch.stack([waveform, waveform]),
        num_samples=torch.tensor([40000, 12000]),
        sample_rate=16000,
    )
    texts = [hypothesis.text for hypothesis in recognizer.recognize_batch(batch)]
    assert texts == [recognizer.recognize(waveform[:length].numpy()).text for length in (40000, 12000)]


def test_recognizing_leaves_training_mode_as_it_was() -> None:
    model = make_model().train()
    model.recognize(noise(8000)[None], torch.tensor([8000]))
    assert model.training


@pytest.mark.parametrize("name", ["gpu", "cuda" if not torch.cuda.is_available() else "nothing"])
def test_unusable_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        resolve_device(name)
