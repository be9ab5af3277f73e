"""The stage: a manifest's embeddings, shard by shard, into a table that can be trusted while it grows."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from speechssl import __version__
from speechssl.embed.index import EmbeddingIndex, shape_of
from speechssl.embed.layout import (
    ERRORS_NAME,
    FACTS_NAME,
    INDEX_NAME,
    SUFFIXES,
    UNFINISHED_NAME,
    data_folder,
    read_facts,
    write_file,
    write_json,
)
from speechssl.embed.layout import remove_file as _remove_file
from speechssl.embed.locks import exclusive
from speechssl.embed.plan import Plan, make_plan, manifest_rows, strays
from speechssl.embed.settings import EmbedConfig
from speechssl.embed.shards import FRAME_COLUMNS, PLACE_COLUMNS, ROW_COLUMNS, FrameTimes, remove_shard
from speechssl.embed.work import ShardMaker
from speechssl.encoder import SpeechEncoder, resolve_device
from speechssl.errors import AudioError, ConfigError, ManifestError
from speechssl.extraction import Extractor
from speechssl.extraction.representation import load_pooling
from speechssl.interop import load_encoder
from speechssl.manifest import Manifest
from speechssl.model_directory import MODEL_FILE, resolve_model_directory
from speechssl.progress import Progress

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class EmbedResult:
    """Where the table is and what it holds.

    `path` is the folder of its shards. `errors` are (id, reason) of the recordings that could not be embedded, also in
    the file `errors_path`. Of this run: `num_computed` recordings went through the encoder (or failed), `num_removed`
    left the table, and `reused` tells that there was nothing to do.
    """

    path: Path
    errors_path: Path | None
    num_utterances: int
    num_rows: int
    dimension: int
    errors: tuple[tuple[str, str], ...]
    reused: bool
    num_computed: int = 0
    num_removed: int = 0
    num_shards: int = 0


def run(config: EmbedConfig, *, progress: Progress | None = None) -> EmbedResult:
    """Embed every recording of a manifest into the table in `config.output`; `speechssl.embed.layout` has its files.

    The rows of a first run come in the manifest's order. Later runs of the same settings bring the table up to date:
    new recordings are added behind, those whose audio changed are computed again, those that left the manifest leave
    the table, and what did not change is not computed. Killed at any moment, the same call goes on.

    Pooled, a row has the columns id, layer (null for the context, -1 for a weighted sum), embedding and the manifest's
    own, with audio paths relative to the output folder. With `pool="none"` it has id, frame (from 0), time (seconds,
    the frame's centre), layer and embedding; join with the index by id.

    A recording that cannot be embedded is listed in `errors.jsonl` with the reason and left out until its file changes.

    Args:
        config: what to do.
        progress: called with (recordings done, of how many) as the work goes on.

    Raises:
        ConfigError: no such layer or device, the output was made with another model or other settings, or another
            process is writing it.
        ManifestError, CheckpointError: an input cannot be read.
        AudioError: not one recording could be embedded.
    """
    from speechssl.embed.engines import choose_engine

    return choose_engine(config).run(config, progress or (lambda done, total: None))


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that is fixed before the first shard is made."""

    config: EmbedConfig
    manifest: Manifest
    facts: Mapping[str, Any]
    extractor: Extractor

    @property
    def folder(self) -> Path:
        """Of the table."""
        return self.config.output

    def maker(self) -> ShardMaker:
        """What makes shards in this process."""
        return ShardMaker(
            folder=self.folder,
            manifest=self.manifest,
            extractor=self.extractor,
            settings=self.config.encoding,
            shape=shape_of(self.facts),
            reuse=not self.config.overwrite,
        )

    def plan(self) -> Plan:
        """What is missing in the folder."""
        shape = shape_of(self.facts)
        return make_plan(
            list(manifest_rows(self.manifest)),
            self.manifest.durations,
            self.folder,
            shard_rows=self.config.shard_rows,
            row_bytes=4 * shape.dimension * len(shape.layers),
            frame_rate=self.facts["frame_rate"] if shape.times is not None else None,
            format=shape.format,
        )


def load_job(config: EmbedConfig) -> Job:
    """Read the manifest and the model, and see that they go together."""
    manifest = Manifest.load(config.manifest)
    for name in (*ROW_COLUMNS, *FRAME_COLUMNS, *PLACE_COLUMNS):
        if name in manifest.column_names:
            raise ManifestError(f"{config.manifest}: its column {name!r} has the name of one of ours; rename it")
    encoder = load_encoder(config.checkpoint, device=resolve_device(config.device))
    wanted = config.representation(num_layers=encoder.config.num_layers)
    wanted.check(encoder.config.num_layers, source=config.checkpoint)
    pooling = None
    if config.pool_weights is not None:
        pooling = load_pooling(config.pool_weights, config.pool, dim=encoder.config.model_dim)
    extractor = Extractor(encoder, wanted, pooling=pooling)
    return Job(
        config=config,
        manifest=manifest,
        facts=_facts(config, encoder, extractor),
        extractor=extractor,
    )


@contextmanager
def prepared(job: Job) -> Iterator[Plan]:
    """Lock the folder, clear what an interruption left, and mark the table as unfinished while its shards are made.

    Raises:
        ConfigError: the table there was made in another way, or another process is writing it.
    """
    config, folder = job.config, job.folder
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder) as run:
        _check_folder(folder, job.facts, config.overwrite)
        shutil.rmtree(folder / UNFINISHED_NAME, ignore_errors=True)
        for number in strays(folder, config.format):
            remove_shard(folder, number, config.format)
        plan = job.plan()
        if plan.tasks or not read_facts(folder).get("complete"):
            write_json(folder / FACTS_NAME, folder, {**job.facts, "complete": False})
        yield replace(plan, run=run)


