"""Tables of embeddings: every layer and pooling, every format and reader, killed and grown and always right."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from speechssl import embed
from speechssl.cli import main
from speechssl.embed import EmbedConfig, load_table, open_index, read_embeddings, shards, work
from speechssl.embed.rows import FileRows
from speechssl.embed.verify import verify
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import ConfigError
from speechssl.nn.pooling import AttentiveStatistics

SMALL = {"model_dim": 32, "num_layers": 3, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}
RATE = 16_000


def write_clip(path: Path, seconds: float, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).normal(size=int(seconds * RATE)).astype(np.float32) * 0.1
    soundfile.write(path, noise, RATE)
    return path


def write_manifest(folder: Path, names: list[str], **columns: list[object]) -> Path:
    rows = []
    for number, name in enumerate(names):
        info = soundfile.info(folder / "audio" / f"{name}.wav")
        rows.append({
            "id": name, "audio_filepath": f"audio/{name}.wav", "duration": info.duration, "num_samples": info.frames,
            "sample_rate": RATE, **{column: values[number] for column, values in columns.items()},
        })  # fmt: skip
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    for number in range(10):
        write_clip(tmp_path / "audio" / f"clip-{number}.wav", 0.2 + 0.13 * (number * 7 % 10), number)
    return [f"clip-{number}" for number in range(10)]


@pytest.fixture
def config(tmp_path: Path, names: list[str]) -> EmbedConfig:
    SpeechEncoder(encoder_config("tiny", SMALL), seed=1).save(tmp_path / "model")
    return EmbedConfig(
        checkpoint=str(tmp_path / "model"), manifest=write_manifest(tmp_path, names), output=tmp_path / "out",
        shard_rows=3,
    )  # fmt: skip


def changed(config: EmbedConfig, **values: object) -> EmbedConfig:
    return EmbedConfig(**{**vars(config), **values})  # type: ignore[arg-type]


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# what is taken


@pytest.mark.parametrize("pool", ["mean", "max", "mean_std", "first", "last", "none"])
def test_every_layer_in_one_pass_is_that_of_each_recording_alone(config: EmbedConfig, pool: str) -> None:
    embed.run(changed(config, layers=("all",), pool=pool, normalize="l2"))
    index = open_index(config.output)
    encoder = SpeechEncoder.load(config.checkpoint)
    assert index.layers == (0, 1, 2, 3, None) and index.dimension == (64 if pool == "mean_std" else 32)
    for layer in index.layers:
        part = index.read(layer)
        for name in ("clip-0", "clip-7"):
            path = config.manifest.parent / "audio" / f"{name}.wav"
            alone = np.atleast_2d(encoder.embed(path, layer=layer, pool=pool, normalize="l2"))  # type: ignore[arg-type]
            rows = [row for row, found in enumerate(part.table["id"].to_pylist()) if found == name]
            assert relative(part.vectors[rows], alone) < 1e-5
            assert relative(index.vectors(name, layer), alone) < 1e-5
            np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-5)
    with pytest.raises(ConfigError, match="holds the layers 0, 1, 2, 3, null"):
        index.read()


@pytest.mark.parametrize("format", ["parquet", "safetensors", "numpy"])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_rows_written_piece_by_piece_are_those_written_at_once(
    config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str, format: str
) -> None:
    both = changed(config, layers=("1", "3"), pool=pool, format=format, whole_seconds=0.7, chunk_seconds=0.3)
    embed.run(both)
    expected = read_embeddings(both.output)
    monkeypatch.setattr(shards, "GROUP_ROWS", 2 if pool == "mean" else 7)
    embed.run(changed(both, output=tmp_path / "pieces"))
    found = read_embeddings(tmp_path / "pieces")
    assert found.table.equals(expected.table)
    assert np.array_equal(found.vectors, expected.vectors)


@pytest.mark.parametrize("format", ["parquet", "safetensors", "numpy"])
def test_frames_of_a_long_recording_pass_through_a_file(
    config: EmbedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """They are never in memory as a whole, and the table is the one of frames that were."""
    long = changed(config, layers=("1", "3"), pool="none", format=format, whole_seconds=0.7, chunk_seconds=0.3)
    monkeypatch.setattr(shards, "GROUP_ROWS", 7)
    in_memory = work.encode_rows
    with monkeypatch.context() as patch:
        patch.setattr(work, "encode_rows", lambda *given, frames_folder, **options: in_memory(*given, **options))
        embed.run(changed(long, output=tmp_path / "memory"))
    read, through_file = FileRows.read, []

    def watched(rows: FileRows, place: int, first: int, last: int) -> np.ndarray:
        through_file.append((rows.num_rows, last - first))
        return read(rows, place, first, last)

    monkeypatch.setattr(FileRows, "read", watched)
    embed.run(long)
    assert max(length for length, _ in through_file) > 40 and max(count for _, count in through_file) <= 7
    for path in sorted((tmp_path / "memory").rglob("shard-*")):
        assert path.read_bytes() == (long.output / path.relative_to(tmp_path / "memory")).read_bytes(), path
    assert not (long.output / ".unfinished").exists()


def test_a_long_recording_that_was_touched_is_not_encoded_again(config: EmbedConfig, tmp_path: Path) -> None:
    long = changed(config, pool="none", whole_seconds=0.7, chunk_seconds=0.3)
    embed.run(long)
    before = read_embeddings(long.output)
    for path in (tmp_path / "audio").iterdir():
        os.utime(path, (1, 1))
    assert embed.run(long).num_computed == 0
    assert np.array_equal(read_embeddings(long.output).vectors, before.vectors)


def test_frames_that_are_not_finite_are_quarantined_from_a_file_too(tmp_path: Path) -> None:
    rows = FileRows(tmp_path, num_layers=2, num_rows=3, dimension=1)
    rows.add(np.array([[[1.0], [5.0]], [[-2.0], [0.0]]], dtype=np.float32))
    assert rows.ends.tolist() == [-2, 5]
    rows.add(np.array([[[np.nan]], [[7.0]]], dtype=np.float32))
    assert np.isnan(rows.ends).any() and rows.read(1, 1, 3).tolist() == [[0], [7]]
    assert list(tmp_path.iterdir()) == []  # the file has no name: whoever is killed leaves nothing


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_safetensors_written_piece_by_piece_are_the_files_of_the_library(
    config: EmbedConfig, tmp_path: Path, dtype: str
) -> None:
    from safetensors.torch import load_file, save_file

    embed.run(changed(config, layers=("1", "3"), pool="none", format="safetensors", dtype=dtype))
    for path in sorted((config.output / "embeddings.safetensors").iterdir()):
        found = load_file(path)
        assert found["embeddings"].dtype == getattr(torch, dtype)
        save_file(found, tmp_path / "library.safetensors")
        assert path.read_bytes() == (tmp_path / "library.safetensors").read_bytes()


def test_layers_are_there_although_training_would_drop_them(config: EmbedConfig) -> None:
    encoder = SpeechEncoder(encoder_config("base", {**SMALL, "conv_dim": 16, "layer_drop": 0.9}), seed=0).train()
    path = config.manifest.parent / "audio" / "clip-3.wav"
    layers = [encoder.embed(path, layer=layer) for layer in range(4)]
    assert encoder.training and all(np.array_equal(a, encoder.embed(path, layer=n)) for n, a in enumerate(layers))
    assert all(relative(above, below) > 1e-3 for below, above in zip(layers, layers[1:], strict=False))


def test_weighted_sum_is_the_sum_of_the_weighted_layers(config: EmbedConfig) -> None:
    weights = (0.5, -1.0, 0.25, 2.0)
    embed.run(changed(config, layer_weights=weights))
    embed.run(changed(config, layers=("0", "1", "2", "3"), output=config.output / "layers"))
    layers = open_index(config.output / "layers")
    expected = sum(weight * layers.read(layer).vectors for layer, weight in enumerate(weights))
    found = load_table(config.output)
    assert set(found.table["layer"].to_pylist()) == {-1} and relative(found.vectors, np.asarray(expected)) < 1e-5
    with pytest.raises(ConfigError, match="layer_weights must be 4 numbers"):
        embed.run(changed(config, layer_weights=(1.0, 2.0), overwrite=True))


def test_attentive_statistics_need_their_weights_and_use_them(config: EmbedConfig, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ConfigError, match="pool=attentive needs trained weights"):
        embed.run(changed(config, pool="attentive"))
    pooling = AttentiveStatistics(32, hidden_dim=8)
    torch.nn.init.normal_(pooling.score.weight, generator=torch.Generator().manual_seed(0))
    save_file(pooling.state_dict(), tmp_path / "pooling.safetensors")
    embed.run(changed(config, pool="attentive", pool_weights=tmp_path / "pooling.safetensors"))
    encoder = SpeechEncoder.load(config.checkpoint)
    path = config.manifest.parent / "audio" / "clip-4.wav"
    found = open_index(config.output).vectors("clip-4")[0]
    assert relative(found, np.asarray(encoder.embed(path, pool="attentive", pooling=pooling))) < 1e-5
    assert relative(found, np.asarray(encoder.embed(path, pool="mean_std"))) > 1e-4


# formats and readers


@pytest.mark.parametrize("format", ["parquet", "safetensors", "numpy"])
@pytest.mark.parametrize("pool", ["mean", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_formats_and_dtypes_hold_the_same(config: EmbedConfig, format: str, pool: str, dtype: str) -> None:
    if (format, dtype) == ("numpy", "bfloat16"):
        with pytest.raises(ConfigError, match="NumPy has no bfloat16; use format safetensors"):
            changed(config, format=format, dtype=dtype)
        return
    embed.run(changed(config, pool=pool, layers=("1", "3"), output=config.output / "plain"))
    embed.run(changed(config, pool=pool, layers=("1", "3"), format=format, dtype=dtype))
    found, plain = open_index(config.output), open_index(config.output / "plain")
    for layer in (1, 3):
        ours, theirs = found.read(layer), plain.read(layer)
        assert ours.table.select(["id", "layer"]).equals(theirs.table.select(["id", "layer"]))
        if dtype == "float32":
            assert relative(ours.vectors, theirs.vectors) < 1e-6
        else:
            kept = torch.from_numpy(theirs.vectors).to(getattr(torch, dtype)).float().numpy()
            assert relative(ours.vectors, kept) < (2e-3 if dtype == "float16" else 8e-3)
            assert np.array_equal(torch.from_numpy(ours.vectors).to(getattr(torch, dtype)).float(), ours.vectors)


def test_values_out_of_the_range_of_float16_are_quarantined(config: EmbedConfig) -> None:
    encoder = SpeechEncoder.load(config.checkpoint)
    with torch.no_grad():
        encoder.projection.weight *= 1e8
    encoder.save(config.checkpoint)
    with pytest.raises(embed.stage.AudioError, match="too large for float16; use float32 or bfloat16"):
        embed.run(changed(config, layer=0, dtype="float16"))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_table_opens_in_one_line_elsewhere(config: EmbedConfig, dtype: str) -> None:
    import datasets
    import duckdb
    import pandas
    import polars

    embed.run(changed(config, dtype=dtype))
    expected, folder = read_embeddings(config.output), str(config.output)
    ids = expected.table["id"].to_pylist()
    frame = pandas.read_parquet(f"{folder}/embeddings.parquet")
    series = polars.read_parquet(f"{folder}/embeddings.parquet")
    rows = duckdb.sql(f"SELECT id, embedding FROM '{folder}/embeddings.parquet/*.parquet'").fetchall()
    loaded = datasets.load_dataset(
        "parquet", data_files=f"{folder}/embeddings.parquet/*.parquet", split="train", cache_dir=f"{folder}/cache"
    )
    tables = {
        "pandas": (frame["id"].tolist(), np.stack(frame["embedding"].tolist())),
        "polars": (series["id"].to_list(), np.array(series["embedding"].to_list())),
        "duckdb": ([row[0] for row in rows], np.array([row[1] for row in rows])),
        "datasets": (list(loaded["id"]), np.array(loaded["embedding"])),
    }
    for name, (found, vectors) in tables.items():
        assert found == ids and np.array_equal(vectors.astype(np.float32), expected.vectors), name


# growing and being interrupted


def state(config: EmbedConfig) -> dict[str, tuple[int, np.ndarray]]:
    """Shard and vector of every recording, as readers of the files see them."""
    found = {}
    for path in sorted((config.output / "embeddings.parquet").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            assert row["id"] not in found, "a recording is there twice"
            found[row["id"]] = (path.stat().st_mtime_ns, np.array(row["embedding"], np.float32))
    return found


def test_only_what_is_new_or_changed_is_computed(config: EmbedConfig, names: list[str], tmp_path: Path) -> None:
    embed.run(config)
    before = state(config)
    write_clip(tmp_path / "audio" / "clip-10.wav", 0.5, 10)
    write_clip(tmp_path / "audio" / "clip-4.wav", 0.7, 99)  # other audio
    os.utime(tmp_path / "audio" / "clip-7.wav")  # the same audio, another time
    kept = [name for name in names if name != "clip-0"]
    write_manifest(tmp_path, [*kept, "clip-10"])
    result = embed.run(config)
    after = state(config)
    assert (result.num_computed, result.num_removed, result.num_utterances) == (2, 1, 10)
    assert sorted(after) == sorted([*kept, "clip-10"]) == sorted(open_index(config.output).clips["id"].to_pylist())
    assert after["clip-9"][0] == before["clip-9"][0]  # its shard was left alone
    encoder = SpeechEncoder.load(config.checkpoint)
    for name, (_, vector) in after.items():
        alone = encoder.embed(tmp_path / "audio" / f"{name}.wav")
        assert relative(vector, np.asarray(alone)) < 1e-5
        assert (name in before and np.array_equal(vector, before[name][1])) == (name not in ("clip-4", "clip-10"))
    assert embed.run(config).reused


def test_new_columns_of_a_manifest_are_taken_up_without_computing(config: EmbedConfig, names: list[str]) -> None:
    embed.run(config)
    write_manifest(config.manifest.parent, names, speaker=[f"s{number % 2}" for number in range(10)])
    result = embed.run(config)
    assert result.num_computed == 0 and not result.reused
    assert read_embeddings(config.output).table["speaker"].to_pylist() == ["s0", "s1"] * 5


def test_another_model_is_noticed_by_its_hash(config: EmbedConfig) -> None:
    embed.run(config)
    SpeechEncoder(encoder_config("tiny", SMALL), seed=2).save(config.checkpoint)
    with pytest.raises(ConfigError, match=r"another way \(model_sha256 is .*overwrite=true"):
        embed.run(config)
    assert embed.run(changed(config, overwrite=True)).num_computed == 10


def test_bad_clip_is_quarantined_and_tried_again_when_it_changes(config: EmbedConfig, tmp_path: Path) -> None:
    good = (tmp_path / "audio" / "clip-5.wav").read_bytes()
    (tmp_path / "audio" / "clip-5.wav").write_bytes(b"nothing")
    first = embed.run(config)
    assert [name for name, _ in first.errors] == ["clip-5"] and first.num_utterances == 9
    assert embed.run(config).reused
    (tmp_path / "audio" / "clip-5.wav").write_bytes(good)
    second = embed.run(config)
    assert second.errors == () and second.num_computed == 1 and second.num_utterances == 10
    assert not (config.output / "errors.jsonl").exists()


def test_killed_at_random_moments_nothing_is_lost_or_twice(config: EmbedConfig, tmp_path: Path) -> None:
    # The program of a run: imports once, then is forked and killed again and again.
    program = f"""
