"""Pre-training, fine-tuning and embedding on one GPU: audio hours per second, share of the matmul peak, memory.

    python benchmarks/gpu.py                         # base and large at the reference batch of 1.4M samples
    python benchmarks/gpu.py --compile --presets base
    python benchmarks/gpu.py --device cpu --small    # the same code, small, where there is no GPU

Needs torch and numpy alone; speechssl need not be installed. Where `transformers` can be imported, its Wav2Vec2 of the
same size runs beside ours on the same work in the same process: bf16 autocast, SDPA attention, fused AdamW; its masks
and negatives are drawn beforehand (they come from its data collator), ours within the step. Peak is that of one large
bf16 matrix product, measured in the same run. FLOPs are counted by torch over one step of ours, forward and backward.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a machine with nothing of ours installed

from speechssl.encoder import EncoderConfig, SpeechEncoder, encoder_config
from speechssl.lengths import no_padding
from speechssl.objectives import ContrastiveConfig, build_contrastive
from speechssl.training.optim import OptimConfig, apply_update, build_optimizer
from speechssl.types import AudioBatch

RATE = 16_000
LARGE_OBJECTIVE = {"feature_penalty_weight": 0.0, "quantized_dim": 768, "final_dim": 768}
SMALL = {"conv_dim": 64, "model_dim": 128, "num_layers": 2, "num_heads": 4, "feed_forward_dim": 256}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--presets", nargs="+", default=["base", "large"])
    parser.add_argument("--batch_seconds", type=float, default=87.5)
    parser.add_argument("--crop_seconds", type=float, default=12.5)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--compile", action="store_true", help="compile the feed-forward parts of ours, as the stages do"
    )
    parser.add_argument("--small", action="store_true", help="small models and batches, to try the script")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.small:
        arguments.batch_seconds, arguments.crop_seconds = 8.0, 2.0
        arguments.warmup, arguments.steps, arguments.rounds = 1, 2, 1
    result: dict[str, Any] = {"machine": machine(device), "arguments": {k: str(v) for k, v in vars(arguments).items()}}
    result["matmul_peak_tflops"] = matmul_peak(device, 1024 if arguments.small else 8192)
    print(json.dumps(result["machine"]), f"peak {result['matmul_peak_tflops']:.1f} TFLOP/s", flush=True)
    result["cases"] = []
    for preset in arguments.presets:
        for name, build in CASES.items():
            measured = run_case(preset, name, build, arguments, device, result["matmul_peak_tflops"])
            result["cases"] += measured
            for entry in measured:
                print(json.dumps({key: value for key, value in entry.items() if key != "kernels"}), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def run_case(
    preset: str, name: str, build: Callable[..., Any], arguments: argparse.Namespace, device: torch.device, peak: float
) -> list[dict[str, Any]]:
    """Ours and the peer's, round by round in turn; medians over all steps."""
    config = encoder_config(preset, SMALL if arguments.small else None)
    batch = make_batch(arguments.batch_seconds, arguments.crop_seconds, device)
    sides: dict[str, Callable[[], object]] = {"speechssl": build(config, batch, preset, arguments.compile)}
    if name in PEERS:
        try:
            sides["transformers"] = PEERS[name](config, batch, preset)
        except ImportError as error:
            print(f"transformers is left out: {error}", flush=True)
    flops = count_flops(sides["speechssl"])
    synchronizes = host_synchronizes(sides["speechssl"], device)
    times: dict[str, list[float]] = {side: [] for side in sides}
    memory = dict.fromkeys(sides, 0.0)
    for round_number in range(arguments.rounds):
        order = list(sides) if round_number % 2 == 0 else list(sides)[::-1]
        for side in order:
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            for _ in range(arguments.warmup):
                sides[side]()
            times[side] += [timed(sides[side], device) for _ in range(arguments.steps)]
            if device.type == "cuda":
                memory[side] = max(memory[side], torch.cuda.max_memory_allocated() / 2**30)
    entries = []
    for side, seconds in times.items():
        median = statistics.median(seconds)
        entry: dict[str, Any] = {
            "preset": preset,
            "case": name,
            "implementation": side,
            "seconds_per_step": median,
            "spread": [min(seconds), max(seconds)],
            "audio_hours_per_second": batch.seconds / 3600 / median,
            "memory_gib_all_sides_held": memory[side],
        }
        if side == "speechssl":
            entry |= {
                "tflops": flops / median / 1e12,
                "share_of_peak": flops / median / 1e12 / peak,
                "waits_for_device": synchronizes,
                "kernels": kernels(sides[side], device),
            }
        entries.append(entry)
    return entries


