"""Many processes: torchrun's ranks write the table that one process writes; what a killed run left cannot spoil it.

Ray is in `tests/e2e/test_embed_ray.py`.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl import embed
from speechssl.embed import EmbedConfig, locks, open_index, read_embeddings
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.types import Utterance

SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}
RATE = 16_000
NUM_CLIPS = 24


def utterance(name: str, path: Path, seconds: float) -> Utterance:
    return Utterance(
        id=name, audio_filepath=str(path), sample_rate=RATE, num_samples=int(seconds * RATE), duration=seconds
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    """A finished table of one process."""
    folder = tmp_path_factory.mktemp("many")
    rows = []
    for number in range(NUM_CLIPS):
        seconds = 0.2 + 0.1 * (number * 5 % 11)
        path = folder / f"{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).normal(size=int(seconds * RATE)), RATE)
        rows.append(utterance(f"clip-{number}", path, seconds))
    (folder / "bad.wav").write_text("no audio")
    rows.insert(5, utterance("bad", folder / "bad.wav", 1.0))
    Manifest.from_utterances(rows).save(folder / "clips.jsonl")
    SpeechEncoder(encoder_config("tiny", SMALL), seed=1).save(folder / "model")
    config = EmbedConfig(
        checkpoint=str(folder / "model"), manifest=folder / "clips.jsonl", output=folder / "alone", shard_rows=2
    )
    embed.run(config)
    return config


def check_same(config: EmbedConfig, output: Path) -> None:
    expected, found = read_embeddings(config.output), read_embeddings(output)
    assert found.table.drop_columns(["audio_filepath"]).equals(expected.table.drop_columns(["audio_filepath"]))
    assert np.abs(found.vectors - expected.vectors).max() <= 1e-5 * np.abs(expected.vectors).max()
    ours, theirs = open_index(output), open_index(config.output)
    assert ours.errors == theirs.errors and [name for name, _ in ours.errors] == ["bad"]
    for name in ("content_sha256", "num_utterances", "num_rows", "shards"):
        assert ours.facts[name] == theirs.facts[name]


def test_ranks_of_torchrun_give_the_table_of_one_process(config: EmbedConfig, tmp_path: Path) -> None:
    words = [config.checkpoint, str(config.manifest), "--output", str(tmp_path / "out"), "--shard_rows", "2"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launcher, "-m", "speechssl", "embed", *words], capture_output=True, text=True, timeout=180)
    assert done.stdout.count("24 utterances, 24 rows of 32") == 1, done.stdout + done.stderr
    check_same(config, tmp_path / "out")


def test_a_new_run_waits_for_the_processes_of_a_killed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InterruptedError), locks.exclusive(tmp_path) as run:
        raise InterruptedError
    left_behind = locks.shared(tmp_path, run)
    left_behind.__enter__()
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.0)
    with pytest.raises(ConfigError, match="of an earlier run are still writing"), locks.exclusive(tmp_path):
        pass
    left_behind.__exit__(None, None, None)
    with locks.exclusive(tmp_path) as other:
        with locks.shared(tmp_path, other), locks.shared(tmp_path, other):
            pass
        with pytest.raises(ConfigError, match="another run has begun"), locks.shared(tmp_path, run):
            pass
    assert not list(tmp_path.iterdir())
