"""The rows of one recording on their way into a shard: in memory, in a file, or in the shard of an earlier run.

Whoever writes a shard asks for a few rows at a time, so that memory does not follow the length of a recording.

Shapes: K layers, R rows of a layer (frames, or one vector), E embedding dim.
"""

import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

VALUE_BYTES = 4


class Rows(Protocol):
    """Rows f32 `[K, R, E]` that are read a few at a time."""

    @property
    def num_rows(self) -> int:
        """R."""
        ...

    def read(self, place: int, first: int, last: int) -> NDArray[np.float32]:
        """The rows `first` to `last - 1` of layer number `place`, f32 `[last - first, E]`."""
        ...


class MemoryRows:
    """Rows of an array f32 `[K, R, E]`."""

    def __init__(self, array: NDArray[np.float32]) -> None:
        self._array = array

    @property
    def num_rows(self) -> int:
        """R."""
        return int(self._array.shape[1])

    def read(self, place: int, first: int, last: int) -> NDArray[np.float32]:
        """Rows of a layer."""
        return self._array[place, first:last]


class FileRows:
    """Rows in a file without a name, which is gone when this object is, or the process, however it ends.

    `ends` are the lowest and the highest value so far, NaN where there is one.
    """

    def __init__(self, folder: Path, *, num_layers: int, num_rows: int, dimension: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._shape = (num_layers, num_rows, dimension)
        self._num_written = 0
        self.ends = np.array([np.inf, -np.inf], dtype=np.float32)

    @property
    def num_rows(self) -> int:
        """R."""
        return self._shape[1]

    def add(self, rows: NDArray[np.float32]) -> None:
        """The next rows f32 `[K, rows, E]` of all layers."""
        self.ends[:] = np.minimum(self.ends[0], rows.min()), np.maximum(self.ends[1], rows.max())
        for place, layer in enumerate(rows):
            self._seek(place, self._num_written)
            left = np.ascontiguousarray(layer, dtype=np.float32).data.cast("B")
            while left:
                left = left[self._file.write(left) :]
        self._num_written += rows.shape[1]

    def read(self, place: int, first: int, last: int) -> NDArray[np.float32]:
        """Rows of a layer."""
        assert last <= self._num_written, (last, self._num_written)
        found = np.empty((last - first, self._shape[2]), dtype=np.float32)
        self._seek(place, first)
        left = found.data.cast("B")
        while left:
            count = self._file.readinto(left)
            if not count:
                raise OSError(f"{last - first} rows were written to a temporary file, but cannot be read back")
            left = left[count:]
        return found

    def _seek(self, place: int, row: int) -> None:
        self._file.seek((place * self._shape[1] + row) * self._shape[2] * VALUE_BYTES)
