"""Discrete units: k-means over frames of an encoder, in bounded memory, and recordings written as text of units."""

from speechssl.units.settings import ApplyConfig, UnitsConfig, UnitsResult
from speechssl.units.stage import apply, run

__all__ = ["ApplyConfig", "UnitsConfig", "UnitsResult", "apply", "run"]
