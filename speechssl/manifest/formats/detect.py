"""Tell a format by what lies there."""

import json
from pathlib import Path

from speechssl.errors import ManifestError
from speechssl.manifest.formats import audiofolder, fairseq, lhotse, nemo

_BY_ENDING = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".csv": "csv", ".tsv": "tsv"}


def detect_source(path: Path) -> str:
    """The format of a file or folder.

    Raises:
        ManifestError: it looks like none of them, or like several.
    """
    if not path.exists():
        raise ManifestError(f"{path}: no such file or folder; check the path")
    return _detect_folder(path) if path.is_dir() else _detect_file(path)


def detect_target(path: Path) -> str:
    """The format that a file's name stands for.

    Raises:
        ManifestError: several formats are written under such a name.
    """
    if path.name.endswith(".jsonl.gz"):
        return "lhotse"
    if path.name in audiofolder.METADATA:
        return "audiofolder"
    if path.suffix.lower() in _BY_ENDING:
        return _BY_ENDING[path.suffix.lower()]
    raise ManifestError(
        f"{path}: say with --target_format what to write: fairseq, fairseq2, kaldi, lhotse or audiofolder for a folder;"
        " or name a file that ends in .jsonl, .parquet, .csv, .tsv or .jsonl.gz"
    )


def _detect_folder(path: Path) -> str:
    found = []
    if (path / "wav.scp").is_file():
        found.append("kaldi")
    if _holds_lhotse(path):
        found.append("lhotse")
    if audiofolder.metadata_files(path):
        found.append("audiofolder")
    if any(fairseq.is_list(name) for name in path.glob("*.tsv")):
        found.append("fairseq")
    if len(found) == 1:
        return found[0]
    if found:
        raise ManifestError(f"{path}: could be {' or '.join(found)}; say which with --source_format")
    raise ManifestError(
        f"{path}: holds no manifest (looked for wav.scp, *cuts*.jsonl.gz, metadata.csv and .tsv with a root folder);"
        " name a file, or use `speechssl manifest build` on a folder of recordings"
    )


def _holds_lhotse(path: Path) -> bool:
    names = [name.name for kind in lhotse.KINDS for name in path.glob(f"*{kind}*")]
    return any(name.endswith((".jsonl", ".jsonl.gz")) for name in names)


def _detect_file(path: Path) -> str:
    if path.name == "wav.scp":
        return "kaldi"
    if path.name in audiofolder.METADATA:
        return "audiofolder"
    if path.name.endswith(".jsonl.gz"):
        return "lhotse"
    if path.suffix.lower() in (".jsonl", ".json"):
        return _detect_json_lines(path)
    if path.suffix.lower() == ".tsv":
        return "fairseq" if fairseq.is_list(path) else "tsv"
    if path.suffix.lower() in _BY_ENDING:
        return _BY_ENDING[path.suffix.lower()]
    raise ManifestError(f"{path}: its name tells no format; say which it is with --source_format")


def _detect_json_lines(path: Path) -> str:
    """By the fields of the first line that can be read; ours where none can, whose reader names what is wrong."""
    with open(path, "rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                return "jsonl"
            names = set(row) if isinstance(row, dict) else set()
            if lhotse.kind_of(names) is not None:
                return "lhotse"
            return "nemo" if nemo.looks_like(names) else "jsonl"
    return "jsonl"
