"""Alignments, matched pairs and their segments on cases worked out by hand, and beside NIST's own tools."""

import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl.errors import ManifestError
from speechssl.scoring import holm, matched_pairs, matched_segments, paired_bootstrap, score
from speechssl.scoring.alignment import align_as_sclite
from speechssl.types import ErrorReport

WORDS = st.lists(st.sampled_from("abcde"), max_size=8)
SCTK = Path("/usr/lib/sctk/bin")


def report_of(references: dict[str, str], hypotheses: dict[str, str], **options: object) -> ErrorReport:
    return score(references, hypotheses, normalizer="none", **options)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=4))
def test_counts_are_jiwer_s(pairs: list[tuple[list[str], list[str]]]) -> None:
    references = [" ".join(reference) for reference, _ in pairs]
    hypotheses = [" ".join(hypothesis) for _, hypothesis in pairs]
    expected = jiwer.process_words(references, hypotheses)
    report = report_of(dict(enumerate(references)), dict(enumerate(hypotheses)), num_bootstrap=1)  # type: ignore[arg-type]
    assert (report.hits, report.substitutions, report.deletions, report.insertions) == (
        expected.hits, expected.substitutions, expected.deletions, expected.insertions,
    )  # fmt: skip
    assert report.wer == pytest.approx(expected.wer)
    assert report.cer == pytest.approx(jiwer.cer(references, hypotheses))


def cheapest(reference: list[str], hypothesis: list[str]) -> int:
    """Least cost by sclite's weights, by trying everything."""
    if not reference or not hypothesis:
        return 3 * (len(reference) + len(hypothesis))
    pair = 0 if reference[0] == hypothesis[0] else 4
    return min(
        pair + cheapest(reference[1:], hypothesis[1:]),
        3 + cheapest(reference[1:], hypothesis),
        3 + cheapest(reference, hypothesis[1:]),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=5), st.lists(st.sampled_from("abc"), max_size=5))
def test_sclite_alignment_is_the_cheapest_and_spells_both_sides(reference: list[str], hypothesis: list[str]) -> None:
    chunks = align_as_sclite(reference, hypothesis)
    assert " ".join(said for _, said, _ in chunks if said).split() == reference
    assert " ".join(heard for _, _, heard in chunks if heard).split() == hypothesis
    sizes = {"equal": 0, "substitute": 4, "delete": 3, "insert": 3}
    cost = sum(sizes[kind] * len((said or heard).split()) for kind, said, heard in chunks)
    assert cost == cheapest(reference, hypothesis)


def test_sclite_counts_more_errors_where_levenshtein_finds_fewest() -> None:
    # a b c d e / d e x y z: five substitutions are 5 errors, but cost 20; three deletions and three insertions keep
    # "d e" right, are 6 errors and cost 18.
    texts = {"u": "a b c d e"}, {"u": "d e x y z"}
    fewest, nist = report_of(*texts), report_of(*texts, alignment="sclite")
    assert (fewest.hits, fewest.substitutions, fewest.deletions, fewest.insertions) == (0, 5, 0, 0)
    assert (nist.hits, nist.substitutions, nist.deletions, nist.insertions) == (2, 0, 3, 3)
    assert (fewest.wer, nist.wer, fewest.cer) == (1.0, 1.2, nist.cer)
    assert nist.utterances[0].alignment == (("delete", "a b c", ""), ("equal", "d e", "d e"), ("insert", "", "x y z"))


def test_sclite_style_counts_of_a_hand_made_case() -> None:
    # 4: the cat sat | the bat sat           C S C      3: one two | one two three     C C I
    # 0: good morning | (nothing)            D D        and a sentence without an error
    references = {"a": "the cat sat", "b": "one two", "c": "good morning", "d": "yes"}
    hypotheses = {"a": "the bat sat", "b": "one two three", "c": "", "d": "yes"}
    for method in ("levenshtein", "sclite"):
        report = report_of(references, hypotheses, alignment=method)
        assert (report.hits, report.substitutions, report.deletions, report.insertions) == (5, 1, 2, 1)
        assert report.wer == 4 / 8


def segments(reference: str, a: str, b: str) -> list[tuple[int, int]]:
    first, second = report_of({"u": reference}, {"u": a}), report_of({"u": reference}, {"u": b})
    return list(matched_segments(first.utterances[0], second.utterances[0]))


@pytest.mark.parametrize(
    ("reference", "a", "b", "expected"),
    [
        # two good words between the errors part them, one does not
        ("k l m n o", "X l m n o", "k l m X o", [(1, 0), (0, 1)]),
        ("k l m n o", "X l m n o", "k l X n o", [(1, 1)]),
        # an insertion within a good stretch breaks it, though both have all words right
        ("k l m n", "X l m n", "k l I m n", [(1, 1)]),
        ("k l m n o", "X l m n o", "k l m I n o", [(1, 0), (0, 1)]),
        # what both have wrong is a segment too, in which they do not differ
        ("k l m", "X l m", "Y l m", [(1, 1)]),
        # insertions at the end, deletions, and no error at all
        ("k l m", "k l m I I", "k l m", [(2, 0)]),
        ("k l m n", "m n", "k l m n", [(2, 0)]),
        ("k l", "k l", "k l", []),
    ],
)
def test_segments_end_after_two_words_that_both_have_right(
    reference: str, a: str, b: str, expected: list[tuple[int, int]]
) -> None:
    assert segments(reference, a, b) == expected


