"""Every family of Hugging Face's speech encoders, saved by `save_pretrained`, gives the same numbers here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechssl.encoder import SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop import export_model
from speechssl.interop.gate import GateInput, compare
from speechssl.interop.huggingface import read_huggingface
from speechssl.interop.huggingface.peer import huggingface_peer
from tests.parity.models import LENGTHS, hidden_states, waveforms
from tests.parity.table import Measured
from tests.parity.weights import randomize

transformers = pytest.importorskip("transformers")

CONV_DIM, DIM = 24, 32
SHARED: dict[str, Any] = {
    "hidden_size": DIM, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 56,
    "attention_dropout": 0.0, "hidden_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
}  # fmt: skip
CONVS: dict[str, Any] = {
    "conv_dim": (CONV_DIM,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
CONFORMER = {**CONVS, "feat_extract_norm": "layer", "conv_bias": True, "conv_depthwise_kernel_size": 5,
             "hidden_act": "swish"}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-base": ("Wav2Vec2", CONVS),
    "wav2vec2-large": ("Wav2Vec2", {**CONVS, **LARGE}),
    "wav2vec2-odd-kernel": ("Wav2Vec2", {**CONVS, "num_conv_pos_embeddings": 15}),
    "hubert-base": ("Hubert", CONVS),
    "hubert-large": ("Hubert", {**CONVS, **LARGE}),
    "hubert-no-norm": ("Hubert", {**CONVS, "feat_proj_layer_norm": False}),
    "hubert-batch-norm": ("Hubert", {**CONVS, "conv_pos_batch_norm": True}),
    "wavlm-base": ("WavLM", {**CONVS, "num_buckets": 8, "max_bucket_distance": 12}),
    "wavlm-large": ("WavLM", {**CONVS, **LARGE}),
    "data2vec": ("Data2VecAudio", {**CONVS, "num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    "conformer-relative": ("Wav2Vec2Conformer", {**CONFORMER, "position_embeddings_type": "relative"}),
    "conformer-rotary": ("Wav2Vec2Conformer", {**CONFORMER, "position_embeddings_type": "rotary"}),
    "conformer-none": ("Wav2Vec2Conformer", {**CONFORMER, "position_embeddings_type": None}),
    "w2v-bert-relative-key": (
        "Wav2Vec2Bert", {"conv_depthwise_kernel_size": 5, "left_max_position_embeddings": 6,
                         "right_max_position_embeddings": 3},
    ),
    "w2v-bert-rotary": ("Wav2Vec2Bert", {"conv_depthwise_kernel_size": 5, "position_embeddings_type": "rotary"}),
}  # fmt: skip
# the sinusoids of relative and rotary positions are fp32 constants, whose last bits differ
FP64 = {family: 1e-8 if family.endswith(("relative", "rotary")) else 1e-10 for family in FAMILIES}
ON_FEATURES = [family for family, (name, _) in FAMILIES.items() if name == "Wav2Vec2Bert"]
ROWS = {
    "Wav2Vec2": "Hugging Face wav2vec2", "Hubert": "Hugging Face HuBERT", "WavLM": "Hugging Face WavLM",
    "Data2VecAudio": "Hugging Face data2vec-audio", "Wav2Vec2Conformer": "Hugging Face wav2vec2-conformer",
    "Wav2Vec2Bert": "Hugging Face w2v-BERT 2.0",
}  # fmt: skip
ROW_OF = {family: ROWS[name] for family, (name, _) in FAMILIES.items()}
SHORT = (GateInput(name="equal lengths", lengths=(4000, 4000)), GateInput(name="padded", lengths=(7000, 5201, 3333)))
ON_WAVEFORMS = [family for family in FAMILIES if family not in ON_FEATURES]


def peer_model(family: str, dtype: torch.dtype) -> Any:
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**{**SHARED, **settings}, attn_implementation="eager")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}Model")(config)
    randomize(model, seed=4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.copy_(torch.linspace(-1, 1, module.num_features))
            module.running_var.copy_(torch.linspace(0.5, 2, module.num_features))
    return model.eval().to(dtype)


def imported(family: str, folder: Path, **overrides: Any) -> SpeechEncoder:
    from dataclasses import replace

    peer_model(family, torch.float32).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)
    model = read_huggingface(folder)
    return replace(model, config=replace(model.config, **overrides)).build_encoder()


def peer_layers(model: Any, waveform: Tensor, num_samples: Tensor, *, masked: bool) -> tuple[list[Tensor], Tensor]:
    """The peer's hidden states and last output."""
    if type(model).__name__ == "Wav2Vec2BertModel":
        extractor = transformers.SeamlessM4TFeatureExtractor()
        clips = [row[:length].numpy() for row, length in zip(waveform, num_samples.tolist(), strict=True)]
        inputs = extractor(clips, sampling_rate=16000, return_tensors="pt")
        features = inputs["input_features"].to(next(model.parameters()).dtype)
        output = model(features, attention_mask=inputs["attention_mask"], output_hidden_states=True)
    else:
        mask = (torch.arange(waveform.shape[1])[None] < num_samples[:, None]).long() if masked else None
        output = model(waveform, attention_mask=mask, output_hidden_states=True)
    return hidden_states(output), output.last_hidden_state


