"""The whole pipeline on real speech in about ten minutes on two cores; see `pipeline`."""

from speechssl.jobs import Interrupted
from speechssl.quickstart.pipeline import run
from speechssl.quickstart.settings import QuickstartConfig, QuickstartResult, Trial

__all__ = ["Interrupted", "QuickstartConfig", "QuickstartResult", "Trial", "run"]
