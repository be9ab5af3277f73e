"""Embeddings by Ray on three nodes of one machine: the table of one process, whoever is killed on the way.

The nodes are a head and two more with a core each, with Ray's own processes for all of them; the commands run apart
from the tests, so that they can be killed. Nothing is timed; all waiting has an end far off.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechssl import embed, load_encoder
from speechssl.embed import EmbedConfig, open_index, read_embeddings
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.types import Utterance

RATE = 16_000
NUM_CLIPS = 40
NUM_SHARDS = NUM_CLIPS // 2 + 1  # two rows each, with the bad one
LIMIT_SECONDS = 240.0  # of anything that is waited for
STORE_BYTES = 80 << 20  # Ray takes no less than 75 MiB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a manifest with one bad recording, and what one process makes of them: pooled and as frames."""
    folder = tmp_path_factory.mktemp("ray")
    rows = []
    for number in range(NUM_CLIPS):
        num_samples = int((0.5 + 0.2 * (number * 5 % 11)) * RATE)
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).normal(size=num_samples), RATE)
        rows.append(utterance(f"clip-{number}", path, num_samples))
    (folder / "bad.wav").write_text("no audio")
    rows.insert(5, utterance("bad", folder / "bad.wav", RATE))
    Manifest.from_utterances(rows).save(folder / "clips.jsonl")
    load_encoder("speechssl-tiny").save(folder / "model")
    for pool in ("mean", "none"):
        embed.run(
            EmbedConfig(
                checkpoint=str(folder / "model"),
                manifest=folder / "clips.jsonl",
                output=folder / f"alone-{pool}",
                pool=pool,  # type: ignore[arg-type]
                shard_rows=2,
            )
        )
    return folder


def utterance(name: str, path: Path, num_samples: int) -> Utterance:
    return Utterance(
        id=name, audio_filepath=str(path), sample_rate=RATE, num_samples=num_samples, duration=num_samples / RATE
    )


