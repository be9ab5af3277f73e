"""Recorded speech from folder to embeddings: build a manifest, pre-train a few steps, embed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.data import DataConfig
from speechssl.encoder import SpeechEncoder, encoder_config, load_encoder
from speechssl.manifest import Manifest, build_manifest, validate_manifest
from speechssl.objectives import ContrastiveConfig
from speechssl.pretrain import PretrainConfig, run
from speechssl.training import OptimConfig, TrainingConfig
from speechssl.training.records import read_metrics

pytestmark = pytest.mark.corpora
CORPORA = ("librispeech_train100_251spk", "kathleen_en", "kerstin_de", "fsdd")
CLIPS_PER_CORPUS = 4
ENCODER = {
    "model_dim": 32, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 64, "position_kernel": 8,
    "position_groups": 4, "num_mels": 40,
}  # fmt: skip


@pytest.fixture(scope="module")
def recordings(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips of each corpus, in one folder."""
    folder = tmp_path_factory.mktemp("recordings")
    for corpus in CORPORA:
        (folder / corpus).mkdir()
        for path in sorted((corpora / corpus / "audio").iterdir())[:CLIPS_PER_CORPUS]:
            shutil.copy(path, folder / corpus)
    return folder


@pytest.fixture(scope="module")
def manifest(recordings: Path) -> Path:
    result = build_manifest(recordings, output=recordings / "all.jsonl")
    assert result.skipped == ()
    assert len(result.manifest) == len(CORPORA) * CLIPS_PER_CORPUS
    return recordings / "all.jsonl"


def test_real_recordings_are_valid(manifest: Path) -> None:
    report = validate_manifest(manifest, audio=True)
    assert report.num_rows == len(CORPORA) * CLIPS_PER_CORPUS
    assert [str(problem) for problem in report.problems] == []


@pytest.mark.parametrize(
    ("preset", "encoder"),
    [("tiny", ENCODER), ("base", {**{k: v for k, v in ENCODER.items() if k != "num_mels"}, "conv_dim": 16})],
    ids=["log_mel", "waveform"],
)
def test_pretrained_on_real_speech_embeds_it(
    manifest: Path, tmp_path: Path, preset: str, encoder: dict[str, int]
) -> None:
    result = run(
        PretrainConfig(
            manifests=(manifest,), run_directory=tmp_path / "run", preset=preset, encoder=encoder, device="cpu",
            contrastive=ContrastiveConfig(num_entries=16, quantized_dim=32, final_dim=32, num_distractors=20),
            data=DataConfig(batch_seconds=8, max_crop_seconds=2, num_workers=0),
            training=TrainingConfig(
                max_steps=6, log_interval=1, validate_interval=None, checkpoint_interval=6, tensorboard=False,
                optim=OptimConfig(peak_lr=2e-3),
            ),
        )
    )  # fmt: skip
    assert result.left_out == {}
    rows = read_metrics(tmp_path / "run")
    assert len(rows) == 6 and all(np.isfinite(row["loss"]) for row in rows)

    loaded = load_encoder(tmp_path / "run")
    utterances = Manifest.load(manifest)
    embeddings = loaded.embed(utterances)
    assert isinstance(embeddings, np.ndarray)
    assert embeddings.shape == (len(utterances), 32) and np.isfinite(embeddings).all()
    assert np.linalg.matrix_rank(embeddings - embeddings.mean(axis=0)) > 5  # clips are told apart
    alone = np.stack([loaded.embed(utterance.audio_filepath) for utterance in utterances])
    assert np.abs(embeddings - alone).max() < 1e-4 * np.abs(alone).max()


@torch.no_grad()
def test_batches_of_real_speech_are_each_clip_alone(manifest: Path) -> None:
    """Lengths from 0.3 s to 16 s in one batch: nearly all of it is padding for the shortest."""
    shape = {**ENCODER, "conv_dim": 32, "position_kernel": 16}
    encoder = SpeechEncoder(encoder_config("base", shape)).eval()
    utterances = Manifest.load(manifest)
    together = encoder.embed(utterances, pool="none", batch_seconds=1e6)
    for utterance, frames in zip(utterances, together, strict=True):
        alone = encoder.embed(utterance.audio_filepath, pool="none")
        assert np.linalg.norm(frames - alone) < 1e-5 * np.linalg.norm(alone)
