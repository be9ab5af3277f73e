"""Promises of an audit as a whole: what is shared, what is written, how it resumes, and the command."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.errors import ConfigError, ManifestError
from speechssl.manifest import AuditConfig, AuditReport, Manifest, audit_manifests
from speechssl.manifest.audit import Thresholds, load_named, write_cleaned
from speechssl.manifest.audit import scan as scanning
from speechssl.manifest.audit.rows import Rows, column_overlaps
from speechssl.report import write_audit_page
from speechssl.types import Utterance

Make = Callable[..., Manifest]
Run = Callable[..., tuple[int, str, str]]
RATE = 16_000
COLUMNS_ONLY = AuditConfig(audio=False)


@pytest.fixture
def noises(tmp_path: Path) -> Callable[[str, dict[str, int]], Path]:
    """Writes a manifest of bursts of noise; equal seeds give equal samples, seed -1 silence."""

    def make(name: str, seeds: dict[str, int], **columns: str) -> Path:
        rows = []
        for key, seed in seeds.items():
            random = np.random.default_rng(abs(seed))
            envelope = np.repeat(random.uniform(0.05, 1, 40), RATE // 20)
            samples = 0.1 * envelope * random.standard_normal(len(envelope)) * (seed >= 0)
            path = tmp_path / f"{name}-{key}.wav"
            soundfile.write(path, samples, RATE, subtype="PCM_16")
            rows.append(
                Utterance(id=key, audio_filepath=path.name, sample_rate=RATE, num_samples=len(samples),
                          duration=len(samples) / RATE, **columns)
            )  # fmt: skip
        Manifest.from_utterances(rows, folder=tmp_path).save(tmp_path / f"{name}.jsonl")
        return tmp_path / f"{name}.jsonl"

    return make


def shared(report: AuditReport) -> dict[str, dict[tuple[str, str], list[str]]]:
    """Kind -> (manifest, other) -> ids of the manifest's rows that share something with the other."""
    return {
        leak.kind: {
            (name, other): report.rows.ids(report.leaking(leak, name, other))
            for name, other, _, _ in report.leak_counts(leak)
        }
        for leak in report.leaks
        if leak.rows.any()
    }


def test_speakers_texts_and_ids_in_common_are_found(make_manifest: Make) -> None:
    train = make_manifest(
        [1.0] * 4,
        speaker=["Anna", "ben", "carl", None],
        text=["Good day!", "only here", None, ""],
    )
    test = make_manifest(
        [1.0] * 3,
        speaker=[" anna ", "dora", "CARL"],
        text=["good  day", "something else", None],
        audio_filepath=["x.wav", "y.wav", "z.wav"],
    )
    report = audit_manifests({"train": train, "test": test}, COLUMNS_ONLY)
    assert shared(report) == {
        "id": {("train", "test"): ["u0", "u1", "u2"], ("test", "train"): ["u0", "u1", "u2"]},
        "speaker": {("train", "test"): ["u0", "u2"], ("test", "train"): ["u0", "u2"]},
        "text": {("train", "test"): ["u0"], ("test", "train"): ["u0"]},
    }
    assert report.speaker_variants == ((" anna ", "Anna"), ("CARL", "carl"))
    assert not report.is_clean


def test_texts_that_are_almost_equal_are_found_beside_equal_ones(make_manifest: Make) -> None:
    train = make_manifest([1.0] * 2, text=["the cat sat on the old mat yesterday", "wholly different words here now"])
    test = make_manifest(
        [1.0] * 2, text=["the cat sat on the old mats yesterday", "The cat sat on the old mat, yesterday!"]
    )
    found = shared(
        audit_manifests({"a": train, "b": test}, AuditConfig(audio=False, thresholds=Thresholds(near_text=0.7)))
    )
    assert found["text"] == {("a", "b"): ["u0"], ("b", "a"): ["u1"]}
    assert found["near_text"] == {("b", "a"): ["u0"]}  # a's text is in b as it is, and told as such


