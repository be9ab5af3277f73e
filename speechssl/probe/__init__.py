"""Linear probes: how much a frozen representation tells of a label, beside hand-made features and random encoders."""

from speechssl.probe.classify import Difference, ProbeScore
from speechssl.probe.features import BASELINES, Pooling
from speechssl.probe.settings import ProbeConfig, ProbeResult
from speechssl.probe.stage import probe, run

__all__ = ["BASELINES", "Difference", "Pooling", "ProbeConfig", "ProbeResult", "ProbeScore", "probe", "run"]
