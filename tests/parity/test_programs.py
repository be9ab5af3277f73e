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
from speechssl.interop import programs
from speechssl.interop.export import export_model
from speechssl.interop.gate import GateInput, gate_inputs
from speechssl.interop.model import PretrainingModel
from speechssl.interop.programs import export_program
from speechssl.nn.context_encoder import ContextVariant
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from speechssl.text import Vocabulary
from tests.parity.table import Measured
from tests.parity.weights import randomize

SMALL: dict[str, Any] = {
    "conv_layers": ((10, 5), (3, 4), (2, 4)), "conv_dim": 24, "model_dim": 32, "num_layers": 1, "num_heads": 4,
    "feed_forward_dim": 56, "position_kernel": 16, "position_groups": 4,
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


TABLE = {
    "base": "wav2vec 2.0 and HuBERT, BASE", "large": "wav2vec 2.0 and HuBERT, LARGE", "wavlm": "WavLM",
    "data2vec": "data2vec-audio", "conformer": "wav2vec2-conformer", "w2v-bert": "w2v-BERT 2.0",
    "log-mel": "encoders of log-mel features",
}  # fmt: skip
"""Each family's row in the tables."""


def encoder(family: str) -> SpeechEncoder:
    made = SpeechEncoder(FAMILIES[family], seed=1).eval()
    randomize(made, seed=2)
    return made


def few_inputs(model: SpeechEncoder | CtcModel) -> tuple[GateInput, ...]:
    """The gate's own, but for the minute of audio: a tiny model in a test need not take that long."""
    return gate_inputs(model, long_seconds=2)


@pytest.mark.parametrize("family", TABLE)
def test_a_recogniser_passes_the_gate_as_program_and_as_graph(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Measured
) -> None:
    stored, graph = both_ways(family, tmp_path, monkeypatch)
    measured(TABLE[family], "torch.export in torch", stored)
    measured(TABLE[family], "ONNX in onnxruntime", graph)


def test_an_encoder_of_log_mel_features_passes_in_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = encoder("log-mel")
    result = export_model(model, tmp_path / "out", format="onnx", inputs=gate_inputs(model, long_seconds=5))
    assert result.report.max_relative < 1e-4
    assert [layer.name for layer in result.report.inputs[0].layers] == ["context"]


def both_ways(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """The largest relative differences as torch.export program and as ONNX graph.

    Exported from one batch of three clips, run on others: the gate's have one, two and three, all of other lengths.
    Every encoder is inside of its recogniser; both formats are written from one trace, which is what takes the time.
    """
    pytest.importorskip("onnxruntime")
    model = CtcModel(encoder(family), Vocabulary.from_texts(["ab c"]), normalizer="none").eval()
    program = export_program(model)
    monkeypatch.setattr(programs, "export_program", lambda given: program)
    stored = export_model(model, tmp_path / "program", format="torch-export", inputs=few_inputs(model))
    graph = export_model(model, tmp_path / "graph", format="onnx", inputs=few_inputs(model))
    allowed = 5e-4 if family == "log-mel" else 1e-4  # a clip of one frame has features that hardly vary
    assert stored.report.max_relative < 1e-5 and graph.report.max_relative < allowed
    assert graph.report.peer.startswith("onnxruntime")
    assert [layer.name for layer in graph.report.inputs[0].layers] == ["logits"]
    for result in (stored, graph):
        assert {len(entry.lengths) for entry in result.report.inputs} == {1, 2, 3}
        assert {entry.name for entry in result.report.inputs} >= {"padded", "odd length", "shortest legal clip"}
        described = json.loads((result.folder / "config.json").read_text())
        assert described["output"] == "logits" and described["vocabulary"] == ["<blank>", "|", "a", "b", "c"]
    files = {"config.json", "parity.json", "README.md"}
    assert {path.name for path in stored.folder.iterdir()} == {"model.pt2", *files}
    assert {path.name for path in graph.folder.iterdir()} >= {"model.onnx", *files}
    return stored.report.max_relative, graph.report.max_relative


def test_an_encoder_gives_its_context(tmp_path: Path) -> None:
    model = encoder("base")
    result = export_model(model, tmp_path / "out", format="torch-export", inputs=few_inputs(model))
    assert [layer.name for layer in result.report.inputs[0].layers] == ["context"]
    assert json.loads((result.folder / "config.json").read_text())["output"] == "context"


def test_another_function_does_not_pass_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as program nor as graph; the layers inside of them cannot be seen."""
    pytest.importorskip("onnxruntime")
    model, other = encoder("base"), encoder("base")
    with torch.no_grad():
        other.projection.weight *= 1.001
    program = export_program(other)
    monkeypatch.setattr(programs, "export_program", lambda given: program)
    for format in ("torch-export", "onnx"):
        with pytest.raises(
            CheckpointError,
            match=r"computes something else on equal lengths .* context is the first layer that differs",
        ):
            export_model(model, tmp_path / "out", format=format, inputs=few_inputs(model))
    assert list(tmp_path.iterdir()) == []


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
