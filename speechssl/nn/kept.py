"""What is computed of weights alone is computed once, outside of training."""

from collections.abc import Callable

import torch
from torch import Tensor


class KeptWhileUnchanged:
    """Remembers a tensor as long as those that it was made of stay as they are.

    Only where no gradient is recorded. Torch counts every change of a tensor, so an update, a loaded checkpoint or a
    move makes it anew. Tensors made in inference mode are not counted, and what is made of them is not kept.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._value: Tensor | None = None

    def __call__(self, make: Callable[[], Tensor], *sources: Tensor) -> Tensor:
        """The value of `make`, which depends on the values of the parameters among `sources` and on all their types."""
        if torch.is_grad_enabled() or any(x.is_inference() for x in sources if isinstance(x, torch.nn.Parameter)):
            self._key = self._value = None
            return make()
        key = tuple(
            (x.data_ptr(), x._version, x.dtype) if isinstance(x, torch.nn.Parameter) else x.dtype for x in sources
        )
        if self._value is None or key != self._key:
            self._key, self._value = key, make()
        return self._value

    def __deepcopy__(self, memo: object) -> "KeptWhileUnchanged":
        """Empty: the copy's weights are others."""
        return KeptWhileUnchanged()

    def __reduce__(self) -> tuple[type["KeptWhileUnchanged"], tuple[()]]:
        """Empty when pickled."""
        return KeptWhileUnchanged, ()
