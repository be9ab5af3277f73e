"""What helps a pre-trained encoder over the CTC blank plateau? One fine-tuning of spoken digits for each remedy.

    python recipes/tiny/remedies.py --output runs/tiny-remedies --seeds 1
    python recipes/tiny/remedies.py --output runs/tiny-remedies --seeds 1 2 3 --arms plain weighted_layers

Every arm is `finetune_digits.yaml` from `speechssl-tiny` at the rate that the comparison chose (2e-3), for 200 updates,
with the options of `ARMS`. Dev only: no test clip is read. Finished runs are not repeated. Writes OUTPUT/remedies.json
and prints the table of the README.
"""

import argparse
import json
import logging
from pathlib import Path
from statistics import mean
from typing import Any

from speechssl.jobs import Job, run_jobs
from speechssl.training.records import read_metrics

RATE = "2e-3"
NUM_UPDATES = 200
SHORTER = [
    "--training.max_steps",
    str(NUM_UPDATES),
    "--training.validate_interval",
    "20",
    "--training.log_interval",
    "10",
]
ARMS: dict[str, list[str]] = {
    "plain": [],
    "freeze_40": ["--freeze_steps", "40"],
    "head_rate_5": ["--head_lr_scale", "5"],
    "blank_bias_-2": ["--blank_bias", "-2"],
    "weighted_layers": ["--head_input", "weighted_layers"],
    "weighted_layers_head_rate_5": ["--head_input", "weighted_layers", "--head_lr_scale", "5"],
    "ema_0.98": ["--ema_decay", "0.98"],
    "adapters_16": ["--adapters.rank", "16"],
    "layer_decay_0.7": ["--layer_lr_decay", "0.7"],
}


def main() -> None:
    """Train what is missing, then tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("recipes/tiny/finetune_digits.yaml"))
    parser.add_argument("--output", type=Path, default=Path("runs/tiny-remedies"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folders = {
        (arm, seed): arguments.output / f"{arm}-seed{seed}" for arm in arguments.arms for seed in arguments.seeds
    }
    jobs = []
    for (arm, seed), folder in folders.items():
        if any("valid_cer" in line and line["step"] == NUM_UPDATES for line in read_metrics(folder)):
            continue
        words = ["finetune", "--no_report", "--config", str(arguments.config), "--pretrained", "speechssl-tiny"]
        words += ["--run_directory", str(folder), "--training.optim.peak_lr", RATE, "--training.seed", str(seed)]
        jobs.append(
            Job(
                name=folder.name,
                words=words + SHORTER + ARMS[arm],
                log=folder.with_suffix(".log"),
                status=lambda: "training",
            )
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    run_jobs(jobs, num_parallel=arguments.jobs, report_seconds=600)
    results = tabulate(arguments.output)
    (arguments.output / "remedies.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def tabulate(output: Path) -> list[dict[str, Any]]:
    """All runs found in `output`, and the table of their means on the standard output."""
    runs = [describe(arm, folder) for arm in ARMS for folder in sorted(output.glob(f"{arm}-seed*/"))]
    print("| arm | options | seeds | speaks after update | dev CER at update 80 | best dev CER | dev WER there |")
    print("|---|---|---|---|---|---|---|")
    for arm in ARMS:
        own = [run for run in runs if run["arm"] == arm]
        if own:
            speaks = ", ".join(str(run["speaks_after"] or "never") for run in own)
            columns = (rates(own, name) for name in ("cer_80", "cer", "wer"))
            print(f"| {arm} | `{' '.join(ARMS[arm])}` | {len(own)} | {speaks} | {' | '.join(columns)} |")
    return runs


def describe(arm: str, folder: Path) -> dict[str, Any]:
    """What became of one run: when it left the plateau (blanks below nine tenths of a log interval's frames)."""
    lines = read_metrics(folder)
    validations = [line for line in lines if "valid_cer" in line]
    best = min(validations, key=lambda line: float(line["valid_cer"]))
    quiet = [line["step"] for line in lines if line.get("blank_fraction", 0.0) >= 0.9]
    spoke = [line["step"] for line in lines if "blank_fraction" in line and line["step"] > max(quiet, default=0)]
    return {
        "arm": arm,
        "options": ARMS[arm],
        "seed": int(folder.name.rpartition("seed")[2]),
        "speaks_after": min(spoke, default=None),
        "cer_80": next(line["valid_cer"] for line in validations if line["step"] >= 80),
        "step": best["step"],
        "cer": best["valid_cer"],
        "wer": best["valid_wer"],
        "diagnoses": [line["kind"] for line in lines if line.get("event") == "diagnosis"],
    }


def rates(runs: list[dict[str, Any]], name: str) -> str:
    """`12.3 %`, and the range where there are several."""
    values = [100 * float(run[name]) for run in runs]
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{mean(values):.1f} %{spread}"


if __name__ == "__main__":
    main()
