"""Fine-tune an encoder, or train one from scratch, to write text with CTC (wav2vec 2.0, section 3.3).

`run(FinetuneConfig(train_manifest=..., valid_manifest=..., run_directory="runs/base-10h"))` does it all.
"""

from speechssl.finetune.adapters import load_adapters
from speechssl.finetune.config import AdapterConfig, FinetuneConfig, MaskConfig
from speechssl.finetune.diagnose import monitor_for
from speechssl.finetune.labels import LabeledData, build_vocabulary, prepare_training, prepare_validation
from speechssl.finetune.run import LEFT_OUT_FILE, FinetuneResult, build_encoder, dry_run, run
from speechssl.finetune.task import CtcTask
from speechssl.finetune.weights import TrainingCost

__all__ = [
    "LEFT_OUT_FILE",
    "AdapterConfig",
    "CtcTask",
    "FinetuneConfig",
    "FinetuneResult",
    "LabeledData",
    "MaskConfig",
    "TrainingCost",
    "build_encoder",
    "build_vocabulary",
    "dry_run",
    "load_adapters",
    "monitor_for",
    "prepare_training",
    "prepare_validation",
    "run",
]
