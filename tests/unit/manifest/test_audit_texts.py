"""Promises about texts: what is odd is told, and what is not odd is not."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from speechssl.manifest import Manifest
from speechssl.manifest.audit import Thresholds
from speechssl.manifest.audit.characters import rare_characters
from speechssl.manifest.audit.language import foreign_rows
from speechssl.manifest.audit.near_texts import near_pairs
from speechssl.manifest.audit.texts import audit_texts

Make = Callable[..., Manifest]
USUAL = [
    "one plain sentence",
    "Straße, naïve, œuvre; Škoda's \u201cquoted\u201d \u2013 dash\u2026",
    "не очень длинно",
    "日本語 カタカナ",
]


def found(manifest: Manifest, **thresholds: float) -> dict[str, dict[int, str]]:
    findings = audit_texts(manifest, Thresholds(**thresholds))
    return {f.kind: dict(zip(f.rows.tolist(), f.values, strict=True)) for f in findings}


def column(corpora: Path, corpus: str) -> tuple[list[str], list[float]]:
    """Texts and seconds of a corpus, from its transcripts and files."""
    import soundfile

    lines = (corpora / corpus / "transcripts.tsv").read_text().splitlines()[1:]
    fields = [line.split("\t") for line in lines]
    return [field[2] for field in fields], [soundfile.info(corpora / corpus / field[0]).duration for field in fields]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("", "empty_text", ""),
        (" \t ", "empty_text", ""),
        (None, "empty_text", ""),
        ("schÃ¶n", "mojibake", "schön"),
        ("itâ€™s", "mojibake", "it’s"),
        ("Ð¼Ð¸Ñ€", "mojibake", "мир"),
        ("zero\u200bwidth", "control_characters", "U+200B"),
        ("bell\x07", "control_characters", "U+0007"),
        ("lost \ufffd letter", "control_characters", "U+FFFD"),
        ("\u202eturned", "control_characters", "U+202E"),
        ("pаper", "mixed_scripts", "pа"),  # its second letter is Cyrillic
        ("Αthens", "mixed_scripts", "Αt"),  # its first letter is Greek
        (unicodedata.normalize("NFD", "schön"), "not_nfc", ""),
        ("he said <b>no</b>", "markup", "<b>"),
        ("[laughter] yes", "markup", "[laughter]"),
        ("this &amp; that", "markup", "&amp;"),
        ("see https://here", "markup", "https://"),
        ("two\\nlines", "markup", "\\n"),
        ("room 12", "digits", "1"),
        ("room ٣", "digits", "٣"),
    ],
)
def test_an_oddity_is_told(text: str | None, kind: str, said: str, make_manifest: Make) -> None:
    texts = [*USUAL, text]
    assert found(make_manifest([1.0] * 5, text=texts))[kind] == {4: said}


def test_usual_texts_are_not_odd(make_manifest: Make) -> None:
    assert found(make_manifest([1.0] * 4, text=USUAL)) == {}


def test_a_manifest_without_texts_has_no_odd_texts(make_manifest: Make) -> None:
    assert found(make_manifest([1.0, 2.0])) == {}


def test_characters_that_hardly_any_row_has_are_rare() -> None:
    texts = ["Abc abc"] * 1500
    texts[7], texts[900], texts[901] = "abc ø", "øx", "ABC"
    rows, letters = rare_characters(pa.array(texts, pa.large_string()), 2)
    assert dict(zip(rows.tolist(), letters, strict=True)) == {7: "ø", 900: "øx"}
    assert len(rare_characters(pa.array(texts, pa.large_string()), 1)[0]) == 1
    assert len(rare_characters(pa.array(["abc"] * 998 + ["ø"], pa.large_string()), 2)[0]) == 0  # too few rows to tell


def test_texts_of_another_script_are_of_another_language() -> None:
    texts = pa.array(["where are they now", *["как у вас дела", "привет мир"] * 9], pa.large_string())
    rows, reasons = foreign_rows(texts, pa.chunked_array([["ru"] * 19]))
    assert rows.tolist() == [0] and reasons == ["written in Latin"]
    assert foreign_rows(texts, pa.chunked_array([["en", *["ru"] * 18]]))[0].tolist() == []


@pytest.mark.corpora
def test_wrong_language_labels_are_found_and_right_ones_kept(corpora: Path) -> None:
    english, german = (column(corpora, name)[0][:700] for name in ("kathleen_en", "kerstin_de"))
    texts = pa.array([*english, *german], pa.large_string())
    labels = np.array(["en"] * 700 + ["de"] * 700)
    wrong = np.random.default_rng(0).choice(1400, 40, replace=False)
    labels[wrong] = np.where(labels[wrong] == "en", "de", "en")
    rows, reasons = foreign_rows(texts, pa.chunked_array([pa.array(labels, pa.large_string())]))
    assert set(rows.tolist()) <= set(wrong.tolist())
    assert len(rows) >= 34
    assert set(reasons) == {"reads like en", "reads like de"}


@pytest.mark.corpora
def test_texts_of_other_recordings_are_told_by_their_length(corpora: Path, make_manifest: Make) -> None:
    texts, seconds = column(corpora, "ljspeech_part")
    assert len(found(make_manifest(seconds, text=texts)).get("speech_rate", {})) <= 2
    swapped = list(texts)
    swapped[10], swapped[1] = texts[1], texts[10]  # 1.9 s and 8 s
    told = found(make_manifest(seconds, text=swapped))["speech_rate"]
    assert {1, 10} <= set(told)
    assert told[1].endswith("letters a second")


def test_texts_that_are_almost_equal_are_paired() -> None:
    texts = [
        "the quick brown fox jumps over the lazy dog",
        "a wholly different sentence about the weather",
        "the quick brown fox jumped over the lazy dog",
        "yes",
        "yet",
        "nothing at all is like this one here",
    ]
    one, other, alike = near_pairs(pa.array(texts, pa.large_string()), 0.6)
    assert (one.tolist(), other.tolist()) == ([0], [2])
    assert 0.6 < alike[0] < 1
    assert len(near_pairs(pa.array(texts, pa.large_string()), 0.95)[0]) == 0


def test_nearly_all_pairs_of_the_similarity_asked_for_are_found() -> None:
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    texts = ["".join(random.choice(letters, 60)) for _ in range(400)]
    changed = [text[:30] + "#" + text[31:] for text in texts]  # 5 of 56 pieces differ: a similarity of 0.84
    one, other, _ = near_pairs(pa.array([*texts, *changed], pa.large_string()), 0.8)
    assert set(zip(one.tolist(), other.tolist(), strict=True)) <= {(n, n + 400) for n in range(400)}
    assert len(one) >= 398
