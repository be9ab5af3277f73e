"""Fine-tune an encoder, or train one from scratch, to write text with CTC (wav2vec 2.0, section 3.3).

`run(FinetuneConfig(train_manifest=..., valid_manifest=..., run_directory="runs/base-10h"))` does it all.
"""

from speechssl.finetune.config import FinetuneConfig, MaskConfig
from speechssl.finetune.labels import LabeledData, build_vocabulary, prepare_training, prepare_validation
from speechssl.finetune.run import LEFT_OUT_FILE, FinetuneResult, build_encoder, dry_run, run
from speechssl.finetune.task import CtcTask

__all__ = [
    "LEFT_OUT_FILE",
    "CtcTask",
    "FinetuneConfig",
    "FinetuneResult",
    "LabeledData",
    "MaskConfig",
    "build_encoder",
    "build_vocabulary",
    "dry_run",
    "prepare_training",
    "prepare_validation",
    "run",
]
