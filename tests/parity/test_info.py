"""`speechssl info` on a model of every format: what it is, what audio it takes, what it writes, whose it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.asr import CtcModel
from speechssl.cli import main
from speechssl.interop import ModelFacts
from speechssl.interop.programs import ONNX_FILE, PROGRAM_FILE, _describe
from speechssl.text import Vocabulary
from tests.parity.models import fairseq2_config, our_encoder
from tests.parity.test_fairseq2_checkpoints import written
from tests.parity.test_fairseq_checkpoints import DICTIONARY, fairseq_state, settings
from tests.parity.test_huggingface_ctc import LETTERS, peer_recognizer
from tests.parity.test_torchaudio_models import LABELS, bundle, peer_model
from tests.unit.test_cli_interop import pretraining_run

Told = dict[str, Any]
WAVEFORM = {
    "sampling rate (Hz)": 16000, "frames a second": 50.0, "frame stride (ms)": 20.0,
    "receptive field of a frame (ms)": 25.0, "shortest clip (samples)": 400,
}  # fmt: skip
OURS = Vocabulary.from_texts(["abc"])


def info(source: Path | str, capsys: pytest.CaptureFixture[str]) -> Told:
    """The command's JSON; the table has the same names."""
    assert main(["info", str(source), "--json"]) == 0
    values: Told = json.loads(capsys.readouterr().out)
    assert main(["info", str(source)]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in ("architecture", "licence", "origin", "sampling rate (Hz)"))
    return values


def count(module: torch.nn.Module, *, without: str = "-") -> int:
    return sum(tensor.numel() for name, tensor in module.named_parameters() if without not in name)


