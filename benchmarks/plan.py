"""How far the planner is off: predictions from small batches beside what the whole batch, or a training, then takes.

A setting is planned from two small sizes of batch, at most half of the whole one. Then the whole batch is measured in
the same process: the most bytes of tensors held during an update, and CPU seconds of an update. For a training on
recordings it is the CPU seconds of an update of `speechssl.pretrain`, with reading, decoding and batches as they come:
a long run less a short one, so that start, checkpoints and validation do not count.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import main

ROOT = Path(os.environ.get("SPEECHSSL_CORPORA", Path(__file__).parents[2] / "shared" / "corpora"))
TINY_CONV = {"conv_dim": 256, "model_dim": 256, "num_layers": 4, "num_heads": 4, "feed_forward_dim": 1024}
SETTINGS: dict[str, dict[str, Any]] = {
    "tiny, 8 x 3 s": {"preset": "tiny", "clip": 3.0, "count": 8},
    "tiny, 24 x 3 s": {"preset": "tiny", "clip": 3.0, "count": 24},
    "tiny, 6 x 12 s": {"preset": "tiny", "clip": 12.0, "count": 6},
    "4 layers of 256 on convolutions, 6 x 3 s": {"preset": "base", "encoder": TINY_CONV, "clip": 3.0, "count": 6},
    "base, 4 x 2 s": {"preset": "base", "clip": 2.0, "count": 4},
    "training of tiny, long recordings, 8 crops of 6 s": {
        "preset": "tiny", "clip": 6.0, "count": 8, "corpus": "librispeech_train100_251spk",
    },
    "training of tiny, short recordings, 48 s": {"preset": "tiny", "clip": 6.0, "count": 8, "corpus": "kathleen_en"},
}  # fmt: skip
SHORT_RUN, LONG_RUN = 4, 24


def cases() -> list[dict]:
    return [
        {"setting": name} for name, setting in SETTINGS.items() if (ROOT / setting.get("corpus", ".")).exists()
    ]  # fmt: skip


def run(case: dict) -> dict:
    from speechssl.config.yaml_file import dump_yaml
    from speechssl.plan import PlanConfig
    from speechssl.plan.measure import StepMeter
    from speechssl.plan.stage import load_planned
    from speechssl.plan.stage import run as plan

    setting = SETTINGS[case["setting"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        values = configuration(setting, folder)
        path = folder / "pretrain.yaml"
        path.write_text(dump_yaml(values))
        config = PlanConfig(training=path, device="cpu")
        predicted = plan(config)
        planned = load_planned(config)
        numbers = {
            "predicted_cpu_seconds": predicted.step_cpu_seconds,
            "predicted_megabytes": predicted.peak_bytes / 1e6,
        }  # fmt: skip
        if "corpus" in setting:
            found = (training_seconds(values, LONG_RUN) - training_seconds(values, SHORT_RUN)) / (LONG_RUN - SHORT_RUN)
            numbers["measured_cpu_seconds"] = found
        else:
            meter = StepMeter(planned.task, planned.training, planned.device)
            measured = meter.measure(planned.batch_maker(setting["count"]), setting["count"], num_steps=3)
            numbers["measured_cpu_seconds"] = measured.cpu_seconds
            numbers["measured_megabytes"] = measured.peak_bytes / 1e6
            numbers["memory_off_percent"] = 100 * (predicted.peak_bytes / measured.peak_bytes - 1)
    numbers["time_off_percent"] = 100 * (numbers["predicted_cpu_seconds"] / numbers["measured_cpu_seconds"] - 1)
    return numbers


def configuration(setting: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Of the training."""
    manifest = "none.jsonl"
    if "corpus" in setting:
        from speechssl.manifest import build_manifest

        manifest = str(folder / "train.jsonl")
        build_manifest(ROOT / setting["corpus"] / "audio", num_workers=1).manifest.save(manifest)
    return {
        "manifests": [manifest], "run_directory": str(folder / "run"), "preset": setting["preset"],
        "encoder": {**setting.get("encoder", {}), "layer_drop": 0.0}, "device": "cpu",
        "data": {
            "batch_seconds": setting["clip"] * setting["count"], "max_crop_seconds": setting["clip"], "num_workers": 0,
        },
    }  # fmt: skip


def training_seconds(values: dict[str, Any], num_steps: int) -> float:
    """CPU seconds of a pre-training of so many updates, of this process, since there are no workers."""
    from dataclasses import replace

    from speechssl.config import from_dict
    from speechssl.pretrain import PretrainConfig
    from speechssl.pretrain import run as pretrain

    with tempfile.TemporaryDirectory() as name:
        config = from_dict(PretrainConfig, {**values, "run_directory": name}, source="benchmark")
        training = replace(config.training, max_steps=num_steps)
        started = time.process_time()
        pretrain(replace(config, training=training))
        return time.process_time() - started


if __name__ == "__main__":
    main(
        "plan",
        cases,
        run,
        title="The planner",
        notes=" ".join(" ".join(__doc__.split("\n\n")[1:]).split()),
        columns=[
            "predicted_megabytes", "measured_megabytes", "memory_off_percent",
            "predicted_cpu_seconds", "measured_cpu_seconds", "time_off_percent",
        ],
        rounds=3,
        timeout=3000.0,
    )  # fmt: skip
