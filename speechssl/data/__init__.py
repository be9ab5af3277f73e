"""From manifest rows to batches: reading, planning, collation. Knows neither encoder nor objective."""

from speechssl.data.augmentation import AugmentConfig, Augmenter
from speechssl.data.batching import BatchPlan
from speechssl.data.dataset import UtteranceReader
from speechssl.data.loader import AudioBatches, DataConfig, LabeledBatches, iterate_once

__all__ = [
    "AudioBatches",
    "AugmentConfig",
    "Augmenter",
    "BatchPlan",
    "DataConfig",
    "LabeledBatches",
    "UtteranceReader",
    "iterate_once",
]
