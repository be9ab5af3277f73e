"""Opening recordings: files, members of archives, URLs, and everything that can go wrong on the way."""

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechssl import audio
from speechssl.audio import RecordingError, UnreachableError, check_openable, locate, prefetch, remote, windows
from speechssl.audio.prefetching import MAX_BLOCK_BYTES, _plan
from speechssl.audio.remote import RetryPolicy, is_transient

from .conftest import FaultyServer


def encoded(seconds: float = 0.5, *, format: str = "FLAC", seed: int = 0, rate: int = 16000) -> bytes:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate)).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format)
    return buffer.getvalue()


def decoded(content: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(content), dtype="float32")[0]


def fails(path: str, message: str, kind: str) -> RecordingError:
    """Reading, probing and checking fail alike, and name the path as it was given."""
    for call in (audio.read, audio.probe):
        with pytest.raises(RecordingError, match=message) as caught:
            call(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert caught.value.kind == kind
    return caught.value


@pytest.mark.parametrize(
    ("path", "file", "start", "num_bytes"),
    [
        ("a/b.flac", "a/b.flac", None, None),
        ("a.tar:512:1000", "a.tar", 512, 1000),
        ("s3://bucket/a.tar:0:7", "s3://bucket/a.tar", 0, 7),
        ("http://host:8080/a.wav", "http://host:8080/a.wav", None, None),
        ("odd:name.tar:3:4", "odd:name.tar", 3, 4),
        ("a.tar:512", "a.tar:512", None, None),
    ],
)
def test_a_path_is_taken_apart(path: str, file: str, start: int | None, num_bytes: int | None) -> None:
    location = locate(path)
    assert (location.file, location.start, location.num_bytes) == (file, start, num_bytes)
    assert location.is_remote == ("://" in path)


@pytest.mark.parametrize("format", ["FLAC", "WAV", "OGG", "MP3"])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_member_of_an_archive_reads_like_the_file(tmp_path: Path, format: str, place: str) -> None:
    content = encoded(format=format)
    archive = b"x" * 777 + content + b"y" * 99
    if place == "local":
        (tmp_path / "a.tar").write_bytes(archive)
        path = f"{tmp_path}/a.tar:777:{len(content)}"
    else:
        fsspec.filesystem("memory").pipe("/files/a.tar", archive)
        path = f"memory://files/a.tar:777:{len(content)}"
    plain = tmp_path / f"plain.{format.lower()}"
    plain.write_bytes(content)
    np.testing.assert_array_equal(audio.read(path), audio.read(plain))
    np.testing.assert_array_equal(
        audio.read(path, offset=0.1, duration=0.2), audio.read(plain, offset=0.1, duration=0.2)
    )
    assert audio.probe(path) == audio.probe(plain)
    check_openable(path)


def test_media_in_an_archive_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    content = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"\0" * 512 + content)
    member = audio.read(f"{tmp_path}/a.tar:512:{len(content)}")
    np.testing.assert_array_equal(member, audio.read(tmp_path / "a.m4a"))


def test_a_file_whose_name_looks_like_a_range_is_still_a_file(tmp_path: Path) -> None:
    content = encoded()
    (tmp_path / "take:1:20").write_bytes(content)
    np.testing.assert_array_equal(audio.read(tmp_path / "take:1:20"), decoded(content))
    check_openable(str(tmp_path / "take:1:20"))


def test_a_range_past_the_end_of_its_archive_is_truncated(tmp_path: Path) -> None:
    content = encoded()
    (tmp_path / "a.tar").write_bytes(content[:-100])
    path = f"{tmp_path}/a.tar:0:{len(content)}"
    fails(path, f"truncated: {len(content) - 100} of {len(content)} bytes are there", "truncated")
    with pytest.raises(RecordingError, match="truncated: 0 of 10"):
        check_openable(f"{tmp_path}/a.tar:{len(content)}:10")
    fails(f"{tmp_path}/none.tar:0:10", "no such file", "missing")
    fails(f"{tmp_path}/a.tar:5:0", "is empty", "empty")


