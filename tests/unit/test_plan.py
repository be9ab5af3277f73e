"""The planner's formulas against torch's own counter, and its predictions against what is then measured."""

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from speechssl.cli import main
from speechssl.encoder import EncoderConfig, SpeechEncoder, encoder_config
from speechssl.errors import ConfigError
from speechssl.manifest import Manifest
from speechssl.nn.quantizer import GumbelQuantizer
from speechssl.objectives import ClusterConfig, ClusterObjective, ClusterTargets, ContrastiveConfig
from speechssl.objectives.contrastive import contrastive_logits
from speechssl.plan import PlanConfig, encoder_flops, parse_memory, run, step_flops
from speechssl.plan.flops import contrastive_flops, masked_frames
from speechssl.plan.measure import Measured, StepMeter, joined
from speechssl.plan.stage import fit, load_planned, measured_sizes, memory_lines
from speechssl.types import Utterance

SMALL = {"model_dim": 64, "num_layers": 2, "num_heads": 2, "feed_forward_dim": 96, "conv_dim": 32, "layer_drop": 0.0,
         "position_kernel": 16, "position_groups": 4, "dropout": 0.0, "attention_dropout": 0.0}  # fmt: skip


def counted(encoder: SpeechEncoder, num_samples: int, *, backward: bool) -> int:
    """Operations that torch counts; on the meta device, where nothing is computed and its own kernels are taken."""
    encoder = encoder.to("meta").train(backward)
    with FlopCounterMode(display=False) as counter:
        waveform = torch.empty(1, num_samples, device="meta")
        context = encoder(waveform, torch.empty(1, dtype=torch.long, device="meta")).context
        if backward:
            context.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("overrides", [{}, {"conv_norm": "layer", "norm_position": "pre", "num_layers": 3}])
def test_operations_of_the_encoder_are_those_that_torch_counts(overrides: dict[str, object]) -> None:
    config = encoder_config("base", {**SMALL, **overrides})
    found = encoder_flops(config, 16000)
    assert found.forward == pytest.approx(counted(SpeechEncoder(config), 16000, backward=False), rel=0.005)
    # torch's counter does not divide the weight gradient of a grouped convolution by its groups
    overcounted = (config.position_groups - 1) * found.positions
    expected = counted(SpeechEncoder(config), 16000, backward=True) - overcounted
    assert found.training == pytest.approx(expected, rel=0.005)


def test_operations_of_the_head_are_those_that_torch_counts() -> None:
    objective, encoder = ContrastiveConfig(), EncoderConfig()
    quantizer = GumbelQuantizer(encoder.latent_dim, num_codebooks=2, num_entries=320, quantized_dim=256)
    final = torch.nn.Linear(256, 256), torch.nn.Linear(encoder.model_dim, 256)
    masked = 60
    with FlopCounterMode(display=False) as counter:
        quantized = quantizer(torch.randn(1, masked, 512), torch.ones(1, masked, dtype=torch.bool), temperature=1.0)
        contrastive_logits(
            final[1](torch.randn(1, masked, 768)), final[0](quantized.quantized), quantized.codes[..., 0],
            torch.zeros(1, masked, 100, dtype=torch.long), temperature=0.1,
        )  # fmt: skip
    assert contrastive_flops(objective, encoder, masked) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_operations_of_masked_prediction_are_those_that_torch_counts() -> None:
    encoder = SpeechEncoder(encoder_config("tiny", SMALL)).eval()

    def frames(waveform: torch.Tensor, num_samples: torch.Tensor, num_frames: int) -> torch.Tensor:
        return torch.zeros(1, num_frames, 5)

    targets = ClusterTargets(centers=torch.zeros(100, 5), frames=frames)
    objective = ClusterObjective(ClusterConfig(mask_probability=0.99), targets, model_dim=encoder.config.model_dim)
    latents = encoder.extract_latents(torch.zeros(1, 16_000), torch.tensor([16_000]))
    mask = objective.draw(latents.num_frames, 49)
    with FlopCounterMode(display=False) as counter:
        context = objective.context_projection(torch.randn(int(mask.sum()), encoder.config.model_dim))
        context @ objective.cluster_embeddings.T
    found = step_flops(encoder.config, 16_000, objective=objective.config, num_labels=100).head
    share = masked_frames(objective.config, 49) / int(mask.sum())
    assert found == pytest.approx(counter.get_total_flops() * share, rel=1e-6)


