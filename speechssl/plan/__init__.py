"""What a training will need before it is begun: parameters, operations, memory, the largest batch, hours."""

from speechssl.plan.flops import StepFlops, encoder_flops, step_flops
from speechssl.plan.measure import Measured, measure_step
from speechssl.plan.stage import Plan, PlanConfig, parse_memory, run

__all__ = [
    "Measured",
    "Plan",
    "PlanConfig",
    "StepFlops",
    "encoder_flops",
    "measure_step",
    "parse_memory",
    "run",
    "step_flops",
]