def test_matched_pairs_of_a_hand_computed_case() -> None:
    # four utterances of one segment each; errors of a 1, 2, 0, 1 and of b 0, 0, 1, 0: differences -1, -2, 1, -1
    references = dict.fromkeys("wxyz", "k l m n")
    a = {"w": "X l m n", "x": "X Y m n", "y": "k l m n", "z": "X l m n"}
    b = {"w": "k l m n", "x": "k l m n", "y": "X l m n", "z": "k l m n"}
    found = matched_pairs(report_of(references, a), report_of(references, b))
    assert (found.num_segments, found.errors_a, found.errors_b) == (4, 4, 1)
    assert found.mean_difference == -0.75
    deviation = math.sqrt((0.25**2 + 1.25**2 + 1.75**2 + 0.25**2) / 3)
    assert found.standard_deviation == pytest.approx(deviation)
    assert found.z == pytest.approx(-0.75 / (deviation / 2))
    assert found.p_value == pytest.approx(math.erfc(0.75 / (deviation / 2) / math.sqrt(2)))


def test_matched_pairs_without_variance_counts_signs() -> None:
    references = {str(number): "k l m" for number in range(6)}
    wrong = {**references, "0": "X l m", "1": "X l m", "2": "X l m"}
    found = matched_pairs(report_of(references, references), report_of(references, wrong))
    assert (found.num_segments, found.mean_difference, found.z, found.p_value) == (3, 1.0, None, 0.25)
    same = matched_pairs(report_of(references, wrong), report_of(references, wrong))
    assert (same.mean_difference, same.p_value) == (0.0, 1.0)


def test_a_system_against_itself_with_other_names_is_no_difference_and_swapping_only_turns_the_sign() -> None:
    references, worse, better = noisy_case(3)
    a, b = report_of(references, worse), report_of(references, better)
    forth, back = matched_pairs(a, b), matched_pairs(b, a)
    assert forth.z is not None and back.z is not None and forth.z == pytest.approx(-back.z)
    assert forth.p_value == pytest.approx(back.p_value)
    assert paired_bootstrap(a, b).probability_of_improvement > 0.99


def test_holm_adjusts_from_the_smallest_up() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_other_alignments_and_versions_are_not_compared() -> None:
    texts = {"x": "a b"}, {"x": "a"}
    with pytest.raises(ManifestError, match="aligned differently .levenshtein and sclite."):
        matched_pairs(report_of(*texts), report_of(*texts, alignment="sclite"))


def noisy_case(seed: int, num: int = 60) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """References, and two systems of which the first makes more errors."""
    generator = random.Random(seed)

    def disturb(words: list[str], rate: float) -> str:
        kept = []
        for word in words:
            drawn = generator.random()
            if drawn < rate:
                kept.append(generator.choice("abcdefgh"))
            elif drawn > 1.5 * rate:
                kept.append(word)
            if generator.random() < rate / 2:
                kept.append(generator.choice("abcdefgh"))
        return " ".join(kept)

    said = {f"s{i % 3}-{i:03d}": [generator.choice("abcdefgh") for _ in range(1 + i % 25)] for i in range(num)}
    return (
        {name: " ".join(words) for name, words in said.items()},
        {name: disturb(words, 0.3) for name, words in said.items()},
        {name: disturb(words, 0.1) for name, words in said.items()},
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sclite_and_sc_stats_say_the_same(tmp_path: Path, seed: int) -> None:
    sclite = next((path for path in (shutil.which("sclite"), SCTK / "sclite") if path and Path(path).exists()), None)
    if sclite is None:
        pytest.skip("sclite is not installed; Debian's package sctk has it")
    references, *systems = noisy_case(seed)
    reports = {
        name: report_of(references, texts, alignment="sclite") for name, texts in zip("ab", systems, strict=True)
    }
    write_trn(tmp_path / "ref.trn", references)
    for name, texts in zip("ab", systems, strict=True):
        write_trn(tmp_path / f"{name}.trn", texts)
        words = f"-r ref.trn trn -h {name}.trn trn {name} -i spu_id -o rsum sgml -n {name}".split()
        subprocess.run([sclite, *words], cwd=tmp_path, check=True, capture_output=True)
        line = next(line for line in (tmp_path / f"{name}.raw").read_text().splitlines() if re.match(r"\W*Sum", line))
        _, num_words, *counts, errors, _ = map(int, re.findall(r"\d+", line))
        report = reports[name]
        assert counts == [report.hits, report.substitutions, report.deletions, report.insertions]
        assert report.wer == errors / num_words
    piped = b"".join((tmp_path / f"{name}.sgml").read_bytes() for name in "ab")
    words = [str(Path(sclite).with_name("sc_stats")), *"-p -t mapsswe -v -n -".split()]
    told = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, input=piped).stdout.decode()
    found = matched_pairs(reports["a"], reports["b"])
    assert int(re.findall(r"# segs: (\d+)", told)[0]) == found.num_segments
    assert found.z is not None and float(re.findall(r"Z Stat: (-?[\d.]+)", told)[0]) == pytest.approx(
        -found.z, abs=6e-4
    )
    assert float(re.findall(r"std dev: ([\d.]+)", told)[0]) == pytest.approx(found.standard_deviation, abs=6e-4)


def write_trn(path: Path, texts: dict[str, str]) -> None:
    path.write_text("".join(f"{text} ({name})\n" for name, text in texts.items()))
