"""torchaudio's models by name or file: pre-trained bundles, saved states, and what we exported for torchaudio.

A bundle tells everything about its model. A saved state tells its shapes only: what else it needs stands in the
`torchaudio.json` beside it that an export of ours writes, or in the bundle whose published file it is, or is assumed
and noted.
"""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechssl.encoder import WAV2VEC2_CONV_LAYERS
from speechssl.errors import CheckpointError
from speechssl.interop.card import read_licence
from speechssl.interop.files import read_object, read_tensors
from speechssl.interop.model import ImportedModel
from speechssl.interop.torchaudio import MARK, import_torchaudio, imported, split_parts

PREFIX = "torchaudio:"
"""Before the name of a bundle of `torchaudio.pipelines`."""
MODEL_FILE = "model.safetensors"
DESCRIPTION_FILE = "torchaudio.json"
"""Beside a saved state: `factory`, its `arguments`, `sample_rate`, `normalize_waveform`, and `labels` with `blank`."""

_LICENCE = re.compile(r"(?:under|under \[`)\s*(MIT|CC[ -]BY[\w.-]*(?:\s+\d\.\d)?)(?=\W)")
"""How the documentation of torchaudio's bundles names the licence that the authors published the weights under."""
_HEAD_DIM = 64  # of every published model
_MAX_DISTANCE = 800  # of every published WavLM


def is_torchaudio(source: str | Path) -> bool:
    """Whether it names a bundle, is a folder of ours for torchaudio, or a saved state with torchaudio's names.

    Of a saved state only the table of names is read.
    """
    if str(source).startswith(PREFIX):
        return True
    path = Path(source)
    if path.is_dir():
        return (path / DESCRIPTION_FILE).is_file()
    if path.suffix not in (".pt", ".pth", ".bin") or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            table = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            return table is not None and b"encoder.transformer.pos_conv_embed" in archive.read(table)
    except (zipfile.BadZipFile, OSError):
        return False


def read_torchaudio(source: str | Path) -> ImportedModel:
    """Import a bundle by name (`torchaudio:WAV2VEC2_ASR_BASE_960H`), a folder of ours for torchaudio, or a saved state.

    Raises:
        CheckpointError: there is no such bundle, it cannot be fetched, or the weights have other parts.
    """
    if str(source).startswith(PREFIX):
        return _read_bundle(str(source))
    path = Path(source)
    path = path / MODEL_FILE if path.is_dir() else path
    tensors = read_tensors(path)
    description = _description(path)
    told = description or _bundle_of_file(path, tensors)
    notes: list[str] = []
    arguments = told.get("arguments") or _arguments_of_tensors(tensors, notes, path)
    model = imported(
        tensors,
        arguments,
        labels=told.get("labels"),
        blank=int(told.get("blank", 0)),
        sample_rate=int(told.get("sample_rate", 16_000)),
        normalize_waveform=told.get("normalize_waveform"),
        architecture=told.get("architecture"),
        source=str(source),
        notes=notes,
    )
    licence = read_licence(path.parent) if description else told.get("licence")  # the card of a folder of ours
    return replace(model, origin=replace(model.origin, licence=licence))


