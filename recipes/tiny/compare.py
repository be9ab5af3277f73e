"""Does pre-training pay? Fine-tune each arm with its own best learning rate: several seeds, same labels and updates.

    python recipes/tiny/compare.py --arm scratch --arm tiny=runs/tiny --rates 5e-4 1e-3 2e-3 --seeds 1 2 3

Every rate is tried with the first seed; the one with the lowest character error rate on dev is run with the other
seeds. Only then is the test manifest read. Finished runs are not repeated, interrupted ones go on. Writes
OUTPUT/results.json and prints the tables of README.md.
"""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl import evaluate
from speechssl.jobs import Job, run_jobs
from speechssl.scoring import paired_bootstrap
from speechssl.types import ErrorReport


@dataclass(frozen=True, kw_only=True)
class Run:
    """One fine-tuning."""

    arm: str
    source: str | None
    rate: str
    seed: int
    folder: Path

    def words(self, arguments: argparse.Namespace) -> list[str]:
        """The command that trains it."""
        words = ["finetune", "--config", str(arguments.config), "--run_directory", str(self.folder)]
        words += ["--training.optim.peak_lr", self.rate, "--training.seed", str(self.seed)]
        return words + (["--pretrained", self.source] if self.source else [])

    def validations(self) -> list[dict[str, Any]]:
        """Every validation on dev."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [values for values in map(json.loads, lines) if "valid_cer" in values]

    def best(self) -> dict[str, Any]:
        """The validation of the checkpoint that is kept as best."""
        return min(self.validations(), key=lambda values: float(values["valid_cer"]))

    def status(self) -> str:
        """For the progress log."""
        return f"dev CER {self.best()['valid_cer']:.3f}" if self.validations() else "training"


def train(runs: list[Run], arguments: argparse.Namespace) -> None:
    """Train side by side, one thread each."""
    jobs = [
        Job(name=run.folder.name, words=run.words(arguments), log=run.folder.with_suffix(".log"), status=run.status)
        for run in runs
    ]
    run_jobs(jobs, num_parallel=arguments.jobs, report_seconds=60)


def test(run: Run, arguments: argparse.Namespace) -> ErrorReport:
    """Error rates of a run's best checkpoint on the test manifest."""
    config = evaluate.EvaluateConfig(
        checkpoint=str(run.folder), manifest=arguments.test, output=run.folder / "test", device="cpu"
    )
    return evaluate.run(config).report


def main() -> None:
    """Sweep, repeat, test, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("recipes/tiny/finetune.yaml"))
    parser.add_argument("--test", type=Path, default=Path("data/tiny/kathleen_test.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("runs/tiny-compare"))
    parser.add_argument("--arm", action="append", required=True, help="scratch, or NAME=CHECKPOINT")
    parser.add_argument("--rates", nargs="+", default=["5e-4", "1e-3", "2e-3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.output.mkdir(parents=True, exist_ok=True)

    def make(arm: str, rate: str, seed: int) -> Run:
        name, _, source = arm.partition("=")
        folder = arguments.output / f"{name}-lr{rate}-seed{seed}"
        return Run(arm=name, source=source or None, rate=rate, seed=seed, folder=folder)

    first = arguments.seeds[0]
    sweep = [make(arm, rate, first) for rate in arguments.rates for arm in arguments.arm]
    train(sweep, arguments)
    chosen = {}
    for arm in arguments.arm:
        candidates = [run for run in sweep if run.arm == arm.partition("=")[0] and run.validations()]
        chosen[arm] = min(candidates, key=lambda run: float(run.best()["valid_cer"])).rate
    repeats = [make(arm, chosen[arm], seed) for seed in arguments.seeds[1:] for arm in arguments.arm]
    train(repeats, arguments)

    final = [make(arm, chosen[arm], seed) for arm in arguments.arm for seed in arguments.seeds]
    reports = {run.folder.name: test(run, arguments) for run in final}
    rows: list[dict[str, Any]] = []
    print("| arm | learning rate | seed | best step | dev loss | dev CER | test CER (95 %) | test WER (95 %) |")
    print("|---|---|---|---|---|---|---|---|")
    for run in [*sweep, *repeats]:
        best = run.best()
        row = {"arm": run.arm, "rate": run.rate, "seed": run.seed, "step": best["step"]}
        row |= {name: best[f"valid_{name}"] for name in ("loss", "cer", "wer")}
        tested = "not chosen | "
        if run.folder.name in reports and run in final:
            report = reports[run.folder.name]
            row |= {"test_cer": report.cer, "test_cer_interval": report.cer_interval}
            row |= {"test_wer": report.wer, "test_wer_interval": report.wer_interval}
            tested = f"{show(report.cer, report.cer_interval)} | {show(report.wer, report.wer_interval)}"
        rows.append(row)
        print(
            f"| {run.arm} | {run.rate} | {run.seed} | {best['step']} | {best['valid_loss']:.3f} |"
            f" {100 * best['valid_cer']:.1f} % | {tested} |"
        )
    differences = []
    base = arguments.arm[0]
    for arm in arguments.arm[1:]:
        for seed in arguments.seeds:
            pair = [reports[make(name, chosen[name], seed).folder.name] for name in (base, arm)]
            change = paired_bootstrap(*pair)
            differences.append({"arm": arm, "seed": seed, **vars(change)})
            print(
                f"{arm.partition('=')[0]} minus {base}, seed {seed}: CER"
                f" {show(change.cer_difference, change.cer_interval)}, WER"
                f" {show(change.wer_difference, change.wer_interval)}"
            )
    results = {"runs": rows, "differences": differences}
    (arguments.output / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def show(rate: float, interval: tuple[float, float]) -> str:
    """`12.3 % (11.0 to 13.9)`."""
    return f"{100 * rate:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


if __name__ == "__main__":
    main()