def test_cuts_of_one_file_are_audio_where_they_overlap_and_file_where_not(tmp_path: Path) -> None:
    def cuts(spans: list[tuple[float, float]], name: str) -> Manifest:
        rows = [
            Utterance(id=f"{name}{n}", audio_filepath="talk.wav", sample_rate=RATE, num_samples=int(length * RATE),
                      duration=length, offset=start)
            for n, (start, length) in enumerate(spans)
        ]  # fmt: skip
        return Manifest.from_utterances(rows, folder=tmp_path)

    train = cuts([(0, 4), (10, 4), (20, 4), (30, 4), (40, 0.3)], "a")
    test = cuts([(3, 4), (14, 4), (20, 4), (33.8, 2), (39, 3)], "b")
    report = audit_manifests({"train": train, "test": test}, COLUMNS_ONLY)
    assert shared(report) == {
        "audio": {("train", "test"): ["a0", "a2", "a4"], ("test", "train"): ["b0", "b2", "b4"]},
        "file": {("train", "test"): ["a1", "a3"], ("test", "train"): ["b1", "b3"]},
    }
    told = {(p["first"]["id"], p["second"]["id"]): (p["how"], p["seconds"], p["offset_seconds"])
            for p in report.to_dict()["pairs"]}  # fmt: skip
    assert told == {
        ("a0", "b0"): ("overlap", 1.0, 3.0), ("a2", "b2"): ("span", 4.0, 0.0), ("a4", "b4"): ("overlap", 0.3, -1.0),
    }  # fmt: skip


def test_overlaps_by_columns_are_those_that_comparing_all_pairs_finds() -> None:
    random = np.random.default_rng(0)
    rows = [
        Utterance(id=str(n), audio_filepath=f"{random.integers(4)}.wav", sample_rate=RATE, num_samples=1,
                  duration=float(random.uniform(0.2, 5)), offset=float(random.uniform(0, 20)))
        for n in range(120)
    ]  # fmt: skip
    found = column_overlaps(Rows({"m": Manifest.from_utterances(rows)}), 0.5)
    expected = set()
    for a in range(120):
        for b in range(a + 1, 120):
            one, two = rows[a], rows[b]
            both = min(one.offset + one.duration, two.offset + two.duration) - max(one.offset, two.offset)
            if one.audio_filepath == two.audio_filepath and both >= min(0.5, 0.8 * min(one.duration, two.duration)):
                expected.add((a, b))
    assert {tuple(sorted(pair)) for pair in zip(found.first.tolist(), found.second.tolist(), strict=True)} == expected
    assert (found.offset >= 0).all() and len(expected) > 50


