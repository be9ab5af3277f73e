"""Vocabularies of every kind, script and policy, and the fine-tuning and evaluation that use them."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from speechssl.ctc.decoding import BeamConfig, BeamDecoder
from speechssl.errors import ConfigError
from speechssl.text import TextPolicy, UnitConfig, Vocabulary, choose_vocabulary, normalize


@pytest.mark.parametrize(
    ("policy", "text", "expected"),
    [
        ({"unicode": "NFKC"}, "ﬁne Ｆｕｌｌ ①", "fine Full 1"),
        ({"unicode": "NFC"}, "Café ﬁne", "Café ﬁne"),
        ({"unicode": "NFD"}, "\u00e9\ud55c", "e\u0301\u1112\u1161\u11ab"),
        ({"case": "lower"}, "ΟΔΟΣ STRASSE", "οδος strasse"),
        ({"case": "upper"}, "straße", "STRASSE"),
        ({"case": "lower", "turkic_case": True}, "IĞDIR İzmir", "ığdır izmir"),
        ({"case": "upper", "turkic_case": True}, "ılık izmir", "ILIK İZMİR"),
        ({"punctuation": "remove"}, "«Да», — сказал он… 5 €", "Да сказал он 5"),
        ({"punctuation": "remove", "kept_punctuation": "'-"}, "it's well-known!", "it's well-known"),
        ({"punctuation": "remove"}, "می\u200cخواهم \u200c؟ co\u00adop", "می\u200cخواهم coop"),
        ({"punctuation": "remove"}, "हिन्दी, 中文。", "हिन्दी 中文"),
    ],
)
def test_policies_give_the_stated_text(policy: dict[str, object], text: str, expected: str) -> None:
    rule = TextPolicy(**policy)  # type: ignore[arg-type]
    assert rule.apply(text) == expected
    assert rule.apply(expected) == expected


@pytest.mark.parametrize(
    ("texts", "policy"),
    [
        (["Привет, мир!", "ёж"], {"case": "lower", "punctuation": "remove"}),
        (["こんにちは 世界", "ガ"], {"unicode": "NFKC"}),
        (["안녕하세요", "한국어"], {"unicode": "NFD"}),
        (["नमस्ते दुनिया"], {}),
        (["مرحبا بالعالم"], {"punctuation": "remove"}),
        (["Xin chào thế giới"], {"unicode": "NFD", "case": "lower"}),
    ],
)
@pytest.mark.parametrize("kind", ["characters", "sentencepiece"])
def test_texts_of_any_script_come_back_from_their_labels_and_from_the_files(
    texts: list[str], policy: dict[str, object], kind: str, tmp_path: Path
) -> None:
    units = UnitConfig(kind=kind, size=60, **policy)  # type: ignore[arg-type]
    vocabulary = choose_vocabulary([normalize(text, "none") for text in texts], units, normalizer="none")
    for text in texts:
        assert vocabulary.decode(vocabulary.encode(normalize(text, "none"))) == vocabulary.written(text)
    vocabulary.save(tmp_path / "vocab.json")
    facts = json.loads(json.dumps(vocabulary.facts()))
    loaded = Vocabulary.load(tmp_path / "vocab.json", facts=facts)
    assert loaded == vocabulary
    assert loaded.encode(texts[0]) == vocabulary.encode(texts[0])
    written = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert written == {token: index for index, token in enumerate(vocabulary.tokens)}


@pytest.fixture(scope="module")
def prompts(corpora: Path) -> dict[str, list[str]]:
    texts = {}
    for name in ("kathleen_en", "kerstin_de"):
        with (corpora / name / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
            texts[name] = [normalize(row["text"], "letters") for row in csv.DictReader(file, delimiter="\t")]
    return texts


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_pieces_of_real_texts_are_fewer_than_characters_and_lose_nothing(prompts, algorithm) -> None:  # type: ignore[no-untyped-def]
    units = UnitConfig(kind="sentencepiece", size=200, algorithm=algorithm)
    german = prompts["kerstin_de"]
    vocabulary = choose_vocabulary(german, units, normalizer="letters")
    assert len(vocabulary) <= 200
    labels = [vocabulary.encode(text) for text in german]
    assert [vocabulary.decode(row) for row in labels] == german
    assert sum(map(len, labels)) < 0.7 * sum(map(len, german))
    assert all(vocabulary.blank not in row for row in labels)
    assert vocabulary.unknown_characters("straße ñandú ñ") == {"ñ": 2, "ú": 1}
    assert vocabulary.encode("ñ ja", skip_unknown=True)[-1] == vocabulary.encode("ja")[-1]


def test_too_few_pieces_are_refused(prompts: dict[str, list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"units.size: no 5 pieces can be learnt"):
        choose_vocabulary(prompts["kerstin_de"], UnitConfig(kind="sentencepiece", size=5), normalizer="letters")


LEXICON = """\
;;; the CMU dictionary's way
ZERO  Z IH R OW
ZERO(2)  Z IY R OW
TWO  T UW
TOO  T UW # a homophone
"""


@pytest.fixture
def phonemes(tmp_path: Path) -> Vocabulary:
    (tmp_path / "dict.txt").write_text(LEXICON)
    units = UnitConfig(kind="phonemes", lexicon=tmp_path / "dict.txt")
    return choose_vocabulary([], units, normalizer="letters")


def test_phonemes_stand_for_words_of_the_lexicon(phonemes: Vocabulary, tmp_path: Path) -> None:
    assert phonemes.tokens == ("<blank>", "|", "IH", "IY", "OW", "R", "T", "UW", "Z")
    assert phonemes.written("two zero") == "T UW Z IH R OW"
    assert phonemes.decode(phonemes.encode("two zero")) == "T UW Z IH R OW"
    assert phonemes.unknown_characters("two three three") == {"three": 2}
    assert len(phonemes.spellings("zero")) == 2
    phonemes.save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json", facts=phonemes.facts()) == phonemes


def test_a_search_writes_words_from_phonemes_and_the_model_chooses_between_homophones(
    phonemes: Vocabulary, tmp_path: Path
) -> None:
    pytest.importorskip("flashlight.lib.text")
    import torch

    from speechssl.language_model import LanguageModelConfig, run

    (tmp_path / "text.txt").write_text("zero too\nzero too\ntwo zero\n")
    run(LanguageModelConfig(text=(tmp_path / "text.txt",), output=tmp_path / "lm.arpa"))
    labels = phonemes.encode("zero two")
    path = [label for label in labels for _ in range(2)]
    logits = 6.0 * torch.nn.functional.one_hot(torch.tensor([path]), len(phonemes)).float()
    found = BeamDecoder(phonemes, BeamConfig(language_model=tmp_path / "lm.arpa")).decode(
        logits, torch.tensor([len(path)])
    )[0]
    assert found.text == "zero too"
    assert [(word.text, word.start_frame, word.end_frame) for word in found.words] == [("zero", 0, 8), ("too", 10, 14)]


def test_malformed_lexica_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("one W AH N\ntwo\n")
    units = UnitConfig(kind="phonemes", lexicon=tmp_path / "bad.txt")
    with pytest.raises(ConfigError, match=r"bad.txt:2: 'two' has no phonemes"):
        choose_vocabulary([], units, normalizer="letters")
    with pytest.raises(ConfigError, match="nowhere.txt: cannot be read as a lexicon"):
        choose_vocabulary([], replace(units, lexicon=tmp_path / "nowhere.txt"), normalizer="letters")
    with pytest.raises(ConfigError, match="belong together"):
        UnitConfig(kind="phonemes")


@pytest.fixture
def digit_manifest(corpora: Path, tmp_path: Path) -> Path:
    from speechssl.manifest import Manifest
    from speechssl.types import Utterance

    names = ("zero", "one", "two", "three")
    rows = []
    for number, name in enumerate(names):
        path = corpora / "fsdd" / "audio" / f"{number}_theo_5.flac"
        import soundfile

        info = soundfile.info(path)
        rows.append(
            Utterance(
                id=name, audio_filepath=str(path), sample_rate=info.samplerate, num_samples=info.frames,
                duration=info.frames / info.samplerate, text=f"{name.title()}!",
            )
        )  # fmt: skip
    Manifest.from_utterances(rows).save(tmp_path / "digits.jsonl")
    return tmp_path / "digits.jsonl"


@pytest.mark.parametrize(
    ("units", "known"),
    [
        ({"kind": "sentencepiece", "size": 20}, "zero one"),
        ({"case": "upper", "punctuation": "remove", "unicode": "NFKC"}, "ZERO ONE"),
        ({"kind": "phonemes"}, "Z IH R OW W AH N"),
    ],
)
def test_a_recogniser_of_each_kind_is_trained_loaded_and_evaluated(
    units: dict[str, object], known: str, digit_manifest: Path, tmp_path: Path
) -> None:
    from speechssl import evaluate, finetune
    from speechssl.evaluate import EvaluateConfig
    from speechssl.training.task import TrainingConfig

    (tmp_path / "dict.txt").write_text("zero Z IH R OW\none W AH N\ntwo T UW\n")
    if units.get("kind") == "phonemes":
        units = {**units, "lexicon": tmp_path / "dict.txt"}
    result = finetune.run(
        finetune.FinetuneConfig(
            train_manifest=digit_manifest,
            valid_manifest=digit_manifest,
            run_directory=tmp_path / "run",
            encoder={"front_end": "log_mel", "model_dim": 32, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 64},
            normalizer="none" if "case" in units else "letters",
            units=UnitConfig(**units),  # type: ignore[arg-type]
            training=TrainingConfig(max_steps=1, validate_interval=1, checkpoint_interval=1),
            device="cpu",
        )
    )
    assert result.vocabulary.written("zero one") == known
    assert result.num_valid == 4
    report = evaluate.run(
        EvaluateConfig(checkpoint=str(tmp_path / "run"), manifest=digit_manifest, output=tmp_path / "out", device="cpu")
    )
    written = json.loads((tmp_path / "out" / "result.json").read_text())
    references = [utterance.reference for utterance in report.report.utterances]
    if units.get("kind") == "phonemes":
        assert set(result.left_out) == {"three"} and "lacks 'three' x1" in result.left_out["three"]
        assert written["compared"] == "phonemes" and written["unknown_characters"] == {"three": 1}
        assert references == ["Z IH R OW", "W AH N", "T UW", "three"]
    elif "case" in units:
        assert references == ["ZERO", "ONE", "TWO", "THREE"]
        assert written["text_policy"]["unicode"] == "NFKC" and not written["unknown_characters"]
    else:
        assert references == ["zero", "one", "two", "three"]
