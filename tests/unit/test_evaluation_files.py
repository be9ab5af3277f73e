"""Hypotheses of other tools, evaluation folders read back, groups in the result, comparisons."""

import csv
import json
from pathlib import Path

import pytest

from speechssl import compare, evaluate
from speechssl.cli import main
from speechssl.compare import CompareConfig
from speechssl.errors import ConfigError, ManifestError
from speechssl.evaluate import EvaluateConfig
from speechssl.evaluation import load_evaluation, read_hypotheses
from speechssl.manifest import Manifest
from speechssl.types import Utterance

TEXTS = {"a": "The cat sat.", "b": "a dog barked", "c": "good morning", "d": "yes"}


def write_manifest(folder: Path) -> Path:
    """Four utterances of two recordings: a and b, c and d, one after the other, two seconds each."""
    Manifest.from_utterances(
        Utterance(
            id=name, audio_filepath=str(folder / f"{'first' if row < 2 else 'second'}.wav"), sample_rate=16000,
            num_samples=32000, offset=2.0 * (row % 2), duration=2.0, text=text, speaker=f"s{row % 2}",
            extra={"snr_db": 5.5 * row, "chapter": f"00{row // 2}"},
        )
        for row, (name, text) in enumerate(TEXTS.items())
    ).save(folder / "test.jsonl")  # fmt: skip
    return folder / "test.jsonl"


def evaluate_texts(folder: Path, name: str, texts: dict[str, str], **options: object) -> Path:
    manifest = folder / "test.jsonl" if (folder / "test.jsonl").exists() else write_manifest(folder)
    lines = [json.dumps({"id": key, "hypothesis": text}) for key, text in texts.items()]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    config = EvaluateConfig(
        hypotheses=folder / f"{name}.jsonl", manifest=manifest, output=folder / name, **options  # type: ignore[arg-type]
    )  # fmt: skip
    evaluate.run(config)
    return folder / name


