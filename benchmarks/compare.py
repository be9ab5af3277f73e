"""Steps of training and embedding beside fairseq2, Hugging Face transformers and torchaudio, on one CPU thread.

Every case runs the same network on the same audio in a process of its own: same sizes, dropout rates, batch, share of
masked frames, fused AdamW, clipping. All peers run with SDPA attention, all sides with glibc told to keep freed memory,
and all in fp32, or all under autocast to bf16 where the case says so. What a case does is in `WORK`.

The figures are CPU seconds (user and system) a step, and how far the process grew beyond what it held before the model
was made (`step_megabytes`: weights, gradients, optimizer state, activations).
"""

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import compare_models as models
import numpy as np
from compare_files import embed_files
from harness import cpu_seconds, main

RATE = 16_000
PRETRAINERS = ("speechssl", "fairseq2", "transformers")
EMBEDDERS = (*PRETRAINERS, "torchaudio")

Step = Callable[[int], dict[str, float]]

TRAINING: dict[str, tuple[str, list[float], int]] = {
    # name: size, seconds of the clips in the batch, measured steps
    "pretrain tiny": ("tiny", [10.0] * 4, 1),
    "pretrain base": ("base", [5.0] * 2, 1),
    "ctc base": ("base", [5.0, 4.2, 3.1], 1),
}
EMBEDDING: dict[str, tuple[str, list[list[float]]]] = {
    # name: size, the batches, each the seconds of its clips
    "embed 1": ("base", [[6.0]]),
    "embed 1, changing": ("base", [[1.3], [4.7], [2.9]]),
    "embed 8": ("base", [[1.5] * 8]),
    "embed 8, ragged": ("base", [[3.0, 2.6, 2.2, 2.0, 1.7, 1.5, 1.2, 1.0]]),
    "embed 8, changing": ("base", [[1.2 - n / 20 - k / 5 for n in range(8)] for k in range(2)]),
}
"""Equal lengths come without a mask, ragged ones with one on all sides."""


def cases() -> list[dict]:
    """Training, embedding, then files to vectors.

    transformers is fastest there with batches of one: of 8 clips in the files' order it took three times as long, of 8
    sorted by length a sixth longer (`run` takes these, too, as "transformers, batch 8" with or without " sorted").
    """
    listed = [{"work": work, "implementation": name} for work in TRAINING for name in PRETRAINERS]
    listed += [{"work": work, "implementation": name} for work in EMBEDDING for name in EMBEDDERS]
    files = ["speechssl", "transformers, batch 1"]
    return listed + [{"work": "files tiny", "implementation": name} for name in files]


def low_precision_cases() -> list[dict]:
    """Under autocast to bf16, all sides."""
    works = ["pretrain tiny", "embed 8"]
    return [{"work": work, "implementation": name, "precision": "bf16"} for work in works for name in PRETRAINERS]


def together(case: dict) -> object:
    """Embedding cases of one implementation share a process; training has its own, where memory is measured."""
    return json.dumps(case) if case["work"] not in EMBEDDING else (case["implementation"], case.get("precision"))


def run(case: dict) -> dict:
    """One case in this process."""
    import torch

    from speechssl.training.allocator import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    work, implementation = case["work"], case["implementation"]
    if work.startswith("files"):
        return embed_files(implementation, work.split()[1])
    torch.manual_seed(0)
    if work in TRAINING:
        return train(case)
    return embed(work, implementation, case.get("precision", "fp32"))


def autocast(precision: str) -> Any:
    """Autocast to bf16, or nothing."""
    import torch

    return torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def train(case: dict) -> dict:
    """One update to warm up, then the median of the measured ones."""
    size, seconds, count = TRAINING[case["work"]]
    make = {"pretrain": PRETRAIN_STEPS, "ctc": CTC_STEPS}[case["work"].split()[0]][case["implementation"]]
    forget_peak()
    before = resident_megabytes()
    step = make(size, [int(value * RATE) for value in seconds], case.get("precision", "fp32"))
    step(0)
    cpu, wall, seen = [], [], []
    for number in range(1, count + 1):
        started, started_wall = cpu_seconds(), time.perf_counter()
        seen.append(step(number))
        cpu.append(cpu_seconds() - started)
        wall.append(time.perf_counter() - started_wall)
    used = {"cpu_seconds": statistics.median(cpu), "wall_seconds": statistics.median(wall)}
    shown = {key: float(np.mean([values[key] for values in seen])) for key in seen[0]}
    return {**used, "step_megabytes": peak_megabytes() - before, **shown}