def similarity_operations(batch: int, masked: int) -> int:
    ids = torch.zeros(batch, masked, dtype=torch.long)
    vectors = torch.randn(batch, masked, 16)
    with FlopCounterMode(display=False) as counter:
        contrastive_logits(vectors, vectors, ids, ids[:, :, None].expand(-1, -1, 5), temperature=0.1)
    return int(counter.get_total_flops())


def test_contrastive_head_grows_with_the_batch_and_never_with_its_square() -> None:
    one = similarity_operations(1, 40)
    assert [similarity_operations(batch, 40) for batch in (2, 4, 8)] == [2 * one, 4 * one, 8 * one]
    # masked frames times masked frames of the same utterance
    assert similarity_operations(1, 80) == 4 * one


def test_backward_costs_less_where_nothing_learns() -> None:
    learns, frozen = (encoder_flops(encoder_config("base", {"feature_gradient_scale": s}), 16000) for s in (0.1, 0.0))
    assert learns.forward == frozen.forward and frozen.backward < learns.backward
    mel = encoder_flops(encoder_config("tiny"), 16000)
    assert mel.front_end < 0.05 * mel.forward
    with_labels = step_flops(encoder_config("tiny"), 16000, num_labels=30)
    assert with_labels.head == 2.0 * 49 * 256 * 30


def test_expected_share_of_masked_frames() -> None:
    assert masked_frames(ContrastiveConfig(), 1000) == pytest.approx(489, abs=1)


@pytest.mark.parametrize(
    ("text", "expected"), [("80GB", 80e9), ("24 GiB", 24 * 2**30), ("1.5g", 1.5e9), ("512MiB", 2**29), ("1000", 1000)]
)
def test_memory_is_read_in_any_unit(text: str, expected: float) -> None:
    assert parse_memory(text) == expected


def test_memory_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="gpu_memory must be like 80GB"):
        PlanConfig(training=Path("x"), gpu_memory="lots")


def test_two_points_give_a_line_that_does_not_begin_below_nothing() -> None:
    assert fit([(1, 5.0), (3, 9.0)], least=0.0) == (3.0, 2.0)
    assert fit([(1, 1.0), (3, 9.0)], least=0.0) == (0.0, 3.0)
    assert measured_sizes(40, 0.5) == (6, 20) and measured_sizes(1, 0.5) == (1, 2)


def write_config(folder: Path) -> Path:
    path = folder / "pretrain.yaml"
    path.write_text(
        "manifests: [nowhere.jsonl]\nrun_directory: run\npreset: tiny\nencoder: {model_dim: 64, num_layers: 2,"
        " num_heads: 2, feed_forward_dim: 128, position_groups: 4}\ncontrastive: {num_entries: 32}\n"
        "data: {batch_seconds: 36.0, max_crop_seconds: 3.0}\ntraining: {max_steps: 100}\n"
    )
    return path


def test_predicted_memory_is_within_fifteen_percent_of_what_is_measured(tmp_path: Path) -> None:
    config = PlanConfig(training=write_config(tmp_path), gpu_memory="1GB", num_steps=1, device="cpu")
    plan = run(config)
    assert (plan.num_clips, [one.num_clips for one in plan.measured]) == (12, [2, 6])
    planned = load_planned(config)
    meter = StepMeter(planned.task, planned.training, planned.device)
    measured = meter.measure(planned.batch_maker(12), 12, num_steps=1)
    assert plan.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.15)
    # weights, gradients and two moments, all of four bytes
    assert plan.state_bytes == pytest.approx(16 * plan.parameters["total"], rel=0.1)
    assert plan.peak_bytes_of(plan.largest_num_clips) <= 0.9e9 < plan.peak_bytes_of(plan.largest_num_clips + 1)
    assert plan.hours == pytest.approx(100 * plan.step_seconds / 3600)
    assert plan.audio_hours == pytest.approx(100 * 36 / 3600)


def measured_phases(num_clips: int, **phases: int) -> Measured:
    peak = max(phases.values())
    return Measured(num_clips=num_clips, seconds=1, cpu_seconds=1, peak_bytes=peak, phases=tuple(phases.items()))


def test_every_moment_of_an_update_has_a_line_of_its_own() -> None:
    few = measured_phases(1, forward=50, backward=100, small=10)
    many = measured_phases(3, forward=150, backward=110, small=12)
    assert memory_lines([few, many]) == ((95.0, 5.0), (0.0, 50.0))
    # a layer that one update leaves out counts for what came before it
    assert joined((("a", 1), ("b", 9), ("c", 2)), (("a", 3), ("c", 4))) == [("a", 9, 3), ("c", 2, 4)]


