"""Models go out as fairseq2's assets: its own loader finds, builds and runs them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig, SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop import ModelFacts, PretrainingModel, export_model, identify, import_model
from speechssl.interop.fairseq2_write import asset_name
from speechssl.interop.gate import GateInput
from speechssl.nn.context_encoder import ContextVariant
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from speechssl.text import Vocabulary
from tests.parity.models import STYLES, our_encoder, waveforms
from tests.parity.table import Measured
from tests.parity.weights import randomize

SHORT = (
    GateInput(name="equal lengths", lengths=(4000, 4000)),
    GateInput(name="odd length", lengths=(6543,)),
    GateInput(name="shortest legal clip", lengths=(400,)),
    GateInput(name="padded", lengths=(7000, 5201, 3333)),
)
FAIRSEQS = Vocabulary(("<s>", "<pad>", "</s>", "<unk>", "|", *"ETAOIN'"), separator=4, special=(1, 2, 3),
                      encode_case="upper")  # fmt: skip
OTHERS = Vocabulary(("E", "T", "|", "<pad>", *"AOIN'"), blank=3, separator=2, encode_case="upper")


def pretraining(style: str) -> PretrainingModel:
    config = ContrastiveConfig(num_entries=8, quantized_dim=16, final_dim=12, num_distractors=5, mask_span=7)
    objective = ContrastiveObjective(config, latent_dim=24, model_dim=32)
    randomize(objective, seed=9)
    encoder = our_encoder(style, normalize_waveform=style == "base")  # the unusual way round
    return PretrainingModel(encoder=encoder, objective=objective.eval())


def recognizer(vocabulary: Vocabulary, style: str = "base") -> CtcModel:
    model = CtcModel(our_encoder(style), vocabulary, normalizer="letters", dropout=0.125).eval()
    randomize(model.head, seed=5)
    return model


@pytest.mark.parametrize("style", STYLES)
def test_a_pretraining_model_goes_out_and_in(style: str, tmp_path: Path, measured: Measured) -> None:
    model = pretraining(style)
    result = export_model(model, tmp_path / "out", format="fairseq2", inputs=SHORT)
    assert result.report.max_relative < 5e-6
    measured("fairseq2 wav2vec2, wav2vec2_asr", "pre-training out", result.report.max_relative)
    layers = [layer.name for layer in result.report.inputs[3].layers]
    assert layers == ["latents", "layer 0", "layer 1", "layer 2", "context", "code logits", "target projection",
                      "context projection"]  # fmt: skip
    assert identify(tmp_path / "out" / "fairseq2.yaml") == identify(tmp_path / "out") == "fairseq2"
    back = import_model(tmp_path / "out" / "fairseq2.yaml")
    assert back.kind == "pretraining" and back.objective is not None
    assert back.config == model.encoder.config
    for name in ("mask_span", "mask_probability", "num_distractors", "num_entries", "gumbel_temperature_end"):
        assert getattr(back.objective, name) == getattr(model.objective.config, name)
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(back.encoder_state[name], tensor), name
    for name, tensor in model.objective.state_dict().items():
        assert torch.equal(back.objective_state[name], tensor), name


def test_a_user_loads_it_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the card says. fairseq2 looks at the folder once, when it starts, so it is started anew."""
    import fairseq2.runtime.dependency

    facts = ModelFacts(name="my model/1")
    export_model(recognizer(FAIRSEQS), tmp_path / "asr", format="fairseq2", facts=facts, inputs=SHORT[:1])
    readme = (tmp_path / "asr" / "README.md").read_text(encoding="utf-8")
    snippet = readme.split("```python\n")[1].split("```")[0].replace("path/of/this/folder", str(tmp_path / "asr"))
    monkeypatch.setattr(fairseq2.runtime.dependency, "_resolver", None)
    monkeypatch.setenv("FAIRSEQ2_USER_ASSET_DIR", str(tmp_path / "asr"))
    names: dict[str, Any] = {}
    exec(compile(snippet, "card", "exec"), names)
    assert names["name"] == "my_model_1" and type(names["model"]).__name__ == "Wav2Vec2AsrModel"
    assert names["model"].final_proj.weight.shape[0] == len(FAIRSEQS)
    from fairseq2.data.tokenizers import load_tokenizer

    tokenizer = load_tokenizer("my_model_1")
    labels = tokenizer.create_encoder()("EAT IT")
    assert labels.tolist() == FAIRSEQS.encode("eat it") and tokenizer.create_decoder()(labels) == "EAT IT"


