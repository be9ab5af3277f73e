"""One layer of an encoder's output, and its mean over time.

Shapes: B utterances, T frames, D model dim.
"""

from torch import Tensor

from speechssl.errors import ConfigError
from speechssl.nn.pooling import MeanPooling
from speechssl.types import EncoderOutput


def select_layer(output: EncoderOutput, layer: int | None) -> Tensor:
    """The frames `[B, T, D]` of one layer; None is the context, 0 the transformer's input.

    Raises:
        ConfigError: there is no such layer.
    """
    if layer is None:
        return output.context
    assert output.layers is not None, "the encoder was called without layers=True"
    if not 0 <= layer < len(output.layers):
        raise ConfigError(f"layer must be between 0 and {len(output.layers) - 1}, but is {layer}")
    return output.layers[layer]


def mean_over_time(frames: Tensor, num_frames: Tensor) -> Tensor:
    """Mean over the valid frames in fp32: `[B, T, D]`, `[B]` -> `[B, D]`."""
    pooled: Tensor = MeanPooling()(frames, num_frames)
    return pooled
