"""`speechssl lm`: what it reads, leaves out, writes and reports."""

import csv
import json
from pathlib import Path

import pytest

from speechssl.cli import main
from speechssl.ctc.decoding import BeamConfig, BeamDecoder
from speechssl.ctc.ngram.arpa import read_words
from speechssl.errors import ConfigError
from speechssl.language_model import LanguageModelConfig, run
from speechssl.manifest import Manifest
from speechssl.text import Vocabulary
from speechssl.types import Utterance


@pytest.fixture
def manifests(corpora: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Real prompts: every fifth text is kept for testing; the training shares two sentences with it."""
    with (corpora / "kathleen_en" / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        texts = sorted({row["text"] for row in csv.DictReader(file, delimiter="\t")})
    test = texts[::5]
    train = [text for text in texts if text not in test] + [test[0].upper(), f"and then {test[1]} he said"]
    for name, part in (("train", train), ("test", test)):
        rows = [
            Utterance(id=f"u{i}", audio_filepath=f"{i}.wav", sample_rate=16000, num_samples=1, duration=1.0, text=text)
            for i, text in enumerate(part)
        ]
        Manifest.from_utterances(rows).save(tmp_path / f"{name}.jsonl")
    return tmp_path / "train.jsonl", tmp_path / "test.jsonl"


def test_test_sentences_are_warned_about_and_left_out(
    manifests: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = manifests
    leaky = run(LanguageModelConfig(text=(train,), output=tmp_path / "leaky.arpa", heldout=test))
    assert leaky.overlap == 1
    assert "1 of its sentences are in the training text too" in caplog.text and "--exclude" in caplog.text
    clean = run(LanguageModelConfig(text=(train,), output=tmp_path / "lm.arpa", heldout=test, exclude=(test,)))
    assert clean.overlap == 0
    assert sorted(clean.left_out) == ["a sentence that is tested on", "holds a sentence that is tested on"]
    assert clean.num_sentences == leaky.num_sentences - 2
    assert clean.heldout is not None and leaky.heldout is not None
    assert clean.heldout.perplexity > leaky.heldout.perplexity


def test_the_command_writes_a_model_and_its_report(
    manifests: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = manifests
    extra = tmp_path / "more.txt"
    extra.write_text("The quick brown fox.\n\nJumps!\n", encoding="utf-8")
    output = tmp_path / "models" / "lm.arpa"
    words = ["lm", str(train), str(extra), "--output", str(output), "--heldout", str(test), "--exclude", str(test)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "models" / "lm.arpa.json").read_text())
    assert (report["normalizer"], report["order"], report["units"]) == ("letters", 3, "words")
    assert report["left_out"]["empty"] == 1
    assert f"({100 * report['unknown_rate']:.2f} %)" in printed
    assert f"perplexity {report['heldout']['perplexity']:.2f}" in printed
    found = read_words(output)
    assert found is not None and {"fox", "jumps"} <= found and len(found) == report["num_words"]


def test_a_character_model_serves_the_search_without_a_lexicon(manifests: tuple[Path, Path], tmp_path: Path) -> None:
    pytest.importorskip("flashlight.lib.text")
    output = tmp_path / "characters.arpa"
    result = run(LanguageModelConfig(text=manifests[:1], output=output, order=4, units="characters"))
    assert not any(result.left_out.values())
    vocabulary = Vocabulary.from_texts(["abcdefghijklmnopqrstuvwxyz'"])
    assert not BeamDecoder(vocabulary, BeamConfig(language_model=output)).uses_lexicon


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 1}, "order must be between 2 and 10, but is 1"),
        ({"min_counts": (2,)}, "must begin with 1, never fall"),
        ({"min_counts": (1, 3, 2)}, "must begin with 1, never fall"),
        ({"units": "labels"}, "give it as vocabulary"),
        ({"text": ()}, "must name at least one text file"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LanguageModelConfig(**{"text": (Path("a.txt"),), "output": Path("lm.arpa"), **settings})  # type: ignore[arg-type]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    for name, message in (
        ("none.txt", "none.txt: cannot be read"),
        ("latin.txt", "latin.txt: cannot be read as UTF-8"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(LanguageModelConfig(text=(tmp_path / name,), output=tmp_path / "lm.arpa"))
    (tmp_path / "empty.txt").write_text("...\n")
    with pytest.raises(ConfigError, match="no sentence is left to learn from; left out: {'empty': 1}"):
        run(LanguageModelConfig(text=(tmp_path / "empty.txt",), output=tmp_path / "lm.arpa"))
