"""How much labelled audio pre-training is worth: word error rate against hours of labels, from scratch and pre-trained.

`run(LabelEfficiencyConfig(...))` fine-tunes every encoder on nested subsets of the labels with the same candidates for
the learning rate, repeats the best one with several seeds, and only then reads the test manifests.
"""

from speechssl.label_efficiency.analysis import Comparison, CurvePoint, Saving, analyse
from speechssl.label_efficiency.checks import DryRun
from speechssl.label_efficiency.config import LabelEfficiencyConfig
from speechssl.label_efficiency.stage import LabelEfficiencyResult, dry_run, run

__all__ = [
    "Comparison",
    "CurvePoint",
    "DryRun",
    "LabelEfficiencyConfig",
    "LabelEfficiencyResult",
    "Saving",
    "analyse",
    "dry_run",
    "run",
]
