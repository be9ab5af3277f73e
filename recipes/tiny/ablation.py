"""What of the pre-training matters? The same pre-training with one thing changed each, then the same fine-tuning.

    python recipes/tiny/ablation.py --output runs/tiny-ablation --seeds 1 2
    python recipes/tiny/ablation.py --output runs/tiny-ablation --rows one_reader --encoder shipped=speechssl-tiny

Every row is `pretrain.yaml` for 1000 updates with the options of `ROWS`; then `recipes/read_speech/finetune.yaml` on
15 minutes of labels from each of them, and from those that `--encoder NAME=MODEL` adds (`scratch` is none). Dev only:
no test clip is read. Finished runs are not repeated. Writes OUTPUT/ablation.json and prints the table of the README.
"""

import argparse
import json
import logging
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from speechssl.jobs import Job, run_jobs
from speechssl.training.records import read_metrics

NUM_UPDATES = 1000
FINETUNE_UPDATES = 800
RATE = "2e-3"
WAVEFORM = ("--encoder.front_end", "waveform", "--encoder.conv_dim", "128", "--encoder.conv_norm", "layer",
            "--contrastive.feature_penalty_weight", "10")  # fmt: skip
ROWS: dict[str, list[str]] = {
    "reference": [],
    "clusters_of_mfcc": ["--objective", "cluster", "--cluster.targets", "{units}", "--cluster.mask_probability", "0.65",
                         "--cluster.feature_penalty_weight", "0"],
    "waveform": [*WAVEFORM],
    "waveform_advised": [*WAVEFORM, "--contrastive.diversity_weight", "0.5", "--contrastive.logit_std", "2",
                         "--training.optim.peak_lr", "5e-4"],
    "one_reader": ["--manifests", "data/tiny/kathleen_train.jsonl"],
    "entries_320": ["--contrastive.num_entries", "320"],
    "distractors_20": ["--contrastive.num_distractors", "20"],
    "no_diversity": ["--contrastive.diversity_weight", "0"],
    "mask_0.4": ["--contrastive.mask_probability", "0.4"],
    "mask_span_5": ["--contrastive.mask_span", "5"],
    "small_logits": ["--contrastive.logit_std", "2"],
    "rate_5e-4": ["--training.optim.peak_lr", "5e-4"],
    "rate_2e-3": ["--training.optim.peak_lr", "2e-3"],
}  # fmt: skip


def main() -> None:
    """Pre-train and fine-tune what is missing, then tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("recipes/tiny/pretrain.yaml"))
    parser.add_argument("--finetune", type=Path, default=Path("recipes/read_speech/finetune.yaml"))
    parser.add_argument("--labels", type=Path, default=Path("runs/read-speech/labels/15min.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("runs/tiny-ablation"))
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--encoder", nargs="*", default=[], metavar="NAME=MODEL", help="more rows; MODEL may be scratch"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.output.mkdir(parents=True, exist_ok=True)
    if "clusters_of_mfcc" in arguments.rows:
        make_units(arguments.output / "units-mfcc")
    for row in arguments.rows:
        # One row after the other, so that its fine-tunings can be looked at while the next is trained.
        source = arguments.output / "pretrained" / row
        if not any(line.get("step") == NUM_UPDATES for line in read_metrics(source)):
            run_jobs([pretraining(row, source, arguments)], num_parallel=1, report_seconds=300)
        run_jobs(finetunings(row, str(source), arguments), num_parallel=arguments.jobs, report_seconds=300)
    for entry in arguments.encoder:
        name, _, model = entry.partition("=")
        run_jobs(finetunings(name, model, arguments), num_parallel=arguments.jobs, report_seconds=300)
    results = tabulate(arguments.output)
    (arguments.output / "ablation.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def make_units(folder: Path) -> None:
    """The targets of the first iteration of HuBERT: 100 clusters of MFCC."""
    if not (folder / "result.json").exists():
        words = ["units", "mfcc", "data/tiny/pretrain.jsonl", "--output", str(folder), "--num_passes", "1"]
        subprocess.run([sys.executable, "-m", "speechssl", *words], check=True)


def pretraining(row: str, folder: Path, arguments: argparse.Namespace) -> Job:
    """The command of a row."""
    folder.parent.mkdir(exist_ok=True)
    words = ["pretrain", "--config", str(arguments.config), "--run_directory", str(folder)]
    words += ["--training.max_steps", str(NUM_UPDATES), "--training.validate_interval", "250"]
    words += [word.format(units=arguments.output / "units-mfcc") for word in ROWS[row]]
    return Job(name=row, words=words, log=folder.with_name(f"{folder.name}.log"), status=lambda: "pre-training")


def finetunings(row: str, source: str, arguments: argparse.Namespace) -> list[Job]:
    """The commands of a row's fine-tunings that have not been finished."""
    jobs = []
    for seed in arguments.seeds:
        folder = arguments.output / "finetuned" / f"{row}-seed{seed}"
        folder.parent.mkdir(exist_ok=True)
        if any("valid_cer" in line and line["step"] == FINETUNE_UPDATES for line in read_metrics(folder)):
            continue
        words = ["finetune", "--no_report", "--config", str(arguments.finetune), "--run_directory", str(folder)]
        words += ["--train_manifest", str(arguments.labels), "--training.seed", str(seed)]
        words += ["--training.max_steps", str(FINETUNE_UPDATES), "--training.optim.peak_lr", RATE]
        words += ["--pretrained", "null" if source == "scratch" else source]
        log = folder.with_name(f"{folder.name}.log")
        jobs.append(Job(name=folder.name, words=words, log=log, status=lambda: "fine-tuning"))
    return jobs


