"""Promises of builds that go on: nothing that was read is read again unless it changed, whatever interrupted them."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl import audio
from speechssl.cli import main
from speechssl.errors import ManifestError
from speechssl.manifest import Manifest, build_manifest, header_journal
from speechssl.manifest import headers as headers_module
from speechssl.manifest.build import BuildResult, journal_path
from speechssl.manifest.header_journal import Files, HeaderJournal

WriteTone = Callable[..., Path]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """Names of the recordings that were opened since the last call, by whatever process."""
    log = tmp_path / "opened.log"
    log.touch()
    probe = audio.probe

    def noting(path: str) -> audio.AudioInfo:
        with open(log, "a") as file:
            file.write(f"{os.path.basename(path)}\n")
        return probe(path)

    monkeypatch.setattr(audio, "probe", noting)

    def names() -> list[str]:
        found = sorted(log.read_text().split())
        log.write_text("")
        return found

    return names


@pytest.fixture
def clips(tmp_path: Path, write_tone: WriteTone) -> Path:
    for number in range(6):
        write_tone(f"clips/{number}.wav", seconds=0.1 + number / 100)
    return tmp_path / "clips"


def rewrite(path: Path, content: bytes, *, moved: bool) -> None:
    """Change what a file holds; its time of change too if `moved`."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + (10 if moved else 0)))


def counts(result: BuildResult) -> tuple[int, int, int]:
    return result.num_probed, result.num_reused, result.num_removed


def test_a_second_build_opens_only_what_is_new_or_has_changed(
    clips: Path, tmp_path: Path, write_tone: WriteTone, opened: Callable[[], list[str]]
) -> None:
    output = tmp_path / "m.jsonl"
    (clips / "broken.wav").write_text("x")
    first = build_manifest(clips, output=output)
    assert counts(first) == (7, 0, 0) and len(opened()) == 7
    assert counts(build_manifest(clips, output=output)) == (1, 6, 0)
    assert opened() == ["broken.wav"]  # what could not be used is tried again
    write_tone("clips/new.wav")
    write_tone("clips/1.wav", seconds=0.5)  # another size
    rewrite(clips / "2.wav", (clips / "2.wav").read_bytes(), moved=True)
    (clips / "3.wav").unlink()
    (clips / "broken.wav").write_bytes((clips / "0.wav").read_bytes())
    result = build_manifest(clips, output=output)
    assert opened() == ["1.wav", "2.wav", "broken.wav", "new.wav"]
    assert counts(result) == (4, 3, 1)
    assert "headers: 4 read, 3 known from an earlier build, 1 of that build are gone" in result.summary()
    assert result.to_dict()["headers"] == {"probed": 4, "reused": 3, "removed": 1}
    assert result.manifest.fingerprint() == build_manifest(clips).manifest.fingerprint()
    assert Manifest.load(output).fingerprint() == result.manifest.fingerprint()


