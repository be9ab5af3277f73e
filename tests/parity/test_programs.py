"""ONNX graphs and torch.export programs pass the gate for every family, at any batch size and length."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig, SpeechEncoder, encoder_config
from speechssl.errors import CheckpointError
from speechssl.interop.export import export_model
from speechssl.interop.gate import GateInput, gate_inputs
from speechssl.interop.model import PretrainingModel
from speechssl.interop.programs import export_program
from speechssl.nn.context_encoder import ContextVariant
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from speechssl.text import Vocabulary
from tests.parity.weights import randomize

SMALL: dict[str, Any] = {
    "conv_dim": 24, "model_dim": 32, "num_layers": 2, "num_heads": 4, "feed_forward_dim": 56, "position_kernel": 16,
    "position_groups": 4,
}  # fmt: skip
CONFORMER: dict[str, Any] = {"layer": "conformer", "positions": "none", "conformer_kernel": 5}
FAMILIES: dict[str, EncoderConfig] = {
    "base": EncoderConfig(**SMALL),
    "large": EncoderConfig(**SMALL, conv_norm="layer", conv_bias=True, norm_position="pre", normalize_waveform=True),
    "log-mel": replace(encoder_config("tiny"), num_layers=2, model_dim=32, feed_forward_dim=56),
    "wavlm": EncoderConfig(**SMALL, variant=ContextVariant(attention_positions="gated_bias")),
    "data2vec": EncoderConfig(**SMALL, variant=ContextVariant(positions="stacked_convolution")),
    "conformer": EncoderConfig(
        **SMALL, norm_position="pre", variant=ContextVariant(**CONFORMER, attention_positions="relative")
    ),
    "w2v-bert": EncoderConfig(
        **SMALL, norm_position="pre", front_end="fbank",
        variant=ContextVariant(**CONFORMER, attention_positions="relative_key", conformer_norm="layer",
                               conformer_causal=True, output_norm=False),
    ),
}  # fmt: skip


def encoder(family: str) -> SpeechEncoder:
    made = SpeechEncoder(FAMILIES[family], seed=1).eval()
    randomize(made, seed=2)
    return made


def few_inputs(model: SpeechEncoder | CtcModel) -> tuple[GateInput, ...]:
    """The gate's own, but for the minute of audio: a tiny model in a test need not take that long."""
    return gate_inputs(model, long_seconds=5)


@pytest.mark.parametrize("family", ["base", "wavlm", "data2vec", "w2v-bert"])
def test_a_program_passes_the_gate(family: str, tmp_path: Path) -> None:
    model = encoder(family)
    result = export_model(model, tmp_path / "out", format="torch-export", inputs=few_inputs(model))
    assert result.report.max_relative < 1e-5
    assert {entry.name for entry in result.report.inputs} >= {"padded", "odd length", "shortest legal clip"}
    assert {"model.pt2", "config.json", "parity.json", "README.md"} == {path.name for path in result.folder.iterdir()}


@pytest.mark.parametrize("family", ["log-mel", "conformer"])
def test_a_graph_passes_the_gate_in_onnxruntime(family: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = encoder(family)
    result = export_model(model, tmp_path / "out", format="onnx", inputs=few_inputs(model))
    assert result.report.max_relative < 1e-4
    assert result.report.peer.startswith("onnxruntime")


def test_a_recognisers_graph_gives_logits_and_names_its_labels(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = CtcModel(encoder("large"), Vocabulary.from_texts(["ab c"]), normalizer="none").eval()
    result = export_model(model, tmp_path / "out", format="onnx", inputs=few_inputs(model))
    assert [layer.name for layer in result.report.inputs[0].layers] == ["logits"]
    described = json.loads((result.folder / "config.json").read_text())
    assert described["output"] == "logits" and described["vocabulary"] == ["<blank>", "|", "a", "b", "c"]


def test_a_pretraining_model_is_no_program() -> None:
    model = encoder("base")
    objective = ContrastiveObjective(ContrastiveConfig(), latent_dim=24, model_dim=32)
    with pytest.raises(CheckpointError, match="draws at random and so is no program; export its encoder"):
        export_program(PretrainingModel(encoder=model, objective=objective))


@torch.no_grad()
def test_exporting_leaves_the_model_as_it_was() -> None:
    model = encoder("base")
    waveform, num_samples = torch.randn(2, 8000), torch.tensor([8000, 5000])
    before = model(waveform, num_samples).context
    export_program(model)
    torch.testing.assert_close(model(waveform, num_samples).context, before, rtol=0, atol=0)