def test_two_ways_to_a_file_are_one_file(make_manifest: Make, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    row = Utterance(id="a", audio_filepath="c.wav", sample_rate=RATE, num_samples=RATE, duration=1.0)
    one = Manifest.from_utterances([row], folder=tmp_path / "real")
    two = Manifest.from_utterances([row], folder=tmp_path / "link")
    assert "audio" in shared(audit_manifests({"one": one, "two": two}, COLUMNS_ONLY))


def test_equal_samples_in_other_files_are_found_and_silence_is_not_shared(noises: Make) -> None:
    train = noises("train", {"a": 1, "b": 2, "c": 1, "quiet": -1})
    test = noises("test", {"d": 1, "e": 5, "still": -1})
    report = audit_manifests({"train": Manifest.load(train), "test": Manifest.load(test)})
    assert shared(report) == {"audio": {("train", "test"): ["a", "c"], ("test", "train"): ["d"]}}
    repeats = {f.kind: (report.rows.ids(f.rows), f.texts) for f in report.findings}["repeated_audio"]
    assert repeats == (["c"], ["2.0 s of a"])
    assert [(p["how"], p["score"]) for p in report.to_dict()["pairs"]] == [("samples", 1.0)]


def test_allowed_leaks_are_reported_but_do_no_harm(make_manifest: Make) -> None:
    manifests = {name: make_manifest([1.0], speaker=["s"], audio_filepath=[f"{name}.wav"]) for name in "ab"}
    allowed = audit_manifests(manifests, AuditConfig(audio=False, allow=("speaker", "id")))
    assert allowed.is_clean and set(shared(allowed)) == {"speaker", "id"}
    assert not audit_manifests(manifests, AuditConfig(audio=False, allow=("speaker",))).is_clean
    with pytest.raises(ConfigError, match="no kind of leak 'voice'; there are audio, file, id, speaker, text"):
        AuditConfig(allow=("voice",))


def test_nothing_to_audit_is_an_error() -> None:
    with pytest.raises(ManifestError, match="nothing to audit"):
        audit_manifests({})


def test_recordings_that_cannot_be_decoded_are_told_and_the_others_audited(noises: Make, tmp_path: Path) -> None:
    path = noises("m", {"a": 1, "b": 2, "c": 1})
    (tmp_path / "m-b.wav").write_bytes(b"no audio at all, only text\n" * 9)
    report = audit_manifests({"m": Manifest.load(path)})
    found = {finding.kind: finding for finding in report.findings}
    assert report.rows.ids(found["unreadable"].rows) == ["b"]
    assert "m-b.wav: is text, not audio" in found["unreadable"].said(0)
    assert report.rows.ids(found["repeated_audio"].rows) == ["c"]


def test_a_stopped_audit_goes_on_from_its_cache(noises: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.load(noises("m", {name: n for n, name in enumerate("abcdefgh")}))
    decoded: list[str] = []
    decode = scanning.decode_span

    def stop_at_f(utterance: Utterance, key: int) -> object:
        if utterance.id == "f":
            raise KeyboardInterrupt
        decoded.append(utterance.id)
        return decode(utterance, key)

    monkeypatch.setattr(scanning, "_SPANS_AT_ONCE", 2)
    monkeypatch.setattr(scanning, "decode_span", stop_at_f)
    with pytest.raises(KeyboardInterrupt):
        audit_manifests({"m": manifest}, cache=tmp_path / "cache", num_workers=1)
    assert sorted(decoded) == list("abcde")

    def note(utterance: Utterance, key: int) -> object:
        decoded.append(utterance.id)
        return decode(utterance, key)

    monkeypatch.setattr(scanning, "decode_span", note)
    decoded.clear()
    resumed = audit_manifests({"m": manifest}, cache=tmp_path / "cache", num_workers=1)
    assert sorted(decoded) == list("fgh")
    decoded.clear()
    again = audit_manifests({"m": manifest}, cache=tmp_path / "cache")
    assert decoded == []
    assert again.to_dict() == resumed.to_dict() == audit_manifests({"m": manifest}).to_dict()

    seconds = (tmp_path / "m-c.wav").stat().st_mtime + 5
    decoded.clear()
    os.utime(tmp_path / "m-c.wav", (seconds, seconds))
    audit_manifests({"m": manifest}, cache=tmp_path / "cache")
    assert decoded == ["c"]


def test_a_damaged_cache_is_named(noises: Make, tmp_path: Path) -> None:
    manifest = Manifest.load(noises("m", {"a": 1}))
    audit_manifests({"m": manifest}, cache=tmp_path / "cache")
    file = next((tmp_path / "cache").iterdir())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ManifestError, match=f"{file}: is damaged; delete it"):
        audit_manifests({"m": manifest}, cache=tmp_path / "cache")
    with pytest.raises(ManifestError, match="is a file, but records are kept in a folder"):
        audit_manifests({"m": manifest}, cache=file)


def test_cleaned_manifests_hold_what_does_not_leak(noises: Make, tmp_path: Path) -> None:
    train = noises("train", {"a": 1, "b": 2, "c": 3, "d": 2}, speaker="s")
    test = noises("test", {"x": 3, "y": 7}, speaker="s")
    manifests = load_named([train, test])
    report = audit_manifests(manifests, AuditConfig(allow=("speaker",)))
    train_part, test_part = write_cleaned(report, tmp_path / "out")
    assert (train_part.num_kept, train_part.num_dropped, test_part.num_dropped) == (3, 1, 0)
    assert [u.id for u in Manifest.load(train_part.path)] == ["a", "b", "d"]
    dropped = next(iter(Manifest.load(train_part.dropped_path or "")))
    assert dropped.id == "c" and dropped.extra["audit"] == "audio in test"
    assert Path(dropped.audio_filepath).is_file()
    assert audit_manifests(load_named([train_part.path, test_part.path]), AuditConfig(allow=("speaker",))).is_clean

    train_part, _ = write_cleaned(report, tmp_path / "two", drop=["repeated_audio"])
    assert [u.id for u in Manifest.load(train_part.path)] == ["a", "b", "c"]
    before = (tmp_path / "train.jsonl").read_bytes()
    with pytest.raises(ManifestError, match=r"train\.jsonl: would be overwritten by its clean copy"):
        write_cleaned(report, tmp_path)
    assert (tmp_path / "train.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="drop: there is no kind 'louder'"):
        write_cleaned(report, tmp_path / "three", drop=["louder"])
    with pytest.raises(ManifestError, match="train: all of its 4 rows would be dropped"):
        write_cleaned(report, tmp_path / "three", drop=["speaker"])
    assert not (tmp_path / "three").exists()


def test_manifests_of_one_name_are_told_apart_by_their_folders(make_manifest: Make, tmp_path: Path) -> None:
    paths = [tmp_path / corpus / "train.jsonl" for corpus in ("one", "two")]
    for path in paths:
        make_manifest([1.0]).save(path)
    assert list(load_named(paths)) == ["one-train", "two-train"]
    with pytest.raises(ManifestError, match="train.jsonl: is named twice"):
        load_named([paths[0], tmp_path / "two" / ".." / "one" / "train.jsonl"])


def test_the_command_tells_leaks_and_ends_with_1(noises: Make, tmp_path: Path, run: Run) -> None:
    train, test = noises("train", {"a": 1, "b": 2}, text="same"), noises("test", {"x": 2, "y": 3}, text="same")
    code, out, err = run("manifest", "audit", train, test, "--json", tmp_path / "audit.json", "--allow", "text")
    assert code == 1 and err == ""
    assert "LEAKS between train, test (allowed: text)" in out
    result = json.loads((tmp_path / "audit.json").read_text())
    assert result["clean"] is False
    assert {leak["kind"]: leak["allowed"] for leak in result["leaks"]} == {"audio": False, "text": True}
    assert result["leaks"][0]["between"][0]["ids"] == ["b"]
    assert result["pairs"][0]["first"] == {"manifest": "train", "id": "b"}
    assert result["measures"]["level_dbfs"]["unit"] == "dBFS"
    assert run("manifest", "audit", train, test, "--allow", "text", "audio")[0] == 0


def test_the_command_acts_on_what_it_found(noises: Make, tmp_path: Path, run: Run) -> None:
    train, test = noises("train", {"a": 1, "b": 2, "c": 2}), noises("test", {"x": 2})
    code, out, _ = run("manifest", "audit", train, test, "--output", tmp_path / "clean", "--drop", "audio")
    assert code == 1 and "2 dropped" in out
    assert [u.id for u in Manifest.load(tmp_path / "clean" / "train.jsonl")] == ["a"]
    assert run("manifest", "audit", tmp_path / "clean" / "train.jsonl", tmp_path / "clean" / "test.jsonl")[0] == 0


def test_findings_alone_fail_only_when_asked_to(noises: Make, run: Run) -> None:
    path = noises("m", {"a": 1, "b": 1})
    code, out, _ = run("manifest", "audit", path)
    assert code == 0 and "repeated_audio" in out
    assert run("manifest", "audit", path, "--strict")[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--drop", "audio"], "--drop names what --output leaves out; give --output FOLDER too"),
        (["--allow", "voice"], "allow: there is no kind of leak 'voice'"),
        (["--thresholds.dc_shar", "1"], "--thresholds.dc_shar; did you mean --thresholds.dc_share?"),
        (["--thresholds.near_text", "3"], "near_text is a share and must be between 0 and 1, is 3"),
        (["--min_overlap_seconds", "0"], "min_overlap_seconds must be above 0"),
    ],
)
def test_wrong_options_are_refused(words: list[str], message: str, noises: Make, run: Run) -> None:
    code, _, err = run("manifest", "audit", noises("m", {"a": 1}), *words)
    assert code == 2 and message in err


def test_the_command_without_a_manifest_says_what_to_name(run: Run) -> None:
    code, _, err = run("manifest", "audit")
    assert code == 2 and "manifests" in err


def test_the_page_is_whole_and_escapes_what_it_shows(noises: Make, tmp_path: Path) -> None:
    text = "<script>alert(1)</script>"
    train = noises("train", {"a<b>": 1, "c": 2}, text=text, speaker="<i>")
    report = audit_manifests(load_named([train, noises("test", {"x": 1}, text=text, speaker="<i>")]))
    page = write_audit_page(report, tmp_path / "audit.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "a&lt;b&gt;" in page
    assert page.count("<audio ") >= 2 and 'src="data:audio/' in page
    for title in ("Leaks between manifests", "Recordings", "Distributions", "Texts", "How it was measured"):
        assert f">{title}</h2>" in page


def test_the_page_of_columns_alone_says_so(make_manifest: Make, tmp_path: Path) -> None:
    report = audit_manifests({"m": make_manifest([1.0, 2.0], text=["a", ""])}, COLUMNS_ONLY)
    page = write_audit_page(report, tmp_path / "audit.html").read_text()
    assert "Recordings were not decoded" in page and "One manifest was audited" in page and "empty_text" in page