@pytest.fixture(scope="module")
def cluster(repository: Path) -> Iterator[Any]:
    """Three nodes, which import this source tree and reach no network; whatever happens, they are gone afterwards."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'speechssl[ray]'")
    from ray.cluster_utils import Cluster

    temporary = tempfile.mkdtemp(prefix="ray-")  # short: the sockets' paths may have 107 characters
    before = set(descendants())
    started: set[int] = set()
    cluster = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", str(repository), prepend=os.pathsep)
        patch.delenv("RAY_ADDRESS", raising=False)
        try:
            try:
                cluster = Cluster()
                sizes = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
                cluster.add_node(**sizes, include_dashboard=False, temp_dir=temporary)
                for _ in range(2):
                    cluster.add_node(**sizes)
                cluster.wait_for_nodes(LIMIT_SECONDS)
            except Exception as error:  # of Ray alone; ours has not begun
                pytest.skip(f"Ray starts no cluster of three nodes on this machine: {error}")
            yield cluster
        finally:
            started = set(descendants()) - before
            try:
                if cluster is not None:
                    cluster.shutdown()
            finally:
                end(started)
                shutil.rmtree(temporary, ignore_errors=True)
    assert not [pid for pid in started if is_alive(pid)]


def test_a_killed_worker_loses_nothing_and_doubles_nothing(folder: Path, cluster: Any) -> None:
    output = folder / "pooled"
    command = start(folder, cluster, "pooled")
    try:
        wait(lambda: shards(output), command)
        killed = workers()[0]
        os.kill(killed, signal.SIGKILL)
        assert len(shards(output)) < NUM_SHARDS, "the worker was killed too late to matter"
        text = finished(command)
    finally:
        command.kill()
    assert f"{NUM_CLIPS} utterances, {NUM_CLIPS} rows of 256" in text
    assert not is_alive(killed)
    check_same(folder / "alone-mean", output)


def test_the_command_killed_and_started_again_gives_the_frames_of_one_process(folder: Path, cluster: Any) -> None:
    output = folder / "frames"
    nodes: set[int] = set()
    earlier = set(workers())  # of the test before this, which may take a while to end

    def has_begun() -> bool:
        nodes.update(parent(pid) for pid in workers() if pid not in earlier)
        return len(shards(output)) >= 3

    first = start(folder, cluster, "frames", "--pool", "none")
    wait(has_begun, first)
    first.kill()
    first.communicate()
    done = shards(output)
    assert len(nodes) >= 2, "the work was not shared by two nodes"
    assert 3 <= len(done) < NUM_SHARDS, "the command was killed too late to matter"
    for path in done:
        pq.read_table(path)
        pq.read_table(output / "embeddings.parquet" / path.name)
    with pytest.raises(ConfigError, match="the same `speechssl embed` goes on"):
        open_index(output)
    second = start(folder, cluster, "frames", "--pool", "none")
    try:
        text = finished(second)
    finally:
        second.kill()
    computed = int(text.partition(" computed")[0].rpartition("(")[2])
    assert 0 < computed <= NUM_CLIPS + 1 - 2 * len(done) + 1  # one shard holds a single recording
    check_same(folder / "alone-none", output)


def check_same(alone: Path, output: Path) -> None:
    """The same rows in the same order, the embeddings to the last bit, and the same recording set aside."""
    expected, found = read_embeddings(alone), read_embeddings(output)
    assert found.table.equals(expected.table)
    assert np.array_equal(found.vectors, expected.vectors)
    ours, theirs = open_index(output), open_index(alone)
    assert sorted(ours.clips["id"].to_pylist()) == sorted(f"clip-{number}" for number in range(NUM_CLIPS))
    assert ours.errors == theirs.errors and [name for name, _ in ours.errors] == ["bad"]
    for name in ("content_sha256", "num_utterances", "num_rows", "shards"):
        assert ours.facts[name] == theirs.facts[name]


def start(folder: Path, cluster: Any, output: str, *words: str) -> subprocess.Popen[str]:
    """`speechssl embed` with relative paths, in a folder that is not the workers' own."""
    command = [sys.executable, "-m", "speechssl", "embed", "model", "clips.jsonl", "--output", output, *words]
    ray = ["--engine", "ray", "--ray_address", cluster.address, "--ray_actors", "2", "--shard_rows", "2"]
    pipe = subprocess.PIPE
    both = {
        **os.environ,
        "RAY_DATA_DEFAULT_WAIT_FOR_MIN_ACTORS_S": f"{LIMIT_SECONDS:.0f}",
    }  # none begins before all can
    return subprocess.Popen([*command, *ray], cwd=folder, env=both, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def finished(command: subprocess.Popen[str]) -> str:
    """All that it printed, once it ended as it should where a recording is bad; Ray may tell of its dead."""
    text, _ = command.communicate(timeout=LIMIT_SECONDS)
    assert command.returncode == 1, text
    ours = [line.split()[0] for line in text.splitlines() if line.strip() and "(raylet)" not in line]
    assert ours[-3:] == [str(NUM_CLIPS), "1", "bad:"], text
    return text


def wait(condition: Callable[[], object], command: subprocess.Popen[str]) -> None:
    """Until the condition holds."""
    end = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if command.poll() is not None:
            pytest.fail(f"ended with exit code {command.returncode}: {command.communicate()}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def shards(output: Path) -> list[Path]:
    return sorted((output / "index").glob("*.parquet"))


def workers() -> list[int]:
    """Processes of the cluster that hold a model."""
    return [pid for pid in descendants() if read(pid, "cmdline").startswith("ray::MapWorker")]


def descendants() -> list[int]:
    """Processes that this one started, and theirs."""
    parents = {int(path.name): parent(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found = [os.getpid()]
    for pid in found:
        found += [child for child, its_parent in parents.items() if its_parent == pid]
    return found[1:]


def parent(pid: int) -> int:
    fields = read(pid, "stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def is_alive(pid: int) -> bool:
    """Also a process that has ended, but was not waited for, is gone."""
    fields = read(pid, "stat").rpartition(")")[2].split()
    return bool(fields) and fields[0] not in "ZX"


def read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def end(pids: set[int]) -> None:
    """Leave them a while to end by themselves, then kill what is left."""
    for patience, number in ((10.0, signal.SIGKILL), (10.0, None)):
        until = time.monotonic() + patience
        while any(map(is_alive, pids)) and time.monotonic() < until:
            time.sleep(0.05)
        if number is not None:
            for pid in filter(is_alive, pids):
                os.kill(pid, number)
