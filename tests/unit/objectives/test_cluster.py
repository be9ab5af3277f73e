"""Masked prediction of clusters: its loss, its targets, and runs that learn from them."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from torch import Tensor, nn

from speechssl import load_encoder, units
from speechssl.data import DataConfig
from speechssl.encoder import SpeechEncoder, encoder_config
from speechssl.errors import CheckpointError, ConfigError
from speechssl.frames import features
from speechssl.interop import load_pretraining
from speechssl.manifest import Manifest, build_manifest
from speechssl.objectives import ClusterConfig, ClusterObjective, ClusterTargets
from speechssl.objectives.cluster import at_frames
from speechssl.pretrain import PretrainConfig, run
from speechssl.run_report import report_run
from speechssl.training.optim import OptimConfig
from speechssl.training.records import read_metrics
from speechssl.training.task import TrainingConfig
from speechssl.types import AudioBatch
from speechssl.units import UnitsConfig
from speechssl.units.targets import open_targets

RATE = 16_000
SMALL = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_groups": 4}
TONES = (300, 700, 1500, 3000)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of clips of six tones of 0.2 s."""
    folder = tmp_path_factory.mktemp("cluster") / "tones"
    folder.mkdir()
    random = np.random.default_rng(0)
    time = np.arange(3200) / RATE
    for number in range(8):
        parts = [0.2 * np.sin(2 * np.pi * f * time) for f in random.choice(TONES, 6)]
        wave = np.concatenate(parts) + 0.01 * random.standard_normal(6 * 3200)
        soundfile.write(folder / f"{number}.wav", wave[: len(wave) - 480 * number], RATE)
    build_manifest(folder, output=folder.parent / "tones.jsonl")
    return folder.parent / "tones.jsonl"


def make_units(manifest: Path, name: str, checkpoint: str, **changes: Any) -> Path:
    output = manifest.parent / name
    values = {"num_units": 4, "layer": 1, "first_frames": 100, "num_passes": 2, **changes}
    units.run(UnitsConfig(checkpoint=checkpoint, manifest=manifest, output=output, **values))
    return output


@pytest.fixture(scope="module")
def of_encoder(tones: Path) -> Path:
    SpeechEncoder(encoder_config("tiny", SMALL), seed=5).save(tones.parent / "teacher")
    return make_units(tones, "units", str(tones.parent / "teacher"))


@pytest.fixture(scope="module")
def of_features(tones: Path) -> Path:
    return make_units(tones, "units-mfcc", "mfcc")


def config(
    manifest: Path, directory: Path, targets: Path | None, *, max_steps: int = 5, **changes: Any
) -> PretrainConfig:
    values: dict[str, Any] = {
        "manifests": (manifest,), "run_directory": directory, "preset": "tiny", "encoder": SMALL,
        "objective": "cluster",
        "cluster": ClusterConfig(targets=targets, final_dim=16, feature_penalty_weight=0.0),
        "data": DataConfig(batch_seconds=3, num_workers=0), "device": "cpu",
        "training": TrainingConfig(
            max_steps=max_steps, log_interval=1, validate_interval=None, checkpoint_interval=50, tensorboard=False,
            optim=OptimConfig(schedule="constant", warmup_steps=0, peak_lr=5e-3),
        ),
        **changes,
    }  # fmt: skip
    return PretrainConfig(**values)


def noise(num_samples: list[int]) -> AudioBatch:
    waveform = torch.randn(len(num_samples), max(num_samples))
    for row, count in zip(waveform, num_samples, strict=True):
        row[count:] = 0
    return AudioBatch(
        utterance_ids=tuple(map(str, range(len(num_samples)))), waveform=waveform,
        num_samples=torch.tensor(num_samples), sample_rate=RATE,
    )  # fmt: skip


def small_objective(*, num_clusters: int = 7, **changes: Any) -> ClusterObjective:
    """Clusters of random frames, which the waveform's samples are projected to."""
    projection = nn.Linear(320, 5)

    def frames(waveform: Tensor, num_samples: Tensor, num_frames: int) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(projection(waveform.unfold(1, 320, 320))[:, :num_frames])

    targets = ClusterTargets(centers=torch.randn(num_clusters, 5), frames=frames)
    return ClusterObjective(ClusterConfig(final_dim=16, **changes), targets, model_dim=32, seed=3)


