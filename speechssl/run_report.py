"""`report.html` of a run directory: what it learned from, how it went and what it can do.

Shapes: B utterances, T frames, G codebooks, V entries.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechssl.audio import read_utterance
from speechssl.config import flatten, from_dict, read_yaml
from speechssl.data import iterate_once
from speechssl.encoder import SpeechEncoder, load_encoder
from speechssl.errors import AudioError, ConfigError, SpeechSSLError
from speechssl.lengths import frame_stride, padding_mask, receptive_field
from speechssl.manifest import Manifest
from speechssl.model_directory import resolve_model_directory
from speechssl.objectives import ClusterObjective, ContrastiveObjective
from speechssl.objectives.contrastive import ContrastiveDraws
from speechssl.pretrain import PretrainConfig, build_objective
from speechssl.report import (
    Section,
    codes_section,
    curves_section,
    data_section,
    embeddings_section,
    key_values,
    note,
    section,
    spectrogram_section,
    wer_section,
    write_report,
)
from speechssl.training.tensors import load_module, read_tensors
from speechssl.types import Utterance

logger = logging.getLogger(__name__)

PretrainingObjective = ContrastiveObjective | ClusterObjective

_MAX_UTTERANCES = 400  # for code counts and the picture of embeddings


@dataclass(frozen=True, kw_only=True)
class Codes:
    """What the quantizer makes of audio: `counts` `[G, V]` over many utterances, `codes` i64 `[T, G]` and
    `frame_mask` bool `[T]` of one.
    """

    counts: NDArray[np.int64]
    codes: NDArray[np.int64]
    frame_mask: NDArray[np.bool_]


def report_run(run: Path, *, output: Path | None = None) -> Path:
    """Write the page of a pre-training or fine-tuning run; by default as `report.html` inside it.

    A part that cannot be made, because a manifest or recording is gone since, is replaced by the reason.

    Raises:
        ConfigError: `run` is no run directory.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run}: is no run directory (it has no config.yaml); name the folder that a training wrote")
    config = read_yaml(path)
    is_pretraining = "manifests" in config
    kind = "Pre-training" if is_pretraining else "Fine-tuning"
    sections = [_or_reason("Data", lambda: data_section(_manifests(config)))]
    sections.append(curves_section(run, num_entries=config.get("contrastive", {}).get("num_entries")))
    if is_pretraining:
        sections += pretraining_sections(run, _first_manifest(config), title_prefix="")
    else:
        sections.append(_or_reason("Word errors on the validation set", lambda: _word_errors(run, config)))
    sections.append(_or_reason("Embeddings", lambda: embedding_picture(str(run), _first_manifest(config))))
    sections.append(section("Settings", key_values(flatten(config))))
    subtitle = f"{kind} in {run}"
    return write_report(
        output or run / "report.html", f"{kind}: {run.name}", subtitle, sections, environment=environment(run)
    )


def pretraining_sections(run: Path, manifest_path: Path, *, title_prefix: str = "") -> list[Section]:
    """The masked spectrogram with its codes, and code usage, of a pre-training run."""

    def make() -> list[Section]:
        manifest = Manifest.load(manifest_path)
        encoder, objective = load_pretraining(run)
        index = int(np.abs(manifest.durations - 5.0).argmin())
        utterance = manifest[index]
        found = count_codes(encoder, objective, manifest, utterance)
        rate = encoder.config.sample_rate
        return [
            spectrogram_section(
                read_utterance(utterance, rate),
                sample_rate=rate,
                frame_seconds=frame_stride(encoder.strided_layers) / rate,
                frame_mask=found.frame_mask,
                codes=found.codes,
                text=utterance.text or utterance.id,
                title=f"{title_prefix}Masking and codes",
            ),
            codes_section(
                found.counts, title=f"{title_prefix}Code usage", source=f"all frames of {manifest_path.name}"
            ),
        ]

    try:
        return make()
    except SpeechSSLError as error:
        logger.warning("report: %s", error)
        return [section(f"{title_prefix}Masking and codes", note(f"Could not be made: {error}"))]


def load_pretraining(run: Path) -> tuple[SpeechEncoder, PretrainingObjective]:
    """Encoder and objective of a run's last or best checkpoint, in evaluation mode.

    Raises:
        CheckpointError: there is none, its objective cannot be read, or the units that were its targets cannot.
    """
    directory = resolve_model_directory(run)
    encoder = load_encoder(directory)
    values = read_yaml(run / "config.yaml")
    known = {field.name for field in fields(PretrainConfig)}
    config = from_dict(
        PretrainConfig,
        {name: value for name, value in values.items() if name in known},
        source=str(run / "config.yaml"),
    )
    objective: Any = build_objective(config, encoder)
    path = directory / "objective.safetensors"
    load_module(objective, read_tensors(path), source=path)
    return encoder, objective.eval()