def make_batch(batch_seconds: float, crop_seconds: float, device: torch.device) -> AudioBatch:
    """Equal crops of noise that sum to the batch."""
    rows = max(1, round(batch_seconds / crop_seconds))
    num_samples = round(crop_seconds * RATE)
    waveform = torch.randn(rows, num_samples, generator=torch.Generator().manual_seed(0)) * 0.1
    return AudioBatch(
        utterance_ids=tuple(map(str, range(rows))),
        waveform=waveform,
        num_samples=torch.full((rows,), num_samples),
        sample_rate=RATE,
    ).to(device)


def ours_pretraining(config: EncoderConfig, batch: AudioBatch, preset: str, compiled: bool) -> Callable[[], object]:
    """One update: loss, backward, clipping, fused AdamW."""
    device = batch.waveform.device
    encoder = SpeechEncoder(config).to(device).train()
    settings = ContrastiveConfig(**(LARGE_OBJECTIVE if preset == "large" else {}))
    objective = build_contrastive(settings, encoder, 0).to(device).train()
    if compiled:
        encoder.context_encoder.compile_feed_forward()
    optimizer = build_optimizer([{"params": [*encoder.parameters(), *objective.parameters()]}], OptimConfig())
    generator = torch.Generator(device).manual_seed(0)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            output = objective(encoder, batch, step=100, generator=generator)
        output.loss.backward()
        return apply_update(optimizer, loss=output.loss.detach(), num_targets=None, clip_norm=1.0)

    return step


def ours_ctc(config: EncoderConfig, batch: AudioBatch, preset: str, compiled: bool) -> Callable[[], object]:
    """One update of fine-tuning: encoder, linear layer, CTC."""
    device = batch.waveform.device
    encoder, head = SpeechEncoder(config).to(device).train(), nn.Linear(config.model_dim, 32).to(device)
    if compiled:
        encoder.context_encoder.compile_feed_forward()
    optimizer = build_optimizer([{"params": [*encoder.parameters(), *head.parameters()]}], OptimConfig())
    rows = len(batch.waveform)
    labels = torch.randint(1, 32, (rows, 40), generator=torch.Generator().manual_seed(0)).to(device)
    lengths = torch.full((rows,), 40, device=device)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16), no_padding(bool(batch.is_full)):
            output = encoder(batch.waveform, batch.num_samples)
            logits = head(output.context)
        log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        loss = F.ctc_loss(log_probs, labels, output.num_frames, lengths, reduction="sum") / lengths.sum()
        loss.backward()
        return apply_update(optimizer, loss=loss.detach(), num_targets=None, clip_norm=1.0)

    return step


def ours_embedding(config: EncoderConfig, batch: AudioBatch, preset: str, compiled: bool) -> Callable[[], object]:
    """The encoder forward, without gradients."""
    encoder = SpeechEncoder(config).to(batch.waveform.device).eval()

    def step() -> object:
        autocast = torch.autocast(batch.waveform.device.type, dtype=torch.bfloat16)
        with torch.inference_mode(), autocast, no_padding(bool(batch.is_full)):
            return encoder(batch.waveform, batch.num_samples).context

    return step


