"""What the comparisons with peers share."""

import pytest
import torch


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float64 where we and the peers ask for fp32 (`tensor.float()` in norms and losses), for a stricter
    comparison. Only the precision changes, the formulas stay.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
