"""torchaudio's models come over with equal numbers: modules, bundles and saved states."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchaudio import pipelines
from torchaudio.models import hubert_pretrain_model, wav2vec2_model, wavlm_model

from speechssl.encoder import SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop import identify, import_model, load_asr, load_encoder
from speechssl.interop.gate import changed
from speechssl.interop.torchaudio import encoder_config, import_torchaudio, torchaudio_pairs
from speechssl.interop.torchaudio_files import bundle_licence, is_torchaudio
from speechssl.interop.weights import import_tensors
from tests.parity.models import CONV_DIM, FEED_FORWARD_DIM, MODEL_DIM, NUM_HEADS, NUM_LAYERS, relative_error, waveforms
from tests.parity.table import Measured
from tests.parity.weights import randomize

FAMILIES = ("wav2vec2", "wav2vec2-large", "wavlm", "wavlm-large")
CONVS = [(CONV_DIM, 10, 5)] + [(CONV_DIM, 3, 2)] * 4 + [(CONV_DIM, 2, 2)] * 2
LABELS = ("-", "|", *"ETAOIN'")
SHORTEST = 400
LENGTHS = {"equal": [6000, 6000], "odd": [6543], "shortest": [SHORTEST], "padded": [7000, 5201, 3333]}
BUNDLES = {
    str({**bundle._params, "aux_num_out": None}): name
    for name, bundle in vars(pipelines).items()
    if name.isupper() and hasattr(bundle, "_params")
}
"""One name for each architecture."""


def arguments(family: str, **changes: Any) -> dict[str, Any]:
    large = family.endswith("large")
    values = {
        "extractor_mode": "layer_norm" if large else "group_norm", "extractor_conv_layer_config": CONVS,
        "extractor_conv_bias": large, "encoder_embed_dim": MODEL_DIM, "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16, "encoder_pos_conv_groups": 4, "encoder_num_layers": NUM_LAYERS,
        "encoder_num_heads": NUM_HEADS, "encoder_attention_dropout": 0.2, "encoder_ff_interm_features":
        FEED_FORWARD_DIM, "encoder_ff_interm_dropout": 0.3, "encoder_dropout": 0.4,
        "encoder_layer_norm_first": large, "encoder_layer_drop": 0.5, "aux_num_out": None, **changes,
    }  # fmt: skip
    if family.startswith("wavlm"):
        values |= {"encoder_num_buckets": 20, "encoder_max_distance": 30}
    return values


def peer_model(family: str, **changes: Any) -> Any:
    factory = wavlm_model if family.startswith("wavlm") else wav2vec2_model
    peer = factory(**arguments(family, **changes)).eval()
    randomize(peer, seed=5)
    return peer


def row_of(family: str) -> str:
    return "torchaudio WavLM" if family.startswith("wavlm") else "torchaudio wav2vec 2.0, HuBERT"


def peer_layers(peer: Any, waveform: Tensor, num_samples: Tensor | None) -> list[Tensor]:
    """The transformer's input, every layer's output, and the context."""
    layers: list[Tensor] = []
    transformer = peer.encoder.transformer
    hooks = [
        transformer.layers[0].register_forward_pre_hook(lambda _module, inputs: layers.append(inputs[0])),
        *(layer.register_forward_hook(lambda _m, _i, output: layers.append(output[0])) for layer in transformer.layers),
        transformer.register_forward_hook(lambda _m, _i, output: layers.append(output)),
    ]
    peer(waveform, num_samples)
    for hook in hooks:
        hook.remove()
    return layers


def clips_alone(peer: Any, waveform: Tensor, num_samples: Tensor) -> list[Tensor]:
    """The same for clips that go in one by one, since torchaudio's WavLM takes no lengths."""
    clips = [
        peer_layers(peer, row[None, :count], None) for row, count in zip(waveform, num_samples.tolist(), strict=True)
    ]
    return [
        torch.nn.utils.rnn.pad_sequence([layer[0] for layer in layers], batch_first=True)
        for layers in zip(*clips, strict=True)
    ]


