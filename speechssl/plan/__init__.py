"""What a training will need before it is begun: parameters, operations, memory, the largest batch, hours."""

from speechssl.plan.flops import StepFlops, encoder_flops, step_flops
from speechssl.plan.measure import Measured
from speechssl.plan.stage import Plan, PlanConfig, parse_memory, run

__all__ = [
    "Measured",
    "Plan",
    "PlanConfig",
    "StepFlops",
    "encoder_flops",
    "parse_memory",
    "run",
    "step_flops",
]