def waveforms(num_samples: list[int], *, seed: int) -> Any:
    """Noise `[B, S]`, zero in the padding."""
    import torch

    waveform = torch.randn(len(num_samples), max(num_samples), generator=torch.Generator().manual_seed(seed))
    for row, length in zip(waveform, num_samples, strict=True):
        row[length:] = 0
    return waveform


def adamw(parameters: Any) -> Any:
    """The same for the peers as ours: fused, on those that are trained."""
    import torch

    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True)


def finish(model: Any, optimizer: Any, loss: Any, count: float) -> None:
    """A peer's update: gradients of the mean, clipped to a norm of 1, one AdamW step."""
    import torch

    optimizer.zero_grad(set_to_none=True)
    (loss / count).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
    optimizer.step()


def number_of(*modules: Any) -> float:
    """Parameters."""
    return float(sum(parameter.numel() for module in modules for parameter in module.parameters()))


def our_updates(modules: Any, loss_of: Callable[[int, Any], Any], precision: str) -> Callable[[int], Any]:
    """Updates as our training loop makes them."""
    import torch

    from speechssl.training.optim import OptimConfig, apply_update, build_optimizer
    from speechssl.training.randomness import seeded

    trained = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    optimizer = build_optimizer([{"params": trained}], OptimConfig(peak_lr=1e-5))

    def update(number: int) -> Any:
        optimizer.zero_grad(set_to_none=True)
        with seeded(torch.device("cpu"), number) as generator, autocast(precision):
            output = loss_of(number, generator)
        output.loss.backward()
        apply_update(optimizer, loss=output.loss.detach(), num_targets=None, clip_norm=1.0)
        return output

    return update


def our_pretraining_step(size: str, num_samples: list[int], precision: str) -> Step:
    import torch

    from speechssl.types import AudioBatch

    encoder, objective = models.our_pretraining(size)
    lengths = torch.tensor(num_samples)

    def loss_of(number: int, generator: Any) -> Any:
        batch = AudioBatch(
            utterance_ids=tuple(map(str, num_samples)), waveform=waveforms(num_samples, seed=number),
            num_samples=lengths, sample_rate=RATE,
        )  # fmt: skip
        return objective(encoder, batch, step=number, generator=generator)

    update = our_updates([encoder, objective], loss_of, precision)

    def step(number: int) -> dict[str, float]:
        output = update(number)
        facts = {"loss": float(output.loss.detach()), "masked_frames": float(output.num_targets)}
        return {**facts, "parameters": number_of(encoder, objective)}

    return step


def fairseq2_pretraining_step(size: str, num_samples: list[int], precision: str) -> Step:
    import torch

    model = models.fairseq2_pretraining(size)
    from fairseq2.nn import BatchLayout

    # It compiles one product anew in each call of the quantizer, which takes a C++ compiler and longer than it saves.
    torch.compile = lambda *_args, **_kwargs: lambda function: function  # type: ignore[assignment]
    optimizer = adamw(model.parameters())

    def step(number: int) -> dict[str, float]:
        waveform = waveforms(num_samples, seed=number)
        with autocast(precision):
            loss, output = model(waveform, BatchLayout.of(waveform, num_samples))
        finish(model, optimizer, loss.aggregate, output.num_targets)
        facts = {"loss": float(loss.aggregate.detach()) / output.num_targets, "masked_frames": output.num_targets}
        return {**facts, "parameters": number_of(model)}

    return step


def transformers_pretraining_step(size: str, num_samples: list[int], precision: str) -> Step:
    import torch
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    model = models.transformers_pretraining(size)
    config = model.config
    shape = (len(num_samples), int(model._get_feat_extract_output_lengths(max(num_samples))))
    optimizer = adamw(model.parameters())

    def step(number: int) -> dict[str, float]:
        waveform = waveforms(num_samples, seed=number)
        mask = _compute_mask_indices(shape, config.mask_time_prob, config.mask_time_length, min_masks=2)
        negatives = _sample_negative_indices(shape, config.num_negatives, mask_time_indices=mask)
        with autocast(precision):
            output = model(
                waveform, mask_time_indices=torch.tensor(mask, dtype=torch.bool),
                sampled_negative_indices=torch.tensor(negatives, dtype=torch.long),
            )  # fmt: skip
        count = float(mask.sum())
        finish(model, optimizer, output.loss, count)
        facts = {"loss": float(output.loss.detach()) / count, "masked_frames": count}
        return {**facts, "parameters": number_of(model)}

    return step


