"""Which weights of a model are trained, at which rate, which are averaged, and what of them is saved."""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from speechssl.asr import CtcModel
from speechssl.encoder import EncoderConfig
from speechssl.finetune.adapters import save_adapters
from speechssl.finetune.config import FinetuneConfig
from speechssl.nn.lora import adapter_parameters, add_adapters, merge_adapters
from speechssl.training.allocator import peak_memory_bytes
from speechssl.training.ema import WeightAverage
from speechssl.training.randomness import derive_seed

logger = logging.getLogger(__name__)

COST_FILE = "cost.json"


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What training the chosen weights takes.

    Attributes:
        num_parameters: of encoder, adapters and head.
        num_trained_parameters: of these, those that an optimizer moves.
        gradient_bytes: of the trained ones.
        optimizer_bytes: AdamW's two moments of the trained ones.
        average_bytes: of the moving average.
        peak_memory_bytes: most memory that this process has used: on the GPU where it trains there, else resident,
            with all that Python and its libraries take. None before training.
    """

    num_parameters: int
    num_trained_parameters: int
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    peak_memory_bytes: int | None = None

    def save(self, directory: Path) -> None:
        """Write `cost.json`."""
        (directory / COST_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


class TrainedPart(nn.Module):
    """A model of whose weights a checkpoint holds only those that change."""

    def __init__(self, model: nn.Module, *, trained: Collection[nn.Parameter]) -> None:
        super().__init__()
        self.model = model
        kept = {id(parameter) for parameter in trained}
        self._constant = {f"model.{name}" for name, value in model.named_parameters() if id(value) not in kept}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained weights and the buffers; each is the model's own tensor."""
        state = super().state_dict(*args, **kwargs)
        return {name: tensor for name, tensor in state.items() if name not in self._constant}


class TrainedWeights:
    """A `CtcModel` with the adapters and the moving average that a configuration asks for."""

    def __init__(self, model: CtcModel, config: FinetuneConfig) -> None:
        """Take `model` over: adapters are put into it. `config.freeze_feature_encoder` is decided here."""
        self.model = model
        self._config = config
        frozen = config.freeze_feature_encoder
        self._freeze_features = config.pretrained is not None if frozen is None else frozen
        self._has_adapters = config.adapters.rank > 0
        if self._has_adapters:
            add_adapters(
                model.encoder.context_encoder.layers,
                rank=config.adapters.rank,
                alpha=config.adapters.alpha,
                dropout=config.adapters.dropout,
                targets=config.adapters.targets,
                seed=derive_seed("adapters", config.training.seed),
            )
        self._head = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
        self._encoder = self._trained_encoder_parameters()
        trained = {id(parameter) for parameter in self.trained}
        self._constant = [parameter for parameter in model.parameters() if id(parameter) not in trained]
        self._average: WeightAverage | None = None
        if config.ema_decay:
            shared = self._constant if self._has_adapters else ()
            self._average = WeightAverage(model, decay=config.ema_decay, shared=shared)
        self._modules = self._stored_modules()
        self.freeze(0)

    def _trained_encoder_parameters(self) -> list[nn.Parameter]:
        encoder = self.model.encoder
        if self._has_adapters:
            return adapter_parameters(encoder)
        return [
            parameter
            for name, parameter in encoder.named_parameters()
            if not (self._freeze_features and name.startswith("feature_encoder."))
        ]

    @property
    def trained(self) -> list[nn.Parameter]:
        """All parameters that are ever trained."""
        return [*self._encoder, *self._head]

    @property
    def evaluated(self) -> CtcModel:
        """The model that is validated and saved: the average where there is one."""
        return self.model if self._average is None else cast(CtcModel, self._average.model)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """What a checkpoint holds; see `training.Task`. With adapters the frozen weights are left out."""
        return self._modules

    def _stored_modules(self) -> dict[str, nn.Module]:
        average = None if self._average is None else self._average.model
        if not self._has_adapters:
            return {"model": self.model} if average is None else {"trained": self.model, "model": average}
        parts: dict[str, nn.Module] = {"trained": TrainedPart(self.model, trained=self.trained)}
        if average is not None:
            constant = {id(parameter) for parameter in self._constant}
            own = [parameter for parameter in average.parameters() if id(parameter) not in constant]
            parts["average"] = TrainedPart(average, trained=own)
        return parts

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The linear layer and the encoder's parameters, each with its factor on the learning rate.

        Weight decay is for matrices and kernels only: not for biases, norms and the mask embedding.
        """
        config, encoder = self._config, self.model.encoder
        trained, head = {id(p) for p in self.trained}, {id(p) for p in self._head}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if id(parameter) not in trained:
                continue
            if id(parameter) in head:
                scale = config.head_lr_scale
            else:
                above = _layers_above(name.removeprefix("encoder."), encoder.config)
                scale = config.encoder_lr_scale * config.layer_lr_decay**above
            groups.setdefault((scale, parameter.dim() > 1), []).append(parameter)
        return [
            {"params": parameters, "lr_scale": scale} | ({} if decays else {"weight_decay": 0.0})
            for (scale, decays), parameters in groups.items()
        ]

    def freeze(self, step: int) -> None:
        """Let the encoder's trained weights rest in the first `freeze_steps` updates, and all others always."""
        trains_encoder = step >= self._config.freeze_steps
        for parameter in self._constant:
            parameter.requires_grad_(False)
        for parameter in self._encoder:
            parameter.requires_grad_(trains_encoder)

    def after_update(self, step: int) -> None:
        """Move the average."""
        if self._average is not None:
            self._average.update(step)

    def save(self, directory: Path, *, pretrained_checksum: str) -> None:
        """Write a model directory that any command takes, and with adapters these alone beside it."""
        if not self._has_adapters:
            self.evaluated.save(directory)
            return
        merged = merge_adapters(self.evaluated)
        assert isinstance(merged, CtcModel)
        merged.save(directory)
        part = self.modules["trained" if self._average is None else "average"]
        save_adapters(
            directory,
            {name.removeprefix("model."): tensor for name, tensor in part.state_dict().items()},
            self._config,
            head_input="context" if self.model.layer_mix is None else "weighted_layers",
            pretrained_checksum=pretrained_checksum,
        )

    def cost(self, *, with_peak: bool = False) -> TrainingCost:
        """Numbers and sizes; `with_peak` after training."""
        num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in self.trained)
        average = 0 if self._average is None else num_bytes
        return TrainingCost(
            num_parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            num_trained_parameters=sum(parameter.numel() for parameter in self.trained),
            gradient_bytes=num_bytes,
            optimizer_bytes=2 * num_bytes,
            average_bytes=average,
            peak_memory_bytes=peak_memory_bytes(self.model.device) if with_peak else None,
        )


def _layers_above(parameter: str, config: EncoderConfig) -> int:
    """How many transformer layers lie above an encoder's parameter."""
    parts = parameter.split(".")
    if parts[:2] == ["context_encoder", "layers"]:
        return config.num_layers - 1 - int(parts[2])
    is_final_norm = parts[:2] == ["context_encoder", "norm"] and config.norm_position == "pre"
    return 0 if is_final_norm else config.num_layers
