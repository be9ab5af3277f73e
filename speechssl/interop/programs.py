"""Programs without our code: a `torch.export` program and an ONNX graph, both from waveforms, for any batch and length.

The graph takes `waveform` f32 `[B, S]` and `num_samples` i64 `[B]` and gives `context` `[B, T, D]` (an encoder) or
`logits` `[B, T, N]` (a CTC model) with `num_frames` i64 `[B]`. Whatever the encoder does to a waveform, normalizing it
included, is inside; padding is kept out of the results as it is here.

Shapes: B utterances, S samples, T frames, D model dim, N vocabulary.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig, SpeechEncoder, config_from_dict
from speechssl.errors import CheckpointError
from speechssl.interop.card import ModelFacts
from speechssl.interop.gate import Layers, Peer, encoder_of
from speechssl.interop.model import Exportable, PretrainingModel
from speechssl.lengths import input_length

ONNX_FILE = "model.onnx"
PROGRAM_FILE = "model.pt2"
ONNX_TOLERANCE = 1e-4
"""onnxruntime computes convolutions and Fourier transforms in another order than torch."""

ONNX_MEL_TOLERANCE = 5e-4
"""Dividing log-mel features by their spread enlarges that: in a clip of one frame they hardly vary."""

_EXAMPLE_SAMPLES = (16_111, 12_001, 9_000)  # of no effect on the program: all sizes are dynamic


@dataclass(frozen=True, kw_only=True)
class ProgramDescription:
    """A program's `format`, the configuration of the encoder inside, what it gives, its labels, and its origin."""

    format: str
    config: EncoderConfig
    output: str
    vocabulary: tuple[str, ...] | None
    normalizer: str | None
    facts: ModelFacts


class Program(nn.Module):
    """An encoder or CTC model with tensors only at its border."""

    def __init__(self, model: SpeechEncoder | CtcModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, S]`, i64 `[B]` -> logits or context, and num_frames i64 `[B]`."""
        output = self.model(waveform, num_samples)
        return (output.logits if isinstance(self.model, CtcModel) else output.context), output.num_frames


def output_name(model: Exportable) -> str:
    """What the program gives first."""
    return "logits" if isinstance(model, CtcModel) else "context"


def min_waveform_samples(model: Exportable) -> int:
    """Length S that a stored program needs at least: three frames. A shorter clip is padded; its length stays its own.

    torch.export takes sizes of 0 and 1 for special cases and keeps them out of a program.
    """
    return input_length(3, encoder_of(model).strided_layers)


def export_program(model: Exportable) -> torch.export.ExportedProgram:
    """The model as a graph for any batch size and any legal length.

    Raises:
        CheckpointError: a pre-training model, whose quantizer draws at random.
    """
    if isinstance(model, PretrainingModel):
        raise CheckpointError("a pre-training model draws at random and so is no program; export its encoder instead")
    waveform = torch.zeros(len(_EXAMPLE_SAMPLES), max(_EXAMPLE_SAMPLES))
    arguments = (waveform, torch.tensor(_EXAMPLE_SAMPLES))
    dynamic = torch.export.Dim.DYNAMIC
    sizes = {"waveform": {0: dynamic, 1: dynamic}, "num_samples": {0: dynamic}}
    # the plain form of attention: that of the fused kernels depends on the machine
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _quiet():
        return torch.export.export(Program(model).eval(), arguments, dynamic_shapes=sizes)


def write_program(model: Exportable, folder: Path, facts: ModelFacts) -> tuple[str, ...]:
    """Write `model.pt2` and what a caller needs to know of it."""
    program = export_program(model)
    with _quiet():
        torch.export.save(program, folder / PROGRAM_FILE)
    _describe(model, folder, facts)
    return ()


def program_peer(folder: Path, model: Exportable) -> tuple[str, Peer]:
    """The stored program, loaded and run by torch alone."""
    module = torch.export.load(folder / PROGRAM_FILE).module()
    shortest = min_waveform_samples(model)

    @torch.no_grad()
    def run(waveform: Tensor, num_samples: Tensor) -> Layers:
        padded = nn.functional.pad(waveform, (0, max(0, shortest - waveform.shape[1])))
        return {output_name(model): module(padded, num_samples)[0]}

    return f"torch.export, torch {torch.__version__}", run


def program_usage(model: Exportable) -> str:
    """How to run it."""
    rate = encoder_of(model).config.sample_rate
    return (
        f'```python\nimport torch\n\nprogram = torch.export.load("{PROGRAM_FILE}").module()\n'
        f"{output_name(model)}, num_frames = program(waveform, num_samples)"
        f"  # f32 [B, S] at {rate} Hz, and i64 [B]\n```\n\n"
        f"Pad `waveform` with zeros, to at least {min_waveform_samples(model)} samples; `num_samples` tells how long"
        " each clip is."
    )


