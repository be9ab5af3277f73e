"""Connected digits with known boundaries: recorded digits (FSDD) joined with pauses, for `timing.py` and the docs.

    python benchmarks/connected_digits.py --corpora CORPORA --output runs/connected-digits

writes `train`, `dev` and `test` as manifests with audio beside them (takes 8 and up, 5 to 7, and 0 to 4, FSDD's test
takes), each row with the column `boundaries`: `[word, start, end]` of every digit in seconds. `five_minutes` and `hour`
are test digits in random order in one file each. `--finetune` then trains a recogniser from the shipped encoder: some
CPU minutes on one thread.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 16_000
SEED = 7
TAKES = {"train": range(8, 50), "dev": range(5, 8), "test": range(0, 5)}
Clip = tuple[str, np.ndarray]


def load_clips(corpus: Path) -> dict[str, dict[str, list[Clip]]]:
    """Clips `(word, samples)` by split and speaker."""
    clips: dict[str, dict[str, list[Clip]]] = {name: {} for name in TAKES}
    with (corpus / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            samples, rate = soundfile.read(corpus / row["path"], dtype="float32")
            assert rate == RATE
            split = next(name for name, takes in TAKES.items() if int(row["take"]) in takes)
            clips[split].setdefault(row["speaker"], []).append((row["text"], samples))
    return clips


def join(
    clips: list[Clip], random: np.random.Generator, *, pauses: tuple[float, float]
) -> tuple[np.ndarray, list[Any]]:
    """Samples, and `[word, start, end]` of every clip; faint noise lies under everything."""
    pieces, boundaries, place = [], [], 0
    for word, samples in clips:
        pause = int(random.uniform(*pauses) * RATE)
        pieces += [np.zeros(pause, np.float32), samples]
        place += pause
        boundaries.append([word, round(place / RATE, 4), round((place + len(samples)) / RATE, 4)])
        place += len(samples)
    pieces.append(np.zeros(int(0.2 * RATE), np.float32))
    joined = np.concatenate(pieces)
    return joined + 1e-4 * random.standard_normal(len(joined)).astype(np.float32), boundaries


def write(folder: Path, name: str, samples: np.ndarray, boundaries: list[Any], **columns: Any) -> dict[str, Any]:
    """One flac and its manifest row."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "audio" / f"{name}.flac", samples, RATE)
    text = " ".join(word for word, *_ in boundaries)
    return {
        "id": name, "audio_filepath": f"audio/{name}.flac", "sample_rate": RATE, "num_samples": len(samples),
        "duration": len(samples) / RATE, "offset": 0.0, "text": text, "boundaries": boundaries, **columns,
    }  # fmt: skip


def make_split(folder: Path, name: str, speakers: dict[str, list[Clip]], *, passes: int) -> None:
    """Every clip `passes` times, in sequences of three to eight of one speaker."""
    random = np.random.default_rng(SEED)
    rows = []
    for speaker, clips in sorted(speakers.items()):
        order = [clips[i] for _ in range(passes) for i in random.permutation(len(clips))]
        while order:
            count = int(random.integers(3, 9))
            part, order = order[:count], order[count:]
            samples, boundaries = join(part, random, pauses=(0.05, 0.6))
            rows.append(write(folder, f"{name}_{len(rows):04d}", samples, boundaries, speaker=speaker))
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_long(folder: Path, name: str, speakers: dict[str, list[Clip]], *, seconds: float) -> None:
    """One file: turns of ten to thirty digits of a speaker, with pauses up to two seconds between them."""
    random = np.random.default_rng(SEED)
    names = sorted(speakers)
    pieces, boundaries, place = [], [], 0
    while place < seconds * RATE:
        clips = speakers[names[int(random.integers(len(names)))]]
        chosen = [clips[int(i)] for i in random.integers(len(clips), size=int(random.integers(10, 31)))]
        samples, found = join(chosen, random, pauses=(0.05, 0.6))
        pause = np.zeros(int(random.uniform(0.0, 2.0) * RATE), np.float32)
        boundaries += [
            [word, round(start + place / RATE, 4), round(end + place / RATE, 4)] for word, start, end in found
        ]
        pieces += [samples, pause]
        place += len(samples) + len(pause)
    row = write(folder, name, np.concatenate(pieces), boundaries)
    (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")


def finetune(folder: Path) -> None:
    """A recogniser from the shipped encoder, in `folder/run`."""
    from speechssl import finetune
    from speechssl.data import DataConfig
    from speechssl.finetune import FinetuneConfig, MaskConfig
    from speechssl.training import OptimConfig, TrainingConfig

    finetune.run(
        FinetuneConfig(
            pretrained="speechssl-tiny",
            train_manifest=folder / "train.jsonl",
            valid_manifest=folder / "dev.jsonl",
            run_directory=folder / "run",
            head_lr_scale=5.0, head_input="weighted_layers",
            mask=MaskConfig(time_probability=0.1, time_span=3, channel_probability=0.1, channel_span=16),
            data=DataConfig(num_workers=0, cache_megabytes=1000, batch_seconds=20),
            training=TrainingConfig(
                max_steps=800, num_threads=1, validate_interval=200, checkpoint_interval=200, tensorboard=False,
                best_metric="valid_wer", optim=OptimConfig(peak_lr=2e-3, schedule="linear", warmup_fraction=0.1),
            ),
            device="cpu",
        )
    )  # fmt: skip


def main() -> None:
    """Write the splits, the long files, and the model where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--finetune", action="store_true")
    arguments = parser.parse_args()
    folder: Path = arguments.output
    clips = load_clips(arguments.corpora / "fsdd")
    for name, speakers in clips.items():
        make_split(folder, name, speakers, passes=2 if name == "train" else 1)
    make_long(folder, "five_minutes", clips["test"], seconds=300)
    make_long(folder, "hour", clips["test"], seconds=3600)
    if arguments.finetune:
        finetune(folder)


if __name__ == "__main__":
    main()
