"""Original fairseq files: read as data only, and the same numbers as fairseq2 gives for the same weights."""

import argparse
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechssl.encoder import SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop import identify, import_model
from speechssl.interop.fairseq import read_fairseq
from speechssl.interop.pickled import Inert, load_pickled
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from tests.parity.models import (
    LENGTHS,
    NUM_LAYERS,
    STYLES,
    fairseq2_config,
    hidden_states,
    our_encoder,
    relative_error,
    waveforms,
)
from tests.parity.table import Measured
from tests.parity.test_huggingface_encoders import peer_model
from tests.parity.weights import randomize

HEADS = {"q": 0, "k": 1, "v": 2}
DICTIONARY = "| 94802\nE 51860\nT 38431\nA 33152\nO 31495\n"


def fairseq_state(encoder: SpeechEncoder, style: str) -> dict[str, Tensor]:
    """The encoder's tensors under the names that fairseq's Wav2Vec2Model gives them, written out by hand."""
    ours = encoder.state_dict()
    state = {
        "mask_emb": ours["mask_embedding"],
        "layer_norm.weight": ours["latent_norm.weight"],
        "layer_norm.bias": ours["latent_norm.bias"],
        "post_extract_proj.weight": ours["projection.weight"],
        "post_extract_proj.bias": ours["projection.bias"],
        "encoder.pos_conv.0.weight_g": ours["context_encoder.positions.magnitude"][None, None],
        "encoder.pos_conv.0.weight_v": ours["context_encoder.positions.direction"],
        "encoder.pos_conv.0.bias": ours["context_encoder.positions.bias"],
        "encoder.layer_norm.weight": ours["context_encoder.norm.weight"],
        "encoder.layer_norm.bias": ours["context_encoder.norm.bias"],
    }
    for i in range(7):
        state[f"feature_extractor.conv_layers.{i}.0.weight"] = ours[f"feature_encoder.convs.{i}.weight"]
        if style == "large":
            state[f"feature_extractor.conv_layers.{i}.0.bias"] = ours[f"feature_encoder.convs.{i}.bias"]
        if style == "large" or i == 0:
            norm = f"feature_extractor.conv_layers.{i}.2.1" if style == "large" else "feature_extractor.conv_layers.0.2"
            state[f"{norm}.weight"] = ours[f"feature_encoder.norms.{i}.weight"]
            state[f"{norm}.bias"] = ours[f"feature_encoder.norms.{i}.bias"]
    for i in range(NUM_LAYERS):
        mine, theirs = f"context_encoder.layers.{i}", f"encoder.layers.{i}"
        for kind in ("weight", "bias"):
            parts = ours[f"{mine}.attention.input_projection.{kind}"].chunk(3)
            for head, place in HEADS.items():
                state[f"{theirs}.self_attn.{head}_proj.{kind}"] = parts[place]
            for my_name, their_name in (
                ("attention.output_projection", "self_attn.out_proj"), ("attention_norm", "self_attn_layer_norm"),
                ("feed_forward.expand", "fc1"), ("feed_forward.contract", "fc2"),
                ("feed_forward_norm", "final_layer_norm"),
            ):  # fmt: skip
                state[f"{theirs}.{their_name}.{kind}"] = ours[f"{mine}.{my_name}.{kind}"]
    return {name: tensor.clone() for name, tensor in state.items()}


def settings(style: str, **more: Any) -> dict[str, Any]:
    large = style == "large"
    return {
        "_name": "wav2vec2", "layer_norm_first": large, "encoder_attention_heads": 4, "feature_grad_mult": 0.5,
        "dropout": 0.0, "attention_dropout": 0.0, "dropout_input": 0.0, "encoder_layerdrop": 0.0,
        "conv_feature_layers": "[(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24,2,2)] + [(24,2,2)]", **more,
    }  # fmt: skip