def peer_model(config: EncoderConfig, preset: str, kind: str) -> Any:
    """The peer's network of the same size, with random weights."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC, Wav2Vec2ForPreTraining, Wav2Vec2Model

    large = preset == "large"
    theirs = Wav2Vec2Config(
        hidden_size=config.model_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        intermediate_size=config.feed_forward_dim,
        conv_dim=(config.conv_dim,) * 7,
        feat_extract_norm="layer" if config.conv_norm == "layer" else "group",
        conv_bias=config.conv_bias,
        do_stable_layer_norm=config.norm_position == "pre",
        codevector_dim=768 if large else 256,
        proj_codevector_dim=768 if large else 256,
        hidden_dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        layerdrop=config.layer_drop,
        attn_implementation="sdpa",
    )
    return {"pretraining": Wav2Vec2ForPreTraining, "ctc": Wav2Vec2ForCTC, "embedding": Wav2Vec2Model}[kind](theirs)


def peer_pretraining(config: EncoderConfig, batch: AudioBatch, preset: str) -> Callable[[], object]:
    """Its pre-training step; masks and negatives drawn once, as its collator would."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    device = batch.waveform.device
    model = peer_model(config, preset, "pretraining").to(device).train()
    frames = int(model._get_feat_extract_output_lengths(batch.waveform.shape[1]))
    shape = (len(batch.waveform), frames)
    mask = _compute_mask_indices(shape, 0.65, 10)
    negatives = _sample_negative_indices(shape, 100, mask_time_indices=mask)
    mask, negatives = (torch.from_numpy(np.asarray(value)).to(device) for value in (mask, negatives))
    optimizer = build_optimizer([{"params": list(model.parameters())}], OptimConfig())

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(batch.waveform, mask_time_indices=mask, sampled_negative_indices=negatives).loss / mask.sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def peer_ctc(config: EncoderConfig, batch: AudioBatch, preset: str) -> Callable[[], object]:
    """Its update of fine-tuning, without masks as ours."""
    device = batch.waveform.device
    model = peer_model(config, preset, "ctc").to(device).train()
    model.config.apply_spec_augment = False
    optimizer = build_optimizer([{"params": list(model.parameters())}], OptimConfig())
    shape = (len(batch.waveform), 40)
    labels = torch.randint(1, 32, shape, generator=torch.Generator().manual_seed(0)).to(device)

    def step() -> object:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = model(batch.waveform, labels=labels).loss / labels.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def peer_embedding(config: EncoderConfig, batch: AudioBatch, preset: str) -> Callable[[], object]:
    """Its encoder forward, without gradients."""
    model = peer_model(config, preset, "embedding").to(batch.waveform.device).eval()

    def step() -> object:
        autocast = torch.autocast(batch.waveform.device.type, dtype=torch.bfloat16)
        with torch.inference_mode(), autocast, no_padding(bool(batch.is_full)):
            return model(batch.waveform).last_hidden_state

    return step


CASES: dict[str, Callable[..., Any]] = {
    "pretraining": ours_pretraining,
    "fine-tuning": ours_ctc,
    "embedding": ours_embedding,
}
PEERS: dict[str, Callable[..., Any]] = {
    "pretraining": peer_pretraining,
    "fine-tuning": peer_ctc,
    "embedding": peer_embedding,
}


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of one step, the device's work included."""
    wait(device)
    started = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until the device has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_peak(device: torch.device, size: int) -> float:
    """The best TFLOP/s of a square bf16 product."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    return max(2 * size**3 / timed(lambda: a @ b, device) / 1e12 for _ in range(10))


def count_flops(step: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products and convolutions of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def host_synchronizes(step: Callable[[], object], device: torch.device) -> str | None:
    """What made the host wait for the device within a step; None where nothing did, or on the CPU."""
    if device.type != "cuda":
        return None
    with waiting_is_an_error():
        try:
            step()
        except RuntimeError as error:
            return str(error)
    return None


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Whatever waits for the device raises inside."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def kernels(step: Callable[[], object], device: torch.device, num_rows: int = 15) -> list[dict[str, Any]]:
    """Where the time of a step goes: the costliest operations with their share."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        step()
        wait(device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profile.key_averages(), key=lambda row: -getattr(row, key))
    total = sum(getattr(row, key) for row in rows)
    return [
        {"name": row.key[:100], "share": getattr(row, key) / max(total, 1), "calls": row.count}
        for row in rows[:num_rows]
    ]


def machine(device: torch.device) -> dict[str, str]:
    """Versions and hardware."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}


if __name__ == "__main__":
    main()
