"""How long until something happens: help texts, and the first update of a training run, from an empty process.

`seconds_beyond` is CPU time beyond that of `python -c pass` in the same round; for a training run,
`first_update_seconds` is wall time from the command to the first line of its metrics, and includes the making of the
model and of the batch.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import main, measured

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
REPOSITORY = Path(__file__).resolve().parents[1]

COMMANDS = {
    "speechssl --help": ["-m", "speechssl", "--help"],
    "speechssl --version": ["-m", "speechssl", "--version"],
    "speechssl pretrain --help": ["-m", "speechssl", "pretrain", "--help"],
    "import speechssl": ["-c", "import speechssl"],
    "import torch": ["-c", "import torch"],
}
RUNS = {"speechssl pretrain, tiny": "tiny", "speechssl pretrain, base": "base"}


def cases() -> list[dict]:
    """Help texts, then training."""
    return [{"command": command} for command in (*COMMANDS, *RUNS)]


def run(case: dict) -> dict:
    """Start it once; a first start, not counted, fills the system's file cache."""
    command = case["command"]
    if command in RUNS:
        return first_update(RUNS[command])
    start(COMMANDS[command])
    with measured() as bare:
        start(["-c", "pass"])
    with measured() as used:
        start(COMMANDS[command])
    return {**used.as_dict(), "seconds_beyond": used.cpu_seconds - bare.cpu_seconds}


def environment() -> dict[str, str]:
    """One thread, and the package from this repository."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def start(words: list[str]) -> None:
    """Run Python with `words`."""
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment())


def first_update(preset: str) -> dict:
    """Two updates of a preset on real speech, 4 s crops in batches of 16 s."""
    from speechssl.manifest import build_manifest

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        audio = folder / "audio"
        audio.mkdir()
        for path in sorted((ROOT / "librispeech_train100_251spk/audio").iterdir())[:20]:
            (audio / path.name).symlink_to(path)
        build_manifest(audio, num_workers=1).manifest.save(folder / "clips.jsonl")
        options = {
            "manifests": json.dumps([str(folder / "clips.jsonl")]), "run_directory": str(folder / "run"),
            "preset": preset, "training.max_steps": "2", "training.log_interval": "1",
            "training.validate_interval": "null", "data.max_crop_seconds": "4", "data.batch_seconds": "16",
            "data.num_workers": "0", "device": "cpu",
        }  # fmt: skip
        words = ["--no_report", *(f"--{key}={value}" for key, value in options.items())]
        metrics = folder / "run" / "metrics.jsonl"
        with measured() as used:
            begun = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "speechssl", "pretrain", *words],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
            )  # fmt: skip
            first = None
            while process.poll() is None:
                if first is None and metrics.exists() and metrics.stat().st_size:
                    first = time.perf_counter() - begun
                time.sleep(0.02)
        if process.returncode or first is None:
            raise SystemExit(f"speechssl pretrain {' '.join(words)}: ended with exit code {process.returncode}")
    return {**used.as_dict(), "first_update_seconds": first}


if __name__ == "__main__":
    main(
        "start_up",
        cases,
        run,
        title="Start-up",
        columns=["seconds_beyond", "first_update_seconds", "cpu_seconds", "wall_seconds"],
        notes=" ".join((__doc__ or "").split("\n\n")[1].split()),
        rounds=3,
    )