def assert_same_encoder(mine: SpeechEncoder, other: SpeechEncoder) -> None:
    theirs = other.state_dict()
    for name, tensor in mine.state_dict().items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_a_fine_tuned_file_gives_what_fairseq2_computes(style: str, tmp_path: Path, measured: Measured) -> None:
    import soundfile  # noqa: F401  (its libsndfile serves fairseq2)
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model
    from fairseq2.models.wav2vec2.asr.interop import convert_wav2vec2_asr_state_dict
    from fairseq2.nn import BatchLayout

    encoder = our_encoder(style)
    state = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in fairseq_state(encoder, style).items()}
    state |= {"w2v_encoder.proj.weight": torch.randn(9, 32), "w2v_encoder.proj.bias": torch.randn(9)}
    pretrained = {"model": settings(style), "task": {"normalize": False}}
    tuned = {
        "model": {"_name": "wav2vec_ctc", "w2v_args": pretrained, "final_dropout": 0.25},
        "task": {"labels": "ltr"},
    }
    torch.save({"model": state, "cfg": tuned}, tmp_path / "ft.pt")
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    imported = read_fairseq(tmp_path / "ft.pt")
    model = imported.build_ctc()
    assert_same_encoder(model.encoder, encoder)
    assert imported.kind == "ctc" and model.dropout == 0.25 and model.normalizer == "letters"
    assert model.vocabulary.decode([1, 5, 2, 3, 6, 4, 8, 7]) == "ET OA"  # <pad> E </s> <unk> T | O A
    assert model.vocabulary.tokens[:6] == ("<s>", "<pad>", "</s>", "<unk>", "|", "E")
    assert model.vocabulary.blank == 0 and model.vocabulary.encode("eat") == [5, 7, 6]

    peer_config = Wav2Vec2AsrConfig(encoder_config=fairseq2_config(style).encoder_config, target_vocab_size=9)
    peer = create_wav2vec2_asr_model(peer_config).eval()
    peer.load_state_dict(convert_wav2vec2_asr_state_dict({"model": dict(state)}, peer_config))
    waveform, num_samples = waveforms([6000, 6000])
    logits = model(waveform, num_samples).logits
    theirs, _ = peer(waveform, BatchLayout.of(waveform, num_samples.tolist()))
    assert relative_error(logits, theirs) < 1e-5
    measured("fairseq wav2vec 2.0", "CTC in", relative_error(logits, theirs))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("told_as", ["cfg", "args"])
def test_a_pretrained_file_brings_encoder_quantizer_and_settings(
    style: str, told_as: str, tmp_path: Path, measured: Measured
) -> None:
    """fairseq stores the mask embedding as `mask_emb`, which fairseq2's converter does not recognise."""
    encoder = our_encoder(style)
    config = ContrastiveConfig(quantized_dim=16, final_dim=8, num_entries=5, num_distractors=7)
    objective = ContrastiveObjective(config, latent_dim=24, model_dim=32)
    randomize(objective, seed=6)
    mine = objective.state_dict()
    state = fairseq_state(encoder, style)
    state["quantizer.vars"] = mine["quantizer.codebooks"].reshape(1, 10, 8)
    for our_name, name in (("quantizer.logits", "quantizer.weight_proj"), ("target_projection", "project_q"),
                           ("context_projection", "final_proj")):  # fmt: skip
        state |= {f"{name}.{kind}": mine[f"{our_name}.{kind}"] for kind in ("weight", "bias")}
    model = settings(style, latent_temp=[1.5, 0.25, 0.999], num_negatives=7, latent_groups=2)
    content: dict[str, Any] = {"model": state}
    if told_as == "cfg":
        content["cfg"] = {"model": model, "task": {"_name": "audio_pretraining", "normalize": style == "large"}}
    else:
        content["args"] = argparse.Namespace(**model, normalize=style == "large", arch="wav2vec2")
    torch.save(content, tmp_path / "pre.pt")
    imported = read_fairseq(tmp_path / "pre.pt")
    assert imported.kind == "pretraining" and imported.objective is not None
    assert imported.config.normalize_waveform == (style == "large")
    assert imported.config.feature_gradient_scale == 0.5
    assert imported.objective.gumbel_temperature_start == 1.5 and imported.objective.num_distractors == 7
    assert_same_encoder(imported.build_encoder(), encoder)
    for name, tensor in imported.build_objective().state_dict().items():
        torch.testing.assert_close(tensor, mine[name], rtol=0, atol=0)
    measured("fairseq wav2vec 2.0", "pre-training in", 0.0, "tensors")
    waveform, num_samples = waveforms(LENGTHS)
    assert torch.isfinite(imported.build_encoder()(waveform, num_samples).context).all()


