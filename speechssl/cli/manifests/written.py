"""What a command that writes several manifests says of them."""

from collections.abc import Mapping
from pathlib import Path

from speechssl.cli.output import Cell, clock, percent, table
from speechssl.manifest import Manifest


def save_all(parts: Mapping[str, Manifest], folder: Path, *, like: Path, whole_seconds: float) -> None:
    """Save each part in a folder, as Parquet where the manifest `like` is, and print a table of them.

    `whole_seconds` is the audio of what they were made of, for their shares.
    """
    suffix = ".parquet" if like.suffix.lower() == ".parquet" else ".jsonl"
    rows: list[tuple[Cell, ...]] = []
    for name, part in parts.items():
        path = folder / f"{name}{suffix}"
        part.save(path)
        rows.append(
            (str(path), len(part), clock(part.total_seconds), percent(part.total_seconds / max(whole_seconds, 1e-9)))
        )
    table("written", ("manifest", "utterances", "audio", "share"), rows)
