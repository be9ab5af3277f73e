"""The tables of docs/interoperability.md say what tests measured: no cell without a test, none by hand."""

import importlib
import inspect
import json

import pytest

from tests.parity.table import MEASURED, PAGE, ROWS, cells, empty, with_tables

CELLS = json.loads(MEASURED.read_text(encoding="utf-8"))["cells"]


def test_every_cell_was_measured_and_stands_on_the_page_as_measured() -> None:
    assert empty(CELLS) == []
    assert {row: set(columns) for row, columns in CELLS.items()} == {row: set(names) for row, names in ROWS.items()}
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page, CELLS) == page, "run `python -m tests.parity.table`"


@pytest.mark.parametrize("test", sorted({t for row in CELLS.values() for cell in row.values() for t in cell["tests"]}))
def test_the_tests_behind_the_cells_exist_and_measure(test: str) -> None:
    """Whether they pass they say themselves; one that asks for `measured` and measures nothing fails."""
    file, _, name = test.partition("::")
    module = importlib.import_module(f"tests.parity.{file.removesuffix('.py')}")
    assert "measured" in inspect.signature(getattr(module, name)).parameters


def test_a_cell_without_a_passing_test_is_named() -> None:
    entries = [
        {"row": row, "column": column, "value": 1e-6, "precision": "fp32", "test": "a"}
        for row, columns in ROWS.items() for column in columns
    ]  # fmt: skip
    assert empty(cells(entries)) == []
    gone = entries.pop()
    assert empty(cells(entries)) == [f"{gone['row']}: {gone['column']}"]
    worse = {**entries[0], "value": 2e-6, "precision": "fp64", "test": "b"}
    cell = cells([worse, *entries])[worse["row"]][worse["column"]]
    assert cell == {"value": 2e-6, "precision": "fp64", "tests": ["a", "b"]}
