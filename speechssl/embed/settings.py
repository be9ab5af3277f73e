"""What to embed, with what, and where to write."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from speechssl.embed.encode import EncodeSettings, Precision
from speechssl.embed.layout import SUFFIXES, Format
from speechssl.embed.shards import Dtype
from speechssl.errors import ConfigError
from speechssl.extraction import ChunkSettings, Pool, Representation
from speechssl.extraction.representation import parse_layers

Engine = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What to embed, with what, and where to write.

    Attributes:
        checkpoint: run, checkpoint or model directory, or a shipped model's name.
        manifest: the recordings, .jsonl or .parquet.
        output: a folder; it gets embeddings.parquet/ (or another format), index/, embeddings.json and, where recordings
            failed, errors.jsonl.
        layer: null for the context (the encoder's output), 0 for the transformer's input, n for its n-th layer.
        layers: several layers in one pass, such as 0 3 6; context for the encoder's output, all for everything.
        layer_weights: take the weighted sum of all layers, one weight for each from 0 to the last.
        pool: mean, max, mean_std (mean and standard deviation), attentive (weighted by a trained network), first, last
            over time, one row an utterance; or none, one row a frame.
        pool_weights: weights of attentive pooling, .safetensors.
        normalize: l2 scales each vector to length 1.
        dtype: what is stored, float32, float16 or bfloat16.
        format: parquet, safetensors or numpy.
        whole_seconds: longer recordings are cut into chunks with context, so that memory stays bounded.
        chunk_seconds: what is kept of each chunk.
        context_seconds: what a chunk sees on either side.
        batch_seconds: audio encoded at a time, padding included; results do not depend on it.
        num_workers: processes that read ahead; results do not depend on it.
        device: auto, cpu, cuda, cuda:1, ...
        precision: fp32, or bf16 for autocast.
        engine: local (also under torchrun, whose ranks share the work), or ray for the cluster that is connected to.
        ray_address: of the cluster; null starts one on this machine, auto takes the one that runs.
        ray_actors: processes of Ray that hold the model.
        ray_cpus: cores of each.
        ray_gpus: GPUs of each.
        shard_rows: recordings in a shard, fewer where their embeddings are large.
        overwrite: embed everything again even where the output exists, instead of going on or refusing it.
    """

    checkpoint: str
    manifest: Path
    output: Path
    layer: int | None = None
    layers: tuple[str, ...] = ()
    layer_weights: tuple[float, ...] | None = None
    pool: Pool = "mean"
    pool_weights: Path | None = None
    normalize: Literal["none", "l2"] = "none"
    dtype: Dtype = "float32"
    format: Format = "parquet"
    whole_seconds: float = 60.0
    chunk_seconds: float = 30.0
    context_seconds: float = 10.0
    batch_seconds: float = 60.0
    num_workers: int = 0
    device: str = "cpu"
    precision: Precision = "fp32"
    engine: Engine = "local"
    ray_address: str | None = None
    ray_actors: int = 2
    ray_cpus: float = 1.0
    ray_gpus: float = 0.0
    shard_rows: int = 2048
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.batch_seconds > 0:
            raise ConfigError(f"batch_seconds must be above 0, but is {self.batch_seconds}")
        for name, allowed in (
            ("precision", ("fp32", "bf16")),
            ("dtype", ("float32", "float16", "bfloat16")),
            ("format", tuple(SUFFIXES)),
            ("engine", ("local", "ray")),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be {' or '.join(allowed)}, but is {getattr(self, name)!r}")
        if self.layer is not None and self.layer < 0:
            raise ConfigError(f"layer must be at least 0, but is {self.layer}; leave it out for the encoder's output")
        if self.layer is not None and self.layers:
            raise ConfigError("layer and layers exclude each other; name all of them in layers")
        for name in ("shard_rows", "ray_actors"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.num_workers < 0:
            raise ConfigError(f"num_workers must be at least 0, but is {self.num_workers}")
        if self.format == "numpy" and self.dtype == "bfloat16":
            raise ConfigError("NumPy has no bfloat16; use format safetensors or parquet, or dtype float16")
        self.encoding  # noqa: B018  checks the chunks
        self.representation(num_layers=0)

    @property
    def encoding(self) -> EncodeSettings:
        """How to compute."""
        chunks = ChunkSettings(
            whole_seconds=self.whole_seconds, chunk_seconds=self.chunk_seconds, context_seconds=self.context_seconds
        )
        return EncodeSettings(
            chunks=chunks,
            precision=self.precision,
            batch_seconds=self.batch_seconds,
            num_workers=self.num_workers,
        )

    def representation(self, *, num_layers: int) -> Representation:
        """What to take of an encoder of so many layers; `Representation.check` compares the two."""
        layers = parse_layers(self.layers, num_layers) if self.layers else (self.layer,)
        return Representation(layers=layers, layer_weights=self.layer_weights, pool=self.pool, normalize=self.normalize)
