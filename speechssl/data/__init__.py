"""From manifest rows to batches: reading, planning, augmentation, collation. Knows neither encoder nor objective."""

from speechssl.data.augmentation import AugmentConfig
from speechssl.data.batching import BatchPlan
from speechssl.data.coverage import EpochCoverage, coverage_path
from speechssl.data.dataset import UtteranceReader
from speechssl.data.loader import AudioBatches, LabeledBatches
from speechssl.data.once import OnError, iterate_once
from speechssl.data.ranks import Ranks, current_ranks
from speechssl.data.settings import DataConfig

__all__ = [
    "AudioBatches",
    "AugmentConfig",
    "BatchPlan",
    "DataConfig",
    "EpochCoverage",
    "LabeledBatches",
    "OnError",
    "Ranks",
    "UtteranceReader",
    "coverage_path",
    "current_ranks",
    "iterate_once",
]
