"""The tables of docs/interoperability.md: which cells there are, and what the tests measured for each.

    python -m tests.parity.table

runs the tests that fill a cell, refuses to write anything where one fails or a cell stays empty, and writes
`measured.json` and the tables. `test_table.py` holds the two against `ROWS` and against the tests.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

RESULTS_VARIABLE = "SPEECHSSL_PARITY_RESULTS"
"""Names the file to which the `measured` fixture appends."""
FOLDER = Path(__file__).resolve().parent
MEASURED = FOLDER / "measured.json"
PAGE = FOLDER.parent.parent / "docs" / "interoperability.md"
_PEERS = ("torch", "torchaudio", "transformers", "fairseq2", "onnx", "onnxruntime")

KINDS = ("encoder in", "pre-training in", "CTC in", "encoder out", "pre-training out", "CTC out")
PADDING = ("padded against alone", "alone against the peers", "padded against the peers")
LOSSES = ("loss", "gradients")
_BOTH = ("encoder in", "CTC in", "encoder out", "CTC out")
_ENCODER_IN = ("encoder in",)
_FAIRSEQ = ("encoder in", "CTC in")
_PROGRAM = ("ONNX in onnxruntime", "torch.export in torch")

TABLES: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "models": (
        KINDS,
        {
            "Hugging Face wav2vec2": KINDS,
            "Hugging Face HuBERT": _BOTH,
            "Hugging Face WavLM": _BOTH,
            "Hugging Face data2vec-audio": _BOTH,
            "Hugging Face wav2vec2-conformer": KINDS,
            "Hugging Face w2v-BERT 2.0": _BOTH,
            "fairseq wav2vec 2.0": ("pre-training in", "CTC in"),
            "fairseq HuBERT": _FAIRSEQ,
            "fairseq data2vec": _ENCODER_IN,
            "WavLM's own files": _ENCODER_IN,
            "fairseq2 wav2vec2, wav2vec2_asr": ("pre-training in", "CTC in", "encoder out", "pre-training out",
                                                "CTC out"),
            "torchaudio wav2vec 2.0, HuBERT": _BOTH,
            "torchaudio WavLM": _BOTH,
        },
    ),
    "programs": (
        _PROGRAM,
        {
            "wav2vec 2.0 and HuBERT, BASE": _PROGRAM,
            "wav2vec 2.0 and HuBERT, LARGE": _PROGRAM,
            "WavLM": _PROGRAM,
            "data2vec-audio": _PROGRAM,
            "wav2vec2-conformer": _PROGRAM,
            "w2v-BERT 2.0": _PROGRAM,
            "encoders of log-mel features": _PROGRAM,
        },
    ),
    "losses": (
        LOSSES,
        {
            "contrastive loss, transformers": LOSSES,
            "contrastive loss, fairseq2": LOSSES,
            "CTC loss, transformers": LOSSES,
            "CTC loss, fairseq2": LOSSES,
            "fifty updates, fairseq2": ("loss",),
        },
    ),
    "padding": (
        PADDING,
        {
            "group norm, `masked`": PADDING[:2],
            "group norm, `included`": PADDING,
            "layer norm, `masked`": PADDING,
            "layer norm, `included`": PADDING,
        },
    ),
}  # fmt: skip
"""Name of a table -> its columns, and of each row those that hold something."""
ROWS = {row: columns for _, rows in TABLES.values() for row, columns in rows.items()}

Cells = dict[str, dict[str, dict[str, Any]]]
"""Row -> column -> the largest `value` with its `precision`, and the `tests` that measured it."""


class Measured(Protocol):
    """Puts a relative difference into the cell `column` of `row`; of several in one cell the largest is shown."""

    def __call__(self, row: str, column: str, value: float, precision: str = "fp32") -> None: ...


def cells(entries: list[dict[str, Any]]) -> Cells:
    """Of every cell the largest value and all of its tests."""
    found: Cells = {}
    for entry in entries:
        cell = found.setdefault(entry["row"], {}).setdefault(entry["column"], {"value": -1.0, "tests": []})
        cell["tests"] = sorted({*cell["tests"], entry["test"]})
        if entry["value"] > cell["value"]:
            cell |= {"value": entry["value"], "precision": entry["precision"]}
    return found


def empty(found: Cells) -> list[str]:
    """Cells that nothing was measured for."""
    return [
        f"{row}: {column}" for row, columns in ROWS.items() for column in columns if column not in found.get(row, {})
    ]


def render(name: str, found: Cells) -> str:
    """A table as Markdown."""
    columns, rows = TABLES[name]
    lines = ["| |" + "".join(f" {column} |" for column in columns) + " tests |", "|---" * (len(columns) + 2) + "|"]
    for row in rows:
        texts = [_text(found[row][column]) if column in rows[row] else "–" for column in columns]
        files = sorted({test.partition("::")[0] for column in rows[row] for test in found[row][column]["tests"]})
        named = ", ".join(f"`{file.removeprefix('test_').removesuffix('.py')}`" for file in files)
        lines.append("| " + " | ".join([row, *texts, named]) + " |")
    return "\n".join(lines) + "\n"


def with_tables(page: str, found: Cells) -> str:
    """A page with every table between its two marks replaced."""
    for name in TABLES:
        before, begin, rest = page.partition(f"<!-- {name}: written by tests/parity/table.py -->\n")
        _, end, after = rest.partition(f"<!-- end of {name} -->")
        assert begin and end, f"the page has no place for the table {name}"
        page = f"{before}{begin}{render(name, found)}{end}{after}"
    return page


def _text(cell: dict[str, Any]) -> str:
    value = (
        "equal" if cell["value"] == 0 else f"{cell['value']:.0%}" if cell["value"] > 0.01 else f"{cell['value']:.0e}"
    )
    return f"{value} {cell['precision']}"


def main() -> int:
    """Run the tests, then write."""
    asking = sorted(path.name for path in FOLDER.glob("test_*.py") if "measured: Measured" in path.read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.jsonl"
        words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *(str(FOLDER / name) for name in asking)]
        if subprocess.run([*words, *sys.argv[1:]], env={**os.environ, RESULTS_VARIABLE: str(file)}).returncode:
            print("a test failed; nothing was written")
            return 1
        found = cells([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])
    if missing := empty(found):
        print("nothing was measured for: " + "; ".join(missing))
        return 1
    versions = {name: metadata.version(name) for name in _PEERS}
    MEASURED.write_text(json.dumps({"versions": versions, "cells": found}, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