def labels(num_samples: list[int], number: int) -> Any:
    """15 letters a second, `[B, L]` and lengths `[B]`; label 0 is the blank."""
    import torch

    lengths = torch.tensor([length * 15 // RATE for length in num_samples])
    generator = torch.Generator().manual_seed(number)
    drawn = torch.randint(1, models.VOCABULARY, (len(num_samples), int(lengths.max())), generator=generator)
    return drawn, lengths


def our_ctc_step(size: str, num_samples: list[int], precision: str) -> Step:
    import torch

    from speechssl.ctc import ctc_loss
    from speechssl.nn.masking import sample_span_mask
    from speechssl.types import ObjectiveOutput

    model = models.our_recognizer(size)
    lengths = torch.tensor(num_samples)
    frames = torch.tensor([model.encoder.num_frames(length) for length in num_samples])
    dim = model.encoder.config.model_dim

    def loss_of(number: int, generator: Any) -> Any:
        targets, target_lengths = labels(num_samples, number)
        frame_mask = sample_span_mask(
            frames, int(frames.max()), probability=0.65, span=10, min_spans=2, generator=generator
        )
        channel_mask = sample_span_mask(
            torch.full_like(frames, dim), dim, probability=0.25, span=64, generator=generator
        )
        output = model(waveforms(num_samples, seed=number), lengths, frame_mask=frame_mask, channel_mask=channel_mask)
        loss = ctc_loss(output.logits, output.num_frames, targets, target_lengths, blank=model.vocabulary.blank)
        return ObjectiveOutput(loss=loss, num_targets=frame_mask.sum(), metrics={})

    update = our_updates([model], loss_of, precision)

    def step(number: int) -> dict[str, float]:
        output = update(number)
        facts = {"loss": float(output.loss.detach()), "masked_frames": float(output.num_targets)}
        return {**facts, "parameters": number_of(model)}

    return step


def fairseq2_ctc_step(size: str, num_samples: list[int], precision: str) -> Step:
    model = models.fairseq2_recognizer(size)
    from fairseq2.nn import BatchLayout

    optimizer = adamw(model.parameters())

    def step(number: int) -> dict[str, float]:
        waveform = waveforms(num_samples, seed=number)
        targets, target_lengths = labels(num_samples, number)
        with autocast(precision):
            loss = model(
                waveform, BatchLayout.of(waveform, num_samples), targets,
                BatchLayout.of(targets, target_lengths.tolist()),
            )  # fmt: skip
        count = float(target_lengths.sum())
        finish(model, optimizer, loss, count)
        return {"loss": float(loss.detach()) / count, "parameters": number_of(model)}

    return step


def transformers_ctc_step(size: str, num_samples: list[int], precision: str) -> Step:
    import torch

    model = models.transformers_recognizer(size)
    optimizer = adamw(model.parameters())
    attention_mask = (torch.arange(max(num_samples))[None] < torch.tensor(num_samples)[:, None]).long()

    def step(number: int) -> dict[str, float]:
        targets, target_lengths = labels(num_samples, number)
        targets = targets.masked_fill(torch.arange(targets.shape[1])[None] >= target_lengths[:, None], -100)
        with autocast(precision):
            output = model(waveforms(num_samples, seed=number), attention_mask=attention_mask, labels=targets)
        count = float(target_lengths.sum())
        finish(model, optimizer, output.loss, count)
        return {"loss": float(output.loss.detach()) / count, "parameters": number_of(model)}

    return step


PRETRAIN_STEPS: dict[str, Callable[[str, list[int], str], Step]] = {
    "speechssl": our_pretraining_step,
    "fairseq2": fairseq2_pretraining_step,
    "transformers": transformers_pretraining_step,
}
CTC_STEPS: dict[str, Callable[[str, list[int], str], Step]] = {
    "speechssl": our_ctc_step,
    "fairseq2": fairseq2_ctc_step,
    "transformers": transformers_ctc_step,
}


def make_embedder(implementation: str, size: str) -> Callable[[Any, list[int]], Any]:
    """A function from waveforms `[B, S]` and their lengths to context `[B, T, D]`; all have the same weights."""
    import torch

    if implementation == "speechssl":
        ours = models.our_encoder(size).eval()
        return lambda waveform, lengths: ours(waveform, torch.tensor(lengths)).context
    if implementation == "transformers":
        peer = models.with_our_weights(implementation, models.transformers_encoder(size), size)

        def with_transformers(waveform: Any, lengths: list[int]) -> Any:
            mask = None
            if min(lengths) < max(lengths):
                mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
            return peer(waveform, attention_mask=mask).last_hidden_state

        return with_transformers
    if implementation == "torchaudio":
        other = models.with_our_weights(implementation, models.torchaudio_encoder(size), size)

        def with_torchaudio(waveform: Any, lengths: list[int]) -> Any:
            return other(waveform, torch.tensor(lengths) if min(lengths) < max(lengths) else None)[0]

        return with_torchaudio
    model = models.with_our_weights(implementation, models.fairseq2_pretraining(size), size).eval()
    from fairseq2.nn import BatchLayout

    def with_fairseq2(waveform: Any, lengths: list[int]) -> Any:
        output, layout = model.encoder_frontend(waveform, BatchLayout.of(waveform, lengths))
        return model.encoder(output, layout)

    return with_fairseq2


def embed(work: str, implementation: str, precision: str) -> dict:
    """All batches of a case; before them one to warm up, of another length."""
    import torch

    size, batches = EMBEDDING[work]
    embedder = make_embedder(implementation, size)
    total = magnitude = 0.0
    with torch.inference_mode(), autocast(precision):
        embedder(waveforms([RATE] * len(batches[0]), seed=9), [RATE] * len(batches[0]))
        started, started_wall = cpu_seconds(), time.perf_counter()
        for seed, seconds in enumerate(batches):
            lengths = [int(value * RATE) for value in seconds]
            context = embedder(waveforms(lengths, seed=seed), lengths)
            magnitude += float(context[0].float().abs().sum())  # the longest clip: no padding
            total += sum(seconds)
        used = {"cpu_seconds": cpu_seconds() - started, "wall_seconds": time.perf_counter() - started_wall}
    return {**used, "audio_seconds_per_cpu_second": total / used["cpu_seconds"], "magnitude": magnitude}


def forget_peak() -> None:
    """Begin the peak of resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_megabytes() -> float:
    """Memory this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def peak_megabytes() -> float:
    """The most it held since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def by_work(entries: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """For each work and precision: the cases' summaries by implementation."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in entries:
        case = entry["case"]
        name = f"{case['work']}{', bf16' if 'precision' in case else ''}"
        found.setdefault(name, {})[case["implementation"]] = entry["summary"]
    yield from found.items()


def check_equal_work(name: str, sides: dict[str, dict[str, Any]]) -> None:
    """Refuse figures whose sides did not do the same: parameters, masked frames, and the results where comparable."""
    tolerances = {"parameters": 0.02, "masked_frames": 0.2}  # single draws differ so much; see MASK_PROBABILITY
    if not any(word in name for word in ("bf16", "ragged", "8, changing", "files")):  # there the peers see padding
        tolerances["magnitude"] = 1e-3
    for key, tolerance in tolerances.items():
        values = {side: summary[key]["median"] for side, summary in sides.items() if key in summary}
        if values and max(values.values()) > min(values.values()) * (1 + tolerance):
            raise SystemExit(f"{name}: the sides did unequal work, {key} is {values}")


def derive(entries: list[dict[str, Any]]) -> str:
    """Ours over the better peer, for CPU seconds and memory."""
    rows = ["| work | CPU seconds, ours / better peer | peer | memory, ours / better peer |", "|" + " --- |" * 4]
    for name, sides in by_work(entries):
        check_equal_work(name, sides)
        ours = sides.get("speechssl")
        peers = {side: summary for side, summary in sides.items() if side != "speechssl"}
        if ours is None or not peers:
            continue
        cells = [name]
        for key in ("cpu_seconds", "step_megabytes"):
            if key not in ours:
                cells.append("")
                continue
            best = min(peers, key=lambda side: peers[side][key]["median"])
            cells.append(f"{ours[key]['median'] / peers[best][key]['median']:.2f}")
            if key == "cpu_seconds":
                cells.append(best)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    low = "--bf16" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--bf16"]
    main(
        "compare_bf16" if low else "compare",
        low_precision_cases if low else cases,
        run,
        title=f"Training and embedding on the CPU{', bf16' if low else ''}",
        columns=["cpu_seconds", "wall_seconds", "step_megabytes", "audio_seconds_per_cpu_second"],
        notes=" ".join((__doc__ or "").split("\n\n")[1].split()),
        rounds=2,
        timeout=600,
        together=together,
        derive=derive,
    )
