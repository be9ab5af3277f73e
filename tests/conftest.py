"""Fixtures that all tests share."""

import os
from pathlib import Path

# Before torch is imported anywhere, so that this process and those it starts keep to one thread each: the tests run in
# several worker processes side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder of the recorded corpora: SPEECHSSL_CORPORA, else `shared/corpora` beside the repository."""
    named = os.environ.get("SPEECHSSL_CORPORA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "corpora"
    if not folder.is_dir():
        pytest.skip(f"no recorded corpora: {folder} is not a folder; set SPEECHSSL_CORPORA to one that holds them")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the source tree."""
    return REPOSITORY


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in float64 where the code asks for fp32 (`tensor.float()` in norms and losses), for strict comparisons.

    Only the precision changes, the formulas stay.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
