"""Fixtures that all tests share."""

import os
import random
from pathlib import Path

# Before torch is imported anywhere, so that this process and those it starts keep to one thread each: the tests run in
# several worker processes side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

# Another number draws other weights and inputs for every test: `SPEECHSSL_TEST_SEED=7 make test`.
SEED = int(os.environ.get("SPEECHSSL_TEST_SEED", "0"))
# The same examples on every machine, however slow: a red run can be repeated. The campaigns of `tests/unit/fuzzing.py`
# look for new ones.
hypothesis.settings.register_profile("repeatable", derandomize=SEED == 0, deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _seeded_module() -> None:
    """What a module's shared fixtures draw does not depend on the tests that ran before."""
    _seed()


@pytest.fixture(autouse=True)
def _seeded(_seeded_module: None) -> None:
    """Each test draws the same numbers, alone or in any company."""
    _seed()


def _seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


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
