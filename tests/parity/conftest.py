"""What the comparisons with peers share."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep float64 where we and the peers ask for fp32 (`tensor.float()` in norms and losses): a stricter comparison.

    Only the precision changes, the formulas stay.
    """
    to_fp32 = torch.Tensor.float

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.dtype == torch.float64 else to_fp32(tensor)

    monkeypatch.setattr(torch.Tensor, "float", keep)
    yield
