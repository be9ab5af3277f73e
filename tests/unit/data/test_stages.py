"""What the training stages make of the streams: coverage in every result, ranks from torch.distributed."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch.distributed

from speechssl import finetune, pretrain
from speechssl.data import DataConfig, EpochCoverage, Ranks, current_ranks
from speechssl.finetune import FinetuneConfig
from speechssl.manifest import Manifest
from speechssl.objectives import ContrastiveConfig
from speechssl.pretrain import PretrainConfig
from speechssl.training import OptimConfig, TrainingConfig
from speechssl.training.records import read_metrics
from speechssl.types import Utterance

RATE = 16_000
ENCODER = {
    "model_dim": 16, "num_layers": 1, "num_heads": 2, "feed_forward_dim": 32, "position_kernel": 8,
    "position_groups": 4, "num_mels": 20,
}  # fmt: skip
NUM_ROWS = 7


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Seven rows of one recording: one of a file that is not there, one of 20 ms."""
    random = np.random.default_rng(0)
    soundfile.write(tmp_path / "one.wav", random.uniform(-0.1, 0.1, 3 * RATE), RATE)
    utterances = []
    for number in range(NUM_ROWS):
        seconds = 0.02 if number == 1 else 0.8 + 0.05 * number
        utterances.append(
            Utterance(
                id=f"u{number}", audio_filepath=str(tmp_path / ("gone.wav" if number == 0 else "one.wav")),
                sample_rate=RATE, num_samples=int(seconds * RATE), offset=0.1 * number, duration=seconds, text="ab",
            )
        )  # fmt: skip
    path = tmp_path / "rows.jsonl"
    Manifest.from_utterances(utterances).save(path)
    return path


def training(max_steps: int) -> TrainingConfig:
    return TrainingConfig(
        max_steps=max_steps, log_interval=1, validate_interval=None, checkpoint_interval=100, tensorboard=False,
        optim=OptimConfig(peak_lr=1e-3),
    )  # fmt: skip


DATA = DataConfig(batch_seconds=3.0, num_workers=0)


def check(coverage: tuple[EpochCoverage, ...], directory: Path, share: str, left_out: dict[str, int]) -> None:
    """The first epochs are whole, and the result, the file and the metrics say the same."""
    assert len(coverage) >= 2
    for part in coverage[:-1]:
        assert part.ended and part.first_place == 0
        assert part.left_out == left_out
        assert part.delivered + sum(part.left_out.values()) == part.planned
    lines = [json.loads(line) for line in (directory / "coverage.jsonl").read_text().splitlines()]
    assert [line["delivered"] for line in lines] == [part.delivered for part in coverage]
    measured = [line[share] for line in read_metrics(directory) if share in line]
    batches = sum(part.num_batches for part in coverage)
    assert len(measured) == batches
    first = coverage[0].num_batches
    assert np.mean(measured[:first]) == pytest.approx(getattr(coverage[0], share), abs=0.05)
    assert max(measured) > 0


def test_pretraining_tells_what_became_of_every_row(manifest: Path, tmp_path: Path) -> None:
    config = PretrainConfig(
        manifests=(manifest,), run_directory=tmp_path / "run", preset="tiny", encoder=ENCODER, data=DATA, device="cpu",
        contrastive=ContrastiveConfig(num_entries=4, quantized_dim=8, final_dim=8, num_distractors=5),
        training=training(6),
    )  # fmt: skip
    result = pretrain.run(config)
    assert sum(part.planned for part in result.coverage[:1]) == NUM_ROWS
    check(result.coverage, tmp_path / "run", "cropped_share", {"missing": 1, "too_short": 1})
    assert set(result.left_out) == {"u0", "u1"}


def test_finetuning_tells_what_became_of_every_row_with_labels(manifest: Path, tmp_path: Path) -> None:
    """The row of 20 ms is too short for its text and so has been left out before."""
    config = FinetuneConfig(
        train_manifest=manifest, valid_manifest=manifest, run_directory=tmp_path / "run", encoder=ENCODER, data=DATA,
        device="cpu", training=training(6),
    )  # fmt: skip
    result = finetune.run(config)
    assert result.coverage[0].planned == NUM_ROWS - 1 == result.num_train
    check(result.coverage, tmp_path / "run", "padding_share", {"missing": 1})
    assert set(result.left_out) == {"u0", "u1"}


def test_a_resumed_run_adds_to_the_account(manifest: Path, tmp_path: Path) -> None:
    for max_steps in (3, 6):
        config = FinetuneConfig(
            train_manifest=manifest, valid_manifest=manifest, run_directory=tmp_path / "run", encoder=ENCODER,
            data=DATA, device="cpu", training=training(max_steps),
        )  # fmt: skip
        finetune.run(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "coverage.jsonl").read_text().splitlines()]
    assert sum(line["num_batches"] for line in lines) == 6
    by_epoch = {line["epoch"]: 0 for line in lines}
    for line in lines:
        by_epoch[line["epoch"]] += line["planned"]
    assert all(by_epoch[epoch] == NUM_ROWS - 1 for epoch in list(by_epoch)[:-1])


def test_one_process_is_rank_0_of_1() -> None:
    assert current_ranks() == Ranks(rank=0, world_size=1)


def tell_ranks(rank: int, store: str, results: "multiprocessing.Queue[tuple[int, int]]") -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    ranks = current_ranks()
    torch.distributed.barrier()  # the other one must have come before this one goes
    results.put((ranks.rank, ranks.world_size))
    torch.distributed.destroy_process_group()


def test_ranks_are_those_of_torch_distributed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[tuple[int, int]] = context.Queue()
    processes = [
        context.Process(target=tell_ranks, args=(rank, str(tmp_path / "store"), results), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=60) for _ in range(2)) == [(0, 2), (1, 2)]
    for process in processes:
        process.join(timeout=60)