def assert_same_layers(ours: SpeechEncoder, peer: Any, lengths: list[int], dtype: torch.dtype, limit: float) -> float:
    """The largest relative difference of a clip's layer."""
    waveform, num_samples = waveforms(lengths, dtype=dtype)
    output = ours(waveform, num_samples, layers=True)
    assert output.layers is not None
    takes_lengths = ours.config.variant.attention_positions == "none"
    theirs = (peer_layers if takes_lengths else clips_alone)(peer, waveform, num_samples)
    mine = [*output.layers[:-1], output.layers[-1], output.context]
    assert len(mine) == len(theirs) == NUM_LAYERS + 2
    if ours.config.norm_position == "pre":  # our last layer is taken after the final norm
        mine[-2], theirs[-2] = output.context, theirs[-1]
    worst = max(
        relative_error(a[:count], b[:count])
        for one, other in zip(mine, theirs, strict=True)
        for a, b, count in zip(one, other, output.num_frames.tolist(), strict=True)
    )
    assert worst < limit
    return worst


CASES = [(family, case) for family in FAMILIES for case in LENGTHS]


@torch.no_grad()
@pytest.mark.parametrize(("family", "case"), CASES)
def test_every_layer_of_a_module_in_single_precision(family: str, case: str, measured: Measured) -> None:
    measured(row_of(family), "encoder in", check(family, case, torch.float32, 1e-5))


@torch.no_grad()
@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("family", "case"), CASES)
def test_every_layer_of_a_module_in_double_precision(family: str, case: str) -> None:
    check(family, case, torch.float64, 1e-10)


def check(family: str, case: str, dtype: torch.dtype, limit: float) -> float:
    peer = peer_model(family).to(dtype)
    imported = import_torchaudio(peer, normalize_waveform=False)
    config = imported.config
    assert imported.kind == "encoder" and config.norm_position == ("pre" if family.endswith("large") else "post")
    assert (config.input_dropout, config.attention_dropout, config.activation_dropout) == (0.1, 0.2, 0.3)
    assert (config.dropout, config.layer_drop) == (0.4, 0.5)
    ours = imported.build_encoder().to(dtype)
    ours.load_state_dict(imported.encoder_state)  # not rounded on the way
    if case == "padded" and not family.startswith("wavlm"):
        twin = changed(ours, conv_padding="included")
        assert isinstance(twin, SpeechEncoder)
        ours = twin
    return assert_same_layers(ours, peer, LENGTHS[case], dtype, limit)


@torch.no_grad()
@pytest.mark.parametrize("family", ["wav2vec2", "wavlm-large"])
def test_a_recognizer_writes_the_labels_that_its_module_scores_best(family: str, measured: Measured) -> None:
    peer = peer_model(family, aux_num_out=len(LABELS))
    model = import_torchaudio(peer, labels=LABELS, normalize_waveform=False).build_ctc()
    waveform, num_samples = waveforms([16000])
    theirs, _ = peer(waveform)
    logits = model(waveform, num_samples).logits
    assert relative_error(logits, theirs) < 1e-5
    measured(row_of(family), "CTC in", relative_error(logits, theirs))
    best = torch.unique_consecutive(theirs[0].argmax(dim=-1))
    text = "".join(LABELS[label] for label in best.tolist() if label != 0).replace("|", " ")
    assert model.recognize(waveform, num_samples)[0].text == " ".join(text.split())
    assert model.normalizer == "letters" and model.vocabulary.encode("eat it") == [2, 4, 3, 1, 6, 3]


def test_labels_that_do_not_fit_are_refused() -> None:
    peer = peer_model("wav2vec2", aux_num_out=5)
    with pytest.raises(CheckpointError, match="has 5 outputs, but there are 9 labels"):
        import_torchaudio(peer, labels=LABELS)
    with pytest.raises(CheckpointError, match="occur more than once: \\['A'\\]"):
        import_torchaudio(peer, labels=["-", "|", "A", "B", "A"])
    with pytest.raises(CheckpointError, match="9 labels are given, but the model has no CTC layer"):
        import_torchaudio(peer_model("wav2vec2"), labels=LABELS)


