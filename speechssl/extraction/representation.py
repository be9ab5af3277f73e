"""What is wanted of an encoder: layers or a weighted sum of them, pooled or frame by frame, normalized or not.

Shapes: B utterances, T frames, D model dim, K layers, E embedding dim.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from speechssl.errors import ConfigError
from speechssl.nn.pooling import Pooling, PoolName, Summary, make_pooling
from speechssl.types import EncoderOutput

Pool = PoolName | Literal["none"]
POOLS: tuple[Pool, ...] = ("mean", "max", "mean_std", "attentive", "first", "last", "none")
WEIGHTED_SUM = -1
"""Stands for a weighted sum where the number of a layer is written down."""


class Encoder(Protocol):
    """What is used of a `SpeechEncoder`, which lies above this."""

    config: Any
    training: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def strided_layers(self) -> tuple[tuple[int, int], ...]:
        """(kernel, stride) of the front end."""
        ...


@dataclass(frozen=True, kw_only=True)
class Representation:
    """What to take.

    Attributes:
        layers: numbers of layers, 0 for the transformer's input; None stands for the context (the encoder's output).
        layer_weights: one weight for each layer from 0 to the last; then their weighted sum is taken instead of
            `layers`.
        pool: over time; `none` keeps the frames.
        normalize: `l2` scales each vector (or frame) to length 1.
    """

    layers: tuple[int | None, ...] = (None,)
    layer_weights: tuple[float, ...] | None = None
    pool: Pool = "mean"
    normalize: Literal["none", "l2"] = "none"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.pool not in POOLS:
            raise ConfigError(f"pool must be one of {', '.join(POOLS)}, but is {self.pool!r}")
        if self.normalize not in ("none", "l2"):
            raise ConfigError(f"normalize must be none or l2, but is {self.normalize!r}")
        if not self.layers:
            raise ConfigError("layers must name at least one layer, or be left out for the encoder's output")
        if len(set(self.layers)) < len(self.layers):
            raise ConfigError(f"layers must name each layer once, but are {list(self.layers)}")
        if self.layer_weights is not None:
            if self.layers != (None,):
                raise ConfigError("layers and layer_weights exclude each other: the weights are those of all layers")
            if not all(map(math.isfinite, self.layer_weights)) or not any(self.layer_weights):
                raise ConfigError(f"layer_weights must be finite and not all 0, but are {list(self.layer_weights)}")

    @property
    def keys(self) -> tuple[int | None, ...]:
        """What stands in the column `layer`: the layers, or -1 for the weighted sum."""
        return (WEIGHTED_SUM,) if self.layer_weights is not None else self.layers

    def check(self, num_layers: int, *, source: str | None = None) -> None:
        """See that the encoder `source` of `num_layers` has what is wanted.

        Raises:
            ConfigError: it has not.
        """
        where = "" if source is None else f" for {source}"
        for layer in self.layers:
            if layer is not None and not 0 <= layer <= num_layers:
                raise ConfigError(f"layer must be between 0 and {num_layers}{where}, but is {layer}")
        if self.layer_weights is not None and len(self.layer_weights) != num_layers + 1:
            raise ConfigError(
                f"layer_weights must be {num_layers + 1} numbers{where}, one for each layer from 0 to"
                f" {num_layers}, but are {len(self.layer_weights)}"
            )


class Extractor:
    """An encoder with what is wanted of it.

    Layers above the highest that is wanted are not computed. The encoder is left as it was handed in, and computes in
    evaluation mode whatever its own mode is: no LayerDrop, no dropout.
    """

    def __init__(self, encoder: Encoder, wanted: Representation, *, pooling: Pooling | None = None) -> None:
        """Take `wanted` of `encoder`.

        Args:
            encoder: a `SpeechEncoder`.
            wanted: what to take.
            pooling: trained weights of a pooling that has some (`attentive`).

        Raises:
            ConfigError: the encoder has no such layer, or the pooling's weights are missing.
        """
        config = encoder.config
        wanted.check(config.num_layers)
        self.wanted = wanted
        self.encoder: Any = first_layers(encoder, wanted)
        self.sample_rate: int = config.sample_rate
        self.device = encoder.device
        self.pooling: Pooling | None = None
        if wanted.pool != "none":
            if wanted.pool == "attentive" and pooling is None:
                raise ConfigError("pool=attentive needs trained weights: give pool_weights, or use mean_std")
            self.pooling = (pooling or make_pooling(wanted.pool, dim=config.model_dim)).to(self.device).eval()
        self.dimension: int = config.model_dim if self.pooling is None else self.pooling.output_dim(config.model_dim)

    @property
    def needs_layers(self) -> bool:
        """Whether the encoder must keep its layers' outputs."""
        return self.wanted.layer_weights is not None or self.wanted.layers != (None,)

    def chosen(self, output: EncoderOutput) -> Tensor:
        """The wanted layers f32 `[K, B, T, D]`, or their weighted sum `[1, B, T, D]`."""
        if self.wanted.layer_weights is not None:
            assert output.layers is not None
            total = torch.zeros_like(output.layers[0], dtype=torch.float32)
            for weight, frames in zip(self.wanted.layer_weights, output.layers, strict=True):
                total += weight * frames.float()
            return total[None]
        found = []
        for layer in self.wanted.layers:
            assert layer is None or output.layers is not None
            found.append((output.context if layer is None else output.layers[layer]).float())  # type: ignore[index]
        return torch.stack(found)

    def summarize(self, frames: Tensor, num_frames: Tensor) -> Summary:
        """The pooling's summary of `[K, B, T, D]`, with K B rows."""
        assert self.pooling is not None
        return self.pooling.summarize(frames.flatten(0, 1), num_frames.repeat(len(frames)))

    def finish(self, summary: Summary) -> Tensor:
        """Summary of K B rows -> vectors f32 `[K, B, E]`."""
        assert self.pooling is not None
        pooled = self.normalized(self.pooling.finish(summary))
        return pooled.view(len(self.wanted.keys), -1, self.dimension)

    def normalized(self, vectors: Tensor) -> Tensor:
        """Along the last dimension, if wanted; a vector of zeros stays."""
        return nn.functional.normalize(vectors, dim=-1) if self.wanted.normalize == "l2" else vectors