def tabulate(output: Path) -> list[dict[str, Any]]:
    """All runs found in `output`, and their table on the standard output."""
    names = sorted({path.name.rpartition("-seed")[0] for path in (output / "finetuned").glob("*-seed*/")})
    order = [*(row for row in ROWS if row in names), *(name for name in names if name not in ROWS)]
    results = [describe(name, output) for name in order]
    print("| pre-training | changed | dev CER after fine-tuning | dev WER | hours of one core | loss | codes in use |")
    print("|---|---|---|---|---|---|---|")
    for result in results:
        cells = [result["row"], f"`{' '.join(result['options'])}`" if result["options"] else ""]
        cells += [rates([run[name] for run in result["runs"]]) for name in ("cer", "wer")]
        cells += [number(result[name]) for name in ("hours", "valid_loss", "valid_code_perplexity")]
        print(f"| {' | '.join(cells)} |")
    return results


def describe(row: str, output: Path) -> dict[str, Any]:
    """What became of one row: its last validation in pre-training, the best one of each of its fine-tunings."""
    lines = read_metrics(output / "pretrained" / row)
    last: dict[str, Any] = next((line for line in reversed(lines) if "valid_loss" in line), {})
    logged = [line for line in lines if "audio_seconds_per_second" in line]
    heard = [0.0, *(float(line["audio_hours"]) for line in logged)]
    spent = [
        (now - before) / float(line["audio_seconds_per_second"])
        for line, before, now in zip(logged, heard, heard[1:], strict=False)
    ]
    runs = []
    for folder in sorted((output / "finetuned").glob(f"{row}-seed*/")):
        validations = [line for line in read_metrics(folder) if "valid_cer" in line]
        best = min(validations, key=lambda line: float(line["valid_cer"]))
        seed = int(folder.name.rpartition("seed")[2])
        runs.append({"seed": seed, "step": best["step"], "cer": best["valid_cer"], "wer": best["valid_wer"]})
    diagnoses = sorted({line["kind"] for line in lines if line.get("event") == "diagnosis"})
    return {
        "row": row,
        "options": ROWS.get(row, []),
        "runs": runs,
        "hours": sum(spent) if spent else None,
        **{name: last.get(name) for name in ("step", "valid_loss", "valid_accuracy", "valid_code_perplexity")},
        "diagnoses": diagnoses,
    }


def rates(values: list[float]) -> str:
    """`12.3 %`, and the range where there are several."""
    found = [100 * float(value) for value in values]
    spread = f" ({min(found):.1f} to {max(found):.1f})" if len(found) > 1 else ""
    return f"{mean(found):.1f} %{spread}"


def number(value: float | None) -> str:
    """With two decimals, empty where there is none."""
    return "" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