@pytest.mark.parametrize("vocabulary", [FAIRSEQS, OTHERS, Vocabulary.from_texts(["abc def"])])
def test_a_recognizer_goes_out_with_its_tokenizer_and_in_again(
    vocabulary: Vocabulary, tmp_path: Path, measured: Measured
) -> None:
    """fairseq2's blank is label 0, so another one moves there, with its outputs; texts stay the same."""
    model = recognizer(vocabulary)
    result = export_model(model, tmp_path / "asr", format="fairseq2", inputs=SHORT)
    assert "logits" in [layer.name for layer in result.report.inputs[0].layers]
    assert any("blank" in note for note in result.notes) == (vocabulary.blank != 0)
    measured("fairseq2 wav2vec2, wav2vec2_asr", "CTC out", result.report.max_relative)
    assert any("one more piece, <unk>" in note for note in result.notes) == (vocabulary is not FAIRSEQS)
    back = import_model(tmp_path / "asr")
    again = back.build()
    assert isinstance(again, CtcModel) and again.dropout == 0.125 and again.normalizer == "letters"
    waveform, num_samples = waveforms([16000])
    text = model.recognize(waveform, num_samples)[0].text
    assert text and again.recognize(waveform, num_samples)[0].text == text
    known = [token for token in vocabulary.ids if token not in (" ", "'")]
    for spelled in (f"{known[0]}{known[1]} {known[2]}".lower(), known[3]):
        assert again.vocabulary.decode(again.vocabulary.encode(spelled)) == vocabulary.decode(
            vocabulary.encode(spelled)
        )
    if vocabulary is FAIRSEQS:
        assert again.vocabulary == FAIRSEQS


def test_labels_of_several_characters_go_out_without_a_tokenizer(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "h", "oʊ"), separator=None, joiner=" ")
    model = replaced_vocabulary(vocabulary)
    result = export_model(model, tmp_path / "asr", format="fairseq2", inputs=SHORT[:1])
    assert any("single characters only, but these are ['h', 'oʊ']" in note for note in result.notes)
    assert not (tmp_path / "asr" / "tokenizer.model").exists()
    back = import_model(tmp_path / "asr" / "fairseq2.yaml")
    assert back.kind == "encoder"
    with pytest.raises(
        CheckpointError, match="3 labels, but nothing says which they are; name its sentencepiece model"
    ):
        back.build_ctc()


def replaced_vocabulary(vocabulary: Vocabulary) -> CtcModel:
    return CtcModel(our_encoder("base"), vocabulary, normalizer="none").eval()


def test_an_encoder_alone_goes_out_with_new_heads(tmp_path: Path, measured: Measured) -> None:
    result = export_model(our_encoder("large"), tmp_path / "out", format="fairseq2", inputs=SHORT)
    measured("fairseq2 wav2vec2, wav2vec2_asr", "encoder out", result.report.max_relative)
    assert any("the quantizer and the projections are new" in note for note in result.notes)
    assert yaml.safe_load((tmp_path / "out" / "fairseq2.yaml").read_text())["model_family"] == "wav2vec2"


@pytest.mark.parametrize(
    ("change", "message"),
    [({"variant": ContextVariant(attention_positions="gated_bias")}, r"attention_positions='gated_bias'; it has"),
     ({"variant": ContextVariant(positions="stacked_convolution")}, r"variant\.positions='stacked_convolution'"),
     ({"variant": ContextVariant(layer="conformer", positions="none")}, r"variant\.layer='conformer'"),
     ({"front_end": "log_mel"}, "front_end='log_mel'"), ({"front_end": "fbank"}, "front_end='fbank'"),
     ({"conv_dim": 32}, "leaves out the projection where conv_dim equals model_dim=32"),
     ({"sample_rate": 8000}, "takes 16000 Hz"), ({"latent_norm": False}, "latent_norm=False")],
)  # fmt: skip
def test_what_fairseq2_lacks_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    small = EncoderConfig(conv_dim=16, model_dim=32, num_layers=1, num_heads=2, feed_forward_dim=32, position_kernel=16)
    with pytest.raises(CheckpointError, match=message):
        export_model(SpeechEncoder(replace(small, **change)), tmp_path / "out", format="fairseq2", inputs=SHORT)
    assert list(tmp_path.iterdir()) == []


def test_another_function_does_not_pass_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from speechssl.interop import fairseq2_write

    monkeypatch.setattr(fairseq2_write, "_encoder_values", wrong(fairseq2_write._encoder_values))
    with pytest.raises(CheckpointError, match="layer 1 is the first layer that differs"):
        export_model(our_encoder("base"), tmp_path / "out", format="fairseq2", inputs=SHORT)
    assert list(tmp_path.iterdir()) == []


def wrong(function: Any) -> Any:
    return lambda config: {**function(config), "num_encoder_attn_heads": 2}


def test_a_name_is_made_fit_for_an_asset() -> None:
    assert asset_name("my model@cluster/1") == "my_model_cluster_1" and asset_name("@") == "speechssl_model"