def _arguments_of_tensors(tensors: Mapping[str, Tensor], notes: list[str], path: Path) -> dict[str, Any]:
    """What shapes tell; the rest as the published models have it, noted."""
    inside, _ = split_parts(tensors, str(path))
    convs = [inside[f"feature_extractor.conv_layers.{i}.conv.weight"] for i in range(_count(inside, ".conv.weight"))]
    layer_norm_convs = "feature_extractor.conv_layers.1.layer_norm.weight" in inside
    model_dim = inside[MARK].shape[0]
    layer = "encoder.transformer.layers.0"
    gate = inside.get(f"{layer}.attention.gru_rel_pos_const")
    direction = next(inside[name] for name in inside if name.endswith((".weight_v", ".weight.original1")))
    num_heads = gate.numel() if gate is not None else max(1, model_dim // _HEAD_DIM)
    arguments: dict[str, Any] = {
        "extractor_mode": "layer_norm" if layer_norm_convs else "group_norm",
        "extractor_conv_layer_config": [
            (*conv.shape[::2], stride) for conv, (_, stride) in zip(convs, WAV2VEC2_CONV_LAYERS, strict=False)
        ],
        "extractor_conv_bias": "feature_extractor.conv_layers.0.conv.bias" in inside,
        "encoder_embed_dim": model_dim,
        "encoder_pos_conv_kernel": direction.shape[2],
        "encoder_pos_conv_groups": model_dim // direction.shape[1],
        "encoder_num_layers": _count(inside, ".feed_forward.output_dense.weight"),
        "encoder_num_heads": num_heads,
        "encoder_ff_interm_features": inside[f"{layer}.feed_forward.intermediate_dense.weight"].shape[0],
        "encoder_layer_norm_first": layer_norm_convs,
        **dict.fromkeys(
            ("encoder_projection_dropout", "encoder_attention_dropout", "encoder_ff_interm_dropout",
             "encoder_dropout", "encoder_layer_drop"), 0.0,
        ),
    }  # fmt: skip
    assumed = [f"encoder_layer_norm_first={layer_norm_convs}", "no dropout", "wav2vec 2.0's strides"]
    if gate is None:
        assumed.append(f"{num_heads} attention heads of {_HEAD_DIM} dims")
    else:
        arguments["encoder_num_buckets"] = inside[f"{layer}.attention.rel_attn_embed.weight"].shape[0]
        arguments["encoder_max_distance"] = _MAX_DISTANCE
        assumed.append(f"encoder_max_distance={_MAX_DISTANCE}")
    notes.append(f"a saved state tells its shapes only; taken as in the published models: {', '.join(assumed)}")
    return arguments


def _count(tensors: Mapping[str, Tensor], ending: str) -> int:
    return sum(name.endswith(ending) and not name.startswith("encoder.transformer.pos") for name in tensors)


def _description(path: Path) -> dict[str, Any]:
    """The content of the file beside the weights; empty where there is none."""
    file = path.parent / DESCRIPTION_FILE
    if not file.is_file():
        return {}
    content = read_object(file)
    if not isinstance(content.get("arguments"), dict):
        raise CheckpointError(f"{file}: must hold an object with the factory's arguments; copy it again")
    return content


def _read_bundle(source: str) -> ImportedModel:
    """A bundle, fetched by torch.hub into its cache."""
    from torchaudio import pipelines

    name = source.removeprefix(PREFIX)
    bundle: Any = getattr(pipelines, name, None)
    if not hasattr(bundle, "get_model") or not hasattr(bundle, "_params"):
        known = [key for key in dir(pipelines) if hasattr(getattr(pipelines, key), "_params") and key.isupper()]
        raise CheckpointError(f"{source}: torchaudio has no such encoder; it has {', '.join(known)}")
    labels = _bundle_labels(bundle)
    try:
        module = bundle.get_model(with_star=False) if _has_star(bundle) else bundle.get_model()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: its weights cannot be fetched ({error}); fetch them on a machine with network and copy them"
            f" into the folder that TORCH_HOME names ({torch.hub.get_dir()}/checkpoints here)"
        ) from None
    model = import_torchaudio(
        module,
        labels=labels,
        sample_rate=int(bundle.sample_rate),
        normalize_waveform=bool(bundle._normalize_waveform),
        source=source,
    )
    origin = replace(model.origin, architecture="hubert") if name.startswith("HUBERT") else model.origin
    return replace(model, origin=replace(origin, licence=bundle_licence(bundle)))


def bundle_licence(bundle: Any) -> str | None:
    """The licence that torchaudio's documentation of a bundle names; None where it names none that we know to read."""
    found = _LICENCE.search(bundle.__doc__ or "")
    return None if found is None else re.sub(r"\s+", "-", found[1]).lower()


def _bundle_labels(bundle: Any) -> tuple[str, ...] | None:
    """Labels without the star that aligners add; None for a bundle without a CTC layer."""
    if not hasattr(bundle, "get_labels"):
        return None
    labels: tuple[str, ...] = bundle.get_labels(star=None) if _has_star(bundle) else bundle.get_labels()
    return labels


def _has_star(bundle: Any) -> bool:
    return hasattr(bundle, "get_aligner")


def _bundle_of_file(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What the bundle tells whose published file has this name; empty where there is none.

    Outputs that the bundle drops (fairseq's `<pad>`, `</s>` and `<unk>`) are dropped from `tensors`.
    """
    from torchaudio import pipelines

    for name in filter(str.isupper, dir(pipelines)):
        bundle = getattr(pipelines, name)
        if not hasattr(bundle, "_params") or Path(str(getattr(bundle, "_path", ""))).name != path.name:
            continue
        labels = _bundle_labels(bundle)
        if labels is not None and len(tensors.get("aux.bias", ())) > len(labels):
            kept = [row for row in range(len(tensors["aux.bias"])) if row not in bundle._remove_aux_axis]
            tensors |= {key: tensors[key][kept] for key in ("aux.weight", "aux.bias")}
        return {
            "arguments": bundle._params,
            "labels": labels,
            "sample_rate": bundle.sample_rate,
            "normalize_waveform": bundle._normalize_waveform,
            "architecture": "hubert" if name.startswith("HUBERT") else None,
            "licence": bundle_licence(bundle),
        }
    return {}