def test_noise_in_an_archive_is_told_from_a_recording(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"words and more words " * 50)
    fails(f"{tmp_path}/a.tar:0:500", "is text, not audio", "unreadable")


@pytest.mark.parametrize("place", ["local", "memory"])
def test_of_a_large_recording_only_the_span_is_read(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WHOLE_BYTES", 1 << 16)
    for name in ("WHOLE_BYTES", "UNSIZED_BYTES", "BLOCK_BYTES"):
        monkeypatch.setattr(f"speechssl.audio.files.{name}", 1 << 16)
    monkeypatch.setattr(windows, "BLOCK_BYTES", 1 << 16)
    content = encoded(60, format="WAV")  # 1.9 MB
    fetched = []
    fetch, pread = remote.fetch, os.pread
    monkeypatch.setattr(remote, "fetch", lambda *arguments: fetched.append(arguments[2]) or fetch(*arguments))
    monkeypatch.setattr(os, "pread", lambda *arguments: fetched.append(arguments[1]) or pread(*arguments))
    if place == "local":
        (tmp_path / "a.tar").write_bytes(b"z" * 100 + content)
        paths = [f"{tmp_path}/a.tar:100:{len(content)}"]
    else:
        fsspec.filesystem("memory").pipe("/files/long.wav", content)
        fsspec.filesystem("memory").pipe("/files/a.tar", b"z" * 100 + content)
        paths = ["memory://files/long.wav", f"memory://files/a.tar:100:{len(content)}"]
    for path in paths:
        fetched.clear()
        np.testing.assert_array_equal(
            audio.read(path, offset=50, duration=1), decoded(content)[50 * 16000 : 51 * 16000]
        )
        assert sum(fetched) < 400_000
        np.testing.assert_array_equal(audio.read(path), decoded(content))


def test_a_large_recording_that_ends_early_is_truncated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WHOLE_BYTES", 1 << 16)
    for name in ("WHOLE_BYTES", "UNSIZED_BYTES", "BLOCK_BYTES"):
        monkeypatch.setattr(f"speechssl.audio.files.{name}", 1 << 16)
    content = encoded(60, format="WAV")
    fsspec.filesystem("memory").pipe("/files/cut.tar", content[:-1000])
    path = f"memory://files/cut.tar:0:{len(content)}"
    with pytest.raises(RecordingError, match="truncated") as caught:
        audio.read(path)
    assert caught.value.kind == "truncated"
    assert str(caught.value).startswith(path)


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 900)), max_size=12),
    block=st.integers(1, 700),
    kept=st.integers(1, 3000),
)
def test_a_remote_window_reads_what_a_file_reads(moves: list[tuple[int, int]], block: int, kept: int) -> None:
    content = np.random.default_rng(0).bytes(5000)
    fsspec.filesystem("memory").pipe("/files/window", b"abc" + content + b"def")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "BLOCK_BYTES", block)
        patch.setattr(windows, "MAX_READ_AHEAD_BYTES", 4 * block)
        patch.setattr(windows, "MAX_KEPT_BYTES", kept)
        window = windows.RemoteWindow("memory://files/window", 3, len(content), content[:10])
        peer = io.BytesIO(content)
        for position, count in moves:
            assert window.seek(position) == peer.seek(position)
            assert window.read(count) == peer.read(count)
            assert window.tell() == peer.tell()
        assert window.seek(-7, os.SEEK_END) == 4993
        assert window.read() == content[-7:]


# --- prefetching ---


def archive_of(contents: list[bytes], gap: int = 512) -> tuple[bytes, list[tuple[int, int]]]:
    joined, spans = b"", []
    for content in contents:
        joined += b"\0" * gap
        spans.append((len(joined), len(content)))
        joined += content
    return joined, spans