def test_gradients_of_the_update_before_are_not_counted_again(tmp_path: Path) -> None:
    planned = load_planned(PlanConfig(training=write_config(tmp_path), device="cpu", clip_seconds=0.3))
    meter = StepMeter(planned.task, planned.training, planned.device)
    measured = meter.measure(planned.batch_maker(1), 1, num_steps=1)
    # weights, gradients and two moments: with gradients counted twice it would be a quarter more
    assert meter.state_bytes() <= measured.peak_bytes < 1.15 * meter.state_bytes()


class LivingStorages(TorchDispatchMode):
    """Counts the bytes of storages alive after every operation, however they came to be."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.peak_bytes = 0

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            weakref.finalize(storage, self.sizes.pop, key)
            self.peak_bytes = max(self.peak_bytes, sum(self.sizes.values()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.see(value)
        return result


def test_measured_memory_is_that_of_the_storages_that_live(tmp_path: Path) -> None:
    planned = load_planned(PlanConfig(training=write_config(tmp_path), device="cpu", clip_seconds=1.0))
    meter = StepMeter(planned.task, planned.training, planned.device)
    measured = meter.measure(planned.batch_maker(3), 3, num_steps=1)
    for parameter in (p for module in planned.task.modules.values() for p in module.parameters()):
        parameter.grad = None
    living = LivingStorages()
    for module in planned.task.modules.values():
        for tensor in (*module.parameters(), *module.buffers()):
            living.see(tensor)
    for state in meter._optimizer.state.values():
        for tensor in state.values():
            living.see(tensor)
    batch = planned.batch_maker(3)()
    living.see(batch.waveform)
    with living:
        meter._update(batch)
    assert living.peak_bytes > meter.state_bytes()
    assert measured.peak_bytes == pytest.approx(living.peak_bytes, rel=1e-3)


def test_layers_that_may_be_dropped_are_planned_for(tmp_path: Path) -> None:
    plans = []
    for share in (0.0, 0.5):
        overrides = {"encoder": {"layer_drop": share}, "data": {"batch_seconds": 9.0}}
        plans.append(run(PlanConfig(training=write_config(tmp_path), overrides=overrides, num_steps=1, device="cpu")))
    assert plans[1].peak_bytes == pytest.approx(plans[0].peak_bytes, rel=0.02)
    assert plans[1].flops.training < 0.8 * plans[0].flops.training


def test_command_prints_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", str(write_config(tmp_path)), "--num_steps", "1", "--overrides.data.batch_seconds", "6"]
    assert main(["plan", *words, "--json", "--tflops", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_clips"], found["stage"], found["epochs"]) == (2, "pre-training", None)
    assert found["hours_at_tflops"] == pytest.approx(total(found) / 1e12 / 3600)
    (tmp_path / "other.yaml").write_text("text: 3\n")
    assert main(["plan", "--config", str(tmp_path / "other.yaml")]) == 2
    assert "configures neither pre-training" in capsys.readouterr().err


def total(found: dict[str, float]) -> float:
    """Operations of the whole training."""
    seconds = found["audio_hours"] * 3600
    return found["flops_per_audio_second"] * seconds


def test_fine_tuning_is_planned_with_its_labels(tmp_path: Path) -> None:
    for name, count in (("train", 6), ("valid", 2)):
        Manifest.from_utterances(
            Utterance(
                id=f"{name}{row}", audio_filepath=f"{name}{row}.wav", sample_rate=16000, num_samples=32000,
                duration=2.0, text="five words are said here",
            )
            for row in range(count)
        ).save(tmp_path / f"{name}.jsonl")  # fmt: skip
    path = tmp_path / "finetune.yaml"
    path.write_text(
        f"train_manifest: {tmp_path}/train.jsonl\nvalid_manifest: {tmp_path}/valid.jsonl\n"
        f"run_directory: {tmp_path}/run\n"
        "preset: tiny\nencoder: {model_dim: 64, num_layers: 2, num_heads: 2, feed_forward_dim: 128,"
        " position_groups: 4}\n"
        "data: {batch_seconds: 8.0}\ntraining: {max_steps: 50}\n"
    )
    plan = run(PlanConfig(training=path, num_steps=1, device="cpu", gpu_memory="1GB"))
    assert (plan.stage, plan.num_clips, plan.clip_seconds) == ("fine-tuning", 4, 2.0)
    # blank, separator and the letters of the texts
    assert plan.parameters["head"] == (64 + 1) * (2 + len(set("fivewordsaresaidhere")))
    assert plan.epochs == pytest.approx(50 * 8.0 / 12.0)
    assert plan.peak_bytes > plan.state_bytes > 0