def test_a_ctc_layer_without_labels_is_left_out_and_named() -> None:
    imported = import_torchaudio(peer_model("wav2vec2", aux_num_out=5))
    assert imported.kind == "encoder" and any("aux" in note or "CTC layer's weight" in note for note in imported.notes)
    with pytest.raises(CheckpointError, match="5 labels, but nothing says which they are; name them: import_torch"):
        imported.build_ctc()


@torch.no_grad()
def test_hubert_brings_its_mask_embedding_and_leaves_its_labels() -> None:
    values = {name: value for name, value in arguments("wav2vec2").items() if name != "aux_num_out"}
    mask = {"mask_prob": 0.8, "mask_selection": "static", "mask_other": 0.0, "mask_length": 10,
            "no_mask_overlap": False, "mask_min_space": 1, "mask_channel_prob": 0.0, "mask_channel_selection": "static",
            "mask_channel_other": 0.0, "mask_channel_length": 10, "no_mask_channel_overlap": False,
            "mask_channel_min_space": 1, "skip_masked": False, "skip_nomask": False, "num_classes": 7,
            "final_dim": 8, "feature_grad_mult": 0.1}  # fmt: skip
    peer = hubert_pretrain_model(**values, **mask).eval()
    randomize(peer, seed=5)
    imported = import_torchaudio(peer)
    ours = imported.build_encoder()
    assert torch.equal(ours.mask_embedding, peer.mask_generator.mask_embedding)
    assert sum("logit_generator." in note for note in imported.notes) == 3
    assert not any("random" in note for note in imported.notes)
    assert_same_layers(ours, peer.wav2vec2, LENGTHS["odd"], torch.float32, 1e-5)


class Emformer(nn.Module):
    """Stands for encoders of other kinds that torchaudio builds `Wav2Vec2Model`s of."""


def test_other_modules_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"is a Linear of parts NoneType, NoneType, but a torchaudio\.models\."):
        import_torchaudio(nn.Linear(2, 2))
    other = peer_model("wav2vec2")
    other.encoder = Emformer()
    with pytest.raises(CheckpointError, match="is a Wav2Vec2Model of parts FeatureExtractor, Emformer"):
        import_torchaudio(other)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_state_is_told_from_its_names_and_shapes(family: str, tmp_path: Path) -> None:
    peer = peer_model(family)
    state = {f"model.{name}": tensor for name, tensor in peer.state_dict().items()}
    torch.save(state, tmp_path / "mine.pth")
    assert identify(tmp_path / "mine.pth") == "torchaudio"
    imported = import_model(tmp_path / "mine.pth")
    told = import_torchaudio(peer).config
    assert imported.config.variant.num_buckets == told.variant.num_buckets
    for name in ("conv_layers", "conv_dim", "conv_norm", "conv_bias", "norm_position", "feed_forward_dim",
                 "position_kernel", "position_groups", "normalize_waveform"):  # fmt: skip
        assert getattr(imported.config, name) == getattr(told, name), name
    assumed = " ".join(imported.notes)
    assert "attention heads of 64 dims" in assumed or family.startswith("wavlm")
    assert "wav2vec 2.0's strides" in assumed and "encoder_layer_norm_first" in assumed
    if family.startswith("wavlm"):  # the gate tells its heads
        assert imported.config.num_heads == NUM_HEADS and "encoder_max_distance=800" in assumed


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_state_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "torn.pth").write_bytes(content)
    assert not is_torchaudio(tmp_path / "torn.pth")
    with pytest.raises(CheckpointError, match=r"torn\.pth: cannot be read as data"):
        import_model(tmp_path / "torn.pth")


