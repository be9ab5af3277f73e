"""The weighted sum of an encoder's layers, with weights that are learnt (ELMo, equation 1; SUPERB, section 3).

Shapes: B utterances, T frames, D model dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerMix(nn.Module):
    """softmax(scores) over the transformer's input and the output of each layer, equal at first.

    Every layer is normalised over its dimensions first (no weights): layers of a pre-norm network grow with depth, so
    that without it the last would drown the first ones whatever the weights.
    """

    def __init__(self, num_layers: int) -> None:
        """`num_layers` counts the transformer's input too."""
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(num_layers))

    @property
    def weights(self) -> Tensor:
        """f32 `[num_layers]`, positive, of sum 1; the first belongs to the transformer's input."""
        return self.scores.detach().float().softmax(dim=0)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """num_layers tensors `[B, T, D]` -> `[B, T, D]`."""
        weights = self.scores.float().softmax(dim=0)
        mixed = torch.zeros_like(layers[0])
        for weight, layer in zip(weights, layers, strict=True):
            mixed = mixed + weight.to(layer.dtype) * F.layer_norm(layer, layer.shape[-1:])
        return mixed