def test_prefetching_merges_neighbours_and_hands_the_bytes_over(server: FaultyServer) -> None:
    contents = [encoded(0.1, seed=seed) for seed in range(6)]
    server.files["/a.tar"], spans = archive_of(contents)
    server.files["/b.tar"] = b"\0" * 3_000_000 + contents[0]
    paths = [f"{server.url}/a.tar:{start}:{count}" for start, count in spans]
    paths.append(f"{server.url}/b.tar:3000000:{len(contents[0])}")
    with prefetch([*reversed(paths), "local.wav", f"{server.url}/whole.wav"]) as fetched:
        assert fetched.num_requests == 2
        for path, content in zip(paths, [*contents, contents[0]], strict=True):
            np.testing.assert_array_equal(audio.read(path), decoded(content))
    assert len(server.requests) == 2
    audio.read(paths[0])
    assert len(server.requests) == 3  # closed: fetched again


def test_a_fault_in_prefetching_comes_with_the_recording_that_has_it(server: FaultyServer) -> None:
    content = encoded(0.1)
    server.files["/a.tar"] = content
    good, cut = f"{server.url}/a.tar:0:{len(content)}", f"{server.url}/a.tar:100:{len(content)}"
    gone = f"{server.url}/gone.tar:0:10"
    with prefetch([good, cut, gone]):
        np.testing.assert_array_equal(audio.read(good), decoded(content))
        fails(cut, "truncated", "truncated")
        fails(gone, "no such object", "missing")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 40_000_000), st.integers(0, 4 << 20)), max_size=30, unique=True
    )
)
def test_every_range_lies_in_its_block_and_blocks_are_bounded(ranges: list[tuple[str, int, int]]) -> None:
    paths = [f"s3://x/{name}.tar:{start}:{count}" for name, start, count in ranges]
    blocks = _plan(paths)
    covered = [path for block in blocks for path, _ in block.members]
    assert sorted(covered) == sorted(paths)  # all of these fit into the budget
    for block in blocks:
        assert block.stop - block.start <= MAX_BLOCK_BYTES
        for path, location in block.members:
            assert locate(path).file == block.url
            assert block.start <= location.start <= location.start + location.num_bytes <= block.stop


def test_prefetching_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechssl.audio.prefetching.MAX_BYTES", 10_000)
    blocks = _plan([f"s3://x/a.tar:{number * 1_000_000}:4000" for number in range(5)])
    assert sum(block.stop - block.start for block in blocks) == 8000


# --- faults, provoked on a real server ---


@pytest.mark.parametrize("fault", [500, 502, 503, 504, 429, 408, "drop", "close"])
def test_transient_faults_are_tried_again(server: FaultyServer, fault: int | str) -> None:
    content = encoded()
    server.files["/a.flac"] = content
    server.files["/a.tar"] = b"1234" + content
    for path in (f"{server.url}/a.flac", f"{server.url}/a.tar:4:{len(content)}"):
        server.faults = [fault, fault]
        np.testing.assert_array_equal(audio.read(path), decoded(content))


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [(404, "no such object", "missing"), (403, "access denied", "unreadable"), (401, "access denied", "unreadable")],
)
def test_permanent_faults_are_not_tried_again(server: FaultyServer, status: int, message: str, kind: str) -> None:
    server.faults = [status] * 2
    fails(f"{server.url}/a.flac", message, kind)
    assert len(server.requests) == 2  # one for each of read and probe


def test_a_fault_that_stays_is_told_apart_from_a_bad_recording(server: FaultyServer) -> None:
    server.faults = [503] * 8
    error = fails(f"{server.url}/a.flac", "cannot be reached, tried 4 times", "unreadable")
    assert isinstance(error, UnreachableError)
    assert len(server.requests) == 8
    assert isinstance(pickle.loads(pickle.dumps(error)), UnreachableError)


