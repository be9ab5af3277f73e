"""How the cost of a pre-training step grows: with clip length, batch, model size and number of distractors.

Real updates (loss, gradients, AdamW) on noise, on one thread. Activations are what is held beside weights and the
optimizer's state before the first gradient is there; the peak of all tensors comes later, among the gradients. `head`
figures are of the contrastive head alone, from projected vectors to the gradient of its loss.
`python benchmarks/cost.py --plot` draws `results/cost.png` from the committed results.
"""

import json
import sys
import tempfile
import time
from itertools import takewhile
from pathlib import Path

from harness import FOLDER, main

# Four layers of 256 on convolutions of 256 channels.
CONV = {"conv_dim": 256, "model_dim": 256, "num_layers": 4, "num_heads": 4, "feed_forward_dim": 1024}
MODELS = {
    "tiny": ("tiny", {}),
    "conv 256": ("base", CONV),
    "small": ("small", {}),
    "base": ("base", {}),
}
HEAD_DIM = 256
HEAD_MASKED = 120  # of 5 s


def cases() -> list[dict]:
    base = {"model": "conv 256", "clip_seconds": 2.0, "clips": 2, "distractors": 100}
    found = [{"varied": "clip length", **base, "clip_seconds": seconds} for seconds in (0.75, 1.5, 3.0, 6.0)]
    found += [{"varied": "batch", **base, "clips": clips} for clips in (1, 2, 4)]
    found += [{"varied": "model", **base, "clips": 1, "model": model} for model in MODELS]
    found += [{"varied": "distractors", **base, "distractors": count} for count in (10, 100, 400)]
    head = {"masked": HEAD_MASKED, "clips": 4, "distractors": 100}
    found += [{"varied": "head, batch", **head, "clips": clips} for clips in (1, 2, 4, 8, 16)]
    found += [{"varied": "head, masked frames", **head, "masked": masked} for masked in (60, 120, 240, 480)]
    return found


def run(case: dict) -> dict:
    return head(case) if case["varied"].startswith("head") else step(case)


def step(case: dict) -> dict:
    """A whole update."""
    from speechssl.config.yaml_file import dump_yaml
    from speechssl.plan import PlanConfig
    from speechssl.plan.measure import StepMeter
    from speechssl.plan.stage import load_planned

    preset, encoder = MODELS[case["model"]]
    values = {
        "manifests": ["none.jsonl"], "run_directory": "none", "preset": preset,
        "encoder": {**encoder, "layer_drop": 0.0}, "contrastive": {"num_distractors": case["distractors"]},
        "data": {"batch_seconds": 100.0, "max_crop_seconds": case["clip_seconds"]},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pretrain.yaml"
        path.write_text(dump_yaml(values))
        planned = load_planned(PlanConfig(training=path, device="cpu"))
    meter = StepMeter(planned.task, planned.training, planned.device)
    found = meter.measure(planned.batch_maker(case["clips"]), case["clips"], num_steps=1)
    forward = max(most for _, most in takewhile(lambda phase: not phase[0].startswith("gradient of"), found.phases))
    parameters = [parameter for module in planned.task.modules.values() for parameter in module.parameters()]
    gradients = sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
    return {
        "step_cpu_seconds": found.cpu_seconds,
        "peak_megabytes_of_tensors": found.peak_bytes / 1e6,
        "activation_megabytes": (forward - (meter.state_bytes() - gradients)) / 1e6,
    }


def head(case: dict) -> dict:
    """Similarities of masked frames, targets' logits, loss and gradient, with operations counted by torch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from speechssl.objectives.contrastive import contrastive_logits

    generator = torch.Generator().manual_seed(0)
    clips, masked = case["clips"], case["masked"]
    shape = (clips, masked, HEAD_DIM)
    context = torch.randn(shape, generator=generator).requires_grad_()
    targets = torch.randn(shape, generator=generator).requires_grad_()
    ids = torch.randint(0, 1000, (clips, masked), generator=generator)
    distractors = torch.randint(0, masked, (clips, masked, case["distractors"]), generator=generator)

    def once() -> None:
        logits = contrastive_logits(context, targets, ids, distractors, temperature=0.1)
        (torch.logsumexp(logits, dim=-1) - logits[:, :, 0]).mean().backward()

    once()
    with FlopCounterMode(display=False) as counter:
        once()
    spent = []
    for _ in range(15):
        started = time.process_time()
        once()
        spent.append(time.process_time() - started)
    return {"head_cpu_milliseconds": 1000 * sorted(spent)[7], "head_megaflop": counter.get_total_flops() / 1e6}


def plot() -> None:
    """`results/cost.png` from `results/cost.json`."""
    from matplotlib.figure import Figure

    result = json.loads((FOLDER / "results" / "cost.json").read_text())
    panels = {
        "clip length": ("clip_seconds", "seconds a clip", "step_cpu_seconds", "activation_megabytes"),
        "batch": ("clips", "clips in a batch", "step_cpu_seconds", "activation_megabytes"),
        "model": ("model", "model", "step_cpu_seconds", "peak_megabytes_of_tensors"),
        "distractors": ("distractors", "distractors", "step_cpu_seconds", "activation_megabytes"),
        "head, batch": ("clips", "clips in a batch", "head_cpu_milliseconds", "head_megaflop"),
        "head, masked frames": ("masked", "masked frames of an utterance", "head_cpu_milliseconds", "head_megaflop"),
    }
    figure = Figure(figsize=(12, 6.6), layout="constrained")
    for axes, (varied, (key, label, left, right)) in zip(figure.subplots(2, 3).flat, panels.items(), strict=True):
        entries = [entry for entry in result["cases"] if entry["case"]["varied"] == varied]
        x = [entry["case"][key] for entry in entries]
        for name, column, colour, marker in ((axes, left, "#0072b2", "o"), (axes.twinx(), right, "#d55e00", "s")):
            y = [entry["summary"][column]["median"] for entry in entries]
            name.plot(x, y, color=colour, marker=marker, markersize=4)
            name.set_ylabel(column.replace("_", " "), color=colour)
            name.set_ylim(bottom=0)
        if not isinstance(x[0], str):
            axes.set_xlim(left=0)
        axes.set_xlabel(label)
        axes.set_title(varied, loc="left", fontweight="bold", fontsize=10)
    figure.savefig(FOLDER / "results" / "cost.png", dpi=90, facecolor="white")


if __name__ == "__main__":
    if sys.argv[1:] == ["--plot"]:
        plot()
    else:
        main(
            "cost",
            cases,
            run,
            title="What a step costs",
            notes=" ".join(__doc__.split("\n\n")[1].split()),
            columns=[
                "step_cpu_seconds", "activation_megabytes", "peak_megabytes_of_tensors", "head_cpu_milliseconds",
                "head_megaflop",
            ],
            rounds=1,
            timeout=3000.0,
            together=lambda case: case["varied"].partition(",")[0],
        )  # fmt: skip
