"""Promises of `validate_manifest`: every problem at once, with its line, and a clean manifest on request."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest, validate_manifest

WriteTone = Callable[..., Path]


def write_lines(path: Path, *rows: dict[str, object] | str) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(name: str, duration: float = 0.2, **fields: object) -> dict[str, object]:
    return {"id": name, "audio_filepath": f"{name}.wav", "duration": duration} | fields


@pytest.fixture
def bad_manifest(tmp_path: Path, write_tone: WriteTone) -> Path:
    """One manifest with every kind of problem; line 1 and line 15 are good."""
    for name in ("good", "double", "other", "twice", "cut"):
        write_tone(f"{name}.wav")
    (tmp_path / "copy.wav").write_bytes((tmp_path / "good.wav").read_bytes())
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "zero.wav").touch()
    cut = tmp_path / "cut.wav"
    cut.write_bytes(cut.read_bytes()[:3000])
    soundfile.write(tmp_path / "silent.wav", np.full(3200, 0.1), 16000)
    soundfile.write(tmp_path / "one.wav", np.array([0.5]), 16000)
    broken = np.full(3200, 0.1)
    broken[7] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 16000, subtype="FLOAT")
    return write_lines(
        tmp_path / "m.jsonl",
        row("good"),
        row("nowhere"),
        row("text"),
        row("cut"),
        row("zero"),
        row("silent"),
        row("nan"),
        row("double", duration=0.1),
        row("good"),
        row("copy"),
        row("other", duration="0.2"),
        "{oops",
        "",
        row("one", duration=1 / 16000),
        row("twice", num_samples=3200, sample_rate=16000),
        row("other", sample_rate=8000, num_samples=1600),
    )


EXPECTED = {
    (2, "missing"),
    (3, "unreadable"),
    (4, "truncated"),
    (5, "empty"),
    (6, "silent"),
    (7, "non_finite"),
    (8, "duration"),
    (9, "duplicate_id"),
    (9, "duplicate_audio"),
    (10, "duplicate_audio"),
    (11, "type"),
    (12, "line"),
    (14, "too_short"),
    (16, "duration"),
}


def test_every_problem_is_reported_at_once_with_its_line(bad_manifest: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = validate_manifest(bad_manifest, audio=True, progress=lambda done, total: seen.append((done, total)))
    assert {(problem.line, problem.kind) for problem in report.problems} == EXPECTED
    assert [problem.line for problem in report.problems] == sorted(problem.line for problem in report.problems)
    assert (report.num_rows, report.num_bad, report.ok) == (15, 13, False)
    assert seen[-1] == (13, 13)
    messages = {(problem.line, problem.kind): problem.message for problem in report.problems}
    assert "holds 0.200 s, but the manifest says 0.100 s" in messages[8, "duration"]
    assert "the id 'good' is also on line 1" in messages[9, "duplicate_id"]
    assert "same samples as line 1 (good)" in messages[10, "duplicate_audio"]
    assert "16000 Hz, but the manifest says 8000 Hz" in messages[16, "duration"]
    assert "duration must be a number, is text" in messages[11, "type"]
    assert f"{bad_manifest}:12: line: not JSON" in report.summary()


def test_without_audio_only_what_can_be_seen_from_outside_is_reported(bad_manifest: Path) -> None:
    report = validate_manifest(bad_manifest)
    kinds = {"missing", "empty", "duplicate_id", "type", "line"}
    assert {(p.line, p.kind) for p in report.problems} == {entry for entry in EXPECTED if entry[1] in kinds}
    assert "--audio also decodes" in report.summary()


def test_the_report_is_json(bad_manifest: Path) -> None:
    report = json.loads(json.dumps(validate_manifest(bad_manifest, audio=True).to_dict()))
    assert report["ok"] is False and report["num_bad"] == 13
    assert report["counts"]["duplicate_audio"] == 2 and len(report["problems"]) == len(EXPECTED)


def test_quarantine_divides_good_from_bad_with_reasons(bad_manifest: Path, tmp_path: Path) -> None:
    clean, bad = tmp_path / "out/clean.jsonl", tmp_path / "out/bad.jsonl"
    counts = validate_manifest(bad_manifest, audio=True).write_quarantine(clean, bad)
    assert counts == (2, 13)
    assert [u.id for u in Manifest.load(clean)] == ["good", "twice"]
    assert validate_manifest(clean, audio=True).ok
    rows = [json.loads(line) for line in bad.read_text().splitlines()]
    assert [entry["line"] for entry in rows] == sorted({line for line, _ in EXPECTED})
    assert {(entry["line"], p["kind"]) for entry in rows for p in entry["problems"]} == EXPECTED
    assert next(entry for entry in rows if entry["line"] == 12)["raw"] == "{oops"
    assert (bad.parent / rows[1]["audio_filepath"]).is_file()  # text.wav, seen from the new folder


def test_nothing_wrong_is_ok(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("a.wav")
    write_tone("b.flac")
    for name in ("m.jsonl", "m.parquet"):
        build_manifest(tmp_path, output=tmp_path / name)
        report = validate_manifest(tmp_path / name, audio=True)
        assert report.ok and report.counts() == {} and report.num_rows == 2
        assert "0 of 2 rows have a problem" in report.summary()


def test_spans_of_one_recording_are_no_contradiction(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("a.wav", seconds=1.0)
    span = {"audio_filepath": "a.wav", "duration": 0.5}
    path = write_lines(tmp_path / "m.jsonl", span | {"offset": 0.0}, span | {"offset": 0.5}, span | {"offset": 0.8})
    report = validate_manifest(path, audio=True)
    assert [(p.line, p.kind) for p in report.problems] == [(3, "duration")]
    assert "ends at 1.300 s but the recording is 1.000 s long" in report.problems[0].message


def test_impossible_numbers_are_reported(tmp_path: Path, write_tone: WriteTone) -> None:
    for name in "abcd":
        write_tone(f"{name}.wav")
    path = write_lines(
        tmp_path / "m.jsonl",
        row("a", duration=-1),
        row("b", offset=-2),
        row("c", sample_rate=0),
        row("d", sample_rate=16000, num_samples=160000),
        {"id": "e", "duration": 1.0},
        row("f", sample_rate=2**60 + 1),
    )
    report = validate_manifest(path)
    found = {(p.line, p.kind, p.message.split(" is ")[0]) for p in report.problems}
    assert found >= {
        (1, "duration", "duration must be above 0 seconds,"),
        (2, "duration", "offset must be at least 0,"),
        (3, "duration", "sample_rate must be above 0 Hz,"),
        (4, "duration", "num_samples at sample_rate make 10.000 s, which"),
    }
    assert {p.line for p in report.problems} == {1, 2, 3, 4, 5, 6}


def test_a_line_that_is_not_utf_8_is_one_problem(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("a.wav")
    good = json.dumps(row("a")).encode()
    (tmp_path / "m.jsonl").write_bytes(good + b"\n" + b'{"id": "b", "text": "Gr\xfc\xdfe"}\n')
    report = validate_manifest(tmp_path / "m.jsonl")
    assert [(p.line, p.kind) for p in report.problems] == [(2, "line")]
    assert "not UTF-8 (byte 0xfc" in report.problems[0].message
    report.write_quarantine(tmp_path / "clean.jsonl", tmp_path / "bad.jsonl")
    assert "\\xfc" in json.loads((tmp_path / "bad.jsonl").read_text())["raw"]


def test_a_manifest_with_only_bad_rows_leaves_an_empty_clean_one(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", row("nowhere"))
    assert validate_manifest(path).write_quarantine(tmp_path / "clean.jsonl", tmp_path / "bad.jsonl") == (0, 1)
    assert (tmp_path / "clean.jsonl").read_text() == ""


def test_what_is_no_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such manifest"):
        validate_manifest(tmp_path / "m.jsonl")
    (tmp_path / "m.jsonl").write_text("\n\n")
    with pytest.raises(ManifestError, match="holds no utterance"):
        validate_manifest(tmp_path / "m.jsonl")


def test_a_recording_without_permission_is_unreadable(tmp_path: Path, write_tone: WriteTone) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read anything; tests/unit/test_audio.py asks as another user")
    write_tone("a.wav").chmod(0)
    report = validate_manifest(write_lines(tmp_path / "m.jsonl", row("a")))
    assert [p.kind for p in report.problems] == ["unreadable"]
    assert "permission denied" in report.problems[0].message
