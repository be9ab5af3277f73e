"""A model by its name on a hub: the real client against a server here that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from speechssl.interop import import_model
from speechssl.interop.huggingface.hub import is_hub_id
from tests.parity.test_huggingface_ctc import LETTERS, peer_recognizer

pytest.importorskip("huggingface_hub")

SCRIPT = """
import json, sys
import torch
from speechssl.errors import CheckpointError
from speechssl.interop import identify, import_model

for name in sys.argv[1:]:
    try:
        model = import_model(name)
        total = sum(float(tensor.double().sum()) for tensor in model.build_ctc().state_dict().values())
        told = [identify(name), model.kind, model.origin.source, model.origin.licence, model.config.num_layers, total]
    except CheckpointError as error:
        told = str(error)
    print(json.dumps(told))
"""


class Hub:
    """Repositories by name: revision -> folder. `main` is what a name without revision means."""

    def __init__(self, repositories: dict[str, dict[str, Path]]) -> None:
        hub = self
        self.repositories = repositories
        self.asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        parts = request.path.partition("?")[0].strip("/").split("/")
        self.asked.append(f"{request.command} {request.path}")
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        revisions = self.repositories.get(name)
        if revisions is None:
            return self.send(request, 404, {"X-Error-Code": "RepoNotFound"}, b"", with_body)
        wanted = parts[5] if is_api and len(parts) > 5 else "main" if is_api else parts[3]
        commits = {hashlib.sha1(revision.encode()).hexdigest(): revision for revision in revisions}
        revision = commits.get(wanted, wanted)
        if revision not in revisions:
            return self.send(request, 404, {"X-Error-Code": "RevisionNotFound"}, b"", with_body)
        folder, commit = revisions[revision], hashlib.sha1(revision.encode()).hexdigest()
        if is_api:
            paths = sorted(folder.iterdir())
            files = [{"rfilename": path.name} for path in paths]
            told: Any = {"id": name, "modelId": name, "sha": commit, "siblings": files, "private": False, "tags": []}
            if parts[4:5] == ["tree"]:  # what later clients ask for
                told = [{"type": "file", "oid": "0", "size": path.stat().st_size, "path": path.name} for path in paths]
            body, headers = json.dumps(told).encode(), {"Content-Type": "application/json"}
        else:
            body = (folder / parts[4]).read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Accept-Ranges": "bytes"}
        return self.send(request, 200, {**headers, "X-Repo-Commit": commit}, body, with_body)

    @staticmethod
    def send(
        request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, with_body: bool
    ) -> None:
        request.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(header, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """`speech/tiny` with another model at `v1`, saved by the peer with config, safetensors, labels and a card."""
    for revision, family in (("main", "wav2vec2-large"), ("v1", "hubert-base")):
        peer_recognizer(family, tmp_path / revision, tokens=LETTERS)
        (tmp_path / revision / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
        (tmp_path / revision / "notes.bin").write_bytes(b"not asked for")
    made = Hub({"speech/tiny": {"main": tmp_path / "main", "v1": tmp_path / "v1"}})
    yield made
    made.close()


def told(hub: Hub, cache: Path, *names: str) -> list[object]:
    """What a new process makes of the names, with the client's own environment variables."""
    environment = {
        **os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    for variable in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN"):
        environment.pop(variable, None)
    words = [sys.executable, "-c", SCRIPT, *names]
    done = subprocess.run(words, env=environment, cwd=cache.parent, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def expected(folder: Path, name: str) -> list[object]:
    model = import_model(folder)
    total = sum(float(tensor.double().sum()) for tensor in model.build_ctc().state_dict().values())
    return ["huggingface", "ctc", name, "mit", model.config.num_layers, total]


def test_a_name_a_revision_and_the_cache_without_network(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    latest, older, no_revision, no_model = told(
        hub, cache, "speech/tiny", "speech/tiny@v1", "speech/tiny@v9", "speech/none"
    )
    assert latest == expected(tmp_path / "main", "speech/tiny")
    assert older == expected(tmp_path / "v1", "speech/tiny@v1") != latest
    assert no_revision == (
        f"speech/tiny@v9: no such path, and the hub at {hub.endpoint} has no revision 'v9' of speech/tiny; name one of"
        " its branches, tags or commits"
    )
    assert no_model == (
        f"speech/none: no such path, and the hub at {hub.endpoint} has no model speech/none; check the name, or log in"
        " where it is private (`hf auth login`)"
    )
    assert any("/api/models/speech/tiny/revision/v1" in path for path in hub.asked)
    assert not any("notes.bin" in path for path in hub.asked)

    hub.close()
    again, older_again, never = told(hub, cache, "speech/tiny", "speech/tiny@v1", "speech/other")
    assert (again, older_again) == (latest, older)
    assert never == (
        f"speech/other: no such path, and the hub at {hub.endpoint} cannot be reached to fetch a model of this name,"
        f" nor is it in the cache ({cache / 'hub'}); download it elsewhere and give its folder"
    )


@pytest.mark.parametrize("name", ["facebook/wav2vec2-base", "a/b@main", "a/b@refs/pr/1", "a/b@0123abc"])
def test_names_on_the_hub(name: str) -> None:
    assert is_hub_id(name)


@pytest.mark.parametrize("name", ["models", "a/b/c", "./a", "a/b@", "/a/b", "s3://a/b"])
def test_other_names_are_none(name: str) -> None:
    assert not is_hub_id(name)
