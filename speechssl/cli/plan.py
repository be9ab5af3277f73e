"""`speechssl plan`: what a training will need before it is begun."""

import json
from typing import TYPE_CHECKING

from speechssl.cli.options import stage_config
from speechssl.cli.output import Cell, clock, log_to_stderr, progress_bar, say, table

if TYPE_CHECKING:
    from speechssl.plan import Plan

EXAMPLE = (
    "speechssl plan --config pretrain.yaml\n"
    "speechssl plan --config pretrain.yaml --gpu_memory 80GB --overrides.preset base --clip_seconds 10"
)
JSON = "--json"


def plan(words: list[str]) -> int:
    """Parameters, operations, memory, the largest batch, hours."""
    from speechssl.plan import PlanConfig, run

    log_to_stderr()
    as_json = JSON in words
    words = [word for word in words if word != JSON]
    # to this command, the configuration is that of the training
    words = [
        f"--training{word.removeprefix('--config')}" if word.split("=")[0] == "--config" else word for word in words
    ]
    config = stage_config(
        "plan",
        PlanConfig,
        words,
        example=EXAMPLE,
        summary="Measure a few small updates of the training that --config (a file of pretrain or finetune) describes,"
        f" and say what it will need. {JSON} prints the numbers as JSON.",
        positionals=("training",),
    )
    if config is None:
        return 0
    with progress_bar("measuring") as progress:
        found = run(config, progress=progress)
    if as_json:
        say(json.dumps(found.to_dict(), indent=2))
    else:
        _show(found)
    return 0


def _show(found: "Plan") -> None:
    parameters = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in found.parameters.items())
    batch = f"{found.num_clips} clips of {found.clip_seconds:.2f} s"
    rows: list[tuple[Cell, ...]] = [
        ("parameters", parameters),
        ("operations of a second of audio", f"{found.flops_per_audio_second / 1e9:.2f} GFLOP, forward and backward"),
        ("weights, gradients, optimizer", _bytes(found.state_bytes)),
        ("activations of a clip", _bytes(found.bytes_per_clip)),
        (f"memory of {batch}", _bytes(found.peak_bytes)),
        ("time of an update", f"{found.step_seconds:.3g} s"),
        ("audio seen", f"{found.audio_hours:.2f} h" + _epochs(found)),
        (f"{found.max_steps} updates", clock(3600 * found.hours)),
    ]
    if found.hours_at_tflops is not None:
        rows.append(("at the TFLOPS given", clock(3600 * found.hours_at_tflops)))
    if found.largest_num_clips:
        largest = f"{found.largest_num_clips} clips, data.batch_seconds {found.largest_batch_seconds:.0f}"
    else:
        largest = "none: not even one clip fits; shorten data.max_crop_seconds or take a smaller model"
    rows.append((f"largest batch in {_bytes(found.memory_bytes)}", largest))
    table(f"{found.stage} as measured on {found.device}", ("", ""), rows, right=False)
    sizes = " and ".join(str(one.num_clips) for one in found.measured)
    say(f"from updates on {sizes} clips; waiting for data and validation are not counted")


def _bytes(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _epochs(found: "Plan") -> str:
    return "" if found.epochs is None else f", {found.epochs:.1f} times the corpus"