def test_the_loss_is_that_of_the_equations_by_loops() -> None:
    """Equations 1 (alpha = 1) and 3; padding and unmasked frames have no part in it."""
    encoder = SpeechEncoder(encoder_config("tiny", SMALL), seed=0).eval()
    objective = small_objective(feature_penalty_weight=2.0).eval()
    batch = noise([24_000, 16_000])
    latents = encoder.extract_latents(batch.waveform, batch.num_samples)
    mask = objective.draw(latents.num_frames, latents.latents.shape[1], generator=torch.Generator().manual_seed(1))
    terms = objective.terms(encoder, batch, frame_mask=mask)
    context = encoder.contextualize(latents.normalized, latents.num_frames, frame_mask=mask).context
    labels = objective.assign(batch.waveform, batch.num_samples, latents.latents.shape[1])
    embeddings = objective.cluster_embeddings.detach()
    total, count = 0.0, 0
    for row, frame in mask.nonzero().tolist():
        projected = objective.context_projection(context[row, frame]).detach()
        scores = [float(torch.cosine_similarity(projected, embedding, dim=0)) / 0.1 for embedding in embeddings]
        total += math.log(sum(map(math.exp, scores))) - scores[int(labels[row, frame])]
        count += 1
    assert int(terms.num_targets) == count and count > 20
    assert float(terms.prediction.detach()) == pytest.approx(total / count, rel=1e-5)
    valid = [latents.latents[row, :n] for row, n in enumerate(latents.num_frames.tolist())]
    penalty = float(torch.cat(valid).square().mean())
    assert float(terms.loss.detach()) == pytest.approx(total / count + 2.0 * penalty, rel=1e-5)


def test_logits_and_gradients_are_those_of_torchaudio() -> None:
    from torchaudio.models.wav2vec2.components import LogitGenerator

    encoder = SpeechEncoder(encoder_config("tiny", SMALL), seed=0).eval()
    objective = small_objective()
    peer = LogitGenerator(32, 7, 16, skip_masked=False, skip_nomask=True)
    peer.load_state_dict({
        "label_embeddings": objective.cluster_embeddings.detach(),
        "final_proj.weight": objective.context_projection.weight.detach(),
        "final_proj.bias": objective.context_projection.bias.detach(),
    })  # fmt: skip
    batch = noise([24_000, 24_000])
    latents = encoder.extract_latents(batch.waveform, batch.num_samples)
    mask = objective.draw(latents.num_frames, latents.latents.shape[1], generator=torch.Generator().manual_seed(2))
    ours = objective.terms(encoder, batch, frame_mask=mask)
    context = encoder.contextualize(latents.normalized, latents.num_frames, frame_mask=mask).context
    labels = objective.assign(batch.waveform, batch.num_samples, latents.latents.shape[1])
    logits, _ = peer(context, labels, mask, ~mask)  # its target stands first, and once more as -inf
    theirs = nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    torch.testing.assert_close(ours.prediction, theirs, rtol=1e-5, atol=1e-6)
    ours.prediction.backward()
    theirs.backward()
    torch.testing.assert_close(objective.cluster_embeddings.grad, peer.label_embeddings.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        objective.context_projection.weight.grad, peer.final_proj.weight.grad, rtol=1e-4, atol=1e-6
    )


def test_targets_are_the_units_that_were_written(tones: Path, of_encoder: Path) -> None:
    """The units of whole clips, which `speechssl units` wrote, and those of a padded batch of the same clips."""
    objective = ClusterObjective(ClusterConfig(), open_targets(of_encoder, student()), model_dim=32)
    table = pq.read_table(of_encoder / "units.parquet").to_pydict()
    written = dict(zip(table["id"], table["units"], strict=True))
    rows = list(Manifest.load(tones))
    waves = [torch.from_numpy(soundfile.read(row.audio_filepath, dtype="float32")[0]) for row in rows]
    counts = torch.tensor([len(wave) for wave in waves])
    found = objective.assign(nn.utils.rnn.pad_sequence(waves, batch_first=True), counts, 59)
    assert len(written) == len(rows) and len({len(units) for units in written.values()}) > 1
    for labels, row in zip(found, rows, strict=True):
        assert labels[: len(written[row.id])].tolist() == written[row.id]


def test_features_are_taken_at_the_middle_of_every_frame(tones: Path, of_features: Path) -> None:
    """MFCCs stand 10 ms apart from 0 on; tiny's frames 20 ms apart, the first in the middle of its 35 ms."""
    targets = open_targets(of_features, student())
    [row, *_] = Manifest.load(tones)
    wave = soundfile.read(row.audio_filepath, dtype="float32")[0]
    found = targets.frames(torch.from_numpy(wave)[None], torch.tensor([len(wave)]), 50)
    expected = features(wave, "mfcc")[np.rint((280 + 320 * np.arange(50)) / 160).astype(int)]
    np.testing.assert_array_equal(found[0], expected)
    assert found.shape == (1, 50, 39)


def test_frames_that_are_missing_at_the_end_are_the_last() -> None:
    frames = torch.arange(3.0)[None, :, None]
    assert at_frames(frames, 5, first=0.0, step=1.0).flatten().tolist() == [0, 1, 2, 2, 2]
    assert at_frames(frames, 2, first=0.6, step=1.0).flatten().tolist() == [1, 2]


