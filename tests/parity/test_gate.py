"""The parity gate lets equal models through, names what differs in others, and leaves nothing of those behind."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop import EXPORTERS, Exportable, ModelFacts, export_model
from speechssl.interop.gate import (
    GateInput,
    Layers,
    Peer,
    changed,
    compare,
    gate_inputs,
    our_layers,
    waveforms,
)
from speechssl.text import Vocabulary
from tests.parity.models import our_encoder

SHORT = (GateInput(name="equal lengths", lengths=(4000, 4000)), GateInput(name="padded", lengths=(4000, 2500)))


def itself(model: Exportable, *, conv_padding: str = "included") -> Peer:
    """A peer that is our own model."""

    def run(waveform: Tensor, num_samples: Tensor) -> Layers:
        return our_layers(changed(model, conv_padding=conv_padding), waveform, num_samples)

    return run


def disturbed(model: Exportable, layer: str, *, by: float) -> Peer:
    """The same, but for a factor on one layer."""
    peer = itself(model)

    def run(waveform: Tensor, num_samples: Tensor) -> Layers:
        layers = dict(peer(waveform, num_samples))
        return layers | {layer: layers[layer] * (1 + by)}

    return run


def test_the_inputs_are_equal_padded_odd_shortest_and_a_minute() -> None:
    lengths = {entry.name: entry.lengths for entry in gate_inputs(our_encoder("base"))}
    assert lengths["shortest legal clip"] == (400,)
    assert lengths["long clip"] == (960_000,)
    assert len(set(lengths["equal lengths"])) == 1 < len(set(lengths["padded"]))
    assert lengths["odd length"][0] % 320 and lengths["odd length"][0] % 2
    tiny = SpeechEncoder(
        EncoderConfig(front_end="log_mel", model_dim=32, num_layers=1, num_heads=2, feed_forward_dim=32)
    )
    assert {entry.name: entry.lengths for entry in gate_inputs(tiny)}["shortest legal clip"] == (560,)


def test_padding_of_the_inputs_is_silent() -> None:
    waveform, num_samples = waveforms((400, 300))
    assert waveform[1, 300:].abs().max() == 0 and waveform[1, :300].abs().min() > 0
    assert num_samples.tolist() == [400, 300]


@pytest.mark.parametrize("layer", ["latents", "layer 1", "context"])
def test_the_first_layer_that_differs_is_named(layer: str) -> None:
    model = our_encoder("base")
    report = compare(model, disturbed(model, layer, by=1e-3), peer_name="the peer", inputs=SHORT)
    message = rf"the peer computes something else on equal lengths \(4000 \+ 4000 samples\): {layer} is the first layer"
    with pytest.raises(CheckpointError, match=message):
        report.check()
    assert report.max_relative == pytest.approx(1e-3, rel=1e-2)


def test_rounding_passes_and_a_thousandth_of_a_percent_does_not() -> None:
    model = our_encoder("large")
    compare(model, disturbed(model, "layer 0", by=5e-6), peer_name="peer", inputs=SHORT).check()
    with pytest.raises(CheckpointError, match="layer 0"):
        compare(model, disturbed(model, "layer 0", by=2e-5), peer_name="peer", inputs=SHORT).check()


def test_what_is_no_number_does_not_pass() -> None:
    model = our_encoder("base")
    report = compare(model, disturbed(model, "layer 2", by=float("nan")), peer_name="peer", inputs=SHORT)
    with pytest.raises(CheckpointError, match="layer 2 is the first layer that differs, by nan"):
        report.check()


def test_a_difference_in_the_padded_batch_alone_is_found() -> None:
    """A peer that is said to let padding in but keeps it out, and the other way round."""
    model = our_encoder("base")
    for said, does in (("included", "masked"), ("masked", "included")):
        report = compare(model, itself(model, conv_padding=does), peer_name="peer", padding=said, inputs=SHORT)  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=r"on padded \(4000 \+ 2500 samples\): latents"):
            report.check()


def test_the_report_says_how_much_padding_matters_to_the_peer() -> None:
    base, large = our_encoder("base"), our_encoder("large")
    report = compare(base, itself(base), peer_name="peer", inputs=SHORT)
    assert report.max_relative == 0
    assert [entry.padding for entry in report.inputs] == ["none", "included"]
    assert "in a padded batch the peer lets padding into" in report.notes[0]
    assert compare(large, itself(large), peer_name="peer", inputs=SHORT).notes == ()
    assert (
        compare(base, itself(base, conv_padding="masked"), peer_name="peer", padding="masked", inputs=SHORT).notes == ()
    )


def test_what_the_format_fixes_is_compared_as_fixed_and_measured() -> None:
    model = our_encoder("large", normalize_waveform=True, normalize_eps=1e-3)
    fixed = changed(model, normalize_eps=1e-7)
    report = compare(model, itself(fixed), peer_name="peer", changes={"normalize_eps": 1e-7}, inputs=SHORT)
    report.check()
    assert "the format fixes normalize_eps=1e-07 instead of 0.001" in report.notes[0]
    with pytest.raises(CheckpointError, match="computes something else"):
        compare(model, itself(fixed), peer_name="peer", inputs=SHORT).check()


def test_a_peer_may_give_few_layers_but_none_that_is_unknown_or_misshapen() -> None:
    model = our_encoder("base")
    peer = itself(model)
    report = compare(model, lambda w, n: {"context": peer(w, n)["context"]}, peer_name="peer", inputs=SHORT)
    assert [layer.name for layer in report.inputs[0].layers] == ["context"]
    with pytest.raises(CheckpointError, match=r"gives layers \['depth'\] where these are known: latents, layer 0"):
        compare(model, lambda w, n: {"depth": peer(w, n)["context"]}, peer_name="peer", inputs=SHORT)
    with pytest.raises(CheckpointError, match=r"gives context of shape \[11, 32\] for a clip where ours is \[12, 32\]"):
        compare(model, lambda w, n: {"context": peer(w, n)["context"][:, :-1]}, peer_name="peer", inputs=SHORT)


def test_a_changed_model_shares_its_weights() -> None:
    model = CtcModel(our_encoder("base"), Vocabulary.from_texts(["ab"]), normalizer="none").eval()
    twin = changed(model, conv_padding="included")
    assert isinstance(twin, CtcModel) and twin.encoder.config.conv_padding == "included"
    assert twin.encoder.projection.weight.data_ptr() == model.encoder.projection.weight.data_ptr()
    assert twin.head is model.head and model.encoder.config.conv_padding == "masked"


def test_a_minute_and_all_else_through_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    seen: list[str] = []
    result = export_model(our_encoder("large"), tmp_path / "out", format="huggingface", progress=seen.append)
    assert seen[-1].endswith("Wav2Vec2Model: long clip")
    parity = json.loads((tmp_path / "out" / "parity.json").read_text(encoding="utf-8"))
    assert parity["inputs"][-1]["lengths"] == [960_000]
    layers = {layer["name"] for layer in parity["inputs"][-1]["layers"]}
    assert layers == {"latents", "layer 0", "layer 1", "layer 2", "context"}
    assert parity["max_relative"] == result.report.max_relative < 5e-6


def test_a_damaged_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    right = EXPORTERS["huggingface"]

    def write(model: Exportable, folder: Path, facts: ModelFacts) -> tuple[str, ...]:
        notes = right.write(model, folder, facts)
        tensors = load_file(folder / "model.safetensors")
        tensors["encoder.layers.1.attention.k_proj.weight"] *= 1.1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return notes

    monkeypatch.setitem(EXPORTERS, "huggingface", replace(right, write=write))
    with pytest.raises(
        CheckpointError, match=r"out: transformers .* layer 2 is the first layer .* nothing was written"
    ):
        export_model(our_encoder("base"), tmp_path / "out", format="huggingface", inputs=SHORT)
    assert list(tmp_path.iterdir()) == []


def test_without_the_tool_nothing_is_handed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"needs transformers; install it with `pip install 'speechssl\[hf\]'`"):
        export_model(our_encoder("base"), tmp_path / "out", format="huggingface", inputs=SHORT)
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_leaves_the_global_random_state() -> None:
    model = our_encoder("base")
    before = torch.get_rng_state()
    compare(model, itself(model), peer_name="peer", inputs=SHORT)
    assert torch.equal(torch.get_rng_state(), before)
