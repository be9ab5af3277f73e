"""`embed`: what comes out per utterance does not depend on neighbours, batches, interruptions or bad recordings."""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from speechssl import embed
from speechssl.audio import read
from speechssl.embed import EmbedConfig, open_index, read_embeddings
from speechssl.embed.encode import EncodeSettings, _encode, encode_rows
from speechssl.embed.plan import plan_spans
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.extraction import Extractor, Representation
from speechssl.manifest import Manifest
from speechssl.types import AudioBatch, EncoderOutput, Utterance

RATE = 16_000
SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}
LENGTHS = (0.5, 1.7, 0.9, 2.3, 0.3, 1.1)


def write_clip(path: Path, seconds: float, seed: int = 0, rate: int = RATE) -> Path:
    noise = np.random.default_rng(seed).normal(size=int(seconds * rate)).astype(np.float32) * 0.1
    soundfile.write(path, noise, rate)
    return path


def utterance(path: Path, seconds: float, number: int) -> Utterance:
    return Utterance(
        id=f"clip-{number}",
        audio_filepath=str(path),
        sample_rate=RATE,
        num_samples=int(seconds * RATE),
        duration=seconds,
        speaker=f"speaker-{number % 2}",
        extra={"take": number},
    )


@pytest.fixture
def encoder_directory(tmp_path: Path) -> Path:
    SpeechEncoder(encoder_config("tiny", SMALL), seed=1).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def manifest_path(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    rows = [
        utterance(write_clip(tmp_path / "audio" / f"{number}.wav", seconds, number), seconds, number)
        for number, seconds in enumerate(LENGTHS)
    ]
    Manifest.from_utterances(rows).save(tmp_path / "all.jsonl")
    return tmp_path / "all.jsonl"


@pytest.fixture
def config(tmp_path: Path, encoder_directory: Path, manifest_path: Path) -> EmbedConfig:
    return EmbedConfig(checkpoint=str(encoder_directory), manifest=manifest_path, output=tmp_path / "out")


def changed(config: EmbedConfig, **values: object) -> EmbedConfig:
    return EmbedConfig(**{**vars(config), **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_rows_equal_single_recordings_in_the_order_of_the_manifest(config: EmbedConfig, layer: int | None) -> None:
    result = embed.run(changed(config, layer=layer))
    encoder = SpeechEncoder.load(config.checkpoint)
    manifest = Manifest.load(config.manifest)
    found = read_embeddings(config.output)
    assert result.num_rows == result.num_utterances == len(LENGTHS) and result.errors == ()
    assert found.table["id"].to_pylist() == manifest.column("id").to_pylist()
    assert found.table["layer"].to_pylist() == [layer] * len(LENGTHS)
    for row, item in enumerate(manifest):
        alone = encoder.embed(item.audio_filepath, layer=layer)
        np.testing.assert_allclose(found.vectors[row], alone, atol=1e-4, rtol=0)


def test_frames_equal_single_recordings_and_know_their_time(config: EmbedConfig) -> None:
    result = embed.run(changed(config, pool="none"))
    encoder = SpeechEncoder.load(config.checkpoint)
    found = read_embeddings(result.path)
    ids, frames = found.table["id"].to_pylist(), found.table["frame"].to_pylist()
    assert list(dict.fromkeys(ids)) == Manifest.load(config.manifest).column("id").to_pylist()
    for item in Manifest.load(config.manifest):
        rows = [row for row, name in enumerate(ids) if name == item.id]
        alone = encoder.embed(item.audio_filepath, pool="none")
        assert [frames[row] for row in rows] == list(range(len(alone)))
        np.testing.assert_allclose(found.vectors[rows], alone, atol=1e-4, rtol=0)
    # two windows of 400 samples, 160 apart, make a frame; frames are 320 samples apart
    assert found.table["time"].to_pylist()[:2] == pytest.approx([280 / RATE, 600 / RATE])
    assert result.num_rows == len(ids) > result.num_utterances


@pytest.mark.parametrize("preset", ["tiny", "small"])
@pytest.mark.parametrize("pool", ["mean", "none"])
def test_noise_in_the_padding_changes_nothing(preset: str, pool: str) -> None:
    encoder = SpeechEncoder(encoder_config(preset, {**SMALL, "layer_drop": 0.0}), seed=0).eval()
    num_samples = torch.tensor([9000, 4000, 1500])
    waveform = torch.randn(3, 9000, generator=torch.Generator().manual_seed(0))
    silent = torch.where(torch.arange(9000) < num_samples[:, None], waveform, 0.0)
    ids = ("a", "b", "c")
    outputs = [
        _encode(
            AudioBatch(utterance_ids=ids, waveform=x, num_samples=num_samples, sample_rate=RATE),
            Extractor(encoder, Representation(layers=(1,), pool=pool)),  # type: ignore[arg-type]
            EncodeSettings(),
        )
        for x in (waveform, silent)
    ]
    for noisy, clean in zip(*outputs, strict=True):
        np.testing.assert_allclose(noisy, clean, atol=1e-5, rtol=0)


def test_table_holds_fixed_size_lists_own_columns_and_what_made_it(config: EmbedConfig) -> None:
    result = embed.run(config)
    table = pq.read_table(result.path)
    assert table.column_names[:3] == ["id", "layer", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
    assert table["take"].to_pylist() == list(range(len(LENGTHS)))
    for name in table["audio_filepath"].to_pylist():  # relative to the output folder
        assert not Path(name).is_absolute() and len(read(config.output / name))
    metadata = read_embeddings(result.path).metadata
    assert metadata["pool"] == "mean" and metadata["layer"] is None and metadata["frame_rate"] == 50
    assert metadata["manifest_fingerprint"] == Manifest.load(config.manifest).fingerprint()
    assert len(metadata["model_sha256"]) == 64
    assert {path.name for path in config.output.iterdir()} == {"embeddings.json", "embeddings.parquet", "index"}


def test_bad_recordings_are_listed_and_end_nothing(config: EmbedConfig, tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    (audio / "text.wav").write_text("this is no audio")
    soundfile.write(audio / "nan.wav", np.full(8000, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    soundfile.write(audio / "one.wav", np.zeros(1), RATE)
    soundfile.write(audio / "empty.wav", np.zeros(0), RATE)
    write_clip(audio / "cut.flac", 1.0)
    (audio / "cut.flac").write_bytes((audio / "cut.flac").read_bytes()[:3000])
    write_clip(audio / "high.wav", 0.5, 9, rate=96_000)
    names = ["text.wav", "nan.wav", "one.wav", "empty.wav", "cut.flac", "missing.wav", "high.wav"]
    good = list(Manifest.load(config.manifest))
    bad = [utterance(audio / name, 0.5, 100 + number) for number, name in enumerate(names)]
    Manifest.from_utterances([*bad[:3], *good, *bad[3:]]).save(tmp_path / "mixed.jsonl")

    result = embed.run(changed(config, manifest=tmp_path / "mixed.jsonl"))

    assert [name for name, _ in result.errors] == [f"clip-{number}" for number in range(100, 106)]
    for (_, reason), name in zip(result.errors, names[:-1], strict=True):
        assert name in reason
    assert result.errors_path is not None
    listed = [json.loads(line) for line in result.errors_path.read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in listed] == list(result.errors)
    assert read_embeddings(result.path).table["id"].to_pylist() == [row.id for row in good] + ["clip-106"]


def test_nothing_but_bad_recordings_is_an_error(config: EmbedConfig, tmp_path: Path) -> None:
    Manifest.from_utterances([utterance(tmp_path / "gone.wav", 1.0, 7)]).save(tmp_path / "gone.jsonl")
    with pytest.raises(AudioError, match=r"gone\.jsonl: none of its 1 recordings can be embedded.*gone\.wav"):
        embed.run(changed(config, manifest=tmp_path / "gone.jsonl"))
    assert not (config.output / "embeddings.parquet").exists()
    assert "clip-7" in (config.output / "errors.jsonl").read_text()


def test_finished_output_is_reused(config: EmbedConfig, caplog: pytest.LogCaptureFixture) -> None:
    first = embed.run(config)
    before = first.path.stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        second = embed.run(config)
    assert second.reused and not first.reused and first.path.stat().st_mtime_ns == before
    assert "used as it is" in caplog.text
    assert not embed.run(changed(config, overwrite=True)).reused


def test_output_made_in_another_way_is_refused(config: EmbedConfig) -> None:
    embed.run(config)
    with pytest.raises(ConfigError, match=r"another way \(layers is \[None\] instead of \[1\]\).*overwrite=true"):
        embed.run(changed(config, layer=1))
    embed.run(changed(config, layer=1, overwrite=True))
    assert read_embeddings(config.output).metadata["layer"] == 1


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_interrupted_run_goes_on_after_its_last_shard(config: EmbedConfig, pool: str, tmp_path: Path) -> None:
    whole = read_embeddings(embed.run(changed(config, pool=pool)).path)
    seen: list[int] = []

    def interrupt(done: int, total: int) -> None:
        seen.append(done)
        if done == 4:
            raise KeyboardInterrupt

    parted = changed(config, pool=pool, output=tmp_path / "parted", shard_rows=2)
    with pytest.raises(KeyboardInterrupt):
        embed.run(parted, progress=interrupt)
    with pytest.raises(ConfigError, match="interrupted; the same `speechssl embed` goes on"):
        open_index(parted.output)
    kept = parted.output / "embeddings.parquet" / "shard-000000.parquet"
    written = kept.stat().st_mtime_ns
    steps: list[tuple[int, int]] = []
    result = embed.run(parted, progress=lambda done, total: steps.append((done, total)))
    assert kept.stat().st_mtime_ns == written and result.num_computed < 6
    assert steps[-1][0] == steps[-1][1] and [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert result.num_shards == 3 and len(list(result.path.iterdir())) == 3
    found = read_embeddings(result.path)
    assert found.table["id"].equals(whole.table["id"])
    np.testing.assert_allclose(found.vectors, whole.vectors, atol=1e-5, rtol=0)
    assert not list(parted.output.glob(".*"))


def test_shards_are_bounded_in_rows_and_in_memory() -> None:
    durations = np.array([400.0, 700.0, 10.0, 2000.0, 5.0])  # at 50 frames a second, 1000 s of 2684 bytes are 128 MiB
    assert plan_spans(durations, shard_rows=9, row_bytes=2684, frame_rate=50.0) == [(0, 1), (1, 3), (3, 4), (4, 5)]
    assert plan_spans(durations, shard_rows=9, row_bytes=2684, frame_rate=None) == [(0, 5)]
    assert plan_spans(durations, shard_rows=2, row_bytes=2684, frame_rate=None) == [(0, 2), (2, 4), (4, 5)]
    assert plan_spans(durations[:0], shard_rows=2, row_bytes=2684, frame_rate=None) == []


def test_batch_that_does_not_fit_is_halved_and_one_clip_that_does_not_is_listed(manifest_path: Path) -> None:
    class Cramped(SpeechEncoder):
        def forward(self, waveform: torch.Tensor, num_samples: torch.Tensor, *, layers: bool = False) -> EncoderOutput:
            if waveform.numel() > 2 * RATE:
                raise torch.OutOfMemoryError("out of memory")
            return super().forward(waveform, num_samples, layers=layers)

    failed: list[tuple[str, str]] = []
    encoder = Cramped(encoder_config("tiny", SMALL))
    manifest = Manifest.load(manifest_path)
    extractor = Extractor(encoder, Representation(layers=(None,), pool="mean"))
    ids = {
        found.id
        for found in encode_rows(
            manifest, extractor, EncodeSettings(), on_error=lambda row, error: failed.append((row.id, str(error)))
        )
    }
    assert ids == {"clip-0", "clip-1", "clip-2", "clip-4", "clip-5"}
    assert [name for name, _ in failed] == ["clip-3"] and "do not fit in memory; lower whole_seconds" in failed[0][1]


def test_bf16_is_close_and_stored_as_float(config: EmbedConfig, tmp_path: Path) -> None:
    exact = read_embeddings(embed.run(config).path).vectors
    rough = read_embeddings(embed.run(changed(config, precision="bf16", output=tmp_path / "bf16")).path).vectors
    assert rough.dtype == np.float32 and 0 < np.abs(rough - exact).max() < 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layer": 9}, "layer must be between 0 and 2 for .*, but is 9"),
        ({"device": "tpv"}, "device must be auto, cpu or cuda, but is 'tpv'"),
    ],
)
def test_wrong_settings_are_named(config: EmbedConfig, values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        embed.run(changed(config, **values))


def test_wrong_values_are_named_when_configured(config: EmbedConfig) -> None:
    for values, message in (
        ({"pool": "sum"}, "pool must be one of mean, max, .*, but is 'sum'"),
        ({"precision": "fp16"}, "precision must be fp32 or bf16, but is 'fp16'"),
        ({"layer": -1}, "layer must be at least 0, but is -1"),
        ({"batch_seconds": 0.0}, "batch_seconds must be above 0, but is 0.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            changed(config, **values)


def test_clashing_column_and_missing_table_are_named(config: EmbedConfig, tmp_path: Path) -> None:
    manifest = Manifest.load(config.manifest)
    manifest.with_column("layer", list(range(len(manifest)))).save(tmp_path / "clash.jsonl")
    with pytest.raises(ManifestError, match=r"clash\.jsonl: its column 'layer' has the name of one of ours; rename it"):
        embed.run(changed(config, manifest=tmp_path / "clash.jsonl"))
    with pytest.raises(ConfigError, match="no such table of embeddings"):
        read_embeddings(tmp_path / "nowhere.parquet")
