"""How utterances become batches: the part of a stage's configuration that this package owns."""

from dataclasses import dataclass, field
from typing import Literal

from speechssl.data.augmentation import AugmentConfig
from speechssl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How utterances become batches.

    Attributes:
        batch_seconds: audio in a batch, padding included.
        max_batch_size: at most so many utterances in a batch.
        max_crop_seconds: longer utterances are cropped at random; pre-training only.
        order: `random` mixes all utterances; `by_shard` reads a few archives (or long recordings) at a time, for
            storage that is slow to jump.
        shards_at_once: archives that are read at a time with the order `by_shard`.
        alike_batches: so many batches in a row are of similar length. Set it to the number of GPUs, so that they wait
            less for each other.
        augment: what is done to the waveforms of training batches.
        num_workers: processes that read ahead; 0 reads in the training process. Changes no result.
        cache_megabytes: decoded audio kept in memory, in each worker process. What is stored as 16 bits and needs no
            change (mono wav; flac, with miniaudio) takes 2 bytes a sample, anything else 4.
    """

    batch_seconds: float = 87.5
    max_batch_size: int | None = None
    max_crop_seconds: float = 15.625
    order: Literal["random", "by_shard"] = "random"
    shards_at_once: int = 8
    alike_batches: int = 1
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    num_workers: int = 1
    cache_megabytes: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("batch_seconds", "max_crop_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, but is {getattr(self, name)}")
        for name in ("shards_at_once", "alike_batches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise ConfigError(f"max_batch_size must be at least 1 or null, but is {self.max_batch_size}")
        if self.order not in ("random", "by_shard"):
            raise ConfigError(f"order must be random or by_shard, but is {self.order!r}")
        if self.num_workers < 0 or self.cache_megabytes < 0:
            raise ConfigError(
                f"num_workers and cache_megabytes must be at least 0, but are {self.num_workers} and"
                f" {self.cache_megabytes}"
            )