WRITTEN = {
    "h.jsonl": '{"id": "a", "text": "ignored", "pred_text": "the bat sat"}\n\n{"utt_id": "b", "hyp": "a dog"}\n'
    '{"id": "c", "hypothesis": null}\n{"id": "d", "text": "yes"}\n',
    "h.csv": 'id,hypothesis\na,the bat sat\nb,"a dog"\nc,\nd,yes\n',
    "h.tsv": "id\thypothesis\na\tthe bat sat\nb\ta dog\nc\t\nd\tyes\n",
    "h.trn": ";; a comment\nthe bat sat (a)\na dog (b)\n(c)\nyes (d)\n",
    "h.ctm": ";; name channel start length word\na 1 0.1 0.2 the\na 1 0.8 0.3 sat 0.9\na 1 0.4 0.2 bat\n"
    "b 1 0.0 0.1 a\nb 1 0.2 0.3 dog\nd 1 0.5 0.2 yes\n",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_hypotheses_of_every_kind_of_file_score_alike(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(WRITTEN[name])
    result = evaluate.run(EvaluateConfig(hypotheses=tmp_path / name, manifest=write_manifest(tmp_path)))
    report = result.report
    assert [one.hypothesis for one in report.utterances] == ["the bat sat", "a dog", "", "yes"]
    assert (report.hits, report.substitutions, report.deletions, report.insertions) == (5, 1, 3, 0)
    assert (report.normalizer, report.normalizer_version) == ("letters", "speechssl rule 1")


def test_words_of_a_whole_recording_go_to_the_utterance_of_their_middle(tmp_path: Path) -> None:
    manifest = Manifest.load(write_manifest(tmp_path))
    (tmp_path / "h.ctm").write_text(
        "first A 0.5 0.5 cat\nfirst A 1.9 0.1 sat\nfirst A 1.9 0.4 a\nfirst A 3.0 0.2 dog\nfirst A 9.0 0.2 late\n"
    )
    found = read_hypotheses(tmp_path / "h.ctm", manifest)
    assert found.texts == {"a": "cat sat", "b": "a dog", "c": "", "d": ""}
    assert (found.num_silent, found.num_outside) == (2, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("h.txt", "", r"must be a file ending in .jsonl, .csv"),
        ("h.jsonl", "[1]", r"h.jsonl, line 1: must be a JSON object"),
        ("h.jsonl", '{"id": "a"', r"h.jsonl, line 1: is no JSON"),
        ("h.jsonl", '{"id": "a", "words": "x"}', r"has no hypothesis or .*, only id, words"),
        ("h.jsonl", '{"text": "x"}', r"names no utterance; give it as id"),
        ("h.jsonl", '{"id": "a", "text": 3}', r"text must be text, but is 3"),
        ("h.trn", "x (a)\ny (a)", r"h.trn, line 2: the utterance 'a' occurs a second time"),
        ("h.trn", "x a", r"h.trn, line 1: must be `words \(utterance id\)`"),
        ("h.trn", "{ x / y } (a)", r"holds alternatives"),
        ("h.ctm", "a 1 0.2 word", r"h.ctm, line 1: must be `name channel start seconds word`"),
        ("h.ctm", "z 1 0.2 0.1 word", r"1 names are neither utterances nor recordings .*'z'"),
        ("h.csv", "id,hypothesis\na,x\n", r"no hypothesis for 3 utterance.*b, c, d"),
        ("h.jsonl", '{"audio_filepath": "first.wav", "text": "x"}', r"no single utterance .* has the audio first.wav"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ManifestError, match=message):
        evaluate.run(EvaluateConfig(hypotheses=tmp_path / name, manifest=write_manifest(tmp_path)))


def test_a_model_or_a_file_but_not_both() -> None:
    for options in ({}, {"checkpoint": "x", "hypotheses": Path("h.trn")}):
        with pytest.raises(ConfigError, match="give either checkpoint.*or hypotheses"):
            EvaluateConfig(manifest=Path("m"), **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="decoded already"):
        EvaluateConfig(manifest=Path("m"), hypotheses=Path("h.trn"), decoder="beam")


def test_groups_and_confusions_are_in_the_result_and_in_tables(tmp_path: Path) -> None:
    texts = {"a": "the bat sat", "b": "a dog", "c": "", "d": "yes"}
    folder = evaluate_texts(tmp_path, "one", texts, breakdown=("speaker", "snr_db", "num_words", "chapter"))
    result = json.loads((folder / "result.json").read_text())
    groups = {
        column: {group["name"]: (group["num_words"], group["wer"]) for group in found}
        for column, found in result["breakdown"].items()
    }
    assert groups["speaker"] == {"s0": (5, 3 / 5), "s1": (4, 1 / 4)}
    assert groups["num_words"] == {"1": (1, 0.0), "2": (2, 1.0), "3": (6, 2 / 6)}
    assert groups["chapter"] == {"000": (6, 2 / 6), "001": (3, 2 / 3)}
    assert sum(words for words, _ in groups["snr_db"].values()) == 9 and len(groups["snr_db"]) > 1
    assert result["confusions"]["substitutions"] == [{"reference": "cat", "hypothesis": "bat", "count": 1}]
    with (folder / "confusions.csv").open(newline="") as file:
        kinds = [row["kind"] for row in csv.DictReader(file)]
    assert kinds == ["substitution", "deletion", "deletion", "deletion"]
    with (folder / "breakdown.csv").open(newline="") as file:
        assert {row["column"] for row in csv.DictReader(file)} == set(groups)


def test_only_columns_with_several_values_are_chosen_by_themselves(tmp_path: Path) -> None:
    folder = evaluate_texts(tmp_path, "one", TEXTS)
    assert list(json.loads((folder / "result.json").read_text())["breakdown"]) == ["speaker"]
    with pytest.raises(ConfigError, match="no column 'snr' to divide by; the columns are .*snr_db"):
        evaluate_texts(tmp_path, "two", TEXTS, breakdown=("snr",))


def test_a_folder_is_read_back_as_it_was(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    lines = [json.dumps({"id": key, "hypothesis": text}) for key, text in {**TEXTS, "a": "the hat"}.items()]
    (tmp_path / "h.jsonl").write_text("\n".join(lines))
    config = EvaluateConfig(
        hypotheses=tmp_path / "h.jsonl", manifest=tmp_path / "test.jsonl", output=tmp_path / "out",
        alignment="sclite", breakdown=("chapter", "snr_db"),
    )  # fmt: skip
    written = evaluate.run(config).report
    found = load_evaluation(tmp_path / "out")
    assert found.report == written
    assert found.columns["chapter"] == {"a": "000", "b": "000", "c": "001", "d": "001"}
    assert found.columns["snr_db"]["d"] == 16.5


def test_a_changed_table_is_noticed(tmp_path: Path) -> None:
    folder = evaluate_texts(tmp_path, "one", TEXTS)
    table = folder / "utterances.csv"
    table.write_text(table.read_text().replace("good morning,good morning", "good morning,good"))
    with pytest.raises(ManifestError, match="does not give the counts in result.json"):
        load_evaluation(folder)
    with pytest.raises(ManifestError, match="is no evaluation"):
        load_evaluation(tmp_path)


def test_comparison_of_two_and_three_systems(tmp_path: Path) -> None:
    worse = {"a": "the bat sat", "b": "dog", "c": "", "d": "no"}
    folders = [evaluate_texts(tmp_path, name, texts) for name, texts in (("A", worse), ("B", TEXTS), ("C", worse))]
    result = compare.run(CompareConfig(evaluations=tuple(folders), output=tmp_path / "out", num_bootstrap=200))
    assert [(pair.a, pair.b) for pair in result.pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    better, same, _ = result.pairs
    # a: 1 of 3, b: 2 of 3, c: 2 of 2, d: 1 of 1 words wrong
    assert better.difference.wer_difference == pytest.approx(-6 / 9)
    assert (better.test.num_segments, better.test.errors_a, better.test.errors_b) == (4, 6, 0)
    assert (same.difference.wer_difference, same.test.p_value, same.reading) == (0.0, 1.0, "no clear difference")
    assert better.p_adjusted == pytest.approx(min(1.0, 3 * better.test.p_value))
    assert better.reading == "B is clearly better"
    assert set(result.breakdowns) == {"speaker"}
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [system["name"] for system in written["systems"]] == ["A", "B", "C"]
    assert written["pairs"][0]["test"]["num_segments"] == 4
    with (tmp_path / "out" / "utterances.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["errors: A"], row["hypothesis: B"]) == ("1", "the cat sat")


def test_what_is_not_measured_alike_is_not_compared(tmp_path: Path) -> None:
    one = evaluate_texts(tmp_path, "one", TEXTS)
    other = evaluate_texts(tmp_path, "other", TEXTS, normalizer="english")
    with pytest.raises(ManifestError, match="one and other were normalised differently .'letters' of speechssl rule 1"):
        compare.run(CompareConfig(evaluations=(one, other)))
    nist = evaluate_texts(tmp_path, "nist", TEXTS, alignment="sclite")
    with pytest.raises(ManifestError, match="one and nist were aligned differently"):
        compare.run(CompareConfig(evaluations=(one, nist)))
    (tmp_path / "b").mkdir()
    shorter = Manifest.load(tmp_path / "test.jsonl").take([0, 1, 2])
    shorter.save(tmp_path / "b" / "test.jsonl")
    part = evaluate_texts(tmp_path / "b", "part", {name: TEXTS[name] for name in "abc"})
    with pytest.raises(ManifestError, match="one and part are not of the same utterances: they differ in 1 .*: d"):
        compare.run(CompareConfig(evaluations=(one, part)))
    with pytest.raises(ConfigError, match="at least two folders"):
        CompareConfig(evaluations=(one,))


def test_order_of_the_manifest_does_not_matter(tmp_path: Path) -> None:
    one = evaluate_texts(tmp_path, "one", TEXTS)
    (tmp_path / "b").mkdir()
    Manifest.load(tmp_path / "test.jsonl").take([3, 1, 0, 2]).save(tmp_path / "b" / "test.jsonl")
    other = evaluate_texts(tmp_path / "b", "other", {**TEXTS, "d": "no"})
    result = compare.run(CompareConfig(evaluations=(one, other), names=("x", "y"), num_bootstrap=50))
    assert result.pairs[0].difference.wer_difference == pytest.approx(1 / 9)


def test_commands_print_and_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_manifest(tmp_path)
    (tmp_path / "h.trn").write_text(WRITTEN["h.trn"])
    (tmp_path / "g.ctm").write_text(WRITTEN["h.ctm"].replace("bat", "cat"))
    for name, file in (("one", "h.trn"), ("two", "g.ctm")):
        words = f"evaluate --hypotheses {tmp_path / file} --manifest {manifest} --output {tmp_path / name}".split()
        assert main(words) == 0
        page = (tmp_path / name / "report.html").read_text()
        assert "good" in page and "speechssl rule 1" in page
    shown = capsys.readouterr().out
    assert "normaliser letters (speechssl rule 1); decoder of another tool" in shown and "by speaker" in shown
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--output", str(tmp_path / "both")]) == 0
    assert "two - one" in capsys.readouterr().out
    assert "matched pairs" in (tmp_path / "both" / "comparison.html").read_text()
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "nothing")]) == 2
    assert "is no evaluation" in capsys.readouterr().err
