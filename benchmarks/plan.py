"""How far the planner is off: predictions from small batches beside what the whole batch then takes.

A setting is planned from two small sizes of batch, at most half of the whole one, and then the whole batch is measured
in the same process: the most bytes of tensors held during an update, and CPU seconds of an update.
"""

import tempfile
from pathlib import Path

from harness import main

TINY_CONV = {"conv_dim": 256, "model_dim": 256, "num_layers": 4, "num_heads": 4, "feed_forward_dim": 1024}
SETTINGS = {
    "tiny, 8 x 3 s": {"preset": "tiny", "clip": 3.0, "count": 8},
    "tiny, 24 x 3 s": {"preset": "tiny", "clip": 3.0, "count": 24},
    "tiny, 6 x 12 s": {"preset": "tiny", "clip": 12.0, "count": 6},
    "4 layers of 256 on convolutions, 6 x 3 s": {"preset": "base", "encoder": TINY_CONV, "clip": 3.0, "count": 6},
    "base, 4 x 2 s": {"preset": "base", "clip": 2.0, "count": 4},
}


def cases() -> list[dict]:
    return [{"setting": name} for name in SETTINGS]


def run(case: dict) -> dict:
    from speechssl.config.yaml_file import dump_yaml
    from speechssl.plan import PlanConfig
    from speechssl.plan.measure import StepMeter
    from speechssl.plan.stage import load_planned
    from speechssl.plan.stage import run as plan

    setting = SETTINGS[case["setting"]]
    values = {
        "manifests": ["none.jsonl"], "run_directory": "none", "preset": setting["preset"],
        "encoder": {**setting.get("encoder", {}), "layer_drop": 0.0},
        "data": {"batch_seconds": setting["clip"] * setting["count"], "max_crop_seconds": setting["clip"]},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrain.yaml"
        path.write_text(dump_yaml(values))
        config = PlanConfig(training=path, num_steps=2, device="cpu")
        predicted = plan(config)
        planned = load_planned(config)
    meter = StepMeter(planned.task, planned.training, planned.device)
    found = meter.measure(planned.batch_maker(setting["count"]), setting["count"], num_steps=2)
    return {
        "predicted_megabytes": predicted.peak_bytes / 1e6,
        "measured_megabytes": found.peak_bytes / 1e6,
        "memory_off_percent": 100 * (predicted.peak_bytes / found.peak_bytes - 1),
        "predicted_cpu_seconds": predicted.step_cpu_seconds,
        "measured_cpu_seconds": found.cpu_seconds,
        "time_off_percent": 100 * (predicted.step_cpu_seconds / found.cpu_seconds - 1),
    }


if __name__ == "__main__":
    main(
        "plan",
        cases,
        run,
        title="The planner",
        notes=" ".join(__doc__.split("\n\n")[1].split()),
        columns=[
            "predicted_megabytes", "measured_megabytes", "memory_off_percent",
            "predicted_cpu_seconds", "measured_cpu_seconds", "time_off_percent",
        ],
        rounds=1,
        timeout=3000.0,
        together=lambda case: case["setting"].startswith("base"),
    )  # fmt: skip