@pytest.mark.parametrize("kind", ["encoder", "features"])
def test_a_run_learns_to_predict_the_tones(
    kind: str, tones: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A masked frame sounds like its neighbours; knowing no more than the commonest cluster is what chance can do."""
    targets = request.getfixturevalue(f"of_{kind}")
    run(config(tones, tmp_path / "run", targets, max_steps=60, valid_manifest=tones))
    rows = read_metrics(tmp_path / "run")
    last = rows[-1]
    assert last["accuracy"] > last["chance_accuracy"] + 0.1 and last["cluster_loss"] < rows[0]["cluster_loss"] - 0.3
    assert 1 < last["target_perplexity"] <= 4 and 1 < last["predicted_perplexity"] <= 4
    assert load_encoder(tmp_path / "run").config.model_dim == 32


def test_a_run_goes_on_as_if_it_had_not_stopped(tones: Path, of_encoder: Path, tmp_path: Path) -> None:
    whole = config(tones, tmp_path / "whole", of_encoder, max_steps=6)
    run(whole)
    for max_steps in (3, 6):
        run(config(tones, tmp_path / "part", of_encoder, max_steps=max_steps))
    for name in ("model.safetensors", "objective.safetensors"):
        ours, theirs = (tmp_path / kind / "checkpoints" / "last" / name for kind in ("part", "whole"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_pretraining_and_fine_tuning_begin_from_such_a_run(tones: Path, of_encoder: Path, tmp_path: Path) -> None:
    run(config(tones, tmp_path / "first", of_encoder))
    again = config(tones, tmp_path / "again", of_encoder, initialize_from=str(tmp_path / "first"), max_steps=1)
    run(again)
    contrastive = replace(again, objective="contrastive", run_directory=tmp_path / "contrastive")
    run(contrastive)
    with pytest.raises(CheckpointError, match="contrastive pre-training run"):
        load_pretraining(tmp_path / "first")


def test_targets_are_no_part_of_what_learns(tones: Path, of_encoder: Path) -> None:
    """Neither the teacher nor the centers are parameters; the centers are stored."""
    objective = ClusterObjective(ClusterConfig(), open_targets(of_encoder, student()), model_dim=32).train()
    names = {name for name, _ in objective.named_parameters()}
    assert names == {"cluster_embeddings", "context_projection.weight", "context_projection.bias"}
    assert set(objective.state_dict()) == {*names, "centers"}
    objective.draw(torch.tensor([40]), 40)
    first, second = (objective.assign(noise([16_000]).waveform * 0 + 0.1, torch.tensor([16_000]), 48) for _ in "12")
    assert torch.equal(first, second)


def test_missing_and_other_targets_are_refused(tones: Path, of_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speechssl units"):
        config(tones, tmp_path / "run", None)
    with pytest.raises(CheckpointError, match="make them with `speechssl units`"):
        run(config(tones, tmp_path / "run", tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="at 16000 Hz, but the encoder takes 8000 Hz"):
        run(config(tones, tmp_path / "run", of_encoder, encoder={**SMALL, "sample_rate": 8000}))


@pytest.mark.parametrize("name", ["units.tsv", "units.parquet", "result.json"])
def test_a_file_without_centers_is_refused_with_the_folder_to_name(
    name: str, tones: Path, of_features: Path, tmp_path: Path
) -> None:
    assert (of_features / name).is_file()
    with pytest.raises(ConfigError, match=f"{name}: holds no centers .* name the folder .*, {of_features}$"):
        run(config(tones, tmp_path / "run", of_features / name))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_file_with_the_centers_is_as_good_as_its_folder(tones: Path, of_features: Path, tmp_path: Path) -> None:
    def fingerprint(targets: Path, directory: str) -> str:
        run(config(tones, tmp_path / directory, targets, max_steps=1))
        return str(json.loads((tmp_path / directory / "environment.json").read_text())["data_fingerprint"])

    assert fingerprint(of_features / "units.safetensors", "file") == fingerprint(of_features, "folder")


def test_a_run_is_not_continued_with_other_targets(tones: Path, of_encoder: Path, tmp_path: Path) -> None:
    targets = tmp_path / "units"
    shutil.copytree(of_encoder, targets)
    run(config(tones, tmp_path / "run", targets))
    shutil.copy(make_units(tones, "units-of-another-seed", "mfcc", seed=3) / "units.safetensors", targets)
    with pytest.raises(ConfigError, match="run"):
        run(config(tones, tmp_path / "run", targets, max_steps=7))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"final_dim": 0}, "final_dim"), ({"mask_probability": 0.0}, "mask_probability"), ({"mask_span": 0}, "mask_span"),
     ({"logit_temperature": 0.0}, "logit_temperature")],
)  # fmt: skip
def test_wrong_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClusterConfig(**change)


def student() -> SpeechEncoder:
    return SpeechEncoder(encoder_config("tiny", SMALL), seed=1)


def test_the_page_of_a_run_shows_its_clusters(tones: Path, of_encoder: Path, tmp_path: Path) -> None:
    run(config(tones, tmp_path / "run", of_encoder))
    page = report_run(tmp_path / "run").read_text()
    assert "Could not be made" not in page
    for title in (
        "Perplexity of targets",
        "Perplexity of predictions",
        "Accuracy on masked frames",
        "Code usage",
        "Masking and codes",
    ):
        assert title in page
