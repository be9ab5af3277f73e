"""The parity gate: before an exported model is handed out, its peer runs it and every layer is compared with ours.

A peer is a function from waveforms to named layers; see `Peer`. Shapes: B utterances, S samples, T frames.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from speechssl.asr import CtcModel
from speechssl.encoder import SpeechEncoder
from speechssl.errors import CheckpointError
from speechssl.interop.model import Exportable, PretrainingModel
from speechssl.lengths import output_length, receptive_field
from speechssl.nn.quantizer import GumbelQuantizer
from speechssl.progress import Tell
from speechssl.types import EncoderOutput

REPORT_FILE = "parity.json"
LONG_SECONDS = 60
TOLERANCE = 1e-5
"""Largest relative difference of a layer that is rounding: |ours - theirs| / |theirs| over a clip's frames, in fp32."""
FBANK_TOLERANCE = 1e-4
"""The same for encoders of Kaldi features, which some peers compute in float64 and we in float32."""

Layers = Mapping[str, Tensor]
"""Layer name -> `[B, T, *]`, in the order of computation."""
Peer = Callable[[Tensor, Tensor], Layers]
"""(waveform f32 `[B, S]` with zeros as padding, num_samples i64 `[B]`) -> some of our layers, by our names:

`latents` (normalized), `layer 0` (the transformer's input), `layer 1`, ... (the last layer is `context`), `context`
(after the norm that may follow), `logits` of a CTC model; of a pre-training model `code logits` `[B, T, G V]`,
`target projection` of the codebooks' mean under their softmax, and `context projection`. A peer that gives few of them
is compared on those. What lies beyond a clip's frames is ignored."""
Padding = Literal["included", "masked"]


@dataclass(frozen=True, kw_only=True)
class GateInput:
    """Clips of these lengths in samples, one batch."""

    name: str
    lengths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """How far a layer is from the peer's: the largest absolute difference, and the largest relative one of a clip."""

    name: str
    max_absolute: float
    max_relative: float