def test_what_the_file_does_not_tell_is_noted(tmp_path: Path) -> None:
    torch.save({"model": fairseq_state(our_encoder("large"), "large"), "args": None}, tmp_path / "bare.pt")
    imported = read_fairseq(tmp_path / "bare.pt")
    assert imported.config.norm_position == "pre" and imported.config.normalize_waveform
    for word in ("layer_norm_first", "normalized", "attention heads"):
        assert any(word in note for note in imported.notes), word


def fine_tuned(folder: Path, *, labels: str = "ltr") -> Path:
    state = {f"w2v_encoder.w2v_model.{name}": t for name, t in fairseq_state(our_encoder("base"), "base").items()}
    state |= {"w2v_encoder.proj.weight": torch.randn(9, 32), "w2v_encoder.proj.bias": torch.randn(9)}
    told = {
        "model": {"w2v_args": {"model": settings("base"), "task": {"normalize": False}}},
        "task": {"labels": labels},
    }
    torch.save({"model": state, "cfg": told}, folder / "ft.pt")
    return folder / "ft.pt"


def test_a_dictionary_may_be_named_or_be_missing(tmp_path: Path) -> None:
    path = fine_tuned(tmp_path, labels="phn")
    imported = read_fairseq(path)
    assert imported.kind == "encoder" and sum("CTC layer's" in note for note in imported.notes) == 2
    with pytest.raises(CheckpointError, match=r"9 labels, but nothing says .* beside it, as dict\.phn\.txt"):
        imported.build_ctc()
    (tmp_path / "mine.txt").write_text(DICTIONARY)
    named = read_fairseq(path, dictionary=tmp_path / "mine.txt")
    assert named.kind == "ctc" and named.build_ctc().vocabulary.tokens[4] == "|"
    (tmp_path / "dict.phn.txt").write_text("aa 1\nb 2\nsil 3\nz 4\nzh 5\n")
    assert read_fairseq(path).build_ctc().vocabulary.decode([4, 5, 6]) == "aa b sil"


@pytest.mark.parametrize(
    ("content", "message"),
    [("| 1\nE 2\n", "9 outputs, but there are 6 labels"), ("| 1\nE\n", "line 2: must be a label and its count"),
     ("| 1\nE 2\nE 3\nT 4\nA 5\n", r"occur more than once: \['E'\]")],
)  # fmt: skip
def test_a_dictionary_that_does_not_fit_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = fine_tuned(tmp_path)
    (tmp_path / "dict.ltr.txt").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        read_fairseq(path)


RENAMED = {  # Hugging Face's name -> fairseq's, as Hugging Face's conversion scripts have them
    r"^masked_spec_embed": "mask_emb", r"^feature_projection\.layer_norm": "layer_norm",
    r"^feature_projection\.projection": "post_extract_proj", r"^encoder\.pos_conv_embed\.conv\.bias":
    "encoder.pos_conv.0.bias", r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0":
    "encoder.pos_conv.0.weight_g", r"^encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1":
    "encoder.pos_conv.0.weight_v", r"^encoder\.pos_conv_embed\.layers\.(\d)\.conv": r"encoder.pos_conv.\1.0",
    r"\.attention\.": ".self_attn.", r"^(encoder\.layers\.\d)\.layer_norm": r"\1.self_attn_layer_norm",
    r"feed_forward\.intermediate_dense": "fc1", r"feed_forward\.output_dense": "fc2",
    r"gru_rel_pos_linear": "grep_linear", r"gru_rel_pos_const": "grep_a", r"rel_attn_embed": "relative_attention_bias",
    r"(conv_layers\.\d)\.conv\.": r"\1.0.", r"(conv_layers\.\d)\.layer_norm": r"\1.2.NORM",
}  # fmt: skip


