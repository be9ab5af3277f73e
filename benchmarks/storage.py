"""What it costs to read recordings from tar shards and from a store behind a URL, against plain files and WebDataset.

Local: FLAC clips as files, by their byte ranges in shards in random order, and the same shards front to back through
webdataset, all decoded by soundfile. Remote: byte ranges from a server that takes 20 ms to answer, as object stores do,
one after another and with each batch of 32 rows fetched ahead, in random order and in the order of the shards.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from harness import main, measured

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
NUM_CLIPS = 1000
NUM_REMOTE = 320
BATCH = 32
DELAY_SECONDS = 0.02

LOCAL = ("speechssl, files", "speechssl, tar ranges, random order", "webdataset, tar front to back")
REMOTE = (
    "speechssl, URL ranges, one by one",
    "speechssl, URL ranges, batches ahead, random order",
    "speechssl, URL ranges, batches ahead, in order",
)


def cases() -> list[dict]:
    """Local and remote reading."""
    return [{"place": "disk", "implementation": name} for name in LOCAL] + [
        {"place": "20 ms away", "implementation": name} for name in REMOTE
    ]


def run(case: dict) -> dict:
    """Make the shards, read everything once, and read it again measured."""
    from speechssl.manifest import build_manifest
    from speechssl.manifest.shards import ShardOptions, shard_manifest

    name = case["implementation"]
    count = NUM_CLIPS if case["place"] == "disk" else NUM_REMOTE
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "clips").mkdir()
        chosen = sorted((ROOT / "fsdd/audio").iterdir())[:: 3000 // count][:count]
        for path in chosen:
            (Path(folder) / "clips" / path.name).symlink_to(path)
        manifest = build_manifest(Path(folder) / "clips").manifest
        options = ShardOptions(audio_format="copy", max_megabytes=2, decode_copies=False)
        shards = shard_manifest(manifest, Path(folder) / "shards", options).manifest
        if case["place"] == "disk":
            for _ in range(2):
                with measured() as used:
                    num_samples = read_local(name, manifest, shards, Path(folder))
            return {"num_samples": num_samples, "clips_per_cpu_second": count / used.cpu_seconds, **used.as_dict()}
        server = subprocess.Popen([sys.executable, __file__, "--serve", folder], stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().strip()
            with measured() as used:
                num_samples = read_remote(name, shards, Path(folder), url)
            return {"num_samples": num_samples, "clips_per_second": count / used.wall_seconds, **used.as_dict()}
        finally:
            server.kill()


def read_local(name: str, manifest: object, shards: object, folder: Path) -> int:
    """Samples decoded."""
    if name.startswith("webdataset"):
        import soundfile
        import webdataset

        urls = sorted(str(path) for path in (folder / "shards").glob("*.tar"))
        dataset = webdataset.WebDataset(urls, shardshuffle=False)
        return sum(len(soundfile.read(io.BytesIO(sample["flac"]), dtype="float32")[0]) for sample in dataset)
    from speechssl.audio import read_utterance

    rows = manifest if "files" in name else shards
    order = np.random.default_rng(0).permutation(len(rows))
    return sum(len(read_utterance(rows[int(row)], 16000)) for row in order)


def read_remote(name: str, shards: object, folder: Path, url: str) -> int:
    """Samples decoded."""
    from speechssl.audio import prefetch, read

    paths = [row.audio_filepath.replace(str(folder), url) for row in shards]
    if "in order" not in name:
        paths = [paths[place] for place in np.random.default_rng(0).permutation(len(paths))]
    num_samples = 0
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        with prefetch(batch if "ahead" in name else []):
            num_samples += sum(len(read(path)) for path in batch)
    return num_samples


def serve(folder: str) -> None:
    """Serve byte ranges of a folder, each after a delay; prints the URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            time.sleep(DELAY_SECONDS)
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            with open(f"{folder}{self.path}", "rb") as file:
                file.seek(int(first))
                content = file.read(int(last) + 1 - int(first))
            self.send_response(206)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    else:
        main(
            "storage",
            cases,
            run,
            title="Reading from shards and URLs",
            columns=["clips_per_cpu_second", "clips_per_second", "num_samples"],
            notes="Clips of 0.43 s on average (FSDD), where what lies around the decoder weighs most.",
        )