def assert_same_layers(ours: Any, layers: list[Tensor], last: Tensor, tolerance: float) -> float:
    """The largest relative difference of a clip's layer."""
    worst = 0.0
    assert ours.layers is not None and len(ours.layers) == len(layers)
    for index, (mine, theirs) in enumerate(zip(ours.layers, layers, strict=True)):
        mine = ours.context if index == len(layers) - 1 else mine
        for row, count in enumerate(ours.num_frames.tolist()):
            difference = (mine[row, :count] - theirs[row, :count]).norm() / theirs[row, :count].norm()
            assert float(difference) < tolerance, f"layer {index}, row {row}: {float(difference):.2e}"
            worst = max(worst, float(difference))
    for row, count in enumerate(ours.num_frames.tolist()):
        torch.testing.assert_close(ours.context[row, :count], last[row, :count], rtol=100 * tolerance, atol=tolerance)
    return worst


@torch.no_grad()
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", ON_WAVEFORMS)
@pytest.mark.parametrize("lengths", [[7000], [5201], [965], [6000, 6000]])
def test_every_layer_is_the_peers(family: str, lengths: list[int], tmp_path: Path, measured: Measured) -> None:
    """Also where padding is left in: there is none."""
    encoder = imported(family, tmp_path).double()
    waveform, num_samples = waveforms(lengths, dtype=torch.float64)
    layers, last = peer_layers(peer_model(family, torch.float64), waveform, num_samples, masked=False)
    worst = assert_same_layers(encoder(waveform, num_samples, layers=True), layers, last, FP64[family])
    measured(ROW_OF[family], "encoder in", worst, "fp64")


@torch.no_grad()
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", ON_WAVEFORMS)
def test_padded_with_padding_included_is_the_peers(family: str, tmp_path: Path, measured: Measured) -> None:
    encoder = imported(family, tmp_path, conv_padding="included").double()
    waveform, num_samples = waveforms(LENGTHS, dtype=torch.float64)
    layers, last = peer_layers(peer_model(family, torch.float64), waveform, num_samples, masked=True)
    worst = assert_same_layers(encoder(waveform, num_samples, layers=True), layers, last, FP64[family])
    measured(ROW_OF[family], "encoder in", worst, "fp64")


@torch.no_grad()
@pytest.mark.parametrize("family", ON_FEATURES)
@pytest.mark.parametrize("lengths", [[7000], [5201], [720], LENGTHS])
def test_every_layer_is_the_peers_from_the_extractors_features_on(
    family: str, lengths: list[int], tmp_path: Path, measured: Measured
) -> None:
    """Their extractor computes in float64 and rounds, ours in fp32: hence the tolerance."""
    encoder = imported(family, tmp_path)
    waveform, num_samples = waveforms(lengths)
    layers, last = peer_layers(peer_model(family, torch.float32), waveform, num_samples, masked=True)
    worst = assert_same_layers(encoder(waveform, num_samples, layers=True), layers, last, 1e-4)
    measured(ROW_OF[family], "encoder in", worst)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing_by_default(family: str, tmp_path: Path) -> None:
    encoder = imported(family, tmp_path)
    waveform, num_samples = waveforms(LENGTHS)
    waveform[torch.arange(waveform.shape[1])[None] >= num_samples[:, None]] = 3.0
    together = encoder(waveform, num_samples).context
    for row, length in enumerate(LENGTHS):
        alone = encoder(waveform[row : row + 1, :length], num_samples[row : row + 1]).context[0]
        difference = (together[row, : len(alone)] - alone).norm() / alone.norm()
        assert float(difference) < 1e-5


def test_an_adapter_is_refused_by_name(tmp_path: Path) -> None:
    config = transformers.Wav2Vec2Config(**SHARED, **CONVS, add_adapter=True)
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="add_adapter: an adapter that shortens the sequence"):
        read_huggingface(tmp_path)


@pytest.mark.parametrize("name", ["Wav2Vec2ForPreTraining", "Wav2Vec2ConformerForPreTraining"])
def test_a_pretraining_model_brings_its_quantizer_and_goes_back_out(
    name: str, tmp_path: Path, measured: Measured
) -> None:
    settings = CONVS if name.startswith("Wav2Vec2For") else CONFORMER
    config_class = getattr(transformers, name.replace("ForPreTraining", "Config"))
    peer = getattr(transformers, name)(config_class(**SHARED, **settings, codevector_dim=16, proj_codevector_dim=8))
    randomize(peer, seed=6)
    peer.save_pretrained(tmp_path / "in")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "in")
    model = read_huggingface(tmp_path / "in")
    assert model.kind == "pretraining"
    objective = model.build_objective()
    torch.testing.assert_close(objective.quantizer.codebooks.flatten(), peer.quantizer.codevectors.flatten())
    torch.testing.assert_close(objective.context_projection.weight, peer.project_hid.weight)
    whole = model.build()
    report = compare(whole, huggingface_peer(tmp_path / "in", whole)[1], peer_name="transformers", inputs=SHORT)
    report.check()
    assert {"code logits", "context projection"} <= {layer.name for layer in report.inputs[1].layers}
    row = ROWS[name.removesuffix("ForPreTraining")]
    measured(row, "pre-training in", report.max_relative)
    result = export_model(whole, tmp_path / "out", format="huggingface", inputs=SHORT)
    measured(row, "pre-training out", result.report.max_relative)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    peer_model("hubert-base", torch.float32).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layers.1.attention.q_proj.weight"]
    tensors["surprise"] = torch.zeros(2)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"missing encoder\.layers\.1\.attention\.q_proj\.weight; unexpected surprise"
    ):
        read_huggingface(tmp_path)
