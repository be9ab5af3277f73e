"""Paths of recordings, by columns: most get a common prefix; else each distinct folder is looked at, not each row."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

_STRING = pa.large_string()
_EMPTY = pa.scalar("", _STRING)


def resolve(path: str, folder: Path | None) -> str:
    """A manifest's path ready to open: relative ones are relative to the manifest's folder; URLs are left alone."""
    if folder is None or os.path.isabs(path) or "://" in path:
        return path
    return os.path.join(folder, path)


def rebase(paths: pa.ChunkedArray, old_folder: Path | None, new_folder: Path) -> pa.ChunkedArray:
    """Rewrite paths relative to `old_folder` as paths relative to `new_folder`.

    A relative path stays relative unless only the root of the file system is common to both; an absolute path becomes
    relative when it lies inside of the new folder; URLs stay.
    """
    move = _Move(old_folder, new_folder)
    prefix = _common_prefix(paths, move)
    if prefix is None:
        return map_directories(paths, move)
    return pc.binary_join_element_wise(pa.scalar(prefix, _STRING), paths, _EMPTY) if prefix else paths


def rebase_one(path: str, old_folder: Path | None, new_folder: Path) -> str:
    """`rebase` of a single path."""
    directory, slash, name = path.rpartition("/")
    moved = _Move(old_folder, new_folder)(directory or slash)
    return moved + name if moved == "" or moved.endswith("/") else f"{moved}/{name}"


class _Move:
    """Turns a folder as written relative to `old_folder` into the same relative to `new_folder`."""

    def __init__(self, old_folder: Path | None, new_folder: Path) -> None:
        self.new = os.path.abspath(new_folder)
        self.old = os.path.abspath(old_folder) if old_folder is not None else os.getcwd()

    def __call__(self, directory: str) -> str:
        if "://" in directory:
            return directory
        absolute = os.path.normpath(os.path.join(self.old, directory))
        inside = absolute == self.new or absolute.startswith(self.new.rstrip(os.sep) + os.sep)
        if not inside and (os.path.isabs(directory) or os.path.commonpath([absolute, self.new]) == os.sep):
            return absolute
        relative = os.path.relpath(absolute, self.new)
        return "" if relative == os.curdir else relative


def _common_prefix(paths: pa.ChunkedArray, move: _Move) -> str | None:
    """What all of the paths get in front, so that their folders need not be looked at; None where they differ in it."""
    if any(_any_has(paths, part) for part in ("//", "./")):  # URLs, and paths that are not in their shortest form
        return None
    if pc.all(pc.starts_with(paths, os.sep)).as_py():
        return None if _any_starts(paths, move.new.rstrip(os.sep) + os.sep) else ""
    if _any_starts(paths, os.sep):
        return None
    if move.old == move.new:
        return ""
    way = os.path.relpath(move.new, move.old).split(os.sep)[0]
    if way != os.pardir and _any_starts(paths, way + os.sep):  # leads back towards the new folder
        return None
    moved = move("")
    return moved if moved == "" or moved.endswith(os.sep) else moved + os.sep


def _any_has(paths: pa.ChunkedArray, part: str) -> bool:
    return bool(pc.any(pc.match_substring(paths, part)).as_py())


def _any_starts(paths: pa.ChunkedArray, beginning: str) -> bool:
    return bool(pc.any(pc.starts_with(paths, beginning)).as_py())


def map_directories(paths: pa.ChunkedArray, change: Callable[[str], str]) -> pa.ChunkedArray:
    """Apply `change` to the folder part of every path; it is called once for each distinct folder."""
    if len(paths) == 0:
        return paths
    names = basenames(paths)
    encoded = pc.replace_substring_regex(paths, r"[^/]*\z", "").combine_chunks().dictionary_encode()
    changed = []
    for prefix in encoded.dictionary.to_pylist():
        directory = prefix if prefix == "/" or "://" in prefix else prefix.rstrip("/")
        result = change(directory)
        changed.append(result if result == "" or result.endswith("/") else result + "/")
    new_prefixes = pa.array(changed, _STRING).take(encoded.indices)
    joined = pc.binary_join_element_wise(new_prefixes, names.combine_chunks(), _EMPTY)
    return pa.chunked_array([joined], _STRING)


def basenames(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The last part of every path."""
    return pc.replace_substring_regex(paths, r"(?s)^.*/", "")
