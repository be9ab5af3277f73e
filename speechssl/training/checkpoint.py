"""Checkpoints on disk: written beside and renamed, verified when read, pruned by count and by best.

`checkpoints/step_N/` holds the model directory (`config.json`, `model.safetensors`, ...), one safetensors file for
each other module, `optimizer.safetensors` and `state.json`, which names every file's size and checksum. `last` and
`best` are relative links.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from speechssl.errors import CheckpointError
from speechssl.training.tensors import read_tensors, write_tensors

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"
_TEMPORARY = ".writing-"
_PREFIX = "step_"


class CheckpointStore:
    """The `checkpoints` folder of one run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, step: int) -> Path:
        """Where the checkpoint after `step` updates is, or would be."""
        return self.directory / f"{_PREFIX}{step}"

    def steps(self) -> list[int]:
        """Steps of all checkpoints, complete or damaged, oldest first."""
        names = [path.name.removeprefix(_PREFIX) for path in self.directory.glob(f"{_PREFIX}*")]
        return sorted(int(name) for name in names if name.isdigit())

    def write(
        self,
        step: int,
        *,
        save_model: Callable[[Path], None],
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
    ) -> Path:
        """Write a checkpoint so that it appears whole or not at all, and point `last` to it.

        Args:
            step: number of updates done.
            save_model: writes the model directory's files into the folder it is given.
            tensors: file name without suffix -> named tensors.
            state: the rest, JSON values.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self.directory / f"{_TEMPORARY}{_PREFIX}{step}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_model(temporary)
        for name, named in tensors.items():
            write_tensors(temporary / f"{name}.safetensors", named)
        files = {path.name: _checksum(path) for path in sorted(temporary.iterdir())}
        text = json.dumps({**state, "files": files}, indent=1)
        (temporary / STATE_FILE).write_text(text + "\n", encoding="utf-8")
        for path in (*temporary.iterdir(), temporary):
            _flush_to_disk(path)
        self._put_in_place(temporary, self.path(step))
        self.link("last", step)
        return self.path(step)

    def _put_in_place(self, temporary: Path, target: Path) -> None:
        if target.exists():  # a damaged or superseded one of the same step
            old = self.directory / f"{_TEMPORARY}old-{target.name}"
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            shutil.rmtree(old)
        temporary.rename(target)
        _flush_to_disk(self.directory)

    def link(self, name: str, step: int) -> None:
        """Point the relative link `name` to a step, in one move."""
        temporary = self.directory / f"{_TEMPORARY}{name}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"{_PREFIX}{step}")
        temporary.replace(self.directory / name)

    def read_state(self, step: int) -> dict[str, Any]:
        """`state.json` of a checkpoint, after comparing every file with its recorded size and checksum.

        Raises:
            CheckpointError: naming the file that is missing, cut short or changed.
        """
        path = self.path(step) / STATE_FILE
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            files = state["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: missing, damaged or cut short ({error})") from error
        for name, (size, checksum) in files.items():
            _verify(self.path(step) / name, size, checksum)
        return dict(state)

    def read_tensors(self, step: int, name: str) -> dict[str, Tensor]:
        """The tensors of one of a checkpoint's files."""
        return read_tensors(self.path(step) / f"{name}.safetensors")

    def newest_usable(self) -> tuple[int, dict[str, Any]] | None:
        """Step and state of the newest undamaged checkpoint; None when there is no checkpoint at all.

        A damaged one is passed over with a warning.

        Raises:
            CheckpointError: there are checkpoints and all are damaged.
        """
        problems = []
        for step in reversed(self.steps()):
            try:
                state = self.read_state(step)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                logger.warning("%s; going back to the checkpoint after step %d", problem, step)
            return step, state
        if problems:
            raise CheckpointError(
                f"{problems[0]}; no earlier checkpoint of this run is intact. Put a copy of it back, or remove"
                f" {self.directory} to start the run anew"
            )
        return None

    def remove_leftovers(self) -> None:
        """Remove what an interrupted write left behind."""
        for path in self.directory.glob(f"{_TEMPORARY}*"):
            if path.is_symlink() or path.is_file():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)

    def prune(self, *, step: int, best: Sequence[int], keep_newest: int) -> None:
        """Link `last` (to `step`) and `best`, and remove the checkpoints that are neither new nor good enough to keep.

        Checkpoints beyond `step` go too: they are damaged, or the run would have gone on from them.
        """
        steps = self.steps()
        kept_best = [kept for kept in best if kept in steps]
        newest = [kept for kept in steps if kept <= step][-keep_newest:]
        self.link("last", step)
        if kept_best:
            self.link("best", kept_best[0])
        for doomed in set(steps) - {*kept_best, *newest}:
            moved = self.directory / f"{_TEMPORARY}old-{_PREFIX}{doomed}"
            self.path(doomed).rename(moved)
            shutil.rmtree(moved, ignore_errors=True)


def _checksum(path: Path) -> tuple[int, int]:
    """Size in bytes and CRC-32 of a file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return path.stat().st_size, checksum


def _verify(path: Path, size: int, checksum: int) -> None:
    try:
        found_size, found_checksum = _checksum(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if found_size < size:
        raise CheckpointError(f"{path}: cut short, {found_size} of {size} bytes")
    if (found_size, found_checksum) != (size, checksum):
        raise CheckpointError(f"{path}: damaged, its contents are not those that were written")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