def first_layers(encoder: Encoder, wanted: Representation) -> Any:
    """A copy, in evaluation mode, that shares the weights and computes no layer above the highest that is wanted."""
    assert isinstance(encoder, nn.Module)
    copied = _shell(encoder)
    if None not in wanted.keys and wanted.layer_weights is None:
        context = _shell(encoder.context_encoder)
        highest = max(layer for layer in wanted.layers if layer is not None)
        context.layers = encoder.context_encoder.layers[:highest]  # type: ignore[union-attr,index]
        copied.context_encoder = context
    return copied.eval() if not encoder.training else _evaluating(copied)


def load_pooling(path: Any, pool: Pool, *, dim: int) -> Pooling:
    """A pooling with the weights in a .safetensors file, as its `state_dict` has them.

    Raises:
        ConfigError: the file cannot be read or has other weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if pool != "attentive":
        raise ConfigError(f"pool_weights goes with pool=attentive; {pool} has no weights")
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"{path}: cannot be read as safetensors ({error}); save the pooling's state_dict there"
        ) from None
    try:
        from speechssl.nn.pooling import AttentiveStatistics

        pooling = AttentiveStatistics(dim, hidden_dim=len(state["expand.bias"]))
        pooling.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise ConfigError(f"{path}: is no attentive pooling of {dim} dimensions: {error}") from None
    return pooling


def parse_layers(words: Sequence[int | str], num_layers: int) -> tuple[int | None, ...]:
    """Layers from words: numbers, `context`, or `all` (0 to the last, and the context where it is not the last)."""
    found: list[int | None] = []
    for word in words:
        if word == "all":
            found += [*range(num_layers + 1), None]
        elif word == "context":
            found.append(None)
        else:
            try:
                found.append(int(word))
            except ValueError:
                raise ConfigError(f"layers must be numbers, context or all, but hold {word!r}") from None
    return tuple(found)


def _shell(module: Any) -> Any:
    """A copy of a module that holds the same parameters, buffers and parts."""
    copied = copy.copy(module)
    copied.__dict__ = dict(module.__dict__)
    for name in ("_modules", "_parameters", "_buffers"):
        copied.__dict__[name] = dict(module.__dict__[name])
    return copied


def _evaluating(module: Any) -> Any:
    """A copy of a module in training mode, and of all its parts, in evaluation mode; the weights are shared."""
    copied = _shell(module)
    copied.__dict__["training"] = False
    for name, part in module._modules.items():
        if part is not None:
            copied._modules[name] = _evaluating(part)
    return copied
