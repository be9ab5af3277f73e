"""Evaluations as files: hypotheses of other tools read in, results written as folders and read back."""

from speechssl.evaluation.folder import (
    RESULT_FILE,
    UTTERANCES_FILE,
    Evaluation,
    load_evaluation,
    save_report,
)
from speechssl.evaluation.hypotheses import HypothesesFile, read_hypotheses

__all__ = [
    "RESULT_FILE",
    "UTTERANCES_FILE",
    "Evaluation",
    "HypothesesFile",
    "load_evaluation",
    "read_hypotheses",
    "save_report",
]
