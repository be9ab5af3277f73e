"""Models go out to Hugging Face as the family they came from, and compute the same there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig, SpeechEncoder, encoder_config
from speechssl.errors import CheckpointError, ConfigError
from speechssl.interop import ModelFacts, PretrainingModel, export_model, import_model, load_asr, load_encoder
from speechssl.interop.gate import GateInput
from speechssl.interop.huggingface.describe import huggingface_config
from speechssl.interop.huggingface.write import their_tensors
from speechssl.objectives import ContrastiveConfig, ContrastiveObjective
from speechssl.text import Vocabulary
from tests.parity.models import our_encoder, waveforms
from tests.parity.table import Measured
from tests.parity.test_huggingface_encoders import FAMILIES, ON_FEATURES, ROW_OF, peer_model
from tests.parity.weights import randomize

transformers = pytest.importorskip("transformers")

SHORT = (
    GateInput(name="equal lengths", lengths=(4000, 4000)),
    GateInput(name="shortest legal clip", lengths=(720,)),
    GateInput(name="padded", lengths=(7000, 5201, 3333)),
)
"""A minute of audio goes through the gate in tests/parity/test_gate.py."""
LABELS = Vocabulary(
    ("<pad>", "<s>", "</s>", "<unk>", "|", *"ETAOIN'"), separator=4, special=(1, 2, 3), encode_case="upper"
)


def saved_by_the_peer(family: str, folder: Path) -> Any:
    model = peer_model(family, torch.float32)
    model.save_pretrained(folder)
    extractor = transformers.SeamlessM4TFeatureExtractor() if family in ON_FEATURES else (
        transformers.Wav2Vec2FeatureExtractor(do_normalize=family.endswith("large"))
    )  # fmt: skip
    extractor.save_pretrained(folder)
    return model


def recognizer(style: str = "base", **overrides: Any) -> CtcModel:
    model = CtcModel(our_encoder(style, **overrides), LABELS, normalizer="letters").eval()
    randomize(model.head, seed=5)
    with torch.no_grad():
        model.head.weight *= 30
        model.head.bias[1:4] = -1e4  # the peer would write these labels, ours never does
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_goes_out_as_it_came_in(family: str, tmp_path: Path, measured: Measured) -> None:
    """Bit for bit, in a class of the same name; only what the peer never uses is drawn anew."""
    theirs = saved_by_the_peer(family, tmp_path / "in")
    result = export_model(tmp_path / "in", tmp_path / "out", format="huggingface", inputs=SHORT)
    again = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert type(again) is type(theirs)
    unused = {name for name in theirs.state_dict() if name.startswith("encoder.pos_conv_embed.")}
    unused = unused if family.startswith("conformer") else set()
    for name, tensor in theirs.state_dict().items():
        assert name in unused or torch.equal(tensor, again.state_dict()[name]), name
    assert import_model(tmp_path / "out").config == import_model(tmp_path / "in").config
    assert result.report.max_relative < (1e-4 if family in ON_FEATURES else 2e-6)
    measured(ROW_OF[family], "encoder out", result.report.max_relative)


@pytest.mark.parametrize("style", ["base", "large"])
def test_a_recognizer_writes_the_same_in_a_pipeline(style: str, tmp_path: Path) -> None:
    ours = recognizer(style, normalize_waveform=style == "large")
    export_model(ours, tmp_path / "asr", format="huggingface", inputs=SHORT)
    pipeline = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path / "asr"))
    waveform = waveforms([16000])[0]
    theirs = pipeline({"raw": waveform[0].numpy(), "sampling_rate": 16000})["text"]
    text = ours.recognize(waveform, torch.tensor([16000]))[0].text
    assert len(text) > 5 and " ".join(theirs.split()) == text
    assert type(pipeline.model).__name__ == "Wav2Vec2ForCTC"
    again = load_asr(tmp_path / "asr").model
    assert again.vocabulary == LABELS and again.normalizer == "letters"
    assert torch.equal(again.head.weight, ours.head.weight)


def test_our_own_vocabulary_goes_out_without_further_labels(tmp_path: Path) -> None:
    vocabulary = Vocabulary.from_texts(["abc def"])
    model = CtcModel(our_encoder("base"), vocabulary, normalizer="letters").eval()
    export_model(model, tmp_path / "asr", format="huggingface", inputs=SHORT)
    theirs = transformers.AutoModelForCTC.from_pretrained(tmp_path / "asr")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "asr")
    assert theirs.config.vocab_size == len(tokenizer) == len(vocabulary)
    assert theirs.config.pad_token_id == vocabulary.blank
    assert tokenizer("fad c").input_ids == vocabulary.encode("fad c")
    again = load_asr(tmp_path / "asr").model.vocabulary
    assert again.tokens == vocabulary.tokens and again.decode([2, 1, 3]) == "a b"


def test_phonemes_go_out_with_spaces_between(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "h", "ə", "l", "oʊ"), separator=None, joiner=" ")
    model = CtcModel(our_encoder("base"), vocabulary, normalizer="none").eval()
    export_model(model, tmp_path / "asr", format="huggingface", inputs=SHORT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "asr")
    assert tokenizer.decode([1, 1, 0, 2, 3, 4]) == "h ə l oʊ"
    assert load_asr(tmp_path / "asr").model.vocabulary.decode([1, 2, 3, 4]) == "h ə l oʊ"


def test_word_beginnings_are_refused_by_name(tmp_path: Path) -> None:
    vocabulary = Vocabulary(("<pad>", "▁a", "b"), separator=None, word_prefix="▁")
    model = CtcModel(our_encoder("base"), vocabulary, normalizer="none").eval()
    with pytest.raises(CheckpointError, match="mark the beginnings of words by '▁'"):
        export_model(model, tmp_path / "asr", format="huggingface", inputs=SHORT)


def test_pretraining_goes_on_there(tmp_path: Path) -> None:
    encoder = our_encoder("base")
    config = ContrastiveConfig(num_entries=8, quantized_dim=16, final_dim=12, num_distractors=5)
    objective = ContrastiveObjective(config, latent_dim=encoder.config.latent_dim, model_dim=encoder.config.model_dim)
    randomize(objective, seed=9)
    model = PretrainingModel(encoder=encoder, objective=objective.eval())
    result = export_model(model, tmp_path / "pre", format="huggingface", inputs=SHORT)
    layers = {layer.name for entry in result.report.inputs for layer in entry.layers}
    assert {"code logits", "target projection", "context projection"} <= layers
    assert any("feature_penalty_weight=10.0" in note for note in result.notes)
    theirs = transformers.Wav2Vec2ForPreTraining.from_pretrained(tmp_path / "pre")
    assert theirs.config.num_negatives == 5
    again = import_model(tmp_path / "pre").build_objective()
    assert again.config.mask_probability == config.mask_probability
    torch.testing.assert_close(again.quantizer.codebooks, objective.quantizer.codebooks, rtol=0, atol=0)


def test_log_mel_features_have_no_place(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"speechssl-tiny: the encoder takes log-mel features \(front_end=log_mel"
    ):
        export_model("speechssl-tiny", tmp_path / "out", format="huggingface")
    assert list(tmp_path.iterdir()) == []


def test_what_a_family_lacks_is_named(tmp_path: Path) -> None:
    encoder = SpeechEncoder(
        EncoderConfig(
            conv_dim=16, model_dim=32, num_layers=1, num_heads=2, feed_forward_dim=32, norm_position="pre",
            position_kernel=16, front_end="fbank",
        )
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"variant\.layer='transformer' \(it would be 'conformer'\)"):
        export_model(encoder, tmp_path / "out", format="huggingface")


def test_the_card_says_where_the_model_comes_from(tmp_path: Path) -> None:
    facts = ModelFacts(
        name="a model", licence="cc-by-4.0", origin={"source": "there"}, training={"hours": "3"},
        results={"test.jsonl": "WER 12.00%"},
    )  # fmt: skip
    export_model(recognizer(), tmp_path / "asr", format="huggingface", facts=facts, inputs=SHORT)
    card = (tmp_path / "asr" / "README.md").read_text(encoding="utf-8")
    for text in (
        "license: cc-by-4.0", "pipeline_tag: automatic-speech-recognition", "# a model", "- source: there",
        "- hours: 3", "WER 12.00%", "padded (7000 + 5201 + 3333) | included", "the peer lets padding into",
    ):  # fmt: skip
        assert text in card
    parity = json.loads((tmp_path / "asr" / "parity.json").read_text(encoding="utf-8"))
    assert parity["peer"].startswith(f"transformers {transformers.__version__},") and parity["max_relative"] < 1e-5
    assert import_model(tmp_path / "asr").origin.licence == "cc-by-4.0"


def test_a_rate_other_than_16_khz_goes_out_and_in(tmp_path: Path) -> None:
    export_model(our_encoder("base", sample_rate=8000), tmp_path / "out", format="huggingface", inputs=SHORT)
    assert load_encoder(tmp_path / "out").config.sample_rate == 8000


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="already exists; give a new folder"):
        export_model(our_encoder("base"), tmp_path, format="huggingface")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_format_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"format must be one of huggingface.*, but is 'keras'"):
        export_model(our_encoder("base"), tmp_path / "out", format="keras")


@pytest.mark.parametrize("preset", ["base", "large"])
def test_full_size_models_fit_tensor_by_tensor(preset: str) -> None:
    """Names and shapes alone; nothing is computed."""
    config = encoder_config(preset)
    with torch.device("meta"):
        ours = SpeechEncoder(config)
        values = huggingface_config(ours, "wav2vec2")
        theirs = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**values))
    shapes = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    written = their_tensors(ours, "wav2vec2", theirs.state_dict())
    assert {name: tensor.shape for name, tensor in written.items()} == shapes
    published = {"base": 94_371_712, "large": 315_438_720}  # parameters of the published models' encoders
    assert sum(tensor.numel() for tensor in theirs.parameters()) == published[preset]