@pytest.mark.parametrize(
    ("family", "architecture", "normalization"),
    [("wav2vec2-base", "wav2vec2", "eps 1e-07"), ("hubert-large", "hubert", "eps 1e-07"),
     ("wavlm-base", "wavlm", "eps 1e-07"), ("data2vec", "data2vec-audio", "eps 1e-07"),
     ("conformer-rotary", "wav2vec2-conformer", "eps 1e-07"), ("w2v-bert-relative-key", "wav2vec2-bert", "none")],
)  # fmt: skip
def test_a_folder_of_hugging_face(
    family: str, architecture: str, normalization: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = peer_recognizer(family, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    told = info(tmp_path / "model", capsys)
    assert (told["format"], told["kind"], told["licence"]) == ("huggingface", "CTC recogniser", "apache-2.0")
    assert told["architecture"].startswith(f"{architecture}: ") and told["architecture"].endswith("layers of 32")
    unused = "pos_conv_embed" if family.startswith("conformer") else "-"
    assert told["parameters"] == count(peer, without=unused)
    assert normalization in told["waveform normalization"]
    assert told["vocabulary"] == LETTERS and told["normalizer of texts"] == "letters"
    assert told["origin"] == {"format": "huggingface", "source": "model", "architecture": architecture}
    on_features = {"receptive field of a frame (ms)": 35.0, "shortest clip (samples)": 560}
    expected = {**WAVEFORM, **on_features} if architecture == "wav2vec2-bert" else WAVEFORM
    assert {name: told[name] for name in expected} == pytest.approx(expected)


def test_a_file_of_fairseq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = our_encoder("base")
    state = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in fairseq_state(encoder, "base").items()}
    state |= {"w2v_encoder.proj.weight": torch.randn(9, 32), "w2v_encoder.proj.bias": torch.randn(9)}
    cfg = {"model": {"w2v_args": {"model": settings("base"), "task": {"normalize": False}}}, "task": {"labels": "ltr"}}
    torch.save({"model": state, "cfg": cfg}, tmp_path / "ft.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    told = info(tmp_path / "ft.pt", capsys)
    assert told["parameters"] == count(encoder) + 9 * 33 and told["parameters of the encoder"] == count(encoder)
    assert told["architecture"].startswith("wav2vec2: ") and told["waveform normalization"] == "none"
    assert told["vocabulary"] == ["<s>", "<pad>", "</s>", "<unk>", *"|ETAO"]
    assert (told["format"], told["licence"], told["origin"]["source"]) == ("fairseq", "not recorded", "ft.pt")
    assert WAVEFORM.items() <= told.items()


def test_a_card_of_fairseq2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = fairseq2_config("large")
    from fairseq2.models.wav2vec2 import create_wav2vec2_model

    peer = create_wav2vec2_model(config)
    told = info(written(tmp_path, peer, config, family="wav2vec2", ending=".safetensors"), capsys)
    assert told["kind"] == "encoder with its pre-training heads" and told["parameters"] == count(peer)
    assert told["waveform normalization"].startswith("zero mean, unit variance")
    assert (told["format"], told["licence"], told["origin"]["source"]) == ("fairseq2", "not recorded", "mine.yaml")
    assert "vocabulary" not in told and WAVEFORM.items() <= told.items()


def test_a_state_of_torchaudio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer = peer_model("wavlm-large")
    torch.save(peer.state_dict(), tmp_path / "mine.pth")
    told = info(tmp_path / "mine.pth", capsys)
    assert told["format"] == "torchaudio" and told["architecture"].startswith("wavlm: ")
    assert told["parameters"] == count(peer) + 32  # and the mask embedding, which torchaudio's models have not
    assert (told["kind"], told["licence"]) == ("encoder", "not recorded")
    assert told["origin"]["source"] == "mine.pth" and WAVEFORM.items() <= told.items()


def test_a_bundle_of_torchaudio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(monkeypatch, tmp_path)
    for source in ("torchaudio:WAV2VEC2_ASR_TINY", tmp_path / "checkpoints" / "tiny_asr.pth"):
        told = info(source, capsys)
        assert told["vocabulary"] == list(LABELS) and told["kind"] == "CTC recogniser"
        assert told["licence"] == "mit"  # as torchaudio's documentation of the bundle says
        assert told["parameters"] == count(peer_model("wav2vec2", aux_num_out=len(LABELS))) + 32
        assert told["origin"]["source"] == str(source).rpartition("/")[2] and WAVEFORM.items() <= told.items()


@pytest.mark.parametrize("file", [ONNX_FILE, PROGRAM_FILE])
def test_a_folder_with_a_program(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The graph is neither loaded nor run."""
    model = CtcModel(our_encoder("base"), OURS, normalizer="letters")
    facts = ModelFacts(name="x", licence="mit", architecture="hubert", origin={"format": "fairseq", "source": "h.pt"})
    _describe(model, tmp_path, facts)
    (tmp_path / file).write_bytes(b"")
    told = info(tmp_path, capsys)
    assert told["format"] == {ONNX_FILE: "onnx", PROGRAM_FILE: "torch-export"}[file] and told["gives"] == "logits"
    assert (told["kind"], told["parameters"]) == ("CTC recogniser", count(model))
    assert (told["licence"], told["origin"]) == ("mit", {"format": "fairseq", "source": "h.pt"})
    assert told["architecture"] == "hubert: waveform front end, 3 transformer layers of 32"
    assert told["vocabulary"] == list(OURS.tokens) and WAVEFORM.items() <= told.items()


def test_our_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = pretraining_run(tmp_path / "run")
    for source in (run, run / "checkpoints" / "step_7"):
        told = info(source, capsys)
        assert (told["format"], told["kind"]) == ("speechssl", "encoder with its pre-training heads")
        assert told["training"]["updates"] == "7" and told["training"]["manifests"] == "train.jsonl"
        assert told["parameters"] > told["parameters of the encoder"] and told["origin"] == "trained here"
        assert WAVEFORM.items() <= told.items()
    encoder = our_encoder("base", sample_rate=8000)
    encoder.save(tmp_path / "encoder")
    told = info(tmp_path / "encoder", capsys)
    assert (told["kind"], told["parameters"]) == ("encoder", count(encoder))
    assert (told["sampling rate (Hz)"], told["frames a second"]) == (8000, 25.0)
    model = CtcModel(encoder, OURS, normalizer="letters")
    model.save(tmp_path / "asr")
    told = info(tmp_path / "asr", capsys)
    assert (told["kind"], told["parameters"]) == ("CTC recogniser", count(model))
    assert told["vocabulary"] == list(OURS.tokens) and told["licence"] == "not recorded"
