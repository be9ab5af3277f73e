"""Where the parts of a table of embeddings lie, and how its files are written.

    DIR/embeddings.parquet/shard-000000.parquet ...   the embeddings (or embeddings.safetensors/, embeddings.npy/)
    DIR/index/shard-000000.parquet ...                one row a recording: where its rows are, what they were made of
    DIR/embeddings.json                               what made the table, and whether it is whole
    DIR/errors.jsonl                                  the recordings that could not be embedded, with the reason

A file appears under its name only when it is whole. A shard is finished when its file of the index is there: that is
written last, and before a shard is written again it is removed first. So whoever is killed leaves at worst a shard
without its file of the index, which the next run makes again.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from speechssl.errors import ConfigError

Format = Literal["parquet", "safetensors", "numpy"]

SUFFIXES: dict[Format, str] = {"parquet": ".parquet", "safetensors": ".safetensors", "numpy": ".npy"}
DATA_NAME = "embeddings"
INDEX_NAME = "index"
FACTS_NAME = "embeddings.json"
ERRORS_NAME = "errors.jsonl"
UNFINISHED_NAME = ".unfinished"  # files that are being written; on the same file system, so that they can be renamed


def data_folder(folder: Path, format: Format) -> Path:
    """The folder of the shards."""
    return folder / f"{DATA_NAME}{SUFFIXES[format]}"


def shard_name(number: int) -> str:
    """`shard-000007`, the name of both files of a shard without the suffix."""
    return f"shard-{number:06d}"


def shard_number(path: Path) -> int:
    """The inverse of `shard_name`."""
    return int(path.stem.removeprefix("shard-"))


def shard_paths(folder: Path, number: int, format: Format) -> tuple[Path, Path]:
    """The file of the embeddings and the file of the index."""
    name = shard_name(number)
    return data_folder(folder, format) / f"{name}{SUFFIXES[format]}", folder / INDEX_NAME / f"{name}.parquet"


def write_file(path: Path, folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file of another name, then give it its own; `folder` is that of the table.

    What is under the name afterwards is the whole file, on the disk, or what was there before.
    """
    temporary = folder / UNFINISHED_NAME / f"{path.parent.name}-{os.getpid()}-{path.name}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there, before anything that follows."""
    if path.exists():
        path.unlink()
        _sync_folder(path.parent)


def write_json(path: Path, folder: Path, values: Mapping[str, Any]) -> None:
    """A JSON object, written like any other file of a table."""
    text = json.dumps(dict(values), ensure_ascii=False, indent=2) + "\n"
    write_file(path, folder, lambda temporary: _write_text(temporary, text))


def read_facts(folder: Path) -> dict[str, Any]:
    """What `embeddings.json` says; empty where there is none.

    Raises:
        ConfigError: the file is no JSON object.
    """
    path = folder / FACTS_NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error}); remove the folder and embed again") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: is no JSON object; remove the folder and embed again")
    return found


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