def test_a_fault_in_the_middle_of_a_large_file_is_named(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """libsndfile swallows errors of the file object it reads; the message must not be its guess."""
    for name in ("WHOLE_BYTES", "UNSIZED_BYTES", "BLOCK_BYTES"):
        monkeypatch.setattr(f"speechssl.audio.files.{name}", 1 << 16)
    server.files["/long.wav"] = encoded(60, format="WAV")
    path = f"{server.url}/long.wav"
    with audio.opened(path) as source, soundfile.SoundFile(source) as file:
        file.seek(40 * 16000)
        del server.files["/long.wav"]
        with pytest.raises(RecordingError, match="no such object"), audio.opened(path):
            pass
    server.files["/long.wav"] = encoded(60, format="WAV")
    original = remote.fetch

    def removed_later(url: str, start: int, count: int) -> bytes:
        if start > 0:
            server.files.pop("/long.wav", None)
        return original(url, start, count)

    monkeypatch.setattr(remote, "fetch", removed_later)
    with pytest.raises(RecordingError, match="no such object") as caught:
        audio.read(path)
    assert caught.value.kind == "missing"


def test_a_server_without_ranges_still_gives_the_member(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded()
    server.files["/a.tar"] = b"1234" + content + b"5678"
    original = remote.filesystem

    class Whole:
        def cat_file(self, path: str, start: int, end: int) -> bytes:
            return bytes(original(path)[0].cat_file(path))

    monkeypatch.setattr(remote, "filesystem", lambda url: (Whole(), url))
    np.testing.assert_array_equal(audio.read(f"{server.url}/a.tar:4:{len(content)}"), decoded(content))


def test_an_unknown_protocol_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fails("gopher9://x/a.wav", "no such kind of storage", "unreadable")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # perhaps used before
    monkeypatch.setattr(remote._PROCESS, "filesystems", {})
    fails("s3://never-seen-bucket/a.wav", r"needs a package that is not installed .*speechssl\[s3\]", "unreadable")


def test_waits_double_up_to_the_longest_and_vary() -> None:
    policy = RetryPolicy(max_attempts=10, first_delay_seconds=0.2, max_delay_seconds=20)
    for attempt in range(9):
        longest = min(0.2 * 2**attempt, 20)
        delays = [policy.delay_seconds(attempt) for _ in range(50)]
        assert longest / 2 <= min(delays) < max(delays) <= longest


def test_which_errors_are_worth_another_attempt() -> None:
    from botocore.exceptions import ClientError, EndpointConnectionError

    def from_s3(code: str, status: int) -> Exception:
        return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")

    assert is_transient(from_s3("SlowDown", 503))
    assert is_transient(from_s3("InternalError", 500))
    assert is_transient(from_s3("RequestTimeout", 400))
    assert is_transient(EndpointConnectionError(endpoint_url="http://x"))
    assert is_transient(ConnectionResetError())
    assert is_transient(TimeoutError())
    wrapped = OSError(5, "?")
    wrapped.__cause__ = from_s3("SlowDown", 503)
    assert is_transient(wrapped)
    assert not is_transient(from_s3("NoSuchKey", 404))
    assert not is_transient(from_s3("InvalidAccessKeyId", 403))
    assert not is_transient(FileNotFoundError())
    assert not is_transient(PermissionError())
    assert not is_transient(ValueError())


# --- processes ---


def _read_in_child(path: str, answers: "multiprocessing.Queue[object]") -> None:
    with prefetch([path]):
        answers.put(audio.read(path).tobytes())


def test_a_forked_process_reads_after_its_parent_did(server: FaultyServer) -> None:
    content = encoded()
    server.files["/a.tar"] = content
    path = f"{server.url}/a.tar:0:{len(content)}"
    expected = audio.read(path).tobytes()  # the parent's filesystem and its event loop exist before the fork
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [context.Process(target=_read_in_child, args=(path, answers)) for _ in range(2)]
    for child in children:
        child.start()
    assert [answers.get(timeout=60) for _ in children] == [expected, expected]
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert audio.read(path).tobytes() == expected


def test_importing_audio_loads_no_backend() -> None:
    code = (
        "import sys, speechssl.audio; print([n for n in ('fsspec', 's3fs', 'aiohttp', 'botocore') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