def write_onnx(model: Exportable, folder: Path, facts: ModelFacts) -> tuple[str, ...]:
    """Write `model.onnx` (weights beside it where they are large) and what a caller needs to know of it."""
    _onnxruntime()
    program = export_program(model)
    try:
        with _quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["waveform", "num_samples"],
                output_names=[output_name(model), "num_frames"],
                verbose=False,
            )
    except ImportError as error:
        raise CheckpointError(
            f"writing ONNX needs {error.name}; install it with `pip install speechssl[onnx]`"
        ) from None
    assert converted is not None
    converted.save(folder / ONNX_FILE)
    _describe(model, folder, facts)
    return ()


def onnx_peer(folder: Path, model: Exportable) -> tuple[str, Peer]:
    """onnxruntime on the CPU."""
    onnxruntime = _onnxruntime()
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])

    def run(waveform: Tensor, num_samples: Tensor) -> Layers:
        outputs = session.run(None, {"waveform": waveform.numpy(), "num_samples": num_samples.numpy()})
        return {output_name(model): torch.from_numpy(outputs[0])}

    return f"onnxruntime {onnxruntime.__version__}", run


def onnx_usage(model: Exportable) -> str:
    """How to run it."""
    rate = encoder_of(model).config.sample_rate
    return (
        f'```python\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession("{ONNX_FILE}")\n'
        f'{output_name(model)}, num_frames = session.run(None, {{"waveform": waveform, "num_samples": num_samples}})'
        f"\n# waveform float32 [B, S] at {rate} Hz, zero-padded, num_samples int64 [B]\n```"
    )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise CheckpointError(
            "writing ONNX needs onnxruntime, which checks the graph; install it with `pip install speechssl[onnx]`"
        ) from None
    return onnxruntime


def is_program(folder: Path) -> bool:
    """Whether we wrote an ONNX graph or a torch.export program into a folder."""
    return any((folder / file).is_file() for file in (ONNX_FILE, PROGRAM_FILE)) and (folder / "config.json").is_file()


def read_description(folder: Path) -> ProgramDescription:
    """What we wrote beside a program.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ProgramDescription(
            format="onnx" if (folder / ONNX_FILE).is_file() else "torch-export",
            config=config_from_dict(content["encoder"], source=path),
            output=str(content["output"]),
            vocabulary=tuple(content["vocabulary"]) if "vocabulary" in content else None,
            normalizer=content.get("normalizer"),
            facts=ModelFacts(
                name=folder.name,
                licence=content.get("licence"),
                architecture=content.get("architecture"),
                origin=content.get("origin") or {},
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: does not describe a program ({error}); export the model again") from None


def _describe(model: Exportable, folder: Path, facts: ModelFacts) -> None:
    """`config.json`: the encoder's configuration, the vocabulary of a CTC model, and where it comes from."""
    content: dict[str, Any] = {"encoder": asdict(encoder_of(model).config), "output": output_name(model)}
    content["min_waveform_samples"] = min_waveform_samples(model)
    if isinstance(model, CtcModel):
        content["vocabulary"] = list(model.vocabulary.tokens)
        content["normalizer"] = model.normalizer
    content |= {"architecture": facts.architecture, "licence": facts.licence, "origin": dict(facts.origin)}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on what it skips."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
