"""Training data in an object store: a real S3 server, real recordings, and faults on the way."""

import http.client
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
import torch

from speechssl import audio
from speechssl.audio import RecordingError, UnreachableError, prefetch, remote
from speechssl.audio.remote import RetryPolicy
from speechssl.cli import main
from speechssl.data import AudioBatches, DataConfig, LabeledBatches
from speechssl.manifest import Manifest, build_manifest
from speechssl.manifest.shards import ShardOptions, ShardResult, build_from_shards, iterate_shard, shard_manifest

pytest.importorskip("moto.server", reason="needs moto's S3 server: pip install 'speechssl[dev]'")
s3fs = pytest.importorskip("s3fs", reason="needs s3fs: pip install 'speechssl[s3]'")
pytestmark = pytest.mark.corpora

NUM_CLIPS = 40
SHARDS = "s3://speech/shards"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server of moto's on a free port, with a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urlopen(Request(f"{url}/speech", method="PUT")).close()
    yield url
    server.stop()


def use(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Point S3 at an endpoint the way a user does, and forget connections to others."""
    patch.setenv("AWS_ENDPOINT_URL", endpoint)
    patch.setenv("AWS_ACCESS_KEY_ID", "testing")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    patch.setattr(remote._PROCESS, "filesystems", {})


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    use(monkeypatch, endpoint)
    yield endpoint
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def local(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of six readers as recordings, and as shards made on the disk; with manifests of both."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "clips").mkdir()
    rows = [line.split("\t") for line in (corpora / "fsdd" / "transcripts.tsv").read_text().splitlines()]
    path, text = rows[0].index("path"), rows[0].index("text")
    chosen = rows[1 :: len(rows) // NUM_CLIPS][:NUM_CLIPS]
    for row in chosen:
        shutil.copy(corpora / "fsdd" / row[path], folder / "clips")
    table = "".join(f"{Path(row[path]).name}\t{row[text]}\n" for row in chosen)
    (folder / "clips" / "transcripts.tsv").write_text(f"path\ttext\n{table}")
    manifest = build_manifest(folder / "clips", output=folder / "clips.parquet").manifest
    shard_manifest(manifest, folder / "shards", ShardOptions(max_megabytes=0.05))
    return folder


@pytest.fixture(scope="module")
def stored(endpoint: str, local: Path) -> Path:
    """The shards made once more, straight into the bucket; the path of their manifest."""
    with pytest.MonkeyPatch.context() as patch:
        use(patch, endpoint)
        manifest = Manifest.load(local / "clips.parquet")
        path = local / "s3.parquet"
        result = shard_manifest(manifest, SHARDS, ShardOptions(max_megabytes=0.05), manifest_path=path)
        assert result.num_shards >= 4
    return path


def waveforms(batches: Iterator[object], count: int) -> list[tuple[tuple[str, ...], torch.Tensor, torch.Tensor]]:
    taken = []
    for batch in itertools.islice(batches, count):
        of_audio = getattr(batch, "audio", batch)
        taken.append((of_audio.utterance_ids, of_audio.waveform, of_audio.num_samples))
    batches.close()  # type: ignore[attr-defined]
    return taken


def assert_equal(found: list[tuple], expected: list[tuple]) -> None:
    assert len(found) == len(expected)
    for (ids, waveform, lengths), (other_ids, other_waveform, other_lengths) in zip(found, expected, strict=True):
        assert ids == other_ids
        assert torch.equal(waveform, other_waveform)
        assert torch.equal(lengths, other_lengths)


@pytest.mark.parametrize("labelled", [False, True], ids=["audio", "labelled"])
def test_batches_from_s3_are_those_of_the_files_and_resume_anywhere(
    s3: str, local: Path, stored: Path, labelled: bool
) -> None:
    def stream(manifest: Path, num_workers: int) -> AudioBatches | LabeledBatches:
        loaded = Manifest.load(manifest)
        config = DataConfig(batch_seconds=3, max_crop_seconds=0.4, num_workers=num_workers)
        if labelled:
            labels = [[len(text)] for text in loaded.column("text").to_pylist()]
            return LabeledBatches(loaded, labels, config, sample_rate=16000, min_num_samples=400, seed=5)
        return AudioBatches(loaded, config, sample_rate=16000, min_num_samples=400, seed=5)

    files = waveforms(stream(local / "clips.parquet", 0).batches(), 14)
    shards = waveforms(stream(local / "shards" / "shard.parquet", 0).batches(), 14)
    assert_equal(shards, files)
    remote_stream = stream(stored, 0)
    assert remote_stream.plan.num_batches < 10  # so that this goes over the end of an epoch
    assert_equal(waveforms(remote_stream.batches(), 14), files)
    # the parent has used S3 by now: workers that are forked from it must make connections of their own
    for start, num_workers in ((0, 2), (5, 1), (9, 2)):
        resumed = stream(stored, num_workers)
        assert_equal(waveforms(resumed.batches(start), 14 - start), files[start:])
        assert resumed.problems == {}


def test_shards_in_s3_have_the_bytes_of_those_on_disk(s3: str, local: Path, stored: Path) -> None:
    for path in sorted((local / "shards").glob("*.tar")):
        assert remote.fetch(f"{SHARDS}/{path.name}") == path.read_bytes()
    samples = [sample for n in range(2) for sample in iterate_shard(f"{SHARDS}/shard-{n:06d}.tar")]
    on_disk = [sample for n in range(2) for sample in iterate_shard(str(local / "shards" / f"shard-{n:06d}.tar"))]
    assert samples == on_disk


def test_shards_and_recordings_in_s3_become_manifests(s3: str, local: Path, stored: Path, tmp_path: Path) -> None:
    assert main(["manifest", "build", SHARDS, "--output", str(tmp_path / "shards.parquet")]) == 0
    assert list(Manifest.load(tmp_path / "shards.parquet")) == list(Manifest.load(stored))
    files, path = remote.filesystem("s3://speech/folder")
    for clip in sorted((local / "clips").iterdir())[:5]:
        files.put_file(str(clip), f"{path}/{clip.name}")
    files.put_file(str(local / "clips" / "transcripts.tsv"), f"{path}/transcripts.tsv")
    assert main(["manifest", "build", "s3://speech/folder/", "--output", str(tmp_path / "files.jsonl")]) == 0
    found = Manifest.load(tmp_path / "files.jsonl")
    assert len(found) == 5
    original = {row.id: row for row in Manifest.load(local / "clips.parquet")}
    for row in found:
        assert row.audio_filepath.startswith("s3://speech/folder/")
        assert row.text == original[row.id].text
        np.testing.assert_array_equal(audio.read(row.audio_filepath), audio.read(original[row.id].audio_filepath))


def demand_authentication(endpoint: str, *, wanted: bool) -> None:
    """From now on refuse keys that the server does not know, which are all."""
    body = b"0" if wanted else b"inf"
    headers = {"Content-Type": "text/plain"}
    urlopen(Request(f"{endpoint}/moto-api/reset-auth", data=body, headers=headers, method="POST")).close()


def test_an_upload_that_is_refused_midway_goes_on_later(s3: str, local: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(local / "clips.parquet")

    def pack(progress: Callable[[int, int], None] | None = None) -> ShardResult:
        path = tmp_path / "again.parquet"
        options = ShardOptions(max_megabytes=0.05)
        return shard_manifest(
            manifest, "s3://speech/again", options, manifest_path=path, num_workers=1, progress=progress
        )

    try:
        with pytest.raises(RecordingError, match=r"s3://speech/again/.*: access denied"):
            pack(progress=lambda done, _: demand_authentication(s3, wanted=True))  # after 16 recordings
    finally:
        demand_authentication(s3, wanted=False)
    result = pack()
    assert 0 < result.num_found < result.num_shards
    for path in sorted((local / "shards").glob("*.tar")):
        assert remote.fetch(f"s3://speech/again/{path.name}") == path.read_bytes()


def test_of_an_hour_in_s3_only_the_span_is_fetched(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, 15 * 60 * 16000).astype(np.int16)  # 29 MB
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    files, path = remote.filesystem("s3://speech/long.wav")
    files.put_file(str(tmp_path / "long.wav"), path)
    fetched = []
    fetch = remote.fetch

    def counted(*arguments: object) -> bytes:
        content = fetch(*arguments)  # type: ignore[arg-type]
        fetched.append(len(content))
        return content

    monkeypatch.setattr(remote, "fetch", counted)
    part = audio.read("s3://speech/long.wav", offset=800, duration=5)
    np.testing.assert_array_equal(part * 32768, samples[800 * 16000 : 805 * 16000])
    assert sum(fetched) < 4_000_000
    fetched.clear()
    assert audio.probe("s3://speech/long.wav").num_samples == len(samples)
    assert sum(fetched) < 300_000


# --- faults, provoked for real ---


class Proxy:
    """Forwards to the server; of every `period` requests the last meets a fault, of three kinds in turn."""

    def __init__(self, endpoint: str, period: int) -> None:
        self.num_requests = 0
        self.num_faults = 0
        lock = threading.Lock()
        owner = self
        address = endpoint.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def forward(self) -> None:
                with lock:
                    owner.num_requests += 1
                    kind = None
                    if owner.num_requests % period == 0:
                        kind = ("slow down", "cut", "close")[owner.num_faults % 3]
                        owner.num_faults += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if kind == "close":
                    self.close_connection = True
                    return
                if kind == "slow down":
                    self.answer(503, {}, b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>")
                    return
                connection = http.client.HTTPConnection(address, timeout=30)
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                content = response.read()
                kept = ("Content-Type", "ETag", "Content-Range", "Last-Modified", "Accept-Ranges")
                headers = {name: value for name in kept if (value := response.getheader(name)) is not None}
                length = int(response.getheader("Content-Length") or len(content))
                self.answer(response.status, headers, content, length=length, cut=kind == "cut")
                connection.close()

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward

            def answer(
                self, status: int, headers: dict[str, str], content: bytes, *, length: int = -1, cut: bool = False
            ) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(length if length >= 0 else len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if cut else content)
                self.close_connection = self.close_connection or cut

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY", RetryPolicy(max_attempts=6, first_delay_seconds=0.01, max_delay_seconds=0.05))


def test_a_flaky_server_changes_no_batch(
    endpoint: str, local: Path, stored: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(batch_seconds=3, max_crop_seconds=0.4, num_workers=0)

    def batches(manifest: Path) -> list[tuple]:
        stream = AudioBatches(Manifest.load(manifest), config, sample_rate=16000, min_num_samples=400, seed=1)
        taken = waveforms(stream.batches(), 8)
        assert stream.problems == {}
        return taken

    proxy = Proxy(endpoint, period=3)
    use(monkeypatch, proxy.url)
    found = batches(stored)
    assert proxy.num_faults >= 5
    assert_equal(found, batches(local / "clips.parquet"))
    built = build_from_shards(SHARDS)  # listing and scanning go through the same faults
    assert list(built.manifest) == list(Manifest.load(stored))
    assert built.skipped == ()
    proxy.close()


def test_a_server_that_is_gone_is_an_outage_and_no_bad_recording(
    endpoint: str, stored: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(endpoint, period=1)  # every request fails
    use(monkeypatch, proxy.url)
    row = Manifest.load(stored)[0]
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="cannot be reached, tried 6 times") as caught:
        audio.read_utterance(row, 16000)
    assert str(caught.value).startswith(f"{row.audio_filepath}: ")
    assert proxy.num_requests <= 12  # no layer behind ours tries again, but aiohttp once where a connection was closed
    assert time.monotonic() - started < 5
    proxy.close()
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="cannot be reached"):
        audio.read_utterance(row, 16000)


def test_a_removed_object_a_short_one_and_a_missing_bucket_are_told_apart(s3: str, local: Path) -> None:
    files, path = remote.filesystem("s3://speech/damaged")
    shard = next(iter(sorted((local / "shards").glob("*.tar"))))
    files.pipe_file(f"{path}/cut.tar", shard.read_bytes()[:20_000])
    for name, message, kind in (
        ("speech/none.tar:512:100", "no such object", "missing"),
        ("nobucket/none.flac", "no such object", "missing"),
        ("speech/damaged/cut.tar:19000:5000", "truncated: 1000 of 5000 bytes are there", "truncated"),
        ("speech/damaged/cut.tar:30000:5000", "truncated: 0 of 5000 bytes are there", "truncated"),
    ):
        with pytest.raises(RecordingError, match=message) as caught:
            audio.read(f"s3://{name}")
        assert caught.value.kind == kind
        assert str(caught.value).startswith(f"s3://{name}: ")
        with prefetch([f"s3://{name}"]), pytest.raises(RecordingError, match=message):
            audio.read(f"s3://{name}")
        with pytest.raises(RecordingError):
            audio.check_openable(f"s3://{name}")
    found = build_from_shards("s3://speech/damaged")
    assert len(found.skipped) == 1
    assert "truncated" in found.skipped[0][1] or "damaged" in found.skipped[0][1]
    assert 0 < len(found.manifest) < len(build_from_shards(shard).manifest)


def test_bad_credentials_are_named_at_once(s3: str, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Manifest.load(stored)[0]
    files, path = remote.filesystem(audio.locate(row.audio_filepath).file)
    files.chmod(path, "public-read")
    demand_authentication(s3, wanted=True)
    try:
        started = time.monotonic()
        with pytest.raises(RecordingError, match="access denied .*give credentials that may read it") as caught:
            audio.read_utterance(row, 16000)
        assert caught.value.kind == "unreadable"
        assert not isinstance(caught.value, UnreachableError)
        assert time.monotonic() - started < 5
    finally:
        demand_authentication(s3, wanted=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(remote._PROCESS, "filesystems", {})
    with pytest.raises(RecordingError, match="access denied .*[Cc]redentials"):
        audio.read_utterance(row, 16000)
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", json.loads('{"anon": true}'))  # what FSSPEC_S3 sets, and the object is public
    monkeypatch.setattr(remote._PROCESS, "filesystems", {})
    assert len(audio.read_utterance(row, 16000)) == row.num_samples
