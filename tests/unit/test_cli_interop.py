"""`speechssl export` and `speechssl import`: whole commands, on small models made here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import speechssl
from speechssl.asr import CtcModel
from speechssl.config import to_dict, write_yaml
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.interop import load_pretraining
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from speechssl.pretrain import PretrainConfig, build_models
from speechssl.text import Vocabulary
from speechssl.training.tensors import write_tensors

pytest.importorskip("transformers")

CONFIG = EncoderConfig(
    conv_dim=16, model_dim=32, num_layers=2, num_heads=2, feed_forward_dim=48, position_kernel=16, position_groups=4,
    conv_norm="layer", norm_position="pre", normalize_waveform=True,
)  # fmt: skip
Run = Callable[..., tuple[int, str, str]]


def pretraining_run(folder: Path) -> Path:
    """A run directory as pre-training leaves it, of random weights."""
    settings = ContrastiveConfig(num_entries=8, quantized_dim=16, final_dim=12)
    config = PretrainConfig(manifests=(Path("train.jsonl"),), run_directory=folder, contrastive=settings)
    checkpoint = folder / "checkpoints" / "step_7"
    encoder = SpeechEncoder(CONFIG)
    encoder.save(checkpoint)
    objective = ContrastiveObjective(settings, latent_dim=CONFIG.latent_dim, model_dim=CONFIG.model_dim)
    write_tensors(checkpoint / "objective.safetensors", objective.state_dict())
    (checkpoint / "state.json").write_text('{"step": 7}')
    (folder / "checkpoints" / "last").symlink_to("step_7")
    write_yaml({"stage": "pretrain", **to_dict(config)}, folder / "config.yaml")
    lines: list[dict[str, Any]] = [{"step": 5, "valid_loss": 4.5, "audio_hours": 1.5}, {"step": 9, "valid_loss": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_pretraining_run_goes_out_with_its_heads_and_facts_and_comes_back(tmp_path: Path, run: Run) -> None:
    source = pretraining_run(tmp_path / "run")
    code, out, err = run("export", source, "--output", tmp_path / "out", "--long_seconds", "3")
    assert code == 0, err
    assert "compared with transformers" in out and "context projection" in out
    assert "note: the format fixes normalize_eps=1e-07 instead of 1e-05" in out
    assert "note: no licence is recorded; state one with --licence" in out
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for text in ("- manifests: train.jsonl", "- updates: 7", "- audio hours: 1.5", "- valid loss: 4.5"):
        assert text in card
    assert str(tmp_path) not in card

    code, out, err = run("import", tmp_path / "out", "--output", tmp_path / "back")
    assert code == 0, err
    assert "an encoder with its pre-training heads from wav2vec2 (huggingface)" in out
    before, after = speechssl.load_encoder(source).state_dict(), speechssl.load_encoder(tmp_path / "back").state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    before, after = (load_pretraining(name).objective for name in (source, tmp_path / "back"))
    assert after.config.num_entries == 8 and after.config.final_dim == 12
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
    theirs, mine = (
        build_models(
            PretrainConfig(manifests=(Path("x.jsonl"),), run_directory=tmp_path / "next", initialize_from=str(source))
        )
        for source in (tmp_path / "out", tmp_path / "back")
    )
    for one, other in zip(theirs, mine, strict=True):  # encoder and objective
        assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    origin = json.loads((tmp_path / "back" / "config.json").read_text(encoding="utf-8"))["origin"]
    assert (origin["format"], origin["architecture"]) == ("huggingface", "wav2vec2")


def test_a_recognizer_comes_in_with_its_licence_and_vocabulary(tmp_path: Path, run: Run) -> None:
    model = CtcModel(SpeechEncoder(CONFIG), Vocabulary.from_texts(["abc d"]), normalizer="letters").eval()
    model.save(tmp_path / "asr")
    words = ["--output", str(tmp_path / "out"), "--licence", "mit", "--name", "small one", "--long_seconds", "2"]
    code, out, err = run("export", tmp_path / "asr", *words)
    assert code == 0, err
    assert "# small one" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code, out, err = run("import", tmp_path / "out", "--output", tmp_path / "back")
    assert code == 0, err
    assert "a recogniser from wav2vec2" in out
    back = speechssl.load_asr(tmp_path / "back").model
    assert torch.equal(back.head.weight, model.head.weight)
    assert back.vocabulary.encode("a bad") == model.vocabulary.encode("a bad")
    assert json.loads((tmp_path / "back" / "config.json").read_text(encoding="utf-8"))["origin"]["licence"] == "mit"


def test_a_foreign_recognizer_transcribes_and_is_evaluated_by_its_folder(tmp_path: Path, run: Run) -> None:
    import numpy as np
    import soundfile

    model = CtcModel(SpeechEncoder(CONFIG), Vocabulary.from_texts(["abc d"]), normalizer="letters").eval()
    with torch.no_grad():
        model.head.weight *= 30
    model.save(tmp_path / "asr")
    assert run("export", tmp_path / "asr", "--output", tmp_path / "out", "--long_seconds", "2")[0] == 0
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    (audio / "a.txt").write_text("abc\n")
    assert run("manifest", "build", audio, "--output", tmp_path / "m.jsonl")[0] == 0
    ours, theirs = (run("transcribe", tmp_path / name, audio / "a.wav") for name in ("asr", "out"))
    assert ours[0] == theirs[0] == 0 and ours[1] == theirs[1]
    words = ["--checkpoint", str(tmp_path / "out"), "--manifest", str(tmp_path / "m.jsonl"), "--output"]
    assert run("evaluate", *words, tmp_path / "result")[0] == 0
    result = json.loads((tmp_path / "result" / "result.json").read_text(encoding="utf-8"))
    assert result["model_directory"] == str(tmp_path / "out")


def test_wrong_input_ends_with_2_and_leaves_nothing(tmp_path: Path, run: Run) -> None:
    code, _, err = run("export", "speechssl-tiny", "--output", tmp_path / "out")
    assert code == 2 and "takes log-mel features" in err and "train with front_end=waveform" in err
    code, _, err = run("export", "speechssl-tiny", "--output", tmp_path / "out", "--format", "onix")
    assert code == 2 and "format must be one of huggingface" in err
    code, _, err = run("import", "speechssl-tiny", "--output", tmp_path / "out")
    assert code == 2 and "is no model of another tool" in err
    assert list(tmp_path.iterdir()) == []