def finish(job: Job, plan: Plan, num_computed: int) -> EmbedResult:
    """Write what stands beside the shards, and at last that the table is whole."""
    folder = job.folder
    shutil.rmtree(folder / UNFINISHED_NAME, ignore_errors=True)
    index = EmbeddingIndex(folder, job.facts)
    errors = index.errors
    _write_errors(folder, errors)
    if len(index) == 0:
        first = f"; the first: {errors[0][1]}; all are listed in {folder / ERRORS_NAME}" if errors else ""
        raise AudioError(f"{job.config.manifest}: none of its {len(errors)} recordings can be embedded{first}")
    if plan.tasks or not read_facts(folder).get("complete"):
        write_json(folder / FACTS_NAME, folder, {**job.facts, **_notes(job, index)})
        shutil.rmtree(folder / UNFINISHED_NAME, ignore_errors=True)
    else:
        logger.info("%s: is up to date and is used as it is", folder)
    return _result(job, index, plan, num_computed)


def model_hash(checkpoint: str | Path) -> str:
    """SHA-256 of a model's weights, as hex; of another tool's model that of the file or of all files of the folder."""
    from speechssl.interop.loading import identify

    path = Path(checkpoint)
    if identify(checkpoint) == "speechssl":
        path = resolve_model_directory(checkpoint) / MODEL_FILE
    files = [path] if path.is_file() else sorted(name for name in path.rglob("*") if name.is_file())
    if not files:  # a name that another tool's library resolves
        return hashlib.sha256(str(checkpoint).encode()).hexdigest()
    if len(files) == 1:
        return _file_hash(files[0])
    lines = "".join(f"{_file_hash(name)}  {name.relative_to(path)}\n" for name in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _facts(config: EmbedConfig, encoder: SpeechEncoder, extractor: Extractor) -> dict[str, Any]:
    """What fixes the vectors: two runs with equal facts give equal ones, within rounding."""
    times = FrameTimes.of(encoder.strided_layers, encoder.config.sample_rate)
    keys = extractor.wanted.keys
    return {
        "format_version": FORMAT_VERSION,
        "model_sha256": model_hash(config.checkpoint),
        "layers": list(keys),
        "layer": keys[0] if len(keys) == 1 else None,
        "layer_weights": None if config.layer_weights is None else list(config.layer_weights),
        "pool": config.pool,
        "pool_sha256": None if config.pool_weights is None else _file_hash(config.pool_weights),
        "normalize": config.normalize,
        "dtype": config.dtype,
        "format": config.format,
        "precision": config.precision,
        "dimension": extractor.dimension,
        "frame_rate": encoder.config.frame_rate,
        "first_frame_seconds": times.first_seconds,
        "frame_seconds": times.step_seconds,
        "sample_rate": encoder.config.sample_rate,
        "whole_seconds": config.whole_seconds,
        "chunk_seconds": config.chunk_seconds,
        "context_seconds": config.context_seconds,
    }


def _notes(job: Job, index: EmbeddingIndex) -> dict[str, Any]:
    clips = index.clips
    digest = hashlib.sha256()
    for name, content in sorted(zip(clips["id"].to_pylist(), clips["content_sha256"].to_pylist(), strict=True)):
        digest.update(f"{content}  {name}\n".encode())
    places = len(index.layers)
    shards = clips.group_by("shard").aggregate([("num_rows", "sum"), ("num_rows", "count")]).to_pylist()
    return {
        "complete": True,
        "checkpoint": str(job.config.checkpoint),
        "speechssl_version": __version__,
        "num_utterances": len(clips),
        "num_rows": sum(shard["num_rows_sum"] for shard in shards) * places,
        "num_errors": len(index.errors),
        "content_sha256": digest.hexdigest(),
        "manifest_fingerprint": job.manifest.fingerprint(),
        "shards": [
            {
                "number": shard["shard"],
                "num_utterances": shard["num_rows_count"],
                "num_rows": shard["num_rows_sum"] * places,
            }
            for shard in shards
        ],
    }


def _check_folder(folder: Path, facts: Mapping[str, Any], overwrite: bool) -> None:
    """See that what is there goes with the facts; with `overwrite` remove it."""
    if overwrite:
        _remove_file(folder / FACTS_NAME)
        shutil.rmtree(folder / INDEX_NAME, ignore_errors=True)
        for format in SUFFIXES:
            old = data_folder(folder, format)
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink(missing_ok=True)
        return
    found = read_facts(folder)
    if not found:
        for part in (folder / INDEX_NAME, data_folder(folder, "parquet")):
            if part.exists():
                raise ConfigError(
                    f"{part}: exists, but {FACTS_NAME} beside it does not say what made it; name another output, or set"
                    " overwrite=true"
                )
        return
    differing = [name for name, value in facts.items() if name != "layer" and found.get(name) != value]
    if differing:
        listed = ", ".join(f"{name} is {found.get(name)!r} instead of {facts[name]!r}" for name in differing)
        raise ConfigError(
            f"{folder}: holds embeddings that were made in another way ({listed}); name another output, or set"
            " overwrite=true"
        )


def _write_errors(folder: Path, errors: Sequence[tuple[str, str]]) -> None:
    path = folder / ERRORS_NAME
    if not errors:
        path.unlink(missing_ok=True)
        return
    lines = [json.dumps({"id": name, "reason": reason}, ensure_ascii=False) + "\n" for name, reason in errors]
    write_file(path, folder, partial(_write_lines, lines))


def _write_lines(lines: Sequence[str], path: Path) -> None:
    path.write_text("".join(lines), encoding="utf-8")


def _result(job: Job, index: EmbeddingIndex, plan: Plan, num_computed: int) -> EmbedResult:
    errors = tuple(index.errors)
    facts = read_facts(job.folder)
    return EmbedResult(
        path=data_folder(job.folder, job.config.format),
        errors_path=job.folder / ERRORS_NAME if errors else None,
        num_utterances=len(index),
        num_rows=facts["num_rows"],
        dimension=index.dimension,
        errors=errors,
        reused=not plan.tasks,
        num_computed=num_computed,
        num_removed=plan.num_removed,
        num_shards=len(facts["shards"]),
    )