import os, signal, sys, time
from pathlib import Path
from speechssl import embed
from speechssl.embed import stage
import torch
torch.set_num_threads(1)
config = embed.EmbedConfig(checkpoint={config.checkpoint!r}, manifest=Path({str(config.manifest)!r}),
                           output=Path({str(config.output)!r}), shard_rows=1)
delays = [float(word) for word in sys.argv[1:]]
for delay in delays:
    child = os.fork()
    if child == 0:
        embed.run(config)
        os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    print(os.waitpid(child, 0)[1], len(list(config.output.glob("embeddings.parquet/*"))), flush=True)
"""
    # the shortest first: no machine is done by then
    delays = sorted(random.Random(seed).uniform(0.02, 0.35) for seed in range(12))
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, delays)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    killed = [int(line.split()[0]) == signal.SIGKILL for line in done.stdout.splitlines()]
    assert any(killed), done.stdout
    for path in (config.output / "embeddings.parquet").glob("*"):
        pq.read_table(path)  # whatever is visible is whole
    result = embed.run(changed(config, shard_rows=1))
    after = state(config)
    assert sorted(after) == [f"clip-{number}" for number in range(10)] and result.num_shards == 10
    encoder = SpeechEncoder.load(config.checkpoint)
    for name, (_, vector) in after.items():
        assert relative(vector, np.asarray(encoder.embed(tmp_path / "audio" / f"{name}.wav"))) < 1e-5
    assert {path.name for path in config.output.iterdir()} == {"embeddings.json", "embeddings.parquet", "index"}


@pytest.mark.parametrize("missing", [(0,), (1,), (0, 2), (1, 3), (3,), (2, 3)])
def test_shards_finished_out_of_order_give_the_order_of_one_process(
    config: EmbedConfig, tmp_path: Path, names: list[str], missing: tuple[int, ...]
) -> None:
    embed.run(config)
    expected = read_embeddings(config.output)
    for number in missing:
        for path in config.output.glob(f"*/shard-{number:06d}.*"):
            path.unlink()
    found = embed.run(config)
    assert found.num_computed == sum(1 if number == 3 else 3 for number in missing)
    again = read_embeddings(config.output)
    assert again.table.equals(expected.table)
    assert np.array_equal(again.vectors, expected.vectors)


def test_a_missing_shard_of_another_manifest_is_filled_behind(
    config: EmbedConfig, tmp_path: Path, names: list[str]
) -> None:
    embed.run(config)
    for path in config.output.glob("*/shard-000001.*"):
        path.unlink()
    names = [*names[:8], *names[9:]]
    write_manifest(tmp_path, names)
    embed.run(config)
    assert sorted(open_index(config.output).clips["id"].to_pylist()) == names


def test_killed_between_the_files_of_a_shard(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step of writing is the last one of some run; the next run makes it good."""
    reference = read_embeddings(embed.run(changed(config, output=config.output / "whole")).path)
    real, calls = os.replace, {"left": 0}

    def replace(source: str, target: str) -> None:
        if calls["left"] == 0:
            raise KeyboardInterrupt
        calls["left"] -= 1
        real(source, target)

    for steps in range(9):
        calls["left"] = steps
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            embed.run(changed(config, output=config.output / str(steps)))
        monkeypatch.setattr(os, "replace", real)
        found = read_embeddings(embed.run(changed(config, output=config.output / str(steps))).path)
        assert found.table["id"].equals(reference.table["id"]) and relative(found.vectors, reference.vectors) < 1e-6


def test_two_runs_at_once_are_refused(config: EmbedConfig) -> None:
    config.output.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
         "print('locked', flush=True); time.sleep(60)", str(config.output / ".lock")], stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match="another process is writing embeddings there"):
            embed.run(config)
    finally:
        holder.kill()
        holder.wait()


# the proof


def test_verify_proves_it_and_notices_a_wrong_table(config: EmbedConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = [config.checkpoint, str(config.manifest), "--output", str(config.output), "--layers", "2", "--verify"]
    words += ["--shard_rows", "3"]
    assert main(["embed", *words]) == 0
    shown = capsys.readouterr().out
    assert "maximum difference" in shown and "all within what is allowed" in shown
    path = config.output / "embeddings.parquet" / "shard-000000.parquet"
    table = pq.read_table(path)
    twisted = table.set_column(
        table.column_names.index("embedding"), table.schema.field("embedding"), table["embedding"].take([1, 0, 2])
    )
    pq.write_table(twisted, path)
    found = verify(changed(config, layers=("2",)), num_clips=10)
    assert not found.holds and [item.name for item in found.comparisons if not item.holds] == ["the table"]
