"""Paths of recordings, by columns: every distinct folder is looked at once, not every row."""

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

_STRING = pa.large_string()


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
    new = os.path.abspath(new_folder)
    old = os.path.abspath(old_folder) if old_folder is not None else os.getcwd()

    def move(directory: str) -> str:
        if "://" in directory:
            return directory
        absolute = os.path.normpath(os.path.join(old, directory))
        inside = absolute == new or absolute.startswith(new.rstrip(os.sep) + os.sep)
        if not inside and (os.path.isabs(directory) or os.path.commonpath([absolute, new]) == os.sep):
            return absolute
        relative = os.path.relpath(absolute, new)
        return "" if relative == os.curdir else relative

    return map_directories(paths, move)


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
    joined = pc.binary_join_element_wise(new_prefixes, names.combine_chunks(), pa.scalar("", _STRING))
    return pa.chunked_array([joined], _STRING)


def basenames(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The last part of every path."""
    return pc.replace_substring_regex(paths, r"(?s)^.*/", "")