@dataclass(frozen=True, kw_only=True)
class InputDifference:
    """All layers on one input. `padding` says how our side treated padding: `none` where there is none."""

    name: str
    lengths: tuple[int, ...]
    padding: str
    layers: tuple[LayerDifference, ...]


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """What was compared, with what, and how large the differences are."""

    peer: str
    tolerance: float
    inputs: tuple[InputDifference, ...]
    notes: tuple[str, ...] = ()

    @property
    def max_relative(self) -> float:
        """The largest relative difference of any layer on any input."""
        return max(layer.max_relative for entry in self.inputs for layer in entry.layers)

    @property
    def max_absolute(self) -> float:
        """The largest absolute difference of any layer on any input."""
        return max(layer.max_absolute for entry in self.inputs for layer in entry.layers)

    def first_difference(self) -> tuple[InputDifference, LayerDifference] | None:
        """The first layer that differs by more than rounding; None where none does."""
        for entry in self.inputs:
            for layer in entry.layers:
                if not layer.max_relative <= self.tolerance:  # also where it is no number
                    return entry, layer
        return None

    def check(self) -> None:
        """Refuse a model that computes something else.

        Raises:
            CheckpointError: names the first layer that differs.
        """
        found = self.first_difference()
        if found is not None:
            entry, layer = found
            raise CheckpointError(
                f"{self.peer} computes something else on {entry.name} ({_lengths(entry.lengths)}): {layer.name} is the"
                f" first layer that differs, by {layer.max_relative:.2e} relative and {layer.max_absolute:.2e} absolute"
                f" where {self.tolerance:g} relative is allowed; nothing was written"
            )

    def save(self, folder: Path) -> None:
        """Write `parity.json`."""
        content = {"max_relative": self.max_relative, "max_absolute": self.max_absolute, **asdict(self)}
        (folder / REPORT_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def rows(self) -> list[tuple[str, str, str, float, float]]:
        """Input, padding, layer, absolute and relative difference, for tables."""
        return [
            (f"{entry.name}, {_lengths(entry.lengths)}", entry.padding, layer.name, layer.max_absolute,
             layer.max_relative)
            for entry in self.inputs for layer in entry.layers
        ]  # fmt: skip


def gate_inputs(model: Exportable, *, long_seconds: float = LONG_SECONDS) -> tuple[GateInput, ...]:
    """Equal lengths, padded, odd length, the shortest legal clip and a long one."""
    encoder = encoder_of(model)
    rate, shortest = encoder.config.sample_rate, receptive_field(encoder.strided_layers)
    return (
        GateInput(name="equal lengths", lengths=(rate, rate)),
        GateInput(name="odd length", lengths=(rate + 4321,)),
        GateInput(name="shortest legal clip", lengths=(shortest,)),
        GateInput(name="padded", lengths=(rate, rate * 3 // 4 + 1, max(rate // 3, shortest))),
        GateInput(name="long clip", lengths=(int(long_seconds * rate),)),
    )


def compare(
    model: Exportable,
    peer: Peer,
    *,
    peer_name: str,
    padding: Padding = "included",
    changes: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    inputs: Sequence[GateInput] | None = None,
    progress: Tell | None = None,
) -> ParityReport:
    """Run both on the same waveforms. `report.check()` refuses differences.

    Args:
        model: ours; left in evaluation mode.
        peer: the exported model, run by the other tool.
        peer_name: its name and version, for the report.
        padding: what the peer does in a padded batch: `included` lets padding into group norms and convolutions (as
            all tools of the family do), `masked` keeps it out as we do by default. Ours is run the same way.
        changes: fields of our encoder's configuration that the format cannot hold, with the value that the peer
            computes with; what they change is measured and noted.
        tolerance: largest relative difference; that of the front end when None.
        inputs: `gate_inputs` when None.
        progress: called with the name of every input.
    """
    entries = []
    inputs = gate_inputs(model) if inputs is None else inputs
    if tolerance is None:
        tolerance = FBANK_TOLERANCE if encoder_of(model).config.front_end == "fbank" else TOLERANCE
    notes = _change_notes(model, changes or {}, inputs[0])
    model = changed(model, **(changes or {}))
    for entry in inputs:
        if progress is not None:
            progress(entry.name)
        waveform, num_samples = waveforms(entry.lengths)
        is_padded = len(set(entry.lengths)) > 1
        compared = changed(model, conv_padding=padding) if is_padded else model
        ours, theirs = our_layers(compared, waveform, num_samples), peer(waveform, num_samples)
        num_frames = output_length(num_samples, encoder_of(model).strided_layers).tolist()
        entries.append(
            InputDifference(
                name=entry.name,
                lengths=entry.lengths,
                padding=padding if is_padded else "none",
                layers=_differences(ours, theirs, num_frames, peer_name),
            )
        )
        if is_padded and padding == "included":
            notes += _padding_notes(model, ours, waveform, num_samples, num_frames)
    return ParityReport(peer=peer_name, tolerance=tolerance, inputs=tuple(entries), notes=tuple(notes))


def encoder_of(model: Exportable) -> SpeechEncoder:
    """The encoder inside of a model."""
    return model if isinstance(model, SpeechEncoder) else model.encoder


def waveforms(lengths: Sequence[int], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise with a slowly changing loudness `[B, S]`, zeros as padding, and its lengths i64 `[B]`."""
    generator = torch.Generator().manual_seed(seed)
    waveform = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(waveform, lengths, strict=True):
        loudness = 0.1 * (1.1 + torch.sin(torch.arange(length) / 800.0))
        row[:length] = torch.randn(length, generator=generator) * loudness
    return waveform, torch.tensor(list(lengths))


@torch.no_grad()
def our_layers(model: Exportable, waveform: Tensor, num_samples: Tensor) -> dict[str, Tensor]:
    """Every layer of ours by the names of `Peer`."""
    encoder = encoder_of(model).eval()
    output: EncoderOutput = encoder(waveform, num_samples, layers=True)
    assert output.layers is not None
    layers = {"latents": output.latents}
    layers |= {f"layer {index}": layer for index, layer in enumerate(output.layers[:-1])}
    layers["context"] = output.context
    if isinstance(model, CtcModel):
        layers["logits"] = model.head(model.head_features(output))
    elif isinstance(model, PretrainingModel):
        objective = model.objective.eval()
        layers["code logits"] = objective.quantizer.logits(output.latents)
        layers["target projection"] = objective.target_projection(_expected_codes(objective.quantizer, layers))
        layers["context projection"] = objective.context_projection(output.context)
    return layers


def _expected_codes(quantizer: GumbelQuantizer, layers: Layers) -> Tensor:
    """The codebooks' mean under the softmax of the logits `[B, T, Q]`: without the jumps of the largest logit."""
    flat = layers["code logits"]
    logits = flat.view(*flat.shape[:2], quantizer.num_codebooks, quantizer.num_entries)
    return torch.einsum("btgv,gvq->btgq", logits.softmax(dim=-1), quantizer.codebooks).flatten(2)


def changed(model: Exportable, **values: Any) -> Exportable:
    """The same weights with some fields of the encoder's configuration replaced; shares tensors with `model`."""
    encoder = encoder_of(model)
    config = replace(encoder.config, **values)
    if config == encoder.config:
        return model
    twin = SpeechEncoder(config)
    twin.load_state_dict(encoder.state_dict(), assign=True)
    twin.eval()
    if isinstance(model, SpeechEncoder):
        return twin
    if isinstance(model, PretrainingModel):
        return replace(model, encoder=twin)
    ctc = CtcModel(twin, model.vocabulary, normalizer=model.normalizer)
    ctc.head, ctc.layer_mix = model.head, model.layer_mix
    return ctc.eval()


def _differences(
    ours: Layers, theirs: Layers, num_frames: Sequence[int], peer_name: str
) -> tuple[LayerDifference, ...]:
    unknown = [name for name in theirs if name not in ours]
    if unknown or not theirs:
        raise CheckpointError(f"{peer_name}: gives layers {unknown} where these are known: {', '.join(ours)}")
    found = []
    for name, layer in ours.items():
        if name not in theirs:
            continue
        absolute = relative = 0.0
        for mine, other, count in zip(layer, theirs[name], num_frames, strict=True):
            if other.shape[0] < count or other.shape[1:] != mine.shape[1:]:
                raise CheckpointError(
                    f"{peer_name}: gives {name} of shape {list(other.shape)} for a clip where ours is"
                    f" {[count, *mine.shape[1:]]}; nothing was written"
                )
            a, b = mine[:count].double(), other[:count].double()
            absolute = _largest(absolute, float((a - b).abs().max()))
            relative = _largest(relative, float((a - b).norm() / b.norm().clamp(min=1e-12)))
        found.append(LayerDifference(name=name, max_absolute=absolute, max_relative=relative))
    return tuple(found)


def _largest(one: float, other: float) -> float:
    """The larger of two, or what is no number."""
    return one if one != one or one >= other else other


def _padding_notes(
    model: Exportable, ours: Layers, waveform: Tensor, num_samples: Tensor, num_frames: Sequence[int]
) -> list[str]:
    """How far a padded clip is from the same clip alone where padding is let in."""
    alone = our_layers(changed(model, conv_padding="masked"), waveform, num_samples)
    worst = _context_difference(ours, alone, num_frames)
    if worst < TOLERANCE:
        return []
    return [
        "in a padded batch the peer lets padding into its convolutions or norms: there the context of a clip differs by"
        f" up to {worst:.1%} (relative) from that of the same clip alone, on this gate's input. Compared with ours run"
        " the same way (conv_padding=included); by default ours gives every clip the same as alone. Run the peer on"
        " single clips or on clips of equal length to get the same"
    ]


def _change_notes(model: Exportable, changes: Mapping[str, Any], entry: GateInput) -> list[str]:
    """How far ours as it is, is from ours as the format has it."""
    config = encoder_of(model).config
    changes = {name: value for name, value in changes.items() if getattr(config, name) != value}
    if not config.normalize_waveform:
        changes.pop("normalize_eps", None)  # of no effect
    if not changes:
        return []
    waveform, num_samples = waveforms(entry.lengths)
    num_frames = output_length(num_samples, config.strided_layers).tolist()
    before, after = (
        our_layers(model, waveform, num_samples),
        our_layers(changed(model, **changes), waveform, num_samples),
    )
    listed = ", ".join(f"{name}={value!r} instead of {getattr(config, name)!r}" for name, value in changes.items())
    return [
        f"the format fixes {listed}; compared with ours run the same way. That changes the context of the gate's first"
        f" input by {_context_difference(after, before, num_frames):.1e} (relative)"
    ]


def _context_difference(one: Layers, other: Layers, num_frames: Sequence[int]) -> float:
    """The largest relative difference of a clip's context."""
    return max(
        float((a[:count] - b[:count]).norm() / b[:count].norm())
        for a, b, count in zip(one["context"], other["context"], num_frames, strict=True)
    )


def _lengths(lengths: Sequence[int]) -> str:
    return f"{' + '.join(map(str, lengths))} samples"
