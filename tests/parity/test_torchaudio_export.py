"""Models go out to torchaudio's factories and compute the same there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.asr import CtcModel
from speechssl.errors import CheckpointError
from speechssl.interop import ModelFacts, PretrainingModel, export_model, identify, import_model, import_torchaudio
from speechssl.interop.gate import GateInput
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from speechssl.text import Vocabulary
from tests.parity.models import our_encoder, relative_error, waveforms
from tests.parity.table import Measured
from tests.parity.test_torchaudio_models import FAMILIES, peer_model, row_of
from tests.parity.weights import randomize

SHORT = (
    GateInput(name="equal lengths", lengths=(4000, 4000)),
    GateInput(name="odd length", lengths=(6543,)),
    GateInput(name="shortest legal clip", lengths=(400,)),
    GateInput(name="padded", lengths=(7000, 5201, 3333)),
)
LABELS = Vocabulary(("E", "T", "|", "<pad>", *"AOIN'"), blank=3, separator=2, encode_case="upper")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_out_as_it_came_in(family: str, tmp_path: Path, measured: Measured) -> None:
    """Bit for bit; the snippet of the card loads it."""
    theirs = peer_model(family)
    encoder = import_torchaudio(theirs, normalize_waveform=family.endswith("large")).build_encoder()
    result = export_model(encoder, tmp_path / "out", format="torchaudio", inputs=SHORT)
    assert result.report.max_relative < 2e-6
    measured(row_of(family), "encoder out", result.report.max_relative)
    names = [layer.name for layer in result.report.inputs[3].layers]
    assert names == ["latents", "layer 0", "layer 1", "layer 2", "context"]
    again = run_the_card(tmp_path / "out")["model"]
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert identify(tmp_path / "out") == "torchaudio"
    back = import_model(tmp_path / "out")
    assert back.config == encoder.config
    assert {name for name, tensor in back.encoder_state.items()
            if not torch.equal(tensor, encoder.state_dict()[name])} <= {"mask_embedding"}  # fmt: skip


def run_the_card(folder: Path) -> dict[str, Any]:
    """The names that the card's snippet leaves behind."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    snippet = card.split("```python\n")[1].split("```")[0].replace("path/of/this/folder", str(folder))
    names: dict[str, Any] = {"waveform": waveforms([6543])[0] + 0.5}
    with torch.no_grad():
        exec(compile(snippet, "card", "exec"), names)
    return names


@torch.no_grad()
@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-large", "wavlm"])
def test_a_recognizer_goes_out_with_its_labels(family: str, tmp_path: Path, measured: Measured) -> None:
    """The blank stands where it stood."""
    encoder = import_torchaudio(peer_model(family), normalize_waveform=family.endswith("large")).build_encoder()
    ours = CtcModel(encoder, LABELS, normalizer="letters").eval()
    randomize(ours.head, seed=5)
    facts = ModelFacts(name="mine", architecture="hubert")
    result = export_model(ours, tmp_path / "asr", format="torchaudio", facts=facts, inputs=SHORT)
    assert "logits" in [layer.name for layer in result.report.inputs[0].layers]
    measured(row_of(family), "CTC out", result.report.max_relative)
    waveform, num_samples = waveforms([6543])
    logits = run_the_card(tmp_path / "asr")["logits"]
    assert relative_error(ours(waveform + 0.5, num_samples).logits, logits) < 1e-5
    description = json.loads((tmp_path / "asr" / "torchaudio.json").read_text())
    assert description["labels"] == list(LABELS.tokens) and description["blank"] == 3
    back = import_model(tmp_path / "asr")
    assert back.kind == "ctc" and back.origin.architecture == "hubert" and back.vocabulary is not None
    assert back.vocabulary.blank == 3 and back.vocabulary.decode([4, 1, 2, 1]) == "AT T"
    assert torch.equal(back.head_state["weight"], ours.head.weight)


def test_what_torchaudio_lacks_is_named(tmp_path: Path) -> None:
    export_model(our_encoder("base"), tmp_path / "out", format="torchaudio", inputs=SHORT)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "the mask embedding: torchaudio's encoders hold none" in card and "feature_gradient_scale=0.1" in card
    with pytest.raises(
        CheckpointError, match=r"torchaudio has no encoder with front_end='log_mel'; it has wav2vec 2\.0"
    ):
        export_model("speechssl-tiny", tmp_path / "tiny", format="torchaudio")
    encoder = our_encoder("base")
    objective = ContrastiveObjective(ContrastiveConfig(), latent_dim=24, model_dim=32)
    with pytest.raises(CheckpointError, match="so the quantizer has no place; export the encoder alone"):
        export_model(PretrainingModel(encoder=encoder, objective=objective), tmp_path / "pre", format="torchaudio")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_altered_weight_does_not_pass_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer loads what was written, not what we hold."""
    from speechssl.interop import torchaudio_write

    written = torchaudio_write.export_tensors

    def altered(*arguments: Any) -> dict[str, torch.Tensor]:
        state = written(*arguments)
        state["encoder.transformer.layers.1.final_layer_norm.weight"] *= 1.001
        return state

    monkeypatch.setattr(torchaudio_write, "export_tensors", altered)
    with pytest.raises(CheckpointError, match="layer 2 is the first layer that differs"):
        export_model(our_encoder("base"), tmp_path / "out", format="torchaudio", inputs=SHORT)
    assert list(tmp_path.iterdir()) == []
