"""What is finished already, so that a job of days goes on where it was stopped."""

import json
import os
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from speechssl.errors import ManifestError


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A row that was cut: `clips` i64 `[K, 2]` are first sample and number of samples in the file at `sample_rate` Hz.

    `problem` is why it could not be read, and then there are no clips.
    """

    row: int
    sample_rate: int
    num_samples: int
    clips: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64))
    too_short_samples: int = 0
    problem: str | None = None


class Journal:
    """JSON Lines: a line about the job, then one for each finished row, written as soon as it is finished.

    A line that was cut off when the job was killed is not counted.
    """

    def __init__(self, path: str | os.PathLike[str] | None, job: dict[str, Any]) -> None:
        """Go on with the journal at `path` if there is one; with None nothing is written.

        Args:
            path: The file.
            job: What it depends on: manifest and settings.

        Raises:
            ManifestError: the journal is of another job.
        """
        self.finished: dict[int, Finished] = {}
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read(job) if self._path.exists() else b""
        self._path.write_bytes(whole or json.dumps(job).encode() + b"\n")
        self._file = open(self._path, "a", encoding="utf-8")

    def add(self, finished: Finished) -> None:
        """Note a row; may be called from several threads."""
        with self._lock:
            self.finished[finished.row] = finished
            if self._file is not None:
                line = asdict(finished) | {"clips": finished.clips.tolist()}
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()

    def close(self) -> None:
        """No more rows come; the file stays."""
        if self._file is not None:
            self._file.close()

    def _read(self, job: dict[str, Any]) -> bytes:
        """Fill in `finished`; returns the lines that are whole."""
        assert self._path is not None, "there is a file to read"
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.decode("utf-8", errors="replace").splitlines()
        try:
            if not lines:
                return b""
            if json.loads(lines[0]) != job:
                raise ManifestError(
                    f"{self._path}: is the journal of a job with another manifest or other settings; remove it to begin"
                    " anew, or use the same ones to go on"
                )
            for line in lines[1:]:
                values = json.loads(line)
                values["clips"] = np.array(values["clips"], dtype=np.int64).reshape(-1, 2)
                self.finished[values["row"]] = Finished(**values)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            raise ManifestError(f"{self._path}: is no journal, or a damaged one; remove it to begin anew") from None
        return whole
