"""The published fine-tuning settings by amount of labelled speech (wav2vec 2.0, appendix B; fairseq's configurations).

They are those of BASE on Libri-light's subsets of 10 minutes, 1 hour and 10 hours and on LibriSpeech's 100 hours.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

from speechssl.errors import ConfigError

Budget = Literal["10min", "1h", "10h", "100h"]

# Published: 2 GPUs, 4 micro-batches each, 3.2 million samples (200 s) in each of them: 1600 s an update.
_BATCH = {"batch_seconds": 200.0}
_ACCUMULATION_STEPS = 8


def _settings(
    *, max_steps: int, peak_lr: float, freeze_steps: int, channel_probability: float, layer_drop: float
) -> dict[str, Any]:
    return {
        "freeze_steps": freeze_steps,
        "head_dropout": 0.0,
        "encoder": {
            "input_dropout": 0.0,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.1,
            "layer_drop": layer_drop,
        },
        "mask": {
            "time_probability": 0.65,
            "time_span": 10,
            "channel_probability": channel_probability,
            "channel_span": 64,
        },
        "data": dict(_BATCH),
        "training": {
            "max_steps": max_steps,
            "accumulation_steps": _ACCUMULATION_STEPS,
            "optim": {
                "peak_lr": peak_lr,
                "schedule": "tri_stage",
                "warmup_fraction": 0.1,
                "hold_fraction": 0.4,
                "final_scale": 0.05,
                "betas": [0.9, 0.98],
                "eps": 1e-8,
                "weight_decay": 0.0,
            },
        },
    }


BUDGETS: Mapping[Budget, Mapping[str, Any]] = {
    "10min": _settings(max_steps=13_000, peak_lr=5e-5, freeze_steps=10_000, channel_probability=0.25, layer_drop=0.1),
    "1h": _settings(max_steps=13_000, peak_lr=5e-5, freeze_steps=10_000, channel_probability=0.25, layer_drop=0.1),
    "10h": _settings(max_steps=20_000, peak_lr=5e-5, freeze_steps=10_000, channel_probability=0.5, layer_drop=0.05),
    "100h": _settings(max_steps=80_000, peak_lr=3e-5, freeze_steps=0, channel_probability=0.5, layer_drop=0.1),
}
"""Budget -> values of FinetuneConfig, nested."""


def fill_budget(values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """`values` over the settings of the budget that they name, if any: what is given explicitly stays.

    Without a pre-trained encoder nothing is frozen.

    Raises:
        ConfigError: there is no such budget.
    """
    budget = values.get("budget")
    if budget in (None, "null"):
        return dict(values)
    if budget not in BUDGETS:
        raise ConfigError(f"{source}: budget must be one of {', '.join(get_args(Budget))} or null, but is {budget!r}")
    filled = copy.deepcopy(dict(BUDGETS[budget]))
    if values.get("pretrained") in (None, "null"):
        del filled["freeze_steps"]
    return _over(filled, values)


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in above.items():
        nested = below.get(name)
        below[name] = _over(nested, value) if isinstance(nested, dict) and isinstance(value, Mapping) else value
    return below
