r"""Turn the finished run into the encoder that the package carries: half-precision weights and a provenance card.

    python recipes/tiny/ship.py --run runs/tiny --manifest data/tiny/pretrain.jsonl \
        --output speechssl/assets/speechssl-tiny \
        --command "speechssl pretrain --config recipes/tiny/pretrain.yaml" --commit COMMIT

The card (`provenance.json`) holds data and licences, commands, commit, seed, hardware and the training curve.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from speechssl.config import read_yaml
from speechssl.manifest import Manifest
from speechssl.model_directory import CONFIG_FILE, MODEL_FILE, resolve_model_directory

# part of a recording's path -> source and licence, as each corpus states them
CORPORA = {
    "librispeech": ("LibriSpeech train-clean-100, one utterance a speaker", "CC BY 4.0, Vassil Panayotov"),
    "kathleen": ("Rhasspy voice data set Kathleen, CMU ARCTIC prompts", "CC0 1.0"),
    "ljspeech": ("LJ Speech 1.1, first 385 clips", "public domain"),
    "kerstin": ("Rhasspy voice data set Kerstin, German", "CC0 1.0"),
    "fsdd": ("Free Spoken Digit Dataset", "CC BY-SA 4.0, Zohar Jackson and contributors"),
    "wakewords": ("Picovoice wake-word benchmark; Mycroft Precise community data", "Apache-2.0; public domain"),
}
CURVE_POINTS = 60


def corpora_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Clips and hours of each corpus."""
    paths = manifest.column("audio_filepath").to_pylist()
    durations = manifest.durations
    rows = []
    for part, (source, licence) in CORPORA.items():
        seconds = [duration for path, duration in zip(paths, durations, strict=True) if part in path]
        rows.append(
            {"source": source, "licence": licence, "clips": len(seconds), "hours": round(sum(seconds) / 3600, 3)}
        )
    assert sum(row["clips"] for row in rows) == len(manifest), "a recording belongs to no known corpus"
    return rows


def curve_of(run: Path) -> list[dict[str, float]]:
    """The run's metrics, thinned."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    training = [line for line in lines if "contrastive_loss" in line]
    names = ("step", "contrastive_loss", "accuracy", "code_perplexity", "learning_rate", "audio_hours")
    every = max(1, len(training) // CURVE_POINTS)
    kept = [*training[::every], training[-1]]
    return [{name: round(float(line[name]), 6) for name in names if name in line} for line in kept]


def main() -> None:
    """Write config.json, model.safetensors and provenance.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--command", action="append", required=True, help="a command that made the run, in order")
    parser.add_argument("--commit", action="append", required=True, help="the commit each command ran at")
    arguments = parser.parse_args()

    source = resolve_model_directory(arguments.run)
    tensors = {name: tensor.to(torch.float16) for name, tensor in load_file(source / MODEL_FILE).items()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    save_file(tensors, arguments.output / MODEL_FILE, metadata={"format": "pt"})
    (arguments.output / CONFIG_FILE).write_bytes((source / CONFIG_FILE).read_bytes())

    config = read_yaml(arguments.run / "config.yaml")
    environment = json.loads((arguments.run / "environment.json").read_text(encoding="utf-8"))
    manifest = Manifest.load(arguments.manifest)
    curve = curve_of(arguments.run)
    card = {
        "name": arguments.output.name,
        "what": "wav2vec-style encoder on log-mel features, pre-trained by masked contrastive prediction",
        "licence": "CC BY-SA 4.0 (the strictest of its data's licences)",
        "data": corpora_of(manifest),
        "left_out_of_training": "kathleen dev and test prompts, FSDD takes 0 to 4, sixteen LibriSpeech speakers",
        "data_fingerprint": environment.get("data_fingerprint", manifest.fingerprint()),
        "runs": [
            {"command": command, "commit": commit}
            for command, commit in zip(arguments.command, arguments.commit, strict=True)
        ],
        "seed": config["training"]["seed"],
        "steps": int(curve[-1]["step"]),
        "audio_hours_seen": curve[-1].get("audio_hours"),
        "hardware": "one core of a two-core x86-64 machine, fp32",
        "weights": "stored as float16, computed with as float32",
        "configuration": {name: config[name] for name in ("contrastive", "data", "training", "resolved_encoder")},
        "curve": curve,
    }
    (arguments.output / "provenance.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    size = (arguments.output / MODEL_FILE).stat().st_size
    print(f"{arguments.output}: {size / 1e6:.1f} MB, {card['steps']} steps")


if __name__ == "__main__":
    main()