def renamed(state: dict[str, Tensor], *, layer_norm_convs: bool) -> dict[str, Tensor]:
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in RENAMED.items():
            name = re.sub(pattern, replacement, name)
        result[name.replace(".2.NORM", ".2.1" if layer_norm_convs else ".2")] = tensor
    return result


@torch.no_grad()
@pytest.mark.parametrize("kind", ["hubert-base", "hubert-large", "data2vec", "hubert-tuned"])
def test_hubert_and_data2vec_give_what_hugging_face_computes(kind: str, tmp_path: Path, measured: Measured) -> None:
    """Their objectives are left out by name: HuBERT's labels, data2vec's regression and teacher."""
    peer = peer_model("hubert-base" if kind == "hubert-tuned" else kind, torch.float32)
    layer_norm_convs = kind in ("hubert-large", "data2vec")
    state: dict[str, Any] = renamed(dict(peer.state_dict()), layer_norm_convs=layer_norm_convs)
    extra: dict[str, Any] = {"label_embs_concat": torch.randn(7, 8), "final_proj.weight": torch.randn(8, 32),
                             "final_proj.bias": torch.randn(8)}  # fmt: skip
    if kind == "data2vec":
        extra = {"final_proj.weight": torch.randn(32, 32), "_ema": {"layers.0.fc1.bias": torch.randn(8)}}
    if kind == "hubert-tuned":
        state = {f"w2v_encoder.w2v_model.{name}": tensor for name, tensor in {**state, **extra}.items()}
        extra = {"w2v_encoder.proj.weight": torch.randn(9, 32), "w2v_encoder.proj.bias": torch.randn(9)}
        (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    told = {"layer_norm_first": kind == "hubert-large", "encoder_attention_heads": peer.config.num_attention_heads}
    torch.save({"model": {**state, **extra}, "cfg": {"model": told, "task": {"normalize": False}}}, tmp_path / "h.pt")
    imported = read_fairseq(tmp_path / "h.pt")
    assert imported.origin.architecture == ("data2vec-audio" if kind == "data2vec" else "hubert")
    assert imported.kind == ("ctc" if kind == "hubert-tuned" else "encoder")
    left_out = {"label_embs_concat", "final_proj.weight", "final_proj.bias"} if kind == "hubert-tuned" else set(extra)
    assert {note.removeprefix("left out ").partition(":")[0] for note in imported.notes} == left_out
    ours = imported.build_encoder()
    waveform, num_samples = waveforms([6000, 6000])
    theirs = hidden_states(peer(waveform, output_hidden_states=True))
    output = ours(waveform, num_samples, layers=True)
    assert output.layers is not None
    errors = [relative_error(*pair) for pair in zip([*output.layers[:-1], output.context], theirs, strict=True)]
    assert max(errors) < 1e-5
    row = "fairseq data2vec" if kind == "data2vec" else "fairseq HuBERT"
    measured(row, "encoder in", max(errors))
    if kind == "hubert-tuned":
        logits = torch.nn.functional.linear(theirs[-1], *(extra[f"w2v_encoder.proj.{n}"] for n in ("weight", "bias")))
        measured(row, "CTC in", relative_error(imported.build_ctc()(waveform, num_samples).logits, logits))


@torch.no_grad()
@pytest.mark.parametrize("family", ["wavlm-base", "wavlm-large"])
def test_wavlms_own_files_give_what_hugging_face_and_torchaudio_compute(
    family: str, tmp_path: Path, measured: Measured
) -> None:
    """A flat `cfg` beside `model`; tensors as in fairseq but for the gated relative positions."""
    from torchaudio.models.wav2vec2.utils import import_huggingface_model

    peer = peer_model(family, torch.float32)
    large = family == "wavlm-large"
    state = renamed(dict(peer.state_dict()), layer_norm_convs=large)
    told = {
        "extractor_mode": "layer_norm" if large else "default", "layer_norm_first": large, "normalize": large,
        "encoder_layers": 3, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 56, "encoder_attention_heads": 4,
        "conv_feature_layers": "[(24,10,5)] + [(24,3,2)] * 4 + [(24,2,2)] * 2", "feature_grad_mult": 0.1,
        "dropout": 0.1, "attention_dropout": 0.1, "dropout_input": 0.1, "encoder_layerdrop": 0.05,
        "relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": peer.config.num_buckets,
        "max_distance": peer.config.max_bucket_distance,
    }  # fmt: skip
    torch.save({"cfg": told, "model": state}, tmp_path / "WavLM.pt")
    assert identify(tmp_path / "WavLM.pt") == "fairseq"
    imported = import_model(tmp_path / "WavLM.pt")
    assert imported.origin.architecture == "wavlm" and imported.notes == ()
    assert imported.config.normalize_waveform == large and imported.config.layer_drop == 0.05
    ours = replace(imported, config=replace(imported.config, normalize_waveform=False)).build_encoder()
    waveform, num_samples = waveforms([6001, 6001])
    output = ours(waveform, num_samples, layers=True)
    theirs = hidden_states(peer(waveform, output_hidden_states=True))
    assert output.layers is not None
    errors = [relative_error(*pair) for pair in zip([*output.layers[:-1], output.context], theirs, strict=True)]
    sibling = import_huggingface_model(peer).eval()  # torchaudio's own conversion
    errors.append(relative_error(output.context, sibling(waveform)[0]))
    assert max(errors) < 1e-5
    measured("WavLM's own files", "encoder in", max(errors))


@torch.no_grad()
def test_wavlm_without_settings_is_taken_as_published(tmp_path: Path) -> None:
    state = renamed(dict(peer_model("wavlm-base", torch.float32).state_dict()), layer_norm_convs=False)
    torch.save({"model": state}, tmp_path / "bare.pt")
    imported = read_fairseq(tmp_path / "bare.pt")
    assert (imported.config.num_heads, imported.config.variant.max_distance) == (4, 800)
    assert any("max_distance; taken to be 800" in note for note in imported.notes)


@torch.no_grad()
def test_data2vec_without_settings_is_taken_as_published(tmp_path: Path) -> None:
    """Layer norm on every convolution and yet after each layer's sum."""
    state = renamed(dict(peer_model("data2vec", torch.float32).state_dict()), layer_norm_convs=True)
    torch.save({"model": state}, tmp_path / "bare.pt")
    config = read_fairseq(tmp_path / "bare.pt").config
    assert (config.conv_norm, config.norm_position, config.normalize_waveform) == ("layer", "post", True)
    assert config.variant.num_position_layers == 3 and config.position_kernel == 5


class Evil:
    def __init__(self, function: Any, command: str) -> None:
        self.function = function
        self.command = command

    def __reduce__(self) -> Any:
        return self.function, (self.command,)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    command = f"touch {marker}"
    torch.save({"model": {}, "cfg": Evil(subprocess.getoutput, command)}, tmp_path / "evil.pt")
    content = load_pickled(tmp_path / "evil.pt")
    assert isinstance(content["cfg"], Inert) and content["cfg"].arguments == (command,)
    torch.save({"model": {}, "cfg": Evil(os.system, command)}, tmp_path / "worse.pt")
    with pytest.raises(CheckpointError, match=r"worse\.pt: cannot be read as data"):
        load_pickled(tmp_path / "worse.pt")
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "torn.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"torn\.pt: cannot be read as data"):
        read_fairseq(tmp_path / "torn.pt")


def test_another_models_file_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"decoder.weight": torch.ones(2)}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no post_extract_proj; its tensors begin with decoder.weight"):
        read_fairseq(tmp_path / "other.pt")