@torch.inference_mode()
def count_codes(encoder: SpeechEncoder, objective: PretrainingObjective, manifest: Manifest, shown: Utterance) -> Codes:
    """Codes of all frames of up to some hundred utterances, and of `shown` with a mask as in training.

    The clusters of masked prediction are the entries of one codebook.
    """
    if isinstance(objective, ClusterObjective):
        shape = (1, objective.num_clusters)
    else:
        shape = (objective.config.num_codebooks, objective.config.num_entries)
    counts = np.zeros(shape, dtype=np.int64)
    sample = manifest.take(np.linspace(0, len(manifest) - 1, min(len(manifest), _MAX_UTTERANCES)).astype(np.int64))
    shortest = receptive_field(encoder.strided_layers)
    rate = encoder.config.sample_rate
    for batch in iterate_once(
        sample, batch_seconds=60.0, sample_rate=rate, min_num_samples=shortest, on_error=lambda utterance, error: None
    ):
        codes, valid = _quantize(encoder, objective, batch.waveform, batch.num_samples)
        for group in range(len(counts)):
            counts[group] += np.bincount(codes[..., group][valid].numpy(), minlength=counts.shape[1])
    waveform = torch.from_numpy(np.ascontiguousarray(read_utterance(shown, rate)))[None]
    codes, valid = _quantize(encoder, objective, waveform, torch.tensor([waveform.shape[1]]))
    draws = objective.draw(valid.sum(dim=1), valid.shape[1], generator=torch.Generator().manual_seed(0))
    frame_mask = draws.frame_mask if isinstance(draws, ContrastiveDraws) else draws
    return Codes(counts=counts, codes=codes[0].numpy(), frame_mask=frame_mask[0].numpy())


def embedding_picture(source: str, manifest_path: Path, *, title: str = "Embeddings") -> Section:
    """A 2-D picture of utterance embeddings by language and speaker, as far as the manifest knows them."""
    manifest = Manifest.load(manifest_path)
    sample = manifest.take(np.linspace(0, len(manifest) - 1, min(len(manifest), _MAX_UTTERANCES)).astype(np.int64))
    encoder = load_encoder(source)
    utterances, vectors = [], []
    for utterance in sample:
        try:
            vectors.append(np.asarray(encoder.embed([utterance]))[0])
        except AudioError as error:
            logger.warning("report: %s", error)
            continue
        utterances.append(utterance)
    if not vectors:
        raise AudioError(f"{manifest_path}: none of its recordings can be embedded")
    labels = {
        name: [getattr(utterance, name) for utterance in utterances]
        for name in ("language", "speaker")
        if any(getattr(utterance, name) for utterance in utterances)
    }
    return embeddings_section(np.stack(vectors), labels, title=title, source=f"{source}, mean over time")


def environment(run: Path) -> Mapping[str, object]:
    """What `environment.json` of a run says, with dotted keys; empty where there is none."""
    try:
        return flatten(json.loads((run / "environment.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _quantize(
    encoder: SpeechEncoder, objective: PretrainingObjective, waveform: torch.Tensor, num_samples: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes i64 `[B, T, G]` of every frame, and bool `[B, T]` where a frame is one."""
    latents = encoder.extract_latents(waveform, num_samples)
    valid = ~padding_mask(latents.num_frames, latents.normalized.shape[1])
    if isinstance(objective, ClusterObjective):
        return objective.assign(waveform, num_samples, valid.shape[1])[:, :, None], valid
    return objective.quantizer(latents.normalized, valid, temperature=1.0).codes, valid


def _manifests(config: Mapping[str, Any]) -> dict[str, Manifest]:
    paths = {Path(path).stem: path for path in config.get("manifests", [])}
    for name in ("train_manifest", "valid_manifest"):
        if config.get(name):
            paths[name.removesuffix("_manifest")] = config[name]
    return {name: Manifest.load(path) for name, path in paths.items()}


def _first_manifest(config: Mapping[str, Any]) -> Path:
    return Path(config.get("valid_manifest") or config.get("train_manifest") or config["manifests"][0])


def _word_errors(run: Path, config: Mapping[str, Any]) -> Section:
    from speechssl.evaluate import EvaluateConfig
    from speechssl.evaluate import run as evaluate

    result = evaluate(EvaluateConfig(checkpoint=str(run), manifest=Path(config["valid_manifest"])))
    text = f"On {config['valid_manifest']}, by which the checkpoint was chosen: a test set gives the honest figure."
    return wer_section({run.name: result.report}, title="Word errors on the validation set", text=text)


def _or_reason(title: str, make: Any) -> Section:
    try:
        made: Section = make()
        return made
    except SpeechSSLError as error:
        logger.warning("report: %s", error)
        return section(title, note(f"Could not be made: {error}"))
