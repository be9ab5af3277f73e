"""Models that fairseq2's own classes wrote come over with equal numbers."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from speechssl.errors import CheckpointError
from speechssl.interop.fairseq2 import read_fairseq2
from tests.parity.models import LENGTHS, STYLES, fairseq2_config, relative_error, waveforms
from tests.parity.table import Measured
from tests.parity.weights import randomize


def plain(value: Any) -> Any:
    """A configuration as YAML holds it."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.name.lower() if hasattr(value, "name") else value


def written(folder: Path, model: torch.nn.Module, config: Any, *, family: str, ending: str) -> Path:
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if ending == ".safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        torch.save({"model": state}, folder / "model.pt")
    card = {"name": "mine", "model_family": family, "model_arch": "base" if family == "wav2vec2" else "base_10h",
            "model_config": plain(asdict(config)), "checkpoint": f"model{ending}"}  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(card))
    return folder / "mine.yaml"


@torch.no_grad()
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("style", STYLES)
def test_a_pretraining_model(style: str, ending: str, tmp_path: Path, measured: Measured) -> None:
    config = fairseq2_config(style)
    from fairseq2.models.wav2vec2 import create_wav2vec2_model
    from fairseq2.nn import BatchLayout

    config.quantized_dim, config.final_dim, config.num_codebook_entries = 16, 8, 5
    peer = create_wav2vec2_model(config).eval()
    randomize(peer, seed=5)
    imported = read_fairseq2(written(tmp_path, peer, config, family="wav2vec2", ending=ending))
    assert imported.kind == "pretraining" and imported.objective is not None
    assert imported.objective.num_entries == 5 and imported.config.position_kernel == 16
    objective = imported.build_objective()
    torch.testing.assert_close(objective.context_projection.weight, peer.final_proj.weight, rtol=0, atol=0)
    torch.testing.assert_close(objective.quantizer.codebooks.flatten(), peer.quantizer.entries.flatten())
    encoder = imported.build_encoder()
    encoder.config = replace(encoder.config, normalize_waveform=False)  # their pipeline does that, not their model
    waveform, num_samples = waveforms([6000, 6000])
    seqs, layout = peer.encoder_frontend(waveform, BatchLayout.of(waveform, num_samples.tolist()))
    error = relative_error(encoder(waveform, num_samples).context, peer.encoder(seqs, layout))
    assert error < 1e-5
    measured("fairseq2 wav2vec2, wav2vec2_asr", "pre-training in", error)


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_a_recognisers_encoder(style: str, tmp_path: Path) -> None:
    import soundfile  # noqa: F401
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model

    config = Wav2Vec2AsrConfig(encoder_config=fairseq2_config(style).encoder_config, target_vocab_size=9)
    peer = create_wav2vec2_asr_model(config).eval()
    randomize(peer, seed=5)
    imported = read_fairseq2(written(tmp_path, peer, config, family="wav2vec2_asr", ending=".pt"))
    assert imported.kind == "encoder" and any("CTC layer's weight" in note for note in imported.notes)
    with pytest.raises(
        CheckpointError, match="9 labels, but nothing says which they are; name its sentencepiece model"
    ):
        imported.build_ctc()
    encoder = imported.build_encoder()
    waveform, num_samples = waveforms(LENGTHS)
    assert torch.isfinite(encoder(waveform, num_samples).context).all()
    weight = peer.encoder.layers[2].ffn.output_proj.weight
    torch.testing.assert_close(encoder.context_encoder.layers[2].feed_forward.contract.weight, weight)


@torch.no_grad()
@pytest.mark.parametrize("style", STYLES)
def test_a_recogniser_with_its_tokenizer(style: str, tmp_path: Path, measured: Measured) -> None:
    """A char tokenizer trained by sentencepiece itself, with fairseq's order of the first four."""
    config = fairseq2_config(style)
    from fairseq2.models.wav2vec2.asr import Wav2Vec2AsrConfig, create_wav2vec2_asr_model
    from fairseq2.nn import BatchLayout
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        sentence_iterator=iter(["EAT TEA", "A TEA"]), model_prefix=str(tmp_path / "letters"), model_type="char",
        vocab_size=8, bos_id=0, pad_id=1, eos_id=2, unk_id=3, normalization_rule_name="identity",
        add_dummy_prefix=False, minloglevel=2,
    )  # fmt: skip
    config = Wav2Vec2AsrConfig(encoder_config=config.encoder_config, target_vocab_size=8)
    peer = create_wav2vec2_asr_model(config).eval()
    randomize(peer, seed=5)
    path = written(tmp_path, peer, config, family="wav2vec2_asr", ending=".safetensors")
    card = {**yaml.safe_load(path.read_text()), "tokenizer_family": "char_tokenizer", "tokenizer": "letters.model"}
    path.write_text(yaml.safe_dump(card))
    imported = read_fairseq2(path)
    assert imported.kind == "ctc"
    model = imported.build_ctc()
    assert set(model.vocabulary.tokens[:4]) == {"<s>", "<pad>", "</s>", "<unk>"}
    assert model.vocabulary.decode(model.vocabulary.encode("tea eat")) == "TEA EAT"
    model.encoder.config = replace(model.encoder.config, normalize_waveform=False)  # their pipeline does that
    waveform, num_samples = waveforms([6000, 6000])
    theirs, _ = peer(waveform, BatchLayout.of(waveform, num_samples.tolist()))
    error = relative_error(model(waveform, num_samples).logits, theirs)
    assert error < 1e-5
    measured("fairseq2 wav2vec2, wav2vec2_asr", "CTC in", error)


def test_the_architectures_are_fairseq2s() -> None:
    import soundfile  # noqa: F401
    from fairseq2.models.wav2vec2 import get_wav2vec2_model_hub

    from speechssl.interop.fairseq2_cards import ARCHITECTURES

    for name, ours in ARCHITECTURES.items():
        theirs = plain(asdict(get_wav2vec2_model_hub().get_arch_config(name)))
        assert plain(ours["encoder_config"]).items() <= theirs.pop("encoder_config").items()
        assert {k: plain(v) for k, v in ours.items() if k != "encoder_config"}.items() <= theirs.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"model_arch": "gigantic"}, "model_arch is 'gigantic'; known are base, large, large_lv60k"),
     ({"checkpoint": "https://example.org/model.pt"}, "download it and let the card name the file"),
     ({"model_config": {"encoder_config": {"use_conformer": True}}}, "use_conformer: True"),
     ({"model_family": "nllb"}, "not an asset card"), ({"checkpoint": "none.safetensors"}, "none.safetensors")],
)  # fmt: skip
def test_what_cannot_be_read_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "model.pt")
    card = {"name": "x", "model_family": "wav2vec2", "model_arch": "base", "checkpoint": "model.pt", **changes}
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(CheckpointError, match=message):
        read_fairseq2(tmp_path / "card.yaml")