def test_a_file_that_looks_unchanged_is_believed_until_all_are_read_again(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.parquet"
    build_manifest(clips, output=output)
    rewrite(clips / "4.wav", bytes(os.path.getsize(clips / "4.wav")), moved=False)
    assert counts(build_manifest(clips, output=output)) == (0, 6, 0)
    result = build_manifest(clips, output=output, fresh=True)
    assert counts(result) == (6, 0, 0)
    assert [Path(path).name for path, _ in result.skipped] == ["4.wav"]


def test_a_card_goes_on_too(clips: Path, tmp_path: Path) -> None:
    assert counts(build_manifest("folder", root=clips, output=tmp_path / "m.jsonl")) == (6, 0, 0)
    assert counts(build_manifest("folder", root=clips, output=tmp_path / "m.jsonl")) == (0, 6, 0)


def test_nothing_is_kept_where_nothing_is_written(clips: Path, tmp_path: Path) -> None:
    build_manifest(clips)
    with pytest.raises(ManifestError, match="neither a folder nor a corpus card"):
        build_manifest("no-such-corpus", output=tmp_path / "x" / "m.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips"]
    assert not list(clips.rglob(".*"))


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six hundred recordings, of which processes read sixteen at a time."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(600):
        soundfile.write(folder / f"{number:03}.wav", np.zeros(160 + number), 16000)
    monkeypatch.setattr(headers_module, "_FEW", 1)
    monkeypatch.setattr(headers_module, "_CHUNK", 16)
    monkeypatch.setattr(header_journal, "_WAITING_ROWS", 64)
    return folder


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("part", [0.02, 0.4, 0.9])
def test_a_build_that_is_killed_goes_on_where_it_was(
    many: Path, tmp_path: Path, opened: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    output = tmp_path / "m.jsonl"
    probe, pids = audio.probe, tmp_path / "pids"

    def slow(path: str) -> audio.AudioInfo:
        with open(pids, "a") as file:
            file.write(f"{os.getpid()} ")
        time.sleep(0.002 if num_opened() < part * 600 else 1.0)  # so that it cannot end before it is killed
        return probe(path)

    def num_opened() -> int:
        return (tmp_path / "opened.log").read_text().count("\n")

    monkeypatch.setattr(audio, "probe", slow)
    build = multiprocessing.get_context("fork").Process(
        target=build_manifest, args=(many,), kwargs={"output": output, "num_workers": 2}
    )
    build.start()
    wait_until(lambda: num_opened() >= part * 600)
    assert build.pid is not None
    os.kill(build.pid, signal.SIGKILL)
    build.join()
    workers = {int(word) for word in pids.read_text().split()}
    wait_until(lambda: not any(runs(pid) for pid in workers))  # nor do its workers live on
    assert not output.exists()
    monkeypatch.setattr(audio, "probe", probe)  # no more waiting
    before = opened()
    result = build_manifest(many, output=output, num_workers=2)
    after = opened()
    assert result.num_probed == len(after) and result.num_reused == 600 - len(after)
    assert set(before) | set(after) == {f"{number:03}.wav" for number in range(600)}
    # lost is only what was in hand: eight chunks that wait or run, and fewer than 64 rows that wait to be written
    assert len(set(before) & set(after)) <= 8 * 16 + 64
    assert part < 0.3 or result.num_reused > 0
    assert [u.num_samples for u in result.manifest] == [160 + number for number in range(600)]


def test_a_recording_that_crashes_the_decoder_ends_nothing(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = audio.probe

    def crashing(path: str) -> audio.AudioInfo:
        if path.endswith(("/100.wav", "/333.wav")):
            os.kill(os.getpid(), signal.SIGKILL)
        return probe(path)

    monkeypatch.setattr(audio, "probe", crashing)
    result = build_manifest(many, num_workers=2)
    assert len(result.manifest) == 598
    assert [Path(path).name for path, _ in result.skipped] == ["100.wav", "333.wav"]
    assert "the decoder crashed on it" in result.skipped[0][1]


def test_processes_and_threads_find_the_same(many: Path) -> None:
    (many / "bad.wav").write_text("x")
    seen: list[tuple[int, int]] = []
    one = build_manifest(many, num_workers=1)
    several = build_manifest(many, num_workers=3, progress=lambda done, total: seen.append((done, total)))
    assert one.manifest.fingerprint() == several.manifest.fingerprint() and one.skipped == several.skipped
    assert seen[-1] == (601, 601) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def files(numbers: Sequence[int], *, shift: int = 0) -> Files:
    values = np.array(numbers, dtype=np.int64)
    paths = pa.array([f"/x/ü{number}.wav" for number in numbers], pa.large_string())
    return Files(path=paths, num_bytes=values, mtime_ns=values * 10 + shift)


@given(cut=st.integers(0, 5000), tail=st.sampled_from([b"", bytes(100), b"\xff" * 9, b"garbage" * 30]))
@settings(max_examples=60, deadline=None)
def test_a_journal_that_was_torn_keeps_what_was_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("torn") / ".m.headers"
    journal = HeaderJournal(path)
    journal.find(files(range(90)))
    ends = []
    for start in range(0, 90, 30):
        part = np.arange(start, start + 30)
        journal.add(files(part.tolist()), np.full(30, 16000 + start), part + 1)
        journal.flush()
        ends.append(path.stat().st_size)
    journal.close()
    whole = path.read_bytes()
    cut = cut % (len(whole) + 1)
    path.write_bytes(whole[:cut] + tail)
    journal = HeaderJournal(path)
    rates, num_samples = journal.find(files(range(90)))
    known = 30 * sum(end <= cut for end in ends)
    same = (whole[:cut] + tail)[: len(whole)]  # a tail of zeros may be just what was cut off
    known = max(known, 30 * sum(whole[:end] == same[:end] for end in ends))
    assert (rates > 0).tolist() == [number < known for number in range(90)]
    assert num_samples[:known].tolist() == list(range(1, known + 1))
    journal.add(files([80]), np.array([8000]), np.array([5]))
    journal.close()
    again = HeaderJournal(path)
    rates, _ = again.find(files(range(90)))
    assert rates[80] == 8000 and (rates[:known] > 0).all()
    again.close()


def test_a_finished_journal_holds_what_the_build_found_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / ".m.headers"
    for round_ in range(5):
        journal = HeaderJournal(path)
        now = files(range(round_, 50 + round_), shift=round_)
        journal.find(now)
        assert journal.num_removed == (1 if round_ else 0)
        journal.add(now, np.full(50, 16000), np.full(50, 7))
        journal.finish(now, np.full(50, 16000), np.full(50, 7))
    with pa.ipc.open_stream(path.read_bytes()) as reader:
        assert reader.read_all()["path"].to_pylist() == now.path.to_pylist()
    assert [found.name for found in tmp_path.iterdir()] == [".m.headers"]


def test_two_builds_of_one_manifest_are_not_mixed(clips: Path, tmp_path: Path) -> None:
    other = HeaderJournal(journal_path(tmp_path / "m.jsonl"))
    other.find(files([]))
    with pytest.raises(ManifestError, match="another build of the same manifest is running"):
        build_manifest(clips, output=tmp_path / "m.jsonl")
    other.close()
    assert len(build_manifest(clips, output=tmp_path / "m.jsonl").manifest) == 6


def test_several_folders_make_one_manifest(tmp_path: Path, write_tone: WriteTone) -> None:
    for name in ("a/x/1.wav", "a/x/2.flac", "b/1.wav", "c/1.wav"):
        write_tone(name)
    (tmp_path / "a/x/1.txt").write_text("beside")
    (tmp_path / "b/transcripts.tsv").write_text("path\ttext\tspeaker\n1.wav\tin a table\tann\nno.wav\tx\ty\n")
    result = build_manifest([tmp_path / "b", tmp_path / "a" / "x"], output=tmp_path / "m.jsonl", language="en")
    assert [(u.id, u.text, u.speaker) for u in result.manifest] == [
        ("a/x/1", "beside", None),
        ("a/x/2", None, None),
        ("b/1", "in a table", "ann"),
    ]
    assert all(Path(u.audio_filepath).is_file() and u.language == "en" for u in Manifest.load(tmp_path / "m.jsonl"))
    assert "no such recording: no.wav" in result.skipped[0][1]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["a", "a/x"], "a/x lies within .*a, its recordings would count twice"),
        (["a", "a"], "its recordings would count twice"),
        (["a", "nowhere"], "nowhere: no such folder; several sources must all be folders"),
        ([], "a manifest of what"),
    ],
)
def test_folders_that_do_not_go_together_are_refused(
    tmp_path: Path, write_tone: WriteTone, folders: list[str], message: str
) -> None:
    write_tone("a/x/1.wav")
    with pytest.raises(ManifestError, match=message):
        build_manifest([tmp_path / folder for folder in folders])


def test_links_that_lead_back_and_names_that_are_no_text_end_nothing(tmp_path: Path, write_tone: WriteTone) -> None:
    write_tone("a/1.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    with open(os.path.join(os.fsencode(tmp_path), b"a", b"\xff.wav"), "wb") as file:
        file.write((tmp_path / "a/1.wav").read_bytes())
    result = build_manifest(tmp_path / "a")
    assert [u.id for u in result.manifest] == ["1"]
    assert [reason for _, reason in result.skipped] == ["the name is not UTF-8; rename the file"]
    assert "\\xff.wav" in result.skipped[0][0]


def test_the_command_goes_on_and_takes_several_folders(
    clips: Path, tmp_path: Path, write_tone: WriteTone, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tone("other/9.wav")
    words = ["manifest", "build", str(clips), str(tmp_path / "other"), "--output", str(tmp_path / "m.jsonl")]
    assert main(words) == 0
    assert "7 utterances" in capsys.readouterr().out
    assert main(words) == 0
    assert "headers: 0 read, 7 known from an earlier build" in capsys.readouterr().out
    assert main([*words, "--fresh"]) == 0
    assert "known from" not in capsys.readouterr().out
