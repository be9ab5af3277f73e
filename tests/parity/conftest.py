"""What the parity tests measure goes on record, for the tables in docs/interoperability.md (see `table.py`)."""

import json
import os
from collections.abc import Generator, Iterator

import pytest

from tests.parity.table import RESULTS_VARIABLE, ROWS, Measured

_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Iterator[Measured]:
    """Of a test that fails nothing is recorded; one that asks for this and measures nothing fails."""
    found: list[dict[str, object]] = []

    def put(row: str, column: str, value: float, precision: str = "fp32") -> None:
        assert column in ROWS[row], f"the tables have no {column!r} of {row!r}"
        assert value == value, f"{row}, {column}: no number"
        test = f"{request.path.name}::{request.node.originalname}"
        found.append({"row": row, "column": column, "value": value, "precision": precision, "test": test})

    yield put
    if not request.node.stash.get(_PASSED, False):
        return
    assert found, "this test fills a cell of a table, but measured nothing"
    if path := os.environ.get(RESULTS_VARIABLE):
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(entry) + "\n" for entry in found))