def bundle(monkeypatch: pytest.MonkeyPatch, folder: Path, *, name: str = "WAV2VEC2_ASR_TINY", **changes: Any) -> Any:
    """A tiny bundle of torchaudio's own class, whose file lies in torch.hub's cache."""
    family = "wav2vec2-large" if changes.get("_normalize_waveform") else "wav2vec2"
    values: dict[str, Any] = {
        "_path": "tiny_asr.pth", "_params": arguments(family, aux_num_out=len(LABELS)), "_sample_rate": 16000,
        "_normalize_waveform": False, "_model_type": "Wav2Vec2", "_labels": LABELS[1:], **changes,
    }  # fmt: skip
    tiny = type(pipelines.WAV2VEC2_ASR_BASE_960H)(**values)
    tiny.__doc__ = pipelines.WAV2VEC2_ASR_BASE_960H.__doc__
    monkeypatch.setattr(pipelines, name, tiny, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder))
    published = wav2vec2_model(**{**values["_params"], "aux_num_out": len(LABELS) + 3}).eval()
    randomize(published, seed=5)
    (folder / "checkpoints").mkdir()
    torch.save(published.state_dict(), folder / "checkpoints" / "tiny_asr.pth")
    return tiny


@torch.no_grad()
@pytest.mark.parametrize("normalize", [False, True])
def test_a_bundle_by_its_name(normalize: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Torchaudio drops three of fairseq's outputs from the published weights, and wraps a model that normalizes."""
    tiny = bundle(monkeypatch, tmp_path, _normalize_waveform=normalize)
    assert identify("torchaudio:WAV2VEC2_ASR_TINY") == "torchaudio"
    imported = import_model("torchaudio:WAV2VEC2_ASR_TINY")
    assert imported.config.normalize_waveform == normalize and imported.kind == "ctc"
    model = load_asr("torchaudio:WAV2VEC2_ASR_TINY").model
    waveform, num_samples = waveforms([6543])
    theirs, _ = tiny.get_model()(waveform * 3 + 1)
    assert relative_error(model(waveform * 3 + 1, num_samples).logits, theirs) < 1e-5
    assert model.vocabulary.tokens == tiny.get_labels()
    from_file = import_model(tmp_path / "checkpoints" / "tiny_asr.pth")  # a published file is known by its name
    assert from_file.config == imported.config and from_file.vocabulary == imported.vocabulary
    for name, tensor in from_file.build().state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_bundle_that_cannot_be_fetched_says_where_to_put_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bundle(monkeypatch, tmp_path, _path="https://127.0.0.1:9/none.pth")
    with pytest.raises(CheckpointError, match=r"TINY: its weights cannot be fetched \(.*checkpoints here\)"):
        load_encoder("torchaudio:WAV2VEC2_ASR_TINY")
    with pytest.raises(CheckpointError, match="has no such encoder; it has HUBERT_ASR_LARGE"):
        load_encoder("torchaudio:WAV2VEC3")


@pytest.mark.parametrize("name", BUNDLES.values())
def test_every_published_bundle_has_a_place(name: str) -> None:
    """Names and shapes of all of its tensors, without their values."""
    published = getattr(pipelines, name)
    assert bundle_licence(published) == ("cc-by-nc-4.0" if name.startswith(("VOXPOPULI", "MMS")) else "mit")
    factory = wavlm_model if published._model_type == "WavLM" else wav2vec2_model
    with torch.device("meta"):
        peer = factory(**published._params)
        config = encoder_config(published._params, sample_rate=16000, normalize_waveform=False)
        shapes = {key: tensor.shape for key, tensor in SpeechEncoder(config).state_dict().items()}
        theirs = {key: tensor for key, tensor in peer.state_dict().items() if not key.startswith("aux.")}
        theirs["mask_embedding"] = torch.empty(config.model_dim)
    state, notes = import_tensors(torchaudio_pairs(config), theirs, shapes, source=name)
    assert state.keys() == shapes.keys() and not notes
