"""The stage: a manifest's embeddings, part by part, into one Parquet file."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from speechssl import __version__
from speechssl.embed.encode import Pool, Precision, embed_manifest
from speechssl.embed.table import (
    OWN_COLUMNS,
    TABLE_NAME,
    frame_table,
    read_metadata,
    read_tables,
    utterance_table,
    write_tables,
)
from speechssl.encoder import SpeechEncoder, resolve_device
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.interop import load_encoder
from speechssl.manifest import Manifest
from speechssl.model_directory import MODEL_FILE, resolve_model_directory
from speechssl.types import Utterance

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
ERRORS_NAME = "errors.jsonl"
PARTS_NAME = ".parts"
PART_ROWS = 2048
PART_FRAMES = 50_000  # with pool="none", where a part's memory is its frames times D

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What to embed, with what, and where to write.

    Attributes:
        checkpoint: run, checkpoint or model directory, or a shipped model's name.
        manifest: the recordings, .jsonl or .parquet.
        output: a folder; it gets embeddings.parquet and, where recordings failed, errors.jsonl.
        layer: null for the context (the encoder's output), 0 for the transformer's input, n for its n-th layer.
        pool: mean over time, one row an utterance; or none, one row a frame.
        batch_seconds: audio encoded at a time, padding included; results do not depend on it.
        device: auto, cpu, cuda, cuda:1, ...
        precision: fp32, or bf16 for autocast; the embeddings are float32 in both.
        overwrite: embed again even where the output exists, instead of reusing or refusing it.
    """

    checkpoint: str
    manifest: Path
    output: Path
    layer: int | None = None
    pool: Pool = "mean"
    batch_seconds: float = 60.0
    device: str = "cpu"
    precision: Precision = "fp32"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.batch_seconds > 0:
            raise ConfigError(f"batch_seconds must be above 0, but is {self.batch_seconds}")
        for name, allowed in (("pool", ("mean", "none")), ("precision", ("fp32", "bf16"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be {' or '.join(allowed)}, but is {getattr(self, name)!r}")
        if self.layer is not None and self.layer < 0:
            raise ConfigError(f"layer must be at least 0, but is {self.layer}; leave it out for the encoder's output")


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """Where the table is and what it holds.

    `errors` are (id, reason) of the recordings that could not be embedded, also in the file `errors_path`;
    `reused` tells that an output of the same inputs was already there.
    """

    path: Path
    errors_path: Path | None
    num_utterances: int
    num_rows: int
    dimension: int
    errors: tuple[tuple[str, str], ...]
    reused: bool


def run(config: EmbedConfig, *, progress: Progress | None = None) -> EmbedResult:
    """Embed every recording of a manifest into `output/embeddings.parquet`.

    Rows come in the manifest's order. With `pool="mean"` the columns are id, layer (null for the context), embedding
    (fixed-size list of float) and the manifest's own, with audio paths relative to the output folder. With
    `pool="none"` they are id, frame (from 0), time (seconds, the frame's centre), layer and embedding; join with the
    manifest by id. What made the table (hash of the model, fingerprint of the manifest, layer, pool, frame rate, ...)
    is JSON in the schema's metadata under `speechssl`.

    A recording that cannot be embedded is listed in `errors.jsonl` with the reason and left out. Interrupted, the same
    call goes on after the last finished part; finished, it returns what is there.

    Args:
        config: what to do.
        progress: called with (utterances done, of how many) as the work goes on.

    Raises:
        ConfigError: no such layer or device, or the output exists and was made with other settings.
        ManifestError, CheckpointError: an input cannot be read.
        AudioError: not one recording could be embedded.
    """
    manifest = Manifest.load(config.manifest)
    taken = [name for name in OWN_COLUMNS if name in manifest.table.column_names]
    if taken:
        raise ManifestError(f"{config.manifest}: its column {taken[0]!r} has the name of one of ours; rename it")
    encoder = _load(config)
    facts = _facts(config, encoder, manifest)
    path = config.output / TABLE_NAME
    if path.exists() and not config.overwrite:
        _check_same(path, facts)
        return _result(path, reused=True)
    folder = config.output / PARTS_NAME
    if config.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    parts = _write_parts(folder, manifest, encoder, config, facts, progress or (lambda done, total: None))
    _join(parts, path, facts, config)
    shutil.rmtree(folder, ignore_errors=True)
    return _result(path, reused=False)


def plan_parts(durations: NDArray[np.float64], pool: Pool, frame_rate: float) -> list[tuple[int, int]]:
    """Spans of rows (first, one past the last) that are worked off one after the other, each bounded in memory."""
    spans: list[tuple[int, int]] = []
    first, frames = 0, 0.0
    for row, seconds in enumerate(durations):
        more = seconds * frame_rate if pool == "none" else 0.0
        if row > first and (frames + more > PART_FRAMES or row - first >= PART_ROWS):
            spans.append((first, row))
            first, frames = row, 0.0
        frames += more
    return [*spans, (first, len(durations))]


def _load(config: EmbedConfig) -> SpeechEncoder:
    encoder = load_encoder(config.checkpoint, device=resolve_device(config.device))
    if config.layer is not None and config.layer > encoder.config.num_layers:
        raise ConfigError(
            f"layer must be between 0 and {encoder.config.num_layers} for {config.checkpoint}, but is {config.layer}"
        )
    return encoder


def _facts(config: EmbedConfig, encoder: SpeechEncoder, manifest: Manifest) -> dict[str, Any]:
    """What fixes the table: two runs with equal facts write equal ones."""
    return {
        "format_version": FORMAT_VERSION,
        "model_sha256": model_hash(config.checkpoint),
        "manifest_fingerprint": manifest.fingerprint(),
        "layer": config.layer,
        "pool": config.pool,
        "precision": config.precision,
        "dimension": encoder.config.model_dim,
        "frame_rate": encoder.config.frame_rate,
        "sample_rate": encoder.config.sample_rate,
    }


def model_hash(checkpoint: str | Path) -> str:
    """SHA-256 of a model's weights, as hex."""
    with open(resolve_model_directory(checkpoint) / MODEL_FILE, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_same(path: Path, facts: Mapping[str, Any]) -> None:
    found = read_metadata(path)
    differing = [name for name, value in facts.items() if found.get(name) != value]
    if differing:
        listed = ", ".join(f"{name} is {found.get(name)!r} instead of {facts[name]!r}" for name in differing)
        raise ConfigError(
            f"{path}: exists and was made in another way ({listed}); name another output, or set overwrite=true"
        )
    logger.info("%s: was made in the same way before and is used as it is", path)


def _write_parts(
    folder: Path,
    manifest: Manifest,
    encoder: SpeechEncoder,
    config: EmbedConfig,
    facts: Mapping[str, Any],
    progress: Progress,
) -> list[Path]:
    """One file for each part of the manifest; those of an earlier run with the same facts are kept."""
    parts = []
    for number, (first, last) in enumerate(plan_parts(manifest.durations, config.pool, encoder.config.frame_rate)):
        path = folder / f"part-{number:06d}.parquet"
        if not (path.exists() and read_metadata(path).get("facts") == facts):
            rows = manifest.take(np.arange(first, last))
            _write_part(path, rows, encoder, config, facts, partial(_report, progress, first, len(manifest)))
        parts.append(path)
        progress(last, len(manifest))
    return parts


def _report(progress: Progress, first: int, total: int, done: int) -> None:
    progress(first + done, total)


def _write_part(
    path: Path,
    rows: Manifest,
    encoder: SpeechEncoder,
    config: EmbedConfig,
    facts: Mapping[str, Any],
    progress: Callable[[int], None],
) -> None:
    """Embed some rows into one Parquet file, in their order; its metadata lists those that failed."""
    errors: dict[str, str] = {}
    vectors: dict[str, NDArray[np.float32]] = {}

    def failed(utterance: Utterance, error: AudioError) -> None:
        errors[utterance.id] = str(error)

    pairs = embed_manifest(
        rows,
        encoder,
        layer=config.layer,
        pool=config.pool,
        batch_seconds=config.batch_seconds,
        precision=config.precision,
        on_error=failed,
    )
    for utterance_id, values in pairs:
        vectors[utterance_id] = values
        progress(len(vectors) + len(errors))
    ids = rows.column("id").to_pylist()
    good = rows.take([row for row, name in enumerate(ids) if name in vectors]).rebased(config.output)
    dimension = encoder.config.model_dim
    if config.pool == "mean":
        table = utterance_table(good, vectors, dimension=dimension, layer=config.layer)
    else:
        table = frame_table(
            good,
            vectors,
            dimension=dimension,
            layer=config.layer,
            strided_layers=encoder.strided_layers,
            sample_rate=encoder.config.sample_rate,
        )
    listed = [{"id": name, "reason": errors[name]} for name in ids if name in errors]
    write_tables(path, [table], {"facts": dict(facts), "errors": listed, "num_utterances": len(good)})


def _join(parts: Sequence[Path], path: Path, facts: Mapping[str, Any], config: EmbedConfig) -> None:
    """Parts -> the table, and beside it the list of what failed."""
    found = [read_metadata(part) for part in parts]
    errors = [error for metadata in found for error in metadata["errors"]]
    num_utterances = sum(metadata["num_utterances"] for metadata in found)
    _write_errors(path.parent / ERRORS_NAME, errors)
    if num_utterances == 0:
        raise AudioError(
            f"{config.manifest}: none of its {len(errors)} recordings can be embedded; the first: {errors[0]['reason']}"
            f"; all are listed in {path.parent / ERRORS_NAME}"
        )
    made = {
        "checkpoint": str(config.checkpoint),
        "speechssl_version": __version__,
        "num_utterances": num_utterances,
        "num_errors": len(errors),
    }
    write_tables(path, read_tables(parts), {**facts, **made})


def _write_errors(path: Path, errors: Sequence[Mapping[str, str]]) -> None:
    if not errors:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(json.dumps(error, ensure_ascii=False) + "\n" for error in errors), encoding="utf-8")
    os.replace(temporary, path)


def _result(path: Path, *, reused: bool) -> EmbedResult:
    metadata = read_metadata(path)
    errors_path = path.parent / ERRORS_NAME
    errors = []
    if metadata["num_errors"] and errors_path.exists():
        lines = [json.loads(line) for line in errors_path.read_text(encoding="utf-8").splitlines()]
        errors = [(line["id"], line["reason"]) for line in lines]
    return EmbedResult(
        path=path,
        errors_path=errors_path if errors else None,
        num_utterances=metadata["num_utterances"],
        num_rows=pq.read_metadata(path).num_rows,
        dimension=metadata["dimension"],
        errors=tuple(errors),
        reused=reused,
    )
