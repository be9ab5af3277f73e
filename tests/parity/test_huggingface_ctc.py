"""Hugging Face's CTC models come in with their labels, and write what the peer writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import speechssl
from speechssl.asr import CtcModel, load_vocabulary
from speechssl.errors import CheckpointError
from speechssl.interop import export_model, import_model, load_asr
from speechssl.interop.gate import GateInput, compare
from speechssl.interop.huggingface.peer import huggingface_peer
from tests.parity.models import LENGTHS, waveforms
from tests.parity.table import Measured
from tests.parity.test_huggingface_encoders import FAMILIES, ON_FEATURES, ROW_OF, SHARED, SHORT
from tests.parity.weights import randomize

transformers = pytest.importorskip("transformers")

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSR'"]
"""The order of the published English models."""
SILENT_BIAS = -1e4


def peer_recognizer(family: str, folder: Path, *, tokens: list[str] = LETTERS, **tokenizer: Any) -> Any:
    """A random `...ForCTC` model saved by the peer with its processor's files; it never says `<s>` and the like."""
    name, settings = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(
        **{**SHARED, **settings}, vocab_size=len(tokens), final_dropout=0.1, attn_implementation="eager"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCTC")(config).eval()
    randomize(model, seed=4)
    with torch.no_grad():
        model.lm_head.weight *= 20
        for index, token in enumerate(tokens):
            if token in ("<s>", "</s>", "<unk>"):
                model.lm_head.bias[index] = SILENT_BIAS
    model.save_pretrained(folder)
    write_labels(folder, tokens, **tokenizer)
    extractor = transformers.SeamlessM4TFeatureExtractor() if family in ON_FEATURES else (
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    )  # fmt: skip
    extractor.save_pretrained(folder)
    return model


def write_labels(folder: Path, tokens: list[str], **settings: Any) -> None:
    """`vocab.json` and the tokenizer's own files, written by the peer."""
    folder.mkdir(exist_ok=True)
    path = folder / "vocab.json"
    path.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    kind = settings.pop("kind", "Wav2Vec2CTCTokenizer")
    getattr(transformers, kind)(str(path), **settings).save_pretrained(folder)


def peer_texts(model: Any, folder: Path, waveform: torch.Tensor, num_samples: torch.Tensor) -> list[str]:
    """What the peer's own feature extractor, model and tokenizer make of single clips.

    w2v-BERT's extractor pads an odd number of windows by one, whose frame it marks as padding.
    """
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = []
    for row, length in zip(waveform, num_samples.tolist(), strict=True):
        inputs = extractor(row[:length].numpy(), sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            labels = model(**inputs).logits[0].argmax(dim=-1)
        if "input_features" in inputs:
            labels = labels[: int(inputs["attention_mask"].sum())]
        texts.append(" ".join(tokenizer.decode(labels).split()))
    return texts


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_writes_what_the_peer_writes(family: str, tmp_path: Path, measured: Measured) -> None:
    peer = peer_recognizer(family, tmp_path)
    imported = import_model(tmp_path)
    assert imported.kind == "ctc" and imported.head_dropout == 0.1
    model = imported.build_ctc()
    assert torch.equal(model.head.weight, peer.lm_head.weight) and torch.equal(model.head.bias, peer.lm_head.bias)
    assert model.vocabulary.tokens == tuple(LETTERS)
    waveform, num_samples = waveforms(LENGTHS)
    hypotheses = model.recognize(waveform, num_samples)
    expected = peer_texts(peer, tmp_path, waveform, num_samples)
    assert [hypothesis.text for hypothesis in hypotheses] == expected
    assert all(expected)
    report = compare(model, huggingface_peer(tmp_path, model)[1], peer_name="transformers", inputs=SHORT)
    report.check()
    assert report.inputs[1].layers[-1].name == "logits"
    measured(ROW_OF[family], "CTC in", report.max_relative)


def test_logits_are_the_peers_to_rounding(tmp_path: Path) -> None:
    peer = peer_recognizer("wav2vec2-large", tmp_path)
    model = import_model(tmp_path).build_ctc()
    waveform, num_samples = waveforms(LENGTHS)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    clips = [row[:length].numpy() for row, length in zip(waveform, num_samples.tolist(), strict=True)]
    inputs = extractor(clips, sampling_rate=16000, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = peer(**inputs).logits
        ours = model(waveform, num_samples)
    for row, count in enumerate(ours.num_frames.tolist()):
        mine, other = ours.logits[row, :count], theirs[row, :count]
        assert float((mine - other).norm() / other.norm()) < 1e-5


def test_texts_are_encoded_and_written_in_the_models_case(tmp_path: Path) -> None:
    peer_recognizer("wav2vec2-base", tmp_path)
    model = import_model(tmp_path).build_ctc()
    assert model.normalizer == "letters"
    assert model.vocabulary.encode("the 'rats") == [6, 11, 5, 4, 14, 13, 7, 6, 12]
    assert model.vocabulary.decode([6, 11, 5, 4, 14, 1, 13]) == "THE 'R"
    write_labels(tmp_path, LETTERS, do_lower_case=True)
    assert import_model(tmp_path).build_ctc().vocabulary.decode([6, 11, 5]) == "the"


@pytest.mark.parametrize(
    ("tokens", "settings"),
    [
        (["a", "b", "ch", " ", "[UNK]", "[PAD]"],
         {"pad_token": "[PAD]", "unk_token": "[UNK]", "word_delimiter_token": " ", "bos_token": None,
          "eos_token": None}),
        (["<pad>", "a", "b", "<s>", "</s>", "<unk>"], {"word_delimiter_token": "|"}),
        (["<s>", "<pad>", "</s>", "<unk>", "n", "ə", "oʊ", "|"],
         {"kind": "Wav2Vec2PhonemeCTCTokenizer", "do_phonemize": False, "word_delimiter_token": "|"}),
    ],
    ids=["blank last", "no separator", "phonemes"],
)  # fmt: skip
def test_other_vocabularies_write_what_the_peer_writes(
    tokens: list[str], settings: dict[str, Any], tmp_path: Path
) -> None:
    peer = peer_recognizer("hubert-large", tmp_path, tokens=tokens, **settings)
    with torch.no_grad():
        for index, token in enumerate(tokens):
            if token == "[UNK]":
                peer.lm_head.bias[index] = SILENT_BIAS
    peer.save_pretrained(tmp_path)
    waveform, num_samples = waveforms(LENGTHS)
    model = import_model(tmp_path).build_ctc()
    texts = [hypothesis.text for hypothesis in model.recognize(waveform, num_samples)]
    assert texts == peer_texts(peer, tmp_path, waveform, num_samples) and any(texts)
    for text in texts:
        assert model.vocabulary.decode(model.vocabulary.encode(text)) == text


def test_a_recognizer_survives_our_own_directory(tmp_path: Path) -> None:
    peer_recognizer("wavlm-base", tmp_path / "theirs")
    model = import_model(tmp_path / "theirs").build_ctc()
    model.save(tmp_path / "ours")
    again = CtcModel.load(tmp_path / "ours")
    waveform, num_samples = waveforms(LENGTHS)
    assert again.vocabulary == model.vocabulary and again.normalizer == model.normalizer
    assert again.recognize(waveform, num_samples) == model.recognize(waveform, num_samples)
    assert load_vocabulary(tmp_path / "ours" / "vocab.json") == model.vocabulary


@pytest.mark.parametrize(
    "family", ["wav2vec2-large", "hubert-base", "wavlm-base", "data2vec", "conformer-rotary", "w2v-bert-relative-key"]
)
def test_a_recognizer_goes_back_out_as_the_family_it_was(family: str, tmp_path: Path, measured: Measured) -> None:
    peer = peer_recognizer(family, tmp_path / "in")
    inputs = (GateInput(name="equal lengths", lengths=(4000, 4000)), GateInput(name="padded", lengths=(7000, 3333)))
    result = export_model(tmp_path / "in", tmp_path / "out", format="huggingface", inputs=inputs)
    measured(ROW_OF[family], "CTC out", result.report.max_relative)
    pipeline = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path / "out"))
    assert type(pipeline.model) is type(peer)
    assert torch.equal(pipeline.model.lm_head.weight, peer.lm_head.weight)
    waveform, num_samples = waveforms([15920])  # an even number of windows, see peer_texts
    text = " ".join(pipeline({"raw": waveform[0].numpy(), "sampling_rate": 16000})["text"].split())
    assert text and [text] == peer_texts(peer, tmp_path / "in", waveform, num_samples)


def test_load_asr_takes_the_folder_and_load_encoder_leaves_the_head(tmp_path: Path) -> None:
    peer_recognizer("wav2vec2-base", tmp_path)
    waveform = waveforms([16000])[0][0].numpy()
    assert speechssl.load_asr(tmp_path).transcribe(waveform, sample_rate=16000).text
    assert speechssl.load_encoder(tmp_path).config.model_dim == 32


def test_tokens_without_an_output_and_outputs_without_a_token_are_noted(tmp_path: Path) -> None:
    peer_recognizer("wav2vec2-base", tmp_path, tokens=LETTERS)
    shorter = {token: index for index, token in enumerate(LETTERS) if token != "R"} | {"extra": 40}
    (tmp_path / "vocab.json").write_text(json.dumps(shorter))
    imported = import_model(tmp_path)
    assert any("left out the tokens 'extra'" in note for note in imported.notes)
    assert any("the labels 13 have no token" in note for note in imported.notes)
    vocabulary = imported.build_ctc().vocabulary
    assert vocabulary.decode([5, 13, 6]) == "ET"


def test_a_vocabulary_for_each_language_is_refused_and_the_encoder_still_comes_in(tmp_path: Path) -> None:
    peer_recognizer("wav2vec2-base", tmp_path)
    nested = {language: {token: index for index, token in enumerate(LETTERS)} for language in ("eng", "deu")}
    (tmp_path / "vocab.json").write_text(json.dumps(nested))
    with pytest.raises(CheckpointError, match=r"one vocabulary for each of 2 languages \(eng, deu\).*\(MMS\)"):
        load_asr(tmp_path)
    imported = import_model(tmp_path)
    assert imported.kind == "encoder"
    assert any(note.startswith("left out lm_head.weight and lm_head.bias") for note in imported.notes)


def test_adapters_by_language_are_refused(tmp_path: Path) -> None:
    settings = {**SHARED, **FAMILIES["wav2vec2-large"][1]}
    config = transformers.Wav2Vec2Config(**settings, adapter_attn_dim=4, vocab_size=len(LETTERS))
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path)
    write_labels(tmp_path, LETTERS)
    with pytest.raises(CheckpointError, match=r"adapter_attn_dim: language adapters inside of the layers \(MMS\)"):
        load_asr(tmp_path)


def test_labels_that_are_missing_or_of_another_kind_are_named(tmp_path: Path) -> None:
    peer_recognizer("wav2vec2-base", tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "tokenizer_class": "WhisperTokenizer"}))
    with pytest.raises(CheckpointError, match="its tokenizer is a WhisperTokenizer"):
        load_asr(tmp_path)
    path.write_text(json.dumps({**settings, "pad_token": "<nothing>"}))
    with pytest.raises(CheckpointError, match="pad_token '<nothing>', which is the CTC blank, is not in vocab.json"):
        load_asr(tmp_path)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(CheckpointError, match="has no vocab.json, so the labels of its CTC layer are unknown"):
        load_asr(tmp_path)


def test_an_encoder_without_labels_cannot_write_text(tmp_path: Path) -> None:
    config = transformers.Wav2Vec2Config(**SHARED, **FAMILIES["wav2vec2-base"][1])
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="has no CTC layer, so it cannot write text; fine-tune it first"):
        load_asr(tmp_path)
